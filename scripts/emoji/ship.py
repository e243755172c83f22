"""The shipped folder of the emoji models: weights, text encoder, licences, curves, examples, model card."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.model_folders import EXAMPLES, Defaults
from autoregressive.editing.pretrained import TEXT_ENCODER, front_matter
from dataset.emoji.catalogue import PAIR_KINDS
from dataset.emoji.edits import STICKER_KINDS
from evaluations.report.edit_grid import EditItem, edit_grid
from evaluations.report.report import TableSection
from runtime.texts import markdown_table, write_text
from scripts.emoji.config import ShipEmoji
from scripts.emoji.run import read_rates, tables
from scripts.shapes.finished_run import FinishedRun, note_of
from scripts.shapes.quickstart import edit_items
from scripts.shapes.scores import MASKED_TEMPERATURE

MODELS = {
    "tokenizer": (["tokenizer"], "images of 72 px to 9 × 9 codes and back"),
    "t2i": (["stage1"], "any-order text to image; edits zero-shot"),
    "editing": (["stage2"], "edits, told the instruction and the region"),
}
"""See `FinishedRun.copy_models`."""
DEFAULTS = {
    "editing": Defaults(Sampling(1.0, temperature=MASKED_TEMPERATURE), "exact"),
    "t2i": Defaults(Sampling(1.0, temperature=0.5), "exact"),
}
KNOWS = "Noto emoji, one large or up to three small ones, on a light background, 72 × 72 pixels"
LICENCES = ("NOTICE.txt", "LICENSE-pictures.txt", "LICENSE-index.txt")
KINDS = {"natural": PAIR_KINDS, "stickers": STICKER_KINDS}
"""Pictures of the card, and what they show."""
_SHOWN, _TRIED = 12, 5


def ship(config: ShipEmoji) -> None:
    """Writes all of it.

    Raises:
      UserError: the training has not run to its end.
    """
    run = FinishedRun(Path(config.results_dir), "scripts/emoji/train_emoji.py")
    output = Path(config.output_dir)
    lines = run.copy_models(output, MODELS)
    for name in LICENCES:
        shutil.copyfile(run.file(f"data/{name}"), output / name)
    run.write_config(output, DEFAULTS, KNOWS)
    for name, kinds in KINDS.items():
        edit_grid(edit_items(run.root, "masked", kinds)[:_SHOWN], output / f"{name}.png")
    write_tries(edit_items(run.root, "auto_mask", PAIR_KINDS), output / EXAMPLES)
    text = card(run, lines, note_of(output))
    write_text(output / "README.md", text)


def write_tries(items: Sequence[EditItem], folder: Path) -> None:
    """The first edits that it can do where nobody gives a region, for the demo to open with."""
    folder.mkdir(exist_ok=True)
    for number, item in enumerate([item for item in items if item.passed][:_TRIED], 1):
        shutil.copyfile(item.source, folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{item.instruction}\n", encoding="utf-8")


def card(run: FinishedRun, models: list[str], note: list[str]) -> str:
    """The model card; arguments as those of the shapes' card."""
    return "\n".join([
        *front_matter(edits=True),
        "# Small models for emoji",
        "",
        *textwrap.wrap(
            f"They know {KNOWS}, by their names in English, and nothing else. Trained on pictures composed "
            "of Google's Noto emoji (Apache License 2.0) with the names of emoji-data (MIT): keep NOTICE.txt "
            "and the licences with copies.",
            110,
        ),
        "",
        *(f"![the first held-out edits of this sort, not chosen]({name}.png)" for name in KINDS),
        "",
        *models,
        "",
        f"`{TEXT_ENCODER}/` is the text encoder that knows the words of the set.",
        "",
        *note,
        "```bash",
        "bash scripts/emoji.sh                  # package, data, tokenizer, stage 1, stage 2, scores",
        "python scripts/emoji/ship_emoji.py     # these files",
        "```",
        "",
        *textwrap.wrap(
            "Held-out edits and names, judged by the verifier of nearest sprites (tokenizer: "
            f"{run.psnr:.1f} dB). The scenes and the pairs of pictures of these edits were in no training. "
            "Of what is drawn by name, seen emoji were there on other backgrounds, new tones in another "
            "tone, new names not at all.",
            110,
        ),
        "",
        *(line for table in tables(*read_rates(run.root)) for line in _markdown(table)),
        "![training losses](curves.png)",
        "",
    ])  # fmt: skip


def _markdown(table: TableSection) -> Iterable[str]:
    rows = [list(map(_cell, row)) for row in table.rows]
    yield from (f"**{table.title}**", "", markdown_table(table.columns, rows))
    if table.note:
        yield from (*textwrap.wrap(table.note, 110), "")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
