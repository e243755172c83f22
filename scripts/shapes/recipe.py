"""The recipe of the small models of the shapes set: data, text encoder, tokenizer, stage 1, stage 2."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.shapes.edits import SETTINGS
from scripts.shapes.step_runner import StepRunner

HARD_SETTING = (
    "The hard setting of the shapes set: 1 to 3 objects in nine places, of six shapes, seven colours and two "
    "sizes, in a place at one of four offsets of 1/18 of the image (half a cell at 72 px); six background "
    "colours, plain, gradient, striped or speckled, the last three in four looks each; seven kinds of edit, "
    "with masks that are the objects' bounding boxes and a margin. Test scenes are in no training."
)
"""What the data is, for cards and reports."""


@dataclass(frozen=True)
class ShapesRecipe:
    """What decides the models.

    Attributes:
      setting: of the shapes set, "easy" or "hard"; None where the data is of another set.
      variant: of the hard setting, one of `VARIANTS`.
      steps: optimizer steps of "tokenizer", "stage1" and "stage2".
      tokenizer_images: how many images the tokenizer learns from; they are held in memory.
      codebook_size: codes; None = those of `vq_model`.
      seed: of data, trainings and draws.
      full_mask_share: of stage 2's steps, that train full regeneration.
      stage1_flags: of stage 1 alone.
      stage2_flags: of stage 2 alone: its masks, and what it supervises.
      own_cell: both stages tell each slot its own cell (`--own-cell`).
      region_share: of stage 1's samples, that are drawn as zero-shot edits.
      region_orders: of their regions (`--region-orders`); empty for the program's default.
      edit_orders: of stage 2's edited cells (`--edit-orders`); empty for the program's default.
      init: weights that stage 1 goes on from; they want the tokenizer and the text encoder that made them.
      t5_path: text encoder to take instead of making one.
      num_ranks: processes that share a training; on CPUs one a core is faster than threads.
    """

    setting: str | None
    num_train: int
    num_test: int
    steps: dict[str, int]
    tokenizer_images: int = 6000
    tokenizer_batch: int = 16
    vq_model: str = "VQ-8-small"
    codebook_size: int | None = None
    gpt_model: str = "R-GPT-mini"
    image_size: int = 72
    seed: int = 0
    full_mask_share: float = 0.2
    stage1_flags: tuple[str, ...] = ()
    stage2_flags: tuple[str, ...] = ("--mask-dilation", "4")
    variant: str | None = None
    own_cell: bool = False
    region_share: float = 0.8
    region_orders: tuple[str, ...] = ()
    edit_orders: tuple[str, ...] = ()
    init: str | None = None
    t5_path: str | None = None
    ckpt_every: int = 200
    stage1_batch: int = 48
    stage2_batch: int = 40
    num_ranks: int = 1


def checkpoint(folder: Path, step: int) -> str:
    """The file that a training leaves at a step."""
    return str(folder / "checkpoints" / f"{step:07d}.pt")


def prepare_shapes(
    recipe: ShapesRecipe,
    runner: StepRunner,
    name: str,
    num_train: int,
    num_test: int,
    seed: int,
    more: Sequence[str] = (),
) -> None:
    """A shapes set of the recipe's setting in the folder `name`; another seed draws other scenes."""
    folder = runner.root / name
    runner.run(
        name,
        folder,
        ["dataset/prepare_shapes.py", "--output-dir", str(folder), "--image-size", str(recipe.image_size)]
        + ["--num-train", str(num_train), "--num-test", str(num_test), "--seed", str(seed)]
        + ([] if recipe.setting == "easy" else ["--setting", recipe.setting])
        + ([] if recipe.variant is None else ["--variant", recipe.variant])
        + list(more),
    )


def make_data(recipe: ShapesRecipe, runner: StepRunner) -> None:
    """The shapes set in `data`, and in `t5` the text encoder that knows its words (or the given one)."""
    prepare_shapes(recipe, runner, "data", recipe.num_train, recipe.num_test, recipe.seed)
    make_text_encoder(recipe, runner)


def make_text_encoder(recipe: ShapesRecipe, runner: StepRunner) -> None:
    """In `t5` a text encoder that knows the words of `data`, or the given one."""
    data, t5 = runner.root / "data", runner.root / "t5"
    if recipe.t5_path is not None:
        shutil.copytree(recipe.t5_path, t5, copy_function=shutil.copyfile, dirs_exist_ok=True)
        return
    lists = [str(data / "train" / f"{name}.jsonl") for name in ("t2i", "editing")]
    runner.run(
        "text_encoder",
        t5,
        ["language/small_t5.py", "--texts", *lists, "--output-dir", str(t5), "--seed", str(recipe.seed)],
    )


def make_more_edits(recipe: ShapesRecipe, runner: StepRunner, name: str, num_train: int) -> None:
    """Further edits for training in the folder `name`, four times as many adds among them.

    Of an add the source does not show where in its place the object belongs: only the region tells. From few
    of them a model does not learn to read it.
    """
    kinds = [*SETTINGS[recipe.setting].edits, "add", "add", "add"]
    more = ["--num-emu", "0", "--edits", *kinds]
    prepare_shapes(recipe, runner, name, num_train, 1, recipe.seed + 1, more)


def scaled_steps(steps: dict[str, int], scale: float) -> dict[str, int]:
    """What `--steps-scale` makes of the steps of trainings; two are the fewest."""
    return {name: max(round(count * scale), 2) for name, count in steps.items()}


def take_tokenizer(recipe: ShapesRecipe, runner: StepRunner, vq_ckpt: str | None) -> tuple[str, StepRunner]:
    """The given tokenizer, judged, or one that is trained; and the runner whose steps depend on it."""
    if vq_ckpt is None:
        return train_tokenizer(recipe, runner), runner
    vq_ckpt = str(Path(vq_ckpt).resolve())
    runner = runner.branch(vq_ckpt)
    judge_tokenizer(recipe, runner, vq_ckpt)
    return vq_ckpt, runner


def train_tokenizer(recipe: ShapesRecipe, runner: StepRunner) -> str:
    """Trains the tokenizer and judges it in `reconstructions`; returns its checkpoint."""
    root, steps = runner.root, recipe.steps["tokenizer"]
    data, tokenizer = root / "data", root / "tokenizer"
    runner.run(
        "tokenizer",
        tokenizer,
        ["tokenizer/tokenizer_image/vq_train.py", "--vq-model", recipe.vq_model]
        + ([] if recipe.codebook_size is None else ["--codebook-size", str(recipe.codebook_size)])
        + ["--data-path", str(data / "train" / "t2i.jsonl"), "--max-images", str(recipe.tokenizer_images)]
        + ["--image-size", str(recipe.image_size), "--results-dir", str(tokenizer), "--steps", str(steps)]
        + ["--global-batch-size", str(recipe.tokenizer_batch)]
        + ["--optimizer", "muon", "--lr", "2e-3", "--muon-lr", "0.02"]
        + ["--weight-decay", "0", "--lr-schedule", "cosine", "--perceptual-weight", "0", "--disc-weight", "0"]
        + ["--reconstruction-weight", "2", "--l1-weight", "1", "--gradient-weight", "1"]
        + ["--quantize-after", str(min(100, steps // 2)), "--reseed-every", "50"]
        + ["--no-augment", "--cache-images", "--num-workers", "0", "--log-every", "20"]
        + ["--ckpt-every", str(recipe.ckpt_every), "--max-checkpoints", "2"]
        + ["--global-seed", str(recipe.seed)],
        resume_flag="--vq-ckpt",
        num_ranks=recipe.num_ranks,
    )
    vq_ckpt = checkpoint(tokenizer, steps)
    judge_tokenizer(recipe, runner, vq_ckpt)
    return vq_ckpt


def judge_tokenizer(recipe: ShapesRecipe, runner: StepRunner, vq_ckpt: str) -> None:
    """Passes held-out images through a tokenizer, into `reconstructions`."""
    data, seen = runner.root / "data", runner.root / "reconstructions"
    runner.run(
        "reconstructions",
        seen,
        ["tokenizer/tokenizer_image/reconstruction_eval.py", "--vq-ckpt", vq_ckpt]
        + ["--data-path", str(data / "test" / "t2i.jsonl"), "--image-size", str(recipe.image_size)]
        + ["--num-images", "500", "--output-dir", str(seen)],
    )


def pack_images(recipe: ShapesRecipe, runner: StepRunner, vq_ckpt: str, name: str = "packed") -> Path:
    """Codes and text features of the images of stage 1, for several trainings on them."""
    packed = runner.root / name
    runner.run(
        name,
        packed,
        ["autoregressive/train/extract_codes_t2i.py", "--packed-path", str(packed), "--vq-ckpt", vq_ckpt]
        + ["--t5-path", str(runner.root / "t5"), "--image-size", str(recipe.image_size)]
        + ["--data-path", str(runner.root / "data" / "train" / "t2i.jsonl")],
    )
    return packed


def train_stage1(
    recipe: ShapesRecipe,
    runner: StepRunner,
    vq_ckpt: str,
    name: str = "stage1",
    packed: Path | None = None,
) -> str:
    """Trains the any-order text-to-image model in the folder `name`; returns its checkpoint.

    Args:
      packed: what `pack_images` has written; None encodes all images once more.
    """
    steps = recipe.steps["stage1"]
    images = ["--data-path", str(runner.root / "data" / "train" / "t2i.jsonl"), "--cache-codes"]
    runner.run(
        name,
        runner.root / name,
        ["autoregressive/train/train_t2i.py", *_shared(recipe, runner, vq_ckpt)]
        + (images if packed is None else ["--packed-data", str(packed)])
        + _beginning(recipe)
        + list(recipe.stage1_flags)
        + ["--region-share", str(recipe.region_share), "--max-steps", str(steps)]
        + _orders("--region-orders", recipe.region_orders)
        + ["--global-batch-size", str(recipe.stage1_batch)]
        + ["--results-dir", str(runner.root / name)],
        resume_flag="--gpt-ckpt",
        num_ranks=recipe.num_ranks,
    )
    return checkpoint(runner.root / name, steps)


def train_stage2(
    recipe: ShapesRecipe,
    runner: StepRunner,
    vq_ckpt: str,
    stage1: str,
    name: str = "stage2",
    *,
    marks: bool = True,
    data: Sequence[str] = ("data",),
) -> str:
    """Trains the editor in the folder `name`, with the row of marks or without; returns its checkpoint.

    Args:
      data: folders with shapes sets.
    """
    steps = recipe.steps["stage2"]
    runner.run(
        name,
        runner.root / name,
        ["autoregressive/train/train_editing.py", *_shared(recipe, runner, vq_ckpt)]
        + ["--data-path", *(str(runner.root / folder / "train" / "editing.jsonl") for folder in data)]
        + ["--cache-codes"]
        + (["--mask_in_context"] if marks else [])
        + ["--text-field", "instruction", "--mask-rule", "exact", "--center-crop", *recipe.stage2_flags]
        + ["--full-mask-share", str(recipe.full_mask_share), "--init-gpt-ckpt", stage1]
        + ["--global-batch-size", str(recipe.stage2_batch), "--max-steps", str(steps)]
        + _orders("--edit-orders", recipe.edit_orders)
        + ["--results-dir", str(runner.root / name)],
        resume_flag="--gpt-ckpt",
        num_ranks=recipe.num_ranks,
    )
    return checkpoint(runner.root / name, steps)


def _beginning(recipe: ShapesRecipe) -> list[str]:
    """Of stage 1: fresh weights that know the codes, or earlier ones, led into the new rate slowly."""
    if recipe.init is None:
        return ["--codebook-init"]
    return ["--init-gpt-ckpt", recipe.init, "--warmup-steps", "100"]


def _orders(flag: str, kinds: Sequence[str]) -> list[str]:
    return [flag, *kinds] if kinds else []


def _shared(recipe: ShapesRecipe, runner: StepRunner, vq_ckpt: str) -> list[str]:
    """Flags of both stages."""
    flags = ["--vq-ckpt", vq_ckpt, "--t5-path", str(runner.root / "t5"), "--gpt-model", recipe.gpt_model]
    flags += ["--image-size", str(recipe.image_size), "--num-workers", "0"]
    flags += ["--own-cell"] * recipe.own_cell
    flags += ["--optimizer", "muon", "--lr", "2e-3", "--muon-lr", "0.02", "--weight-decay", "0"]
    flags += ["--lr-scheduler", "cosine", "--dropout-p", "0", "--token-dropout-p", "0"]
    flags += ["--epochs", "1000", "--no-epoch-save", "--ckpt-every", str(recipe.ckpt_every)]
    flags += ["--max-checkpoints", "2", "--log-every", "20", "--global-seed", str(recipe.seed)]
    return flags + ["--preview-every", str(recipe.ckpt_every), "--cfg-scale", "1"]
