"""Scores of an editor by region and order: what is there stays, and the best of n is no worse."""

from __future__ import annotations

import json

import pytest

from runtime.config import parse
from runtime.errors import UserError
from scripts.rewards.config import ScoreEdits
from scripts.rewards.score import score_edits


def run(words: list) -> dict:
    score_edits(parse(ScoreEdits, [*map(str, words)]))
    return json.loads(open(words[words.index("--output") + 1]).read())["scores"]


def test_scores_by_region_and_order(shapes, vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    words = ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", gpt_ckpts["edit"], "--t5-path", t5_dir, "--cfg-scale", 1]
    words += ["--magicbrush-path", shapes / "test", "--output", tmp_path / "a.json", "--device", "cpu"]
    given = run([*words, "--regions", "given", "--orders", "raster"])
    both = run([*words, "--orders", "raster", "random"])
    assert both["given, raster"] == given["given, raster"]
    assert [*both] == ["given, raster", "given, random", "found, raster", "found, random"]
    for scores in both.values():
        assert sum(scores["done"]) / 7 == scores["passed_and_unchanged"]
    with pytest.raises(UserError, match="holds scores of other settings"):
        run([*words, "--seed", 1])
    words[words.index("--output") + 1] = tmp_path / "b.json"
    best = run([*words, "--best-of", 2, "--regions", "given", "--orders", "raster"])["given, raster"]["done"]
    assert all(two >= one for two, one in zip(best, given["given, raster"]["done"], strict=True))
