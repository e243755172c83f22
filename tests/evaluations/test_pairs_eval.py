"""Two folders of pictures with the same names are scored, beside the copied source where it is known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluations.editing import registry
from evaluations.editing.flags import PairsEvalConfig
from evaluations.editing.pair_scores import evaluate_run, find_pairs
from evaluations.editing.tables import format_tables
from runtime.errors import UserError


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 12, 3), value, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    """Two results, off by 51 and by 0 of 255; the sources are off by 102."""
    for name, value in (("2", 51), ("10", 0)):
        write(tmp_path / "results" / f"{name}.png", 100 + value)
        write(tmp_path / "pairs" / "edited" / f"{name}.bmp", 100)
        write(tmp_path / "pairs" / "source" / f"{name}.png", 202)
        write(tmp_path / "regions" / f"{name}.png", 255 if name == "2" else 0)
    (tmp_path / "pairs" / "prompts.csv").write_text("name,prompt\n2,darker\n10,darker\n")
    return {"results": str(tmp_path / "results"), "truth": str(tmp_path / "pairs")}


def test_own_pairs_give_truth_and_sources(folders, tmp_path, monkeypatch):
    """Without --metric what needs no weights, where there are none."""

    def load_network(name, flags, device):
        raise UserError(f"the weights of {name} are not here")

    monkeypatch.setattr(registry, "load_network", load_network)
    result = evaluate_run(PairsEvalConfig(**folders, save_path=str(tmp_path / "scores"), device="cpu"))
    assert result["all_turn"]["l1"] == pytest.approx(0.1) and result["copy_source"]["all_turn"][
        "l1"
    ] == pytest.approx(0.4)
    assert result["all_turn"]["l2"] == pytest.approx(0.02) and {"psnr", "ssim"} <= result["all_turn"].keys()
    assert "clip-t" not in result["all_turn"]  # no captions
    table = format_tables(result)
    assert "2 pairs" in table and "copy_source all_turn" in table
    items = json.loads((tmp_path / "scores" / "evaluation_items.json").read_text())
    assert [item["session"] for item in items if item["row"] == "generated"] == ["2", "10"]
    assert items[0]["instruction"] == "darker" and (tmp_path / "scores" / "evaluation_items.html").exists()


def test_names_that_are_no_utf8(folders, tmp_path):
    """Of folders and files: all that is measured is written, the page and the table too."""
    name = os.fsdecode(b"caf\xe9")
    for file in tmp_path.rglob("2.*"):
        file.rename(file.with_stem(name))
    truth = (tmp_path / "pairs" / "edited").rename(tmp_path / name)
    scores = tmp_path / "scores"
    config = PairsEvalConfig(results=folders["results"], truth=str(truth), metric="l1", save_path=str(scores))
    assert evaluate_run(config)["all_turn"]["l1"] == pytest.approx(0.1)
    assert {file.name for file in scores.iterdir()} == {
        f"evaluation_{name}" for name in ("items.html", "items.json", "metrics.json", "table.txt")
    }
    assert "caf\\udce9" in (scores / "evaluation_table.txt").read_text("utf-8")


def test_two_plain_folders_have_no_row_of_sources(folders, tmp_path):
    truth = str(tmp_path / "pairs" / "edited")
    config = PairsEvalConfig(
        results=folders["results"], truth=truth, metric="l1", save_path=str(tmp_path / "s")
    )
    result = evaluate_run(config)
    assert result["all_turn"] == {"l1": pytest.approx(0.1)} and "copy_source" not in result


def test_regions_split_the_numbers(folders, tmp_path):
    config = PairsEvalConfig(
        **folders, metric="l1", regions_path=str(tmp_path / "regions"), save_path=str(tmp_path / "s")
    )
    scores = evaluate_run(config)["all_turn"]
    assert scores["inside_l1"] == pytest.approx(0.2) and scores["outside_l1"] == pytest.approx(0.0)
    assert scores["unchanged_pixel_share"] == pytest.approx(0.0)
    plain = PairsEvalConfig(
        results=folders["results"], truth=str(tmp_path / "pairs" / "edited"), regions_path="r"
    )
    with pytest.raises(UserError, match="--regions-path asks what changed: .*--source-path"):
        evaluate_run(plain)


def test_pictures_that_one_folder_lacks_are_named(folders, tmp_path):
    (tmp_path / "results" / "2.png").rename(tmp_path / "results" / "3.png")
    with pytest.raises(UserError, match=r"results: 2 pictures .* Missing: 2\. Not in .*pairs: 3\."):
        find_pairs(PairsEvalConfig(**folders))
    with pytest.raises(UserError, match="no such folder"):
        find_pairs(PairsEvalConfig(results=str(tmp_path / "none"), truth=folders["truth"]))
