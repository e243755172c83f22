"""The picture of trainings."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from runtime.errors import UserError
from scripts import plot_run
from scripts.figures.runs import read_runs, words_for


def write_run(folder, values: dict[str, float], steps: int = 5) -> str:
    folder.mkdir(parents=True)
    lines = [{"step": i + 1, "epoch": 0, **{k: v / (i + 1) for k, v in values.items()}} for i in range(steps)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder)


def test_several_runs_in_one_picture(tmp_path, monkeypatch):
    first = write_run(tmp_path / "a" / "stage2", {"val/l1": 0.5, "lr": 1.0, "loss": 3.0})
    second = write_run(tmp_path / "b" / "stage2", {"loss": 2.0, "samples_per_second": 9.0}, steps=1)
    (tmp_path / "a" / "stage2" / "previews").mkdir()
    for number in (1, 2):
        Image.new("RGB", (40, 20), "red").save(tmp_path / "a" / "stage2" / "previews" / f"000000{number}.png")
    runs = read_runs([first, second], [])
    assert list(runs) == ["a/stage2", "b/stage2"]
    assert list(runs["a/stage2"]) == ["loss", "lr", "val/l1"] and "epoch" not in runs["a/stage2"]
    assert runs["a/stage2"]["loss"][-1] == (5, 0.6)

    monkeypatch.setattr(sys, "argv", ["plot_run.py", first, second])
    plot_run.main()
    both = Image.open(tmp_path / "a" / "stage2" / "run.png").convert("RGB")
    reds = sum(count for count, color in both.getcolors(2**24) if color == (255, 0, 0))
    assert reds > 0.1 * both.width * both.height  # the preview
    monkeypatch.setattr(
        sys, "argv", ["plot_run.py", second, "--keys", "loss", "--output", str(tmp_path / "c.png")]
    )
    plot_run.main()
    assert Image.open(tmp_path / "c.png").height < both.height


def test_panels_have_words_and_units():
    assert words_for("samples_per_second") == ("throughput", "samples a second")
    assert words_for("val/psnr") == ("val: fidelity of reconstructions", "PSNR, dB")
    assert words_for("some_thing") == ("some thing", "")


def test_what_is_no_training_is_told(tmp_path):
    with pytest.raises(UserError, match="metrics.jsonl: no such file"):
        read_runs([str(tmp_path)], [])
    run = write_run(tmp_path / "run", {"loss": 1.0})
    with pytest.raises(UserError, match="named twice"):
        read_runs([run, run], [])
    with pytest.raises(UserError, match="none of gain occurs"):
        read_runs([run], ["gain"])
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{broken')
    with pytest.raises(UserError, match="line 2"):
        read_runs([run], [])
