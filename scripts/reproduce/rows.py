"""The rows of the results: which model each needs, how that is trained, and how it is asked to edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

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
      data: "hard", or one of `VARIANTS`, with models of its own.
    """

    model: str
    flags: tuple[str, ...]
    words: str
    data: str = "hard"


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
    "named_zero_shot": Row("stage1", ZERO_SHOT, "zero-shot, offsets named", "named_offsets"),
    "named_zero_shot_random_order": Row(
        "stage1", (*ZERO_SHOT, "--random-order"), "the same, random in-mask order", "named_offsets"
    ),
    "fitting_marks": Row("stage2", _INSTRUCTION, "NEP, on adds that fit their region", "fitting_adds"),
    "fitting_no_marks": Row(
        "stage2_no_marks", (*_INSTRUCTION, "--mode", "no_marks"), "the same without marks", "fitting_adds"
    ),
}
# Baselines that the evaluation measures beside a row's images: the row, the evaluation's name, words.
BASELINES = {
    "copy_source": ("nep", "copy_source", "the source, copied"),
    "tokenizer_ceiling": ("nep", "tokenizer_ceiling", "the true result through the tokenizer"),
    "named_copy_source": ("named_zero_shot", "copy_source", "the source, copied, offsets named"),
}

MASK_ERRORS = (-8, -4, 0, 4, 8, 12)  # pixels; a cell has eight
MASK_ERROR_MODELS = {"stage2": "masks widened by up to 4 px", "stage2_jitter": "masks jittered by 8 px"}

SCALING_TASKS = {"draw": "text to image", "edit": "zero-shot edits"}
SCALING_REWARDS = ("shapes", "likelihood")
CROWDED = "crowded"
"""The task "draw" on captions of 6 to 8 objects, by a stage-1 model that often fails at one of them."""
SCALED = {**SCALING_TASKS, CROWDED: "text to image of 6 to 8 objects"}

GROUPS = (*ROWS, "mask_error", "scaling", "crowded_scaling")
"""What `--rows` chooses from."""

JITTER = "8"


def data_of(groups: Sequence[str]) -> list[str]:
    """The variants that the groups need beside the hard setting."""
    found = [row.data for name, row in ROWS.items() if name in groups and row.data != "hard"]
    return list(dict.fromkeys(found + [CROWDED] * ("crowded_scaling" in groups)))


def data_root(root: Path, data: str) -> Path:
    """Where a variant's files lie; those of the hard setting at the top."""
    return root if data == "hard" else root / data


def mask_error_name(model: str, pixels: int) -> str:
    """The folder of one point of the mask-error curve."""
    return f"mask_error_{model}_{pixels}"


def scaling_name(task: str, reward: str) -> str:
    """What a test-time scaling measurement is called."""
    return f"{task}_{reward}"


@dataclass(frozen=True)
class Prepared:
    """Data and tokenizer.

    Attributes:
      vq_ckpt: the tokenizer.
      runner: has made the hard setting's data.
      variants: runners that have made the data of a variant, by its name.
    """

    vq_ckpt: str
    runner: StepRunner
    variants: Mapping[str, StepRunner] = field(default_factory=dict)


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
        if recipe.variant == "fitting_adds":
            # Wider masks would not tell the size, and reading it takes longer.
            steps = recipe.steps | {"stage2": 3 * recipe.steps["stage2"]}
            recipe = replace(recipe, stage2_flags=(), full_mask_share=0.0, steps=steps)
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


def run_seed(recipe: ShapesRecipe, prepared: Prepared, groups: Sequence[str], num_scaled: int) -> None:
    """Trains and scores the rows in `groups` for one seed, the recipe's.

    Args:
      num_scaled: drawings, and edits, that test-time scaling is measured on.
    """
    models = SeedModels(recipe, prepared.runner, prepared.vq_ckpt)
    others = {
        name: SeedModels(replace(recipe, variant=name), runner, prepared.vq_ckpt)
        for name, runner in prepared.variants.items()
    }
    for name, row in ROWS.items():
        if name in groups:
            flags, of_row = list(row.flags), {"hard": models, **others}[row.data]
            ckpt, runner = of_row.get(row.model)
            if name == "auto_mask":
                flags += ["--auto-mask-settings", _calibrate(models, ckpt, runner)]
            _score(of_row, runner, name, ckpt, flags)
    if "mask_error" in groups:
        for model in MASK_ERROR_MODELS:
            for pixels in MASK_ERRORS:
                ckpt, runner = models.get(model)
                flags = [*_INSTRUCTION, "--turns", "single", "--mask-error", str(pixels)]
                _score(models, runner, mask_error_name(model, pixels), ckpt, flags)
    if "scaling" in groups:
        _measure_scaling(models, tuple(SCALING_TASKS), num_scaled)
    if "crowded_scaling" in groups:
        _measure_scaling(others[CROWDED], ("draw",), num_scaled)


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


def _measure_scaling(models: SeedModels, tasks: Sequence[str], num_tasks: int) -> None:
    ckpt, runner = models.get("stage1")
    name = f"{models.folder}/scaling"
    output = runner.root / "scores" / name
    runner.run(
        name,
        output,
        ["scripts/reproduce_scaling.py", "--vq-ckpt", models.vq_ckpt, "--gpt-ckpt", ckpt]
        + ["--t5-path", str(runner.root / "t5"), "--magicbrush-path", str(runner.root / "data" / "test")]
        + ["--tasks", *tasks, "--rewards", *SCALING_REWARDS, "--num-tasks", str(num_tasks)]
        + ["--cfg-scale", "1", "--batch-size", "64", "--seed", str(models.recipe.seed)]
        + ["--output-dir", str(output)],
    )
