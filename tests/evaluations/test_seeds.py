"""Several seeds of one model: means over seeds, intervals, and files that must match."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from magicbrush_run import TURNS, config, make_run, save
from PIL import Image

from evaluations.editing.flags import ImageEvalConfig
from evaluations.editing.magicbrush_scores import evaluate_run
from evaluations.editing.tables import format_tables
from runtime.errors import UserError


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path)


def another_seed(run: Path, name: str, shift: int) -> Path:
    """A copy of the run whose single-turn images are brighter by `shift` levels in one channel."""
    shutil.copytree(run / "out", run / name)
    for path in (run / name / "images").rglob("*.png"):
        image = np.asarray(Image.open(path)).astype(int)
        image[..., 0] = np.where(image[..., 0] < 128, image[..., 0] + shift, image[..., 0] - shift)
        save(path, image.astype(np.uint8))
    return run / name


def seeds(run: Path, folders: list[Path], **changes) -> ImageEvalConfig:
    return config(
        run,
        generated_path=[str(folder / "images") for folder in folders],
        regions_path=[str(folder / "regions") for folder in folders],
        samples_json=[str(folder / "samples.json") for folder in folders],
        **changes,
    )


def test_several_seeds(run):
    folders = [run / "out", another_seed(run, "seed1", 3), another_seed(run, "seed2", 6)]
    alone = evaluate_run(config(run))
    result = evaluate_run(seeds(run, folders))
    step = 1 / 255 / 3  # one level in one of three channels
    for protocol in ("all_turn", "final_turn"):
        assert [seed[protocol]["l1"] for seed in result["seeds"]] == pytest.approx([0, 3 * step, 6 * step])
        assert result[protocol]["l1"] == pytest.approx(3 * step)
        assert result["interval95"][protocol]["l1"] == pytest.approx(4.302653 * 3 * step / 3**0.5, rel=1e-5)
        assert result[protocol]["unchanged_pixel_share"] == pytest.approx(1 / 3)
    assert result["copy_source"] == alone["copy_source"]
    assert result["tokenizer_ceiling"] == alone["tokenizer_ceiling"]
    assert result["verifier"]["generated"]["all_turn"]["counts"]["passed"] == 3 * sum(TURNS)
    assert [seed["generated_path"] for seed in result["seeds"]] == [str(f / "images") for f in folders]
    assert f"{3 * step:.4f} ± {4.302653 * 3 * step / 3**0.5:.4f}" in format_tables(result)
    items = json.loads((run / "scores" / "evaluation_items.json").read_text())
    assert [item["seed"] for item in items if item["row"] == "generated"].count(2) == sum(TURNS) + len(TURNS)


def test_seeds_must_match(run):
    folders = [run / "out", another_seed(run, "seed1", 3)]
    with pytest.raises(UserError, match="--regions-path names 1 but --generated_path 2"):
        evaluate_run(dataclasses.replace(seeds(run, folders), regions_path=[str(run / "out" / "regions")]))
    with pytest.raises(UserError, match="a folder is there twice"):
        evaluate_run(seeds(run, [run / "out", run / "out"]))
    (run / "seed1" / "images" / "2" / "2_inde_2.png").unlink()
    with pytest.raises(UserError, match="seed1.*6 generated images expected, 5 found.*2/2_inde_2.png"):
        evaluate_run(seeds(run, folders))
