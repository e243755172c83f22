"""The rows of the results: which model each needs, how that is trained, and how it is asked to edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scripts.shapes.recipe import ShapesRecipe, prepare_shapes, train_stage1, train_stage2
from scripts.shapes.scores import ZERO_SHOT, ZERO_SHOT_TIGHT, edit_and_score
from scripts.shapes.step_runner import StepRunner

_INSTRUCTION = ("--text", "instruction")


@dataclass(frozen=True)
class Row:
    """One way to edit the test set.

    Attributes:
      model: a name of `SeedModels.get`.
      flags: of `sample_magicbrush.py`.
      words: what it is, for tables.
    """

    model: str
    flags: tuple[str, ...]
    words: str


ROWS = {
    "nep": Row("stage2", (*_INSTRUCTION, "--write-ceiling"), "NEP: edited cells only"),
    "nep_random_order": Row("stage2", (*_INSTRUCTION, "--random-order"), "NEP, random in-mask order"),
    "no_marks": Row("stage2_no_marks", (*_INSTRUCTION, "--mode", "no_marks"), "without marks"),
    "ntp": Row("stage2_ntp", (*_INSTRUCTION, "--full-mask"), "NTP: trained on all cells"),
    "full_mask": Row("stage2", (*_INSTRUCTION, "--full-mask"), "NEP's model, all cells"),
    "nep_supervised": Row("stage2_supervised", _INSTRUCTION, "NEP, marks supervised"),
    "full_mask_supervised": Row("stage2_supervised", (*_INSTRUCTION, "--full-mask"), "the same, all cells"),
    "auto_mask": Row(
        "stage2_supervised", (*_INSTRUCTION, "--auto-mask"), "the same, region found by the model"
    ),
    "zero_shot": Row("stage1", ZERO_SHOT, "zero-shot, region widened by half a cell"),
    "zero_shot_random_order": Row("stage1", (*ZERO_SHOT, "--random-order"), "the same, random in-mask order"),
    "zero_shot_tight": Row("stage1", ZERO_SHOT_TIGHT, "zero-shot, region as it is"),
}
# Baselines that the evaluation measures beside the generated images of the row "nep".
BASELINES = {
    "copy_source": "the source, copied",
    "tokenizer_ceiling": "the true result through the tokenizer",
}

MASK_ERRORS = (-8, -4, 0, 4, 8, 12)  # pixels; a cell has eight
MASK_ERROR_MODELS = {"stage2": "masks widened by up to 4 px", "stage2_jitter": "masks jittered by 8 px"}

SCALING_TASKS = {"draw": "text to image", "edit": "zero-shot edits"}
SCALING_REWARDS = ("shapes", "likelihood")

GROUPS = (*ROWS, "mask_error", "scaling")
"""What `--rows` chooses from."""

JITTER = "8"


def mask_error_name(model: str, pixels: int) -> str:
    """The folder of one point of the mask-error curve."""
    return f"mask_error_{model}_{pixels}"


def scaling_name(task: str, reward: str) -> str:
    """What a test-time scaling measurement is called."""
    return f"{task}_{reward}"


class SeedModels:
    """The models of one seed, each trained when it is first asked for, in the folder `seed<seed>`."""

    def __init__(self, recipe: ShapesRecipe, runner: StepRunner, vq_ckpt: str) -> None:
        """
        Args:
          runner: has made data and tokenizer.
        """
        self.recipe, self.runner, self.vq_ckpt = recipe, runner, vq_ckpt
        self.folder = f"seed{recipe.seed}"
        self._trained: dict[str, tuple[str, StepRunner]] = {}

    def get(self, name: str) -> tuple[str, StepRunner]:
        """A model's checkpoint, and a runner whose steps depend on its training and on nothing later."""
        if name not in self._trained:
            self._trained[name] = self._train(name)
        ckpt, runner = self._trained[name]
        return ckpt, runner.branch()

    def _train(self, name: str) -> tuple[str, StepRunner]:
        folder = f"{self.folder}/{name}"
        if name == "stage1":
            runner = self.runner.branch()
            return train_stage1(self.recipe, runner, self.vq_ckpt, folder), runner
        recipe = self.recipe
        if name == "stage2_jitter":
            recipe = replace(recipe, stage2_flags=("--mask-jitter", JITTER))
        if name == "stage2_supervised":
            recipe = replace(recipe, stage2_flags=(*recipe.stage2_flags, "--supervise-marks"))
        if name == "stage2_ntp":  # its marks say "edit" everywhere, which tells it nothing
            recipe = replace(recipe, stage2_flags=("--enforce_fake_masking",))
        stage1, runner = self.get("stage1")
        marks = name != "stage2_no_marks"
        return train_stage2(recipe, runner, self.vq_ckpt, stage1, folder, marks=marks), runner


def make_validation(recipe: ShapesRecipe, runner: StepRunner) -> None:
    """The edits in `validation` that the finding of regions is calibrated on.

    Another seed draws other scenes, so that settings chosen on them do not flatter the test set.
    """
    num_test = max(recipe.num_test // 3, 1)
    prepare_shapes(recipe, runner, "validation", 1, num_test, recipe.seed + 1, ["--num-emu", "0"])


def run_seed(models: SeedModels, groups: Sequence[str], num_scaled: int) -> None:
    """Trains and scores the rows in `groups` for one seed.

    Args:
      num_scaled: drawings, and edits, that test-time scaling is measured on.
    """
    for name, row in ROWS.items():
        if name in groups:
            flags = list(row.flags)
            ckpt, runner = models.get(row.model)
            if name == "auto_mask":
                flags += ["--auto-mask-settings", _calibrate(models, ckpt, runner)]
            _score(models, runner, name, ckpt, flags)
    if "mask_error" in groups:
        for model in MASK_ERROR_MODELS:
            for pixels in MASK_ERRORS:
                ckpt, runner = models.get(model)
                flags = [*_INSTRUCTION, "--turns", "single", "--mask-error", str(pixels)]
                _score(models, runner, mask_error_name(model, pixels), ckpt, flags)
    if "scaling" in groups:
        _measure_scaling(models, num_scaled)


def _score(models: SeedModels, runner: StepRunner, name: str, ckpt: str, flags: Sequence[str]) -> None:
    folder = f"{models.folder}/{name}"
    ceiling = runner.root / "edits" / folder / "ceiling" if name == "nep" else None
    seed = models.recipe.seed
    edit_and_score(runner, folder, models.vq_ckpt, ckpt, flags, seed=seed, ceiling=ceiling)


def _calibrate(models: SeedModels, ckpt: str, runner: StepRunner) -> str:
    folder = runner.root / models.folder / "auto_mask"
    runner.run(
        f"calibrate_{models.folder}",
        folder,
        ["scripts/calibrate_auto_mask.py", "--vq-ckpt", models.vq_ckpt, "--gpt-ckpt", ckpt]
        + ["--t5-path", str(runner.root / "t5"), "--magicbrush-path"]
        + [str(runner.root / "validation" / "test")]
        + ["--mask-rule", "exact", "--output", str(folder / "settings.json")],
    )
    return str(folder / "settings.json")


def _measure_scaling(models: SeedModels, num_tasks: int) -> None:
    ckpt, runner = models.get("stage1")
    name = f"{models.folder}/scaling"
    output = runner.root / "scores" / name
    runner.run(
        name,
        output,
        ["scripts/reproduce_scaling.py", "--vq-ckpt", models.vq_ckpt, "--gpt-ckpt", ckpt]
        + ["--t5-path", str(runner.root / "t5"), "--magicbrush-path", str(runner.root / "data" / "test")]
        + ["--tasks", *SCALING_TASKS, "--rewards", *SCALING_REWARDS, "--num-tasks", str(num_tasks)]
        + ["--cfg-scale", "1", "--batch-size", "64", "--seed", str(models.recipe.seed)]
        + ["--output-dir", str(output)],
    )
