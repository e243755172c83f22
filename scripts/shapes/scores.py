"""Editing and drawing the held-out shapes with a model, and scoring the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.shapes.step_runner import StepRunner

MASKED_TEMPERATURE = 0.1
"""Of edits in a given region, which leaves little to choose."""
ZERO_SHOT_WIDENING = 4  # pixels
"""Half a cell. Masks are drawn tightly around an object, which says where in its place it stands; an editor
learns to read them so, a model that was trained to draw does not."""
ZERO_SHOT_TIGHT = ("--text", "global")
ZERO_SHOT = (*ZERO_SHOT_TIGHT, "--mask-error", str(ZERO_SHOT_WIDENING))
"""Flags of `sample_magicbrush.py` for stage-1 models, which are told what the result shows."""


def edit_and_score(
    runner: StepRunner,
    name: str,
    vq_ckpt: str,
    gpt_ckpt: str,
    flags: Sequence[str],
    *,
    seed: int,
    ceiling: Path | None = None,
    test_set: str = "test",
    verifier: str = "shapes",
) -> Path:
    """Edits the test set into `edits/<name>` and scores it into `scores/<name>`, which is returned.

    Args:
      flags: of `sample_magicbrush.py`: what the model is told, and how it edits; single turns are scored
        alone where `--turns single` is among them.
      ceiling: the true results through the tokenizer, as `--write-ceiling` leaves them.
      test_set: folder in `data`.
      verifier: of which set; reads `<verifier>.json` of the test set.
    """
    root = runner.root
    test, edits, scores = root / "data" / test_set, root / "edits" / name, root / "scores" / name
    runner.run(
        f"edit_{name}",
        edits,
        ["autoregressive/sample/sample_magicbrush.py", "--vq-ckpt", vq_ckpt, "--t5-path", str(root / "t5")]
        + ["--gpt-ckpt", gpt_ckpt, "--magicbrush-path", str(test), "--output-dir", str(edits)]
        + ["--mask-rule", "exact", "--cfg-scale", "1", "--temperature", "0.5", "--batch-size", "64"]
        + ["--seed", str(seed), *flags],
    )
    runner.run(
        f"judge_{name}",  # another name than before: scores that older code left are made anew
        scores,
        ["evaluations/editing/image_eval.py", "--generated_path", str(edits / "images")]
        + ["--gt_path", str(test / "images"), "--sessions-json", str(test / "edit_sessions.json")]
        + ["--caption_path", str(test / "local_descriptions.json"), "--metric", "l1,l2,region,unchanged"]
        + ["--regions-path", str(edits / "regions"), "--samples-json", str(edits / "samples.json")]
        + [f"--{verifier}-json", str(test / f"{verifier}.json"), "--save_path", str(scores)]
        + (["--ceiling-path", str(ceiling)] if ceiling else [])
        + (["--protocols", "all_turn"] if "single" in flags else []),
    )
    return scores


def draw_and_score(
    runner: StepRunner,
    name: str,
    vq_ckpt: str,
    gpt_ckpt: str,
    order: str,
    *,
    seed: int,
    captions: str = "test/t2i.jsonl",
    more: Sequence[str] = (),
) -> None:
    """Draws the test set's captions, sources and results, and scores them into `scores/<name>`.

    Args:
      order: of the cells, one of `ORDER_KINDS`.
      captions: their list, in `data`.
      more: further flags of `score_drawings.py`.
    """
    scores = runner.root / "scores" / name
    runner.run(
        name,
        scores,
        ["scripts/score_drawings.py", "--vq-ckpt", vq_ckpt, "--t5-path", str(runner.root / "t5")]
        + ["--gpt-ckpt", gpt_ckpt, "--captions", str(runner.root / "data" / captions)]
        + ["--output-dir", str(scores), "--cfg-scale", "1", "--temperature", "0.5", "--batch-size", "64"]
        + ["--order", order, "--seed", str(seed), *more],
    )
