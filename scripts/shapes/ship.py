"""The shipped folder: weights, text encoder, curves and model card, from a finished training."""

from __future__ import annotations

import json
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.model_folders import About, Defaults, FolderConfig, Member
from autoregressive.editing.pretrained import TEXT_ENCODER, TOKENIZER, arithmetic_note, front_matter
from autoregressive.models.arithmetic import configuration
from evaluations.editing.verification import HEADLINE, TITLES
from evaluations.report.curves import read_metrics
from runtime.checkpoint import load_checkpoint, manifest_path
from runtime.errors import UserError
from runtime.files import file_sha256, write_atomic
from runtime.training.checkpoints import list_checkpoints
from scripts.shapes.config import ShipShapes, TrainShapes
from scripts.shapes.recipe import HARD_SETTING
from scripts.shapes.scores import MASKED_TEMPERATURE, ZERO_SHOT_WIDENING
from scripts.shapes.train import DRAWINGS, OTHER_ORDERS

# File: the folders of its trainings, one after the other, and what it is.
MODELS = {
    "tokenizer": (["tokenizer"], "images of 72 px to 9 × 9 codes and back"),
    "t2i": (["stage1"], "any-order text to image; edits zero-shot"),
    "editing": (["stage2", "stage2_exact"], "edits, told the instruction and the region"),
}
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
    root, output = Path(config.results_dir), Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, (folders, words) in MODELS.items():
        path = output / f"{name}.safetensors"
        shutil.copyfile(_finished(root / "weights" / name / path.name), path)
        manifest_path(path).write_text(f"{file_sha256(path)}  {path.name}\n")
        millions = sum(tensor.numel() for tensor in load_checkpoint(path)["model"].values()) / 1e6
        steps = " + ".join(str(_steps(root / folder)) for folder in _trained(root, folders)) or "taken over"
        if name == "t2i" and (began := _began_with(root / folders[0])):
            steps = f"{steps}, from `{began}`"
        lines.append(
            f"| `{path.name}` | {words} | {millions:.2f} M, {path.stat().st_size / 1e6:.1f} MB | {steps} "
            f"| `{file_sha256(path)}` |"
        )
    shutil.copytree(root / "t5", output / TEXT_ENCODER, copy_function=shutil.copyfile, dirs_exist_ok=True)
    members = {name: Member(f"{name}.safetensors", defaults) for name, defaults in DEFAULTS.items()}
    psnr = _read(root / "reconstructions" / "reconstruction.json")["psnr"]
    FolderConfig(TOKENIZER, members, TEXT_ENCODER, About(KNOWS, round(psnr, 1))).write(output)
    draw_curves(root, output / "curves.png")
    editing = output / "editing.safetensors"
    note = arithmetic_note(configuration(load_checkpoint(editing), editing))
    write_atomic(output / "README.md", lambda path: path.write_text(card(root, lines, note)))


def draw_curves(root: Path, path: Path) -> None:
    """The training losses of the models that were trained, side by side."""
    trainings = {name: _trained(root, folders) for name, (folders, _) in MODELS.items()}
    trainings = {name: folders for name, folders in trainings.items() if folders}
    figure = Figure(figsize=(4 * len(trainings), 3.2), layout="constrained")
    (panels,) = figure.subplots(1, len(trainings), squeeze=False)
    for axes, (name, folders) in zip(panels, trainings.items(), strict=True):
        start, points = 0, []
        for folder in (root / folder for folder in folders):
            losses = read_metrics(folder / "metrics.jsonl", ["loss"])["loss"]
            points += [(start + step, loss) for step, loss in losses]
            start += _steps(folder)
        axes.plot(*zip(*points, strict=True), color="#1f6fb4", linewidth=1)
        axes.set(title=name, xlabel="step", ylabel="loss")
        axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)


def card(root: Path, models: list[str], note: list[str]) -> str:
    """The model card.

    Args:
      models: the rows of the files.
      note: what is to be known before the files are used elsewhere.
    """
    psnr = _read(root / "reconstructions" / "reconstruction.json")["psnr"]
    rows, weak = [], []
    for name, words in SCORES.items():
        scores = _read(root / "scores" / name / "evaluation_metrics.json")
        verifier = scores["verifier"]["generated"]["all_turn"]
        numbers = [verifier.get(key) for key in ASKED]
        numbers += [verifier["by_kind"].get(kind, {}).get(HEADLINE) for kind in KINDS]
        rows.append(_card_row(words, numbers, verifier["counts"]["passed"]))
        weak += [f"{name.replace('_', ' ')} ({numbers[0]:.2f})"] * (numbers[0] < WEAK)
    for name, order in DRAWINGS.items():
        drawings = _read(root / "scores" / name / "drawings.json")
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
        "| file | what | size | steps | SHA-256 |",
        "|---|---|---|---|---|",
        *models,
        "",
        f"`{TEXT_ENCODER}/` is the text encoder that knows the words of the set.",
        "",
        *note,
        *textwrap.wrap(HARD_SETTING, 110),
        "",
        "```bash",
        *_command(root),
        "python scripts/ship_shapes.py",
        "```",
        "",
        f"Held-out edits and captions, judged by the rule-based verifier (tokenizer: {psnr:.1f} dB). An",
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


def _command(root: Path) -> list[str]:
    """The command that made the models, in lines."""
    flags, defaults = yaml.safe_load(_finished(root / "config.yaml").read_text()), vars(TrainShapes())
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


def _trained(root: Path, folders: Sequence[str]) -> list[str]:
    """Those of the folders that hold a training: a tokenizer may have been taken over."""
    return [folder for folder in folders if (root / folder / "metrics.jsonl").is_file()]


def _began_with(training: Path) -> str | None:
    """The weights that a training went on from, as their hash's first digits; None for fresh ones."""
    path = yaml.safe_load((training / "config.yaml").read_text()).get("init_gpt_ckpt")
    return path and f"{Path(path).name} {file_sha256(path)[:12]}"


def _steps(training: Path) -> int:
    """How many steps it took."""
    return int(list_checkpoints(training / "checkpoints")[-1].stem)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(_finished(path).read_text())


def _finished(path: Path) -> Path:
    """The path, if the training has left a file there."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; let scripts/train_shapes.py run to its end first")
    return path
