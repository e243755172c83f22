"""Do the paper's claims hold on shapes? Each is made of comparisons, and each of these of seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reproduce_numbers import MULTI, SINGLE, Results, Statistic
from reproduce_rows import SCALING_REWARDS, SCALING_TASKS, scaling_name

HOLDS, FAILS, OPEN, TIED = "holds", "does not hold", "undecided", "no difference"


@dataclass(frozen=True)
class Check:
    """One comparison: a difference that should be above 0, or (`equal`) whose interval should hold 0.

    `words` say what should be true.
    """

    words: str
    difference: Statistic
    equal: bool = False

    @property
    def verdict(self) -> str:
        """From the 95 % interval of the difference; "no difference" where all seeds have exactly none."""
        mean, half = self.difference.mean, self.difference.half_interval
        if mean is None or half is None:
            return OPEN
        if self.equal:
            return HOLDS if abs(mean) <= half or mean == 0 else FAILS
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
    def verdict(self) -> str:
        verdicts = {check.verdict for check in self.checks}
        if FAILS in verdicts:
            return FAILS
        return HOLDS if verdicts == {HOLDS} else OPEN

    def to_dict(self) -> dict[str, Any]:
        checks = [
            {"words": c.words, "verdict": c.verdict, "difference": c.difference.to_dict()}
            for c in self.checks
        ]
        return {"words": self.words, "verdict": self.verdict, "checks": checks}


def judge(results: Results) -> list[Claim]:
    """The five claims, with the checks that the rows at hand allow."""
    turns = {SINGLE: "single turns", MULTI: "sessions"}

    def above(better: str, worse: str, words: str) -> list[Check]:
        return [
            _compare(results, better, worse, "overall", protocol, f"{words}, {name}")
            for protocol, name in turns.items()
        ]

    def below(better: str, worse: str, number: str, words: str) -> list[Check]:
        return [_compare(results, worse, better, number, SINGLE, words)]

    same = "a random in-mask order does as well as raster order"
    orders = [
        _compare(results, f"{row}_random_order", row, "overall", protocol, f"{words}: {same}, {name}", True)
        for row, words in {"zero_shot": "zero-shot", "nep": "NEP"}.items()
        for protocol, name in turns.items()
    ]
    claims = {
        "1. Predicting only the edited tokens beats regenerating the image": [
            *above("nep", "ntp", "the verifier passes more of NEP's edits than of NTP's"),
            *below("nep", "ntp", "l1", "L1 is lower with NEP than with NTP"),
        ],
        "2. The marks help": above("nep", "no_marks", "the verifier passes more edits with marks"),
        "3. The any-order model edits zero-shot, in any in-mask order": [
            *above("zero_shot", "copy_source", "zero-shot edits pass more often than the copied source"),
            *above("nep", "zero_shot", "trained edits pass more often than zero-shot ones"),
            *orders,
        ],
        "4. Test-time scaling improves images": _scaling_checks(results),
        "5. Cost follows the edited region": [
            *below("nep", "full_mask", "tokens", "an edit draws fewer tokens than a whole image"),
            *below("nep", "full_mask", "seconds", "an edit takes less time than a whole image"),
        ],
    }
    return [
        Claim(words, tuple(c for c in checks if c is not None))
        for words, checks in claims.items()
        if any(c is not None for c in checks)
    ]


def _compare(
    results: Results, more: str, less: str, number: str, protocol: str, words: str, equal: bool = False
) -> Check | None:
    pair = [results.find(row, number, protocol) for row in (more, less)]
    return None if None in pair else Check(words, pair[0].minus(pair[1]), equal)


def _scaling_checks(results: Results) -> list[Check]:
    """The last round against the first image, and against as many tokens spent on whole images."""
    checks = []
    for task, task_words in SCALING_TASKS.items():
        for reward in SCALING_REWARDS:
            if (found := results.scaling.get(scaling_name(task, reward))) is None:
                continue
            for column in ("reward", "accuracy"):
                scaled, baseline = found["search"][column], found["best_of_n"][column]
                where = f"{column} of {task_words}, led by {reward},"
                checks.append(Check(f"{where} rises over the rounds", scaled[-1].minus(scaled[0])))
                words = f"{where} beats best-of-n at equal tokens"
                checks.append(Check(words, scaled[-1].minus(baseline[-1])))
    return checks
