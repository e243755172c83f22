"""The rows of the paper's tables that can be measured here, and why the others cannot.

A row is named as in evaluations/report/paper_tables.json, which has its numbers; only NEP's own rows and
those of its text-to-image models are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scripts.paper.config import ReproducePaper

STAGE2, NO_MARKS, NTP, EMU = "stage2", "no_marks", "ntp", "emu"
"""Editors that nobody has published: given by a flag, or trained."""


@dataclass(frozen=True)
class Row:
    """How a row is made.

    Attributes:
      method: its name in the table.
      folder: where it is made; tables that have the same row share it.
      work: which steps.
      weights: one of `sources.HUB`, or of `EDITORS`.
      flags: of the sampler, beside those that all rows have.
      round: of a scaled row, which round's pictures.
    """

    method: str
    folder: str
    work: Literal["magicbrush", "emu", "drawn", "scaled", "cost"]
    weights: str
    flags: tuple[str, ...] = ()
    round: int = 0


@dataclass(frozen=True)
class Editor:
    """An editor that is given or trained.

    Attributes:
      flag: the one that names a checkpoint.
      start: what its training starts from: one of `sources.HUB`, or another editor.
      flags: of the training, beside those of the published command.
      marks: whether it is told the region.
      steps: of the training; None: the published command's 10 epochs.
    """

    flag: str
    start: str = "rllamagen"
    flags: tuple[str, ...] = ()
    marks: bool = True
    steps: int | None = None

    @property
    def field(self) -> str:
        """Of `ReproducePaper`, its flag's."""
        return self.flag.removeprefix("--").replace("-", "_")


_ABLATION = 30_000  # steps of table 3's trainings
EDITORS = {
    STAGE2: Editor("--gpt-ckpt"),
    EMU: Editor("--gpt-ckpt", STAGE2, ("--lr", "1e-5"), steps=60_000),
    "ablation": Editor("--gpt-ckpt", steps=_ABLATION),
    NO_MARKS: Editor("--no-marks-ckpt", marks=False, steps=_ABLATION),
    NTP: Editor("--ntp-ckpt", flags=("--enforce_fake_masking",), steps=_ABLATION),
}
_ZERO_SHOT = ("--mode", "zero_shot")
ROUNDS = 4
ROWS = {
    "1": (Row("NEP", "magicbrush_stage2", "magicbrush", STAGE2),),
    "2": (Row("NEP", "emu_edit", "emu", EMU),),
    "3": (
        Row("NEP", "magicbrush_ablation", "magicbrush", "ablation"),
        Row("w/o editing region conditioning", "magicbrush_no_marks", "magicbrush", NO_MARKS),
        Row("all tokens (NTP)", "magicbrush_ntp", "magicbrush", NTP, ("--full-mask",)),
    ),
    "4": (Row("NEP", "cost", "cost", STAGE2),),
    "5": (Row("NEP", "zero_shot_raster", "magicbrush", "rllamagen", _ZERO_SHOT),),
    "6": (
        Row("NEP, raster order", "zero_shot_raster", "magicbrush", "rllamagen", _ZERO_SHOT),
        Row(
            "NEP, random order",
            "zero_shot_random",
            "magicbrush",
            "rllamagen",
            (*_ZERO_SHOT, "--order", "random"),
        ),
    ),
    "7": (
        Row("LlamaGen", "coco_llamagen", "drawn", "llamagen"),
        Row("RLlamaGen", "coco_rllamagen", "drawn", "rllamagen"),
        *(
            Row(
                f"RLlamaGen, {number} round{'s' * (number > 1)} of revision",
                "coco_scaled",
                "scaled",
                "rllamagen",
                round=number,
            )
            for number in range(1, ROUNDS + 1)
        ),
    ),
}
_NO_SETTINGS = "the paper says neither the number of rounds nor of candidates of this row; see its rounds"
CANNOT = {
    ("7", "LlamaGen, fine-tuned"): "its weights are not published",
    ("7", "RLlamaGen with test-time scaling"): _NO_SETTINGS,
}
BY_HAND = {
    "1": ("magicbrush",),
    "2": (),
    "3": ("magicbrush",),
    "4": ("magicbrush",),
    "5": ("magicbrush",),
    "6": ("magicbrush",),
    "7": ("coco", "inception"),
}
"""What somebody must fetch by hand for a table, see `sources.HAND`."""
_JUDGES = {"magicbrush": ("clip", "dino"), "emu": ("clip", "dino", "emu_edit"), "cost": ()}


def hub_sources(config: ReproducePaper, row: Row) -> tuple[str, ...]:
    """What a row needs of `sources.HUB`."""
    weights = row.weights
    while weights in EDITORS and getattr(config, EDITORS[weights].field) is None:
        weights = EDITORS[weights].start  # it is trained from there
    needed = () if weights in EDITORS else (weights,)
    return ("tokenizer", "t5", *needed, *_JUDGES.get(row.work, ("clip",)))


def why_not(config: ReproducePaper, row: Row) -> str | None:
    """What a row lacks; None where nothing but what can be downloaded or fetched by hand."""
    if row.weights not in EDITORS:
        return None
    editor = EDITORS[row.weights]
    if getattr(config, editor.field) is not None or config.ultraedit is not None:
        return None
    return (
        f"no such editor is published: give one with {editor.flag}, or train it with --ultraedit LIST "
        "(made by scripts/prepare_ultraedit.sh)"
    )
