"""The shipped folder: weights, text encoder, curves and model card, from a finished training."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

import yaml

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.model_folders import Defaults
from autoregressive.editing.pretrained import TEXT_ENCODER, front_matter
from evaluations.editing.verification import HEADLINE, TITLES
from runtime.texts import write_text
from scripts.shapes.config import ShipShapes, TrainShapes
from scripts.shapes.finished_run import FinishedRun, note_of
from scripts.shapes.recipe import HARD_SETTING
from scripts.shapes.scores import MASKED_TEMPERATURE, ZERO_SHOT_WIDENING
from scripts.shapes.train import DRAWINGS, OTHER_ORDERS

MODELS = {
    "tokenizer": (["tokenizer"], "images of 72 px to 9 × 9 codes and back"),
    "t2i": (["stage1"], "any-order text to image; edits zero-shot"),
    "editing": (["stage2", "stage2_exact"], "edits, told the instruction and the region"),
}
"""See `FinishedRun.copy_models`."""
SCORES = {
    "masked": f"edit in the given region, temperature {MASKED_TEMPERATURE} (editing)",
    **{f"masked_{order}": f"the same in {order} order (editing)" for order in OTHER_ORDERS},
    "zero_shot": "zero-shot, region widened by half a cell (t2i)",
    **{f"zero_shot_{order}": f"the same in {order} order (t2i)" for order in OTHER_ORDERS},
    "zero_shot_tight": "zero-shot, region as it is (t2i)",
    "auto_mask": "edit in the region that the model finds itself (editing)",
    "full_regeneration": "all cells anew (editing)",
}
DEFAULTS = {
    "editing": Defaults(Sampling(1.0, temperature=MASKED_TEMPERATURE), "exact"),
    "t2i": Defaults(Sampling(1.0, temperature=0.5), "exact", ZERO_SHOT_WIDENING),
}
"""How the models are used by default: as they are scored. The first is the one that edits."""
KNOWS = "one to three coloured shapes on a light background, 72 × 72 pixels"
ASKED = (HEADLINE, "passed", "others_unchanged", "color", "shape", "one_offset")
WEAK = 0.95
KINDS = ("recolor", "reshape", "resize", "replace", "add", "remove", "background")


def ship(config: ShipShapes) -> None:
    """Writes weights, text encoder, curves and card."""
    run, output = FinishedRun(Path(config.results_dir), "scripts/train_shapes.py"), Path(config.output_dir)
    lines = run.copy_models(output, MODELS)
    run.write_config(output, DEFAULTS, KNOWS)
    write_text(output / "README.md", card(run, lines, note_of(output)))


def card(run: FinishedRun, models: list[str], note: list[str]) -> str:
    """The model card.

    Args:
      models: the rows of the files.
      note: what is to be known before the files are used elsewhere.
    """
    rows, weak = [], []
    for name, words in SCORES.items():
        scores = run.read(f"scores/{name}/evaluation_metrics.json")
        verifier = scores["verifier"]["generated"]["all_turn"]
        numbers = [verifier.get(key) for key in ASKED]
        numbers += [verifier["by_kind"].get(kind, {}).get(HEADLINE) for kind in KINDS]
        rows.append(_card_row(words, numbers, verifier["counts"]["passed"]))
        weak += [f"{name.replace('_', ' ')} ({numbers[0]:.2f})"] * (numbers[0] < WEAK)
    for name, order in DRAWINGS.items():
        drawings = run.read(f"scores/{name}/drawings.json")
        numbers = [drawings["overall"], *(drawings.get(key) for key in ASKED[1:]), *(None for _ in KINDS)]
        words = f"drawn from the caption in {order} order (t2i)"
        rows.append(_card_row(words, numbers, drawings["num_images"]))
        weak += [f"{words} ({numbers[0]:.2f})"] * (numbers[0] < WEAK)
    return "\n".join([
        *front_matter(edits=True),
        "# Small models for the shapes set",
        "",
        "Made by this project from nothing but its own synthetic data, so that editing and the notebooks",
        "run in seconds on a laptop. They know coloured shapes of 72 × 72 pixels and nothing else.",
        "",
        *models,
        "",
        f"`{TEXT_ENCODER}/` is the text encoder that knows the words of the set.",
        "",
        *note,
        *textwrap.wrap(HARD_SETTING, 110),
        "",
        "```bash",
        *_command(run),
        "python scripts/ship_shapes.py",
        "```",
        "",
        f"Held-out edits and captions, judged by the rule-based verifier (tokenizer: {run.psnr:.1f} dB). An",
        "edit is done if the edited object (or background) is right and everything else is unchanged: the",
        "first column, with its two parts beside it, and the columns of kinds of edit. Colour and shape are",
        "the edited object's. Where one offset fits all, the cells of its place agree on where it stands,",
        "which no caption says. A drawing is done if everything is right; its colours and shapes are those",
        "of all objects. Drawn without guidance, at temperature 0.5 where no other stands.",
        "",
        f"| | {' | '.join((*(TITLES[key] for key in ASKED), *KINDS))} | images |",
        "|---" * (len(ASKED) + len(KINDS) + 2) + "|",
        *rows,
        "",
        *textwrap.wrap(f"**Done in less than {WEAK} of cases:** {'; '.join(weak) or 'no row'}.", 110),
        "MIT licence, like the project.",
        "",
        "![training losses](curves.png)",
        "",
    ])  # fmt: skip


def _command(run: FinishedRun) -> list[str]:
    """The command that made the models, in lines."""
    flags, defaults = yaml.safe_load(run.file("config.yaml").read_text()), vars(TrainShapes())
    words = ["python scripts/train_shapes.py"]
    for name, value in flags.items():
        if name in ("results_dir", "until") or value == defaults.get(name):
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words.append(shlex.join([f"--{name.replace('_', '-')}", *map(str, values)]))
    return textwrap.wrap(" ".join(words), 105, break_on_hyphens=False)


def _card_row(words: str, numbers: Sequence[float | None], num_images: int) -> str:
    cells = ["" if number is None else f"{number:.3f}" for number in numbers]
    return f"| {' | '.join([words, *cells, str(num_images)])} |"
