"""PIE-Bench's numbers against those that its published evaluator printed for the same pictures and weights.

`tests/reference/pie_bench.json` holds what PnP Inversion's evaluation/evaluate.py gave for the items that
`make_items` makes, with torchmetrics 1.4.0, which leaves SSIM's border out: numbers, "nan" and Infinity as it
printed them. Structure distance, which wants a ViT-B/8, was compared too, see docs/evaluation.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_pie_eval import config, entry, noise, write_weights
from tiny_networks import TINY_CLIP

from dataset.testsets.pie_bench import prepare_pie_bench
from evaluations.editing.pie_scores import evaluate_run

SIDE = 512
PUBLISHED = json.loads((ROOT / "tests" / "reference" / "pie_bench.json").read_text())
_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE]
_NONE = np.zeros((SIDE, SIDE), bool)
REGIONS = {
    "empty": _NONE,
    "full": ~_NONE,
    "all but the border": (_ROWS % (SIDE - 1) > 0) & (_COLUMNS % (SIDE - 1) > 0),
    "all but a pixel": (_ROWS != 256) | (_COLUMNS != 256),
    "a strip": (_ROWS >= 200) & (_ROWS < 230),
    "a column and a disc": (_COLUMNS < 30) | ((_ROWS - 250) ** 2 + (_COLUMNS - 300) ** 2 < 120**2),
    "the source itself": (_ROWS < 100) & (_COLUMNS > 400),
    "the source itself, empty": _NONE,
    "a black result": (_ROWS > 300) & (_COLUMNS > 200),
}


def runs_of(region: np.ndarray) -> list[int]:
    """Starts and lengths of runs, row by row."""
    steps = np.diff(np.concatenate([[0], region.reshape(-1).astype(int), [0]]))
    starts, ends = (np.flatnonzero(steps == step) for step in (1, -1))
    return [int(n) for pair in zip(starts, ends - starts, strict=True) for n in pair]


def make_items(root: Path) -> None:
    """The published layout in `published`, results in `out`, weights beside them; PNG under any name."""
    mapping = {}
    for number, (name, region) in enumerate(REGIONS.items()):
        path = f"0_random_140/{number:012d}.jpg"
        mapping[f"{number:012d}"] = entry(path, "0", runs_of(region))
        source = noise(number)
        result = Image.blend(source, noise(50 + number), 0.3)
        if name.startswith("the source"):
            result = source
        if name.startswith("a black"):
            result = Image.new("RGB", (SIDE, SIDE))
        for folder, picture in (("published/annotation_images", source), ("out", result)):
            (root / folder / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(root / folder / path, format="PNG")
    (root / "published" / "mapping_file.json").write_text(json.dumps(mapping))
    write_weights(root)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("pie_published")
    make_items(root)
    prepare_pie_bench(root / "published", root / "pie")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluations.metrics.encoders.CLIP_L14_MODEL", TINY_CLIP)
        evaluate_run(config(root, metric="unedited,lpips,clip"))
    items = json.loads((root / "scores" / "evaluation_items.json").read_text())
    return {item["session"]: item["metrics"] for item in items if item["row"] == "generated"}


@pytest.mark.parametrize("number", range(len(REGIONS)), ids=list(REGIONS))
def test_the_numbers_are_the_published_evaluators(number, ours):
    measured, published = ours[f"{number:012d}"], PUBLISHED[f"{number:012d}"]
    assert published.keys() <= measured.keys() and len(published) == 7
    for name, value in published.items():
        if value == "nan":  # it writes the word, we leave the number out
            assert measured[name] is None, name
        elif value == math.inf:  # of equal pictures
            assert measured[name] == 100, name
        else:
            scale = 100 if name.startswith("clip") else 1  # in hundredths
            assert measured[name] == pytest.approx(value, rel=1e-5, abs=1e-5 * scale), name
