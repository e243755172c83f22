"""The flags of the editing evaluators, and the metrics that they may name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dataset.testsets.pairs import PROTOCOLS
from evaluations.flags import WeightFlags
from runtime.config import REQUIRED, argument, check_ranges, option
from runtime.errors import UserError
from runtime.flags import scoring, shared

_IMAGE_NAMES = ("l1", "l2", "psnr", "ssim", "lpips", "clip-i", "dino")
# The tables of `evaluations.editing.registry` hold what they measure.
PAIR_NAMES = (*_IMAGE_NAMES, "clip-t", "region", "unchanged")
MAGICBRUSH_NAMES = PAIR_NAMES
PIE_NAMES = ("structure", "unedited", "lpips", "clip")
BRUSH_NAMES = ("kept", "lpips", "clip")
EMU_NAMES = (*_IMAGE_NAMES, "clip-t", "clip-dir-l14")


@dataclass(frozen=True)
class ScoreFlags(WeightFlags):
    """Flags of all editing evaluators."""

    save_path: str | None = scoring.save_path("the first folder of results")
    device: str = shared.device("where the networks run")
    num_workers: int = shared.num_workers(2, "threads that read and compare images")
    batch_size: int = shared.batch_size(32, "images, or captions, that the networks take at a time")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))

    @property
    def folders(self) -> list[str]:
        """The folders of generated images, one per seed."""
        raise NotImplementedError

    @property
    def save_folder(self) -> Path:
        folder = Path(self.save_path) if self.save_path else Path(self.folders[0]).parent / "scores"
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise UserError(f"--save_path {folder}: {existing} is a file, not a folder")
        return folder


@dataclass(frozen=True)
class EvalConfig(ScoreFlags):
    """Flags of the evaluators of test sets."""

    generated_path: list[str] = option(help="folder of generated images; or several, one per seed")

    @property
    def folders(self) -> list[str]:
        folders = as_list(self.generated_path)
        if not folders:
            raise UserError("--generated_path is missing: the folder of images to score")
        if len({Path(folder).resolve() for folder in folders}) < len(folders):
            raise UserError(f"--generated_path {' '.join(folders)}: a folder is there twice")
        return folders


@dataclass(frozen=True)
class ImageEvalConfig(EvalConfig):
    """Scores MagicBrush-style results against the ground truth."""

    generated_path: list[str] = option(
        help="folder with <id>/<id>_1.png, _inde_K.png, _iter_K.png; or several, one per seed"
    )
    gt_path: str = option(help="folder with <id>/<id>-input.png, <id>-outputK.png")
    caption_path: str | None = option(None, help="local_descriptions.json (or edit_sessions.json)")
    metric: str = scoring.metric(
        f"comma-separated, of {', '.join(MAGICBRUSH_NAMES)}; the last two join with --regions-path"
    )
    sessions_json: str | None = option(
        None, help="edit_sessions.json, for the turns' inputs and instructions"
    )
    regions_path: list[str] | None = option(
        None, help="folder with <id>/<file>.png, 255 where the edit may change; one per generated folder"
    )
    samples_json: list[str] | None = option(
        None, help="samples.json: which image each edit started from; one per generated folder"
    )
    shapes_json: str | None = option(
        None, help="shapes.json of the embedded data set: adds the verifier's rates"
    )
    emoji_json: str | None = option(None, help="emoji.json of the emoji set: adds its verifier's rates")
    ceiling_path: str | None = option(
        None, help="folder with <id>/<id>-outputK.png passed through the tokenizer"
    )
    protocols: list[str] = option(list(PROTOCOLS), choices=PROTOCOLS, help="which turns to score")


@dataclass(frozen=True)
class EmuEvalConfig(EvalConfig):
    """Scores Emu Edit results against sources and captions."""

    generated_path: list[str] = option(help="folder with <idx>.png or .jpg; or several, one per seed")
    gt_path: str = option(help="folder with <idx>_gt.png, the sources")
    caption_path: str = option("assets/emu_test_data.json", help="list of the items, with captions")
    metric: str = scoring.metric(f"comma-separated, of {', '.join(EMU_NAMES)}")
    ceiling_path: str | None = option(
        None, help="folder with <idx>.png, sources passed through the tokenizer"
    )
    clip_l14_ckpt: str | None = scoring.clip_l14_ckpt("clip-dir-l14")


@dataclass(frozen=True)
class PieEvalConfig(EvalConfig):
    """Scores results on PIE-Bench, BrushBench or EditBench."""

    generated_path: list[str] = option(
        help="folder with <id>/<id>_1.png, or the pictures' published paths; or several, one per seed"
    )
    pie_path: str = option(
        REQUIRED, help="the set that prepare_pie_bench.py or prepare_brush_bench.py has written"
    )
    metric: str | None = scoring.metric(
        f"comma-separated, of {', '.join(PIE_NAMES)} (PIE-Bench) or {', '.join(BRUSH_NAMES)}; default: all",
        None,
    )
    ceiling_path: str | None = option(
        None, help="folder with <id>/<id>-output1.png, sources passed through the tokenizer"
    )
    clip_l14_ckpt: str | None = scoring.clip_l14_ckpt("clip")
    dino_b8_ckpt: str | None = option(
        None,
        help="weights of DINO ViT-B/8, for structure (default: pretrained_models/…vitbase8_pretrain.pth)",
    )
    squeeze_ckpt: str | None = option(
        None,
        help="torchvision's SqueezeNet 1.1 weights, for lpips; else from pretrained_models, torch's cache",
    )
    lpips_squeeze_ckpt: str | None = option(
        None, help="LPIPS's linear layers for it; else pretrained_models/squeeze.pth or the lpips package's"
    )


@dataclass(frozen=True)
class PairsEvalConfig(ScoreFlags):
    """Scores results beside the true results, two folders of pictures with the same names."""

    NEEDED: ClassVar[tuple[str, ...]] = ("source_path", "metric", "save_path")
    EXAMPLES: ClassVar[str] = """
  nep evaluate pairs results/edits my_pairs/
  nep evaluate pairs results/edits truth/ --source-path before/ --metric l1,l2,clip-i
"""

    results: str = argument("folder of results")
    truth: str = argument("folder of true results, or of own pairs")
    source_path: str | None = option(None, help="folder of the pictures before; adds the row copy_source")
    regions_path: str | None = option(
        None, help="folder of pictures, white where an edit may change: metrics inside and outside"
    )
    metric: str | None = scoring.metric(
        f"comma-separated, of {', '.join(PAIR_NAMES)}; default: all that can be measured here", None
    )

    @property
    def folders(self) -> list[str]:
        """The one folder of results."""
        return [self.results]


def as_list(value: str | Path | Sequence[str] | None) -> list[str]:
    """One path or several as a list."""
    if value is None:
        return []
    return [str(value)] if isinstance(value, str | Path) else [str(path) for path in value]
