"""Do the paper's claims hold on shapes? Each is made of comparisons, and each of these of seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluations.editing.verification import HEADLINE
from scripts.reproduce.numbers import MULTI, SINGLE, Results, Statistic
from scripts.reproduce.rows import SCALING_REWARDS, SCALING_TASKS, scaling_name

HOLDS, FAILS, OPEN, TIED, ABSENT = "holds", "does not hold", "undecided", "no difference", "not measured"
MARGIN = 0.02
"""A share of edits: two methods whose shares are no further apart do equally well."""


# By a claim's number: what stands behind it where it does not hold, or is undecided.
WHY = {
    "2": "Every slot is told which cell comes next, so an editor without marks learns cell by cell what it "
    "may change; marks tell it the whole region before the first code. Here regions are small boxes around "
    "one object, and the first cell already says nearly as much. Supervising the slots of the marks (the row "
    '"NEP, marks supervised") is what makes them worth more.',
    "3": "Zero-shot editing works; two comparisons do not. The trained editor is told an instruction and has "
    "learned for few steps to ground it, while the zero-shot model is told everything that the result shows: "
    "the shipped editor, trained for nearly twenty times as many steps, draws level "
    "(`pretrained_models/shapes`). And random order costs much accuracy, at any temperature and also for the "
    "shipped models: a model that had learned every order would find a region equally likely in all of them, "
    "these find it less likely in random ones. A code is easiest to predict beside neighbours that "
    "are drawn already; in raster order these are always the same ones.",
    "4": "Rewards rise with every round. Accuracy rises where the verifier leads, and for zero-shot edits "
    "led by likelihood; for text to image led by likelihood the rise is within the noise. Best-of-n is hard "
    "to beat here: most first images are right, so that a few whole draws nearly always hold a right one, "
    "while a search draws its cells in random orders, which these models do badly (see 3). Led by shapes a "
    "search stops once everything is right and so spends a fraction of the budget: see the line of images "
    "drawn below.",
}


@dataclass(frozen=True)
class Check:
    """One comparison: a difference that should be above 0, or (`equal`) within ± `MARGIN`.

    `words` say what should be true; no difference means that it was not measured.
    """

    words: str
    difference: Statistic | None
    equal: bool = False

    @property
    def verdict(self) -> str:
        """From the 95 % interval of the difference; "no difference" where all seeds have exactly none."""
        if self.difference is None:
            return ABSENT
        mean, half = self.difference.mean, self.difference.half_interval
        if mean is None or half is None:
            return OPEN
        if self.equal:
            if abs(mean) + half <= MARGIN:
                return HOLDS
            return FAILS if abs(mean) - half > MARGIN else OPEN
        if mean == half == 0:
            return TIED
        if mean - half > 0:
            return HOLDS
        return FAILS if mean + half < 0 else OPEN


@dataclass(frozen=True)
class Claim:
    """A claim of the paper; it holds if all of its checks do."""

    words: str
    checks: tuple[Check, ...]

    @property
    def why(self) -> str:
        """What stands behind it, where it does not hold."""
        return "" if self.verdict == HOLDS else WHY.get(self.words.partition(".")[0], "")

    @property
    def verdict(self) -> str:
        verdicts = {check.verdict for check in self.checks}
        if FAILS in verdicts:
            return FAILS
        return HOLDS if verdicts == {HOLDS} else OPEN

    def to_dict(self) -> dict[str, Any]:
        checks = [
            {"words": c.words, "verdict": c.verdict, "difference": c.difference and c.difference.to_dict()}
            for c in self.checks
        ]
        return {"words": self.words, "verdict": self.verdict, "checks": checks}


def judge(results: Results) -> list[Claim]:
    """The five claims, but for those of which nothing was measured."""
    turns = {SINGLE: "single turns", MULTI: "sessions"}

    def above(better: str, worse: str, words: str) -> list[Check]:
        return [
            _compare(results, better, worse, HEADLINE, protocol, f"{words}, {name}")
            for protocol, name in turns.items()
        ]

    def below(better: str, worse: str, number: str, words: str) -> list[Check]:
        return [_compare(results, worse, better, number, SINGLE, words)]

    same = "a random in-mask order does as well as raster order"
    orders = [
        _compare(results, f"{row}_random_order", row, HEADLINE, protocol, f"{words}: {same}, {name}", True)
        for row, words in {"zero_shot": "zero-shot", "nep": "NEP"}.items()
        for protocol, name in turns.items()
    ]
    claims = {
        "1. Predicting only the edited tokens beats regenerating the image": [
            *above("nep", "ntp", "more of NEP's edits are done than of NTP's"),
            *below("nep", "ntp", "l1", "L1 is lower with NEP than with NTP"),
        ],
        "2. The marks help": above("nep", "no_marks", "more edits are done with marks"),
        "3. The any-order model edits zero-shot, in any in-mask order": [
            *above(
                "zero_shot", "copy_source", "zero-shot edits are done more often than by copying the source"
            ),
            *above(
                "nep",
                "zero_shot_tight",
                "in the same regions trained edits are done more often than zero-shot ones",
            ),
            *above("nep", "zero_shot", "and more often than zero-shot ones in widened regions"),
            *orders,
        ],
        "4. Test-time scaling improves images": _scaling_checks(results),
        "5. Cost follows the edited region": [
            *below("nep", "full_mask", "tokens", "an edit draws fewer tokens than a whole image"),
            *below("nep", "full_mask", "seconds", "an edit takes less time than a whole image"),
        ],
    }
    return [
        Claim(words, tuple(checks))
        for words, checks in claims.items()
        if any(check.difference is not None for check in checks)
    ]


def _compare(
    results: Results, more: str, less: str, number: str, protocol: str, words: str, equal: bool = False
) -> Check:
    pair = [results.find(row, number, protocol) for row in (more, less)]
    return Check(words, None if None in pair else pair[0].minus(pair[1]), equal)


def _scaling_checks(results: Results) -> list[Check]:
    """The last round against the first image, and against as many tokens spent on whole images.

    A search accepts higher rewards only: that its reward rises shows nothing, nor does its accuracy where the
    verifier is the reward.
    """
    checks = []
    for task, task_words in SCALING_TASKS.items():
        for reward in SCALING_REWARDS:
            found = results.scaling.get(scaling_name(task, reward))
            for column in ("reward", "accuracy"):
                where = f"{column} of {task_words}, led by {reward},"
                words = f"{where} beats best-of-n, which draws at least as many tokens"
                checks.append(Check(words, _gain(found, column, "best_of_n", -1)))
                if column == "accuracy" and reward != "shapes":
                    checks.append(Check(f"{where} rises over the rounds", _gain(found, column, "search", 0)))
    return checks


def _gain(
    found: dict[str, dict[str, list[Statistic]]] | None, column: str, method: str, at: int
) -> Statistic | None:
    """The search's last number less another one; None if nothing was measured."""
    return None if found is None else found["search"][column][-1].minus(found[method][column][at])
