"""RESULTS.md of a reproduction: claims, tables in the style of the paper's, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluations.editing.verification import HEADLINE, TITLES
from runtime.texts import write_text
from scripts.reproduce.claims import MARGIN, Claim
from scripts.reproduce.numbers import ADD_FITTING, KINDS, MULTI, RATES, SINGLE, Results, Statistic
from scripts.reproduce.rows import (
    BASELINES,
    MASK_ERROR_MODELS,
    MASK_ERRORS,
    ROWS,
    SCALED,
    SCALING_REWARDS,
    scaling_name,
)
from scripts.shapes.recipe import HARD_SETTING

Column = tuple[str, str, str, int]  # title, number, protocol, digits

_DONE = (HEADLINE, "passed", "others_unchanged")
_BOTH: list[Column] = [
    (f"{name} ({short})", number, protocol, digits)
    for protocol, short in ((SINGLE, "single"), (MULTI, "sessions"))
    for number, name, digits in (
        *((rate, TITLES[rate], 3) for rate in _DONE),
        ("l1", "L1 ↓", 4),
        ("l2", "L2 ↓", 4),
    )
]
_QUESTIONS: list[Column] = [(TITLES.get(name, name), name, SINGLE, 3) for name in (*RATES, *KINDS)]
_REGION: list[Column] = [
    ("inside L1", "inside_l1", SINGLE, 4),
    ("inside PSNR", "inside_psnr", SINGLE, 1),
    ("inside SSIM", "inside_ssim", SINGLE, 3),
    ("outside L1", "outside_l1", SINGLE, 4),
    ("unchanged pixels", "unchanged_pixel_share", SINGLE, 4),
]
_COST: list[Column] = [("tokens", "tokens", SINGLE, 1), ("seconds", "seconds", SINGLE, 4)]
_AUTO: list[Column] = [
    *((TITLES[rate], rate, SINGLE, 3) for rate in _DONE),
    ("IoU with the true region", "iou", SINGLE, 3),
]
_FITTING: list[Column] = [
    ("adds that are done", ADD_FITTING, SINGLE, 3),
    *((TITLES[rate], rate, SINGLE, 3) for rate in (*_DONE, "size")),
]
FITTING = "What marks tell: adds whose region alone says the size"
INSIDE = "Inside and outside the region, single turns"
ASKED = "What the verifier asks, single turns"
NOTES = {
    ASKED: "The kinds of edit at the right are shares that are done. An object stands at one of four offsets "
    "in its place that no caption names: the cells of a place fit if each shows the object at one of them; "
    "only if they agree on one is it a whole object.",
    INSIDE: "Inside is what a row was free to change: the whole image where all cells are drawn, a larger "
    "box where the region is widened, another one where the model finds it. Only rows with the same region "
    "compare.",
}

REGION, ZERO_SHOT = "Editing in a region (table 1)", "Zero-shot editing (table 5)"
ABLATIONS, FOUND = "Ablations (table 3)", "Masks found by the model"
MASK_ERROR = "Masks too small or too large: edits that are done"
SCALING = "Test-time scaling (table 7)"
_JUDGED = "A tick: the edit is done and all else is as it was, objects at any offset of their places"
_STRIP = (
    "The first task of seed {seed} whose image a search improved: {task}, led by {reward}. Each accepted "
    "round with its reward and the tokens spent so far; outlined: the cells that were drawn again"
)
CAPTIONS: dict[str, dict[str, str]] = {
    REGION: {"edits_nep": f"NEP's first eight edits of seed {{seed}}. {_JUDGED}"},
    ABLATIONS: {
        "edits_ntp": "The same edits by the model trained on all cells: what no one asked for changes too. "
        f"{_JUDGED}"
    },
    ZERO_SHOT: {
        "edits_zero_shot": f"The same edits by filling in, regions widened by half a cell. {_JUDGED}"
    },
    FOUND: {"edits_auto_mask": f"The same edits in regions that the model found. {_JUDGED}"},
    MASK_ERROR: {
        "mask_error": "Edits that are done against the error of their masks. Lines: means over seeds; "
        "points: the seeds"
    },
    SCALING: {
        "scaling": "Reward by rounds (left), reward and accuracy by tokens (middle, right). Lines: means "
        "over seeds; points: the seeds",
        **{
            f"scaling_{scaling_name(task, reward)}": _STRIP.replace("{task}", words).replace(
                "{reward}", reward
            )
            for task, words in SCALED.items()
            for reward in SCALING_REWARDS
        },
    },
}
"""Heading of a section -> figure -> what it shows."""


def write_report(
    path: Path,
    results: Results,
    claims: Sequence[Claim],
    about: dict[str, Any],
    figures: Sequence[Path],
    shown_seed: int,
) -> None:
    """Writes RESULTS.md beside the folder of figures.

    Args:
      shown_seed: the one that the pictures are of.
      about: "command", "machine", "date", "commit", "seeds", "num_test", "num_scaled", "num_train", "steps",
        "minutes".
    """
    shown = {file.stem: f"figures/{file.name}" for file in figures}
    parts = [_head(about), _claims(claims), *_tables(results)]
    if results.mask_error:
        parts.append(_mask_error(results))
    if results.scaling:
        parts.append(_scaling(results, about["num_scaled"]))
    parts = [with_figures(part, shown, shown_seed) for part in parts]
    write_text(path, "\n\n".join(parts) + "\n")


def with_figures(part: str, shown: dict[str, str], seed: int) -> str:
    """A section with the figures that its heading has in `CAPTIONS`, each over its caption.

    Args:
      shown: figure -> where its file is.
    """
    heading = part.partition("\n")[0].removeprefix("## ")
    captions = {name: words.replace("{seed}", str(seed)) for name, words in CAPTIONS.get(heading, {}).items()}
    figures = [
        f"![{name.replace('_', ' ')}]({shown[name]})\n*{captions[name]}.*"
        for name in captions
        if name in shown
    ]
    return "\n\n".join([part, *figures])


def show(statistic: Statistic | None, digits: int) -> str:
    """Mean ± half the 95 % interval; no interval where there is one seed, or all agree."""
    if statistic is None or statistic.mean is None:
        return ""
    half = statistic.half_interval
    return f"{statistic.mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")


def _head(about: dict[str, Any]) -> str:
    steps = ", ".join(f"{name} {count}" for name, count in about["steps"].items())
    return "\n".join([
        "# Results on shapes",
        "",
        HARD_SETTING,
        "",
        "An edit is done if the rule-based verifier passes the edited object (or background) and finds "
        'everything else unchanged: the columns "passed and unchanged".',
        "",
        f"{about['num_test']} held-out edits; every number is the mean over the seeds "
        f"{', '.join(map(str, about['seeds']))} ± half the width of its 95 % t-interval. A seed decides both "
        "trainings and all draws; data and tokenizer are the same for all.",
        "",
        f"- Command: `{about['command']}`",
        f"- Machine: {about['machine']}",
        f"- Date: {about['date']}, commit {about['commit']}, {about['minutes']:.0f} minutes of steps",
        f"- Training: {about['num_train']} edits; optimizer steps: {steps}",
    ])  # fmt: skip


BESIDE = "beside: "


def _claims(claims: Sequence[Claim]) -> str:
    lines = [
        "## The paper's claims",
        "",
        "A comparison holds if the 95 % interval of its difference over seeds lies above 0, does not hold if "
        "it lies below, and is undecided if it contains 0; one that claims equality holds if the interval "
        f"lies within ± {MARGIN} and does not if it lies outside; one that claims no loss holds if the "
        "interval lies above minus its margin. A claim holds if all of its comparisons do, those marked "
        f'"{BESIDE.strip(": ")}" left out. L1, L2, tokens and seconds count the other way: more is worse. '
        "The analysis was fixed before the run: [docs/claims.md](docs/claims.md).",
    ]
    for claim in claims:
        lines += [
            "",
            f"### {claim.words}: {claim.verdict}",
            "",
            *_row(["comparison", "difference", ""], True),
        ]
        lines += [
            line
            for c in claim.checks
            for line in _row([c.words, show(c.difference, 4) or "-", BESIDE * (not c.decides) + c.verdict])
        ]
        lines += ["", claim.why] if claim.why else []
    return "\n".join(lines)


def _tables(results: Results) -> list[str]:
    everything = [*BASELINES, *ROWS]
    tables = [
        (REGION, ["copy_source", "nep", "full_mask", "tokenizer_ceiling"], _BOTH),
        (ABLATIONS, ["nep", "nep_supervised", "no_marks", "ntp"], _BOTH),
        (FITTING, ["fitting_marks", "fitting_no_marks"], _FITTING),
        ("Cost of an edit (table 4), amortised over batches of 64", list(ROWS), _COST),
        (ZERO_SHOT, ["copy_source", "zero_shot_tight", "zero_shot", "nep"], _BOTH),
        (
            "In-mask order (table 6)",
            ["zero_shot", "zero_shot_random_order", "nep", "nep_random_order"],
            _BOTH,
        ),
        (
            "In-mask order where nothing is left unsaid: captions name the offsets",
            ["named_copy_source", "named_zero_shot", "named_zero_shot_random_order"],
            _BOTH,
        ),
        (FOUND, ["nep_supervised", "auto_mask", "full_mask_supervised"], _AUTO),
        (ASKED, everything, _QUESTIONS),
        (INSIDE, everything, _REGION),
    ]
    parts = []
    for title, names, columns in tables:
        made = [name for name in names if name in results.rows]
        if not set(made) & set(ROWS):
            continue
        lines = _row(["", *(column[0] for column in columns)], True)
        for name in made:
            words = BASELINES[name][-1] if name in BASELINES else ROWS[name].words
            cells = [show(results.find(name, number, where), digits) for _, number, where, digits in columns]
            lines += _row([words, *cells])
        about = f"{NOTES[title]}\n\n" if title in NOTES else ""
        parts.append(f"## {title}\n\n{about}" + "\n".join(lines))
    return parts


def _mask_error(results: Results) -> str:
    lines = _row(["mask widened by (pixels)", *map(str, MASK_ERRORS)], True)
    for model, words in MASK_ERROR_MODELS.items():
        lines += _row([f"trained with {words}", *(show(p, 3) for p in results.mask_error[model])])
    return f"## {MASK_ERROR}\n\n" + "\n".join(lines)


def _scaling(results: Results, num_scaled: int) -> str:
    """Columns are rounds; the last one is best-of-n at the end."""
    parts = [
        f"## {SCALING}\n\nThe first {num_scaled} tasks, drawn at temperature 1 without "
        "guidance: candidates must differ. The budget is what rounds may draw, in whole images; a task whose "
        "reward cannot rise draws no more. Best of n may draw as much as all rounds, rounded up to whole "
        "images. A search accepts higher rewards only, so that its reward cannot fall."
    ]
    for task, task_words in SCALED.items():
        for reward in SCALING_REWARDS:
            if (methods := results.scaling.get(scaling_name(task, reward))) is None:
                continue
            search, baseline = methods["search"], methods["best_of_n"]
            rounds = range(len(search["reward"]))
            title = f"{task_words}, led by {reward}"
            lines = _row([title, *(f"round {r}" for r in rounds), "best of n"], True)
            for column, words in (
                ("reward", "reward"),
                ("accuracy", "verifier"),
                ("budget", "budget, images"),
            ):
                points = [*search[column], baseline[column][-1]]
                lines += _row([words, *(show(point, 3) for point in points)])
            drawn = [*search["images_worth"], baseline["images_worth"][-1]]
            lines += _row(["drawn, images", *(show(point, 3) for point in drawn)])
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(cells: Sequence[str], head: bool = False) -> list[str]:
    line = f"| {' | '.join(cells)} |"
    return [line, "|---" * len(cells) + "|"] if head else [line]
