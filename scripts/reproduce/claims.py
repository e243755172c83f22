"""Do the paper's claims hold on shapes? Each is made of comparisons, and each of these of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from evaluations.editing.verification import HEADLINE
from scripts.reproduce.numbers import ADD_FITTING, MULTI, SINGLE, Results, Statistic
from scripts.reproduce.rows import SCALED, SCALING_REWARDS, SCALING_TASKS, scaling_name

HOLDS, FAILS, OPEN, TIED, ABSENT = "holds", "does not hold", "undecided", "no difference", "not measured"
MARGIN = 0.02
"""A share of edits: two methods whose shares are no further apart do equally well."""
TURNS = {SINGLE: "single turns", MULTI: "sessions"}
LOSS = 0.001
"""Of L1 or L2, of values in [0, 1]: what may be lost where a claim says that nothing is."""

# By a claim's number: what stands behind it where it does not hold, or is undecided.
WHY = {
    "2": "Every slot is told which cell comes next, so an editor without marks learns cell by cell what it "
    "may change; marks tell it the whole region before the first code. In the hard setting regions are small "
    "boxes around one object, and the first cell already says nearly as much: that comparison stands beside. "
    "Of adds that fit their region only the region's extent tells the size.",
    "3": "A model that has learned every order finds a region equally likely in all of them. In the hard "
    "setting cells drawn in a random order must agree on an offset that no caption names; where captions do, "
    "nothing is left to agree on. An object at another offset than the true one is right all the same, but "
    "L2 counts it twice, where it is missing and where it stands; what a copied source lacks counts once. "
    "`scripts/order_gap.sh` measures the difference between orders against samples and size.",
    "4": "A search accepts higher rewards only, so that its reward cannot fall; the verifier is an "
    "independent judge where likelihood leads. The paper claims a rise over rounds, no win over best-of-n.",
}


@dataclass(frozen=True)
class Check:
    """One comparison: a difference that should be above 0, within ± `MARGIN` (`equal`), or above -`loss`.

    Attributes:
      words: what should be true.
      difference: None where it was not measured.
      decides: False for comparisons that only stand beside the claim.
    """

    words: str
    difference: Statistic | None
    equal: bool = False
    loss: float | None = None
    decides: bool = True

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
        if self.loss is not None:
            mean += self.loss
        elif mean == half == 0:
            return TIED
        if mean - half > 0:
            return HOLDS
        return FAILS if mean + half < 0 else OPEN


@dataclass(frozen=True)
class Claim:
    """A claim of the paper; it holds if all of its checks that decide do, and is not measured if none was."""

    words: str
    checks: tuple[Check, ...]

    @property
    def why(self) -> str:
        """What stands behind it, where it does not hold."""
        return "" if self.verdict == HOLDS else WHY.get(self.words.partition(".")[0], "")

    @property
    def verdict(self) -> str:
        verdicts = {check.verdict for check in self.checks if check.decides}
        if FAILS in verdicts:
            return FAILS
        # Where nothing that decides was measured, or all of it says the same, there is one verdict.
        return verdicts.pop() if verdicts in ({HOLDS}, {ABSENT}) else OPEN

    def to_dict(self) -> dict[str, Any]:
        checks = [
            {"words": c.words, "verdict": c.verdict, "decides": c.decides}
            | {"difference": c.difference and c.difference.to_dict()}
            for c in self.checks
        ]
        return {"words": self.words, "verdict": self.verdict, "checks": checks}


def judge(results: Results) -> list[Claim]:
    """The five claims, but for those of which nothing was measured; docs/claims.md is their plan."""
    claims = {
        "1. Predicting only the edited tokens beats regenerating the image": [
            *_done_more(results, "nep", "ntp", "more of NEP's edits are done than of NTP's"),
            *_nearer(results, "nep", "ntp", "is lower with NEP than with NTP"),
        ],
        "2. The marks help": _marks_checks(results),
        "3. The any-order model edits zero-shot, in any in-mask order": _any_order_checks(results),
        "4. Test-time scaling improves images": _scaling_checks(results),
        "5. Cost follows the edited region": [
            _compare(
                results, "full_mask", "nep", "tokens", SINGLE, "an edit draws fewer tokens than an image"
            ),
            _compare(results, "full_mask", "nep", "seconds", SINGLE, "an edit takes less time than an image"),
        ],
    }
    return [
        Claim(words, tuple(checks))
        for words, checks in claims.items()
        if any(check.difference is not None for check in checks)
    ]


def _marks_checks(results: Results) -> list[Check]:
    """Where marks carry information, and beside it where they carry hardly any."""
    words = "of adds whose region alone tells the size, more are done with marks"
    return [
        _compare(results, "fitting_marks", "fitting_no_marks", ADD_FITTING, SINGLE, words),
        *_done_more(
            results, "nep", "no_marks", "more edits of the hard setting are done with marks", beside=True
        ),
    ]


def _any_order_checks(results: Results) -> list[Check]:
    """Zero-shot edits above copying, random order against raster order, with unspoken offsets and without."""
    same = "a random in-mask order does as well as raster order"
    checks = []
    for start, where in {"": "", "named_": "offsets named: "}.items():
        row, copy, shuffled = f"{start}zero_shot", f"{start}copy_source", f"{start}zero_shot_random_order"
        words = f"{where}zero-shot edits are done more often than by copying the source"
        checks += _done_more(results, row, copy, words)
        checks += _nearer(
            results, row, copy, "is lower for zero-shot edits than for the copied source", where
        )
        for protocol, name in TURNS.items():
            words = f"{where}zero-shot: {same}, {name}"
            pair = (shuffled, row)  # where an offset is left unsaid, an order is known to matter
            checks.append(
                _compare(results, *pair, HEADLINE, protocol, words, equal=True, decides=bool(start))
            )
        words = f"is no higher by more than {LOSS} in a random order than in raster order"
        checks += _nearer(results, shuffled, row, words, where, loss=LOSS)
    for protocol, name in TURNS.items():
        words = f"NEP: {same}, {name}"
        pair = ("nep_random_order", "nep")
        checks.append(_compare(results, *pair, HEADLINE, protocol, words, equal=True, decides=False))
    trained = "in the same regions trained edits are done more often than zero-shot ones"
    wide = "and more often than zero-shot ones in widened regions"
    checks += _done_more(results, "nep", "zero_shot_tight", trained, beside=True)
    return checks + _done_more(results, "nep", "zero_shot", wide, beside=True)


def _done_more(results: Results, more: str, less: str, words: str, beside: bool = False) -> list[Check]:
    """Shares of edits that are done with all else unchanged, single turns and sessions."""
    return [
        _compare(results, more, less, HEADLINE, protocol, f"{words}, {name}", decides=not beside)
        for protocol, name in TURNS.items()
    ]


def _nearer(
    results: Results, near: str, far: str, words: str, where: str = "", loss: float | None = None
) -> list[Check]:
    """L1 and L2 of single turns, of which less is better."""
    return [
        _compare(results, far, near, number, SINGLE, f"{where}{number.upper()} {words}", loss=loss)
        for number in ("l1", "l2")
    ]


def _compare(
    results: Results, more: str, less: str, number: str, protocol: str, words: str, **kind: Any
) -> Check:
    pair = [results.find(row, number, protocol) for row in (more, less)]
    return Check(words, None if None in pair else pair[0].minus(pair[1]), **kind)


def _scaling_checks(results: Results) -> list[Check]:
    """The last round against the first image; beside it best-of-n, at the codes that the search has drawn.

    A search accepts higher rewards only: that its reward rises shows little, and its accuracy shows nothing
    where the verifier is the reward.
    """
    checks = []
    for task, reward in product(SCALING_TASKS, SCALING_REWARDS):
        found = results.scaling.get(scaling_name(task, reward))
        where = f"of {SCALED[task]}, led by {reward}, rises over the rounds"
        checks.append(Check(f"the reward {where}", _rise(found, "reward")))
        if reward != "shapes":
            checks.append(Check(f"the verifier's share {where}", _rise(found, "accuracy")))
    for task, reward in product(SCALED, SCALING_REWARDS):
        found = results.scaling.get(scaling_name(task, reward))
        words = f"the verifier's share of {SCALED[task]}, led by {reward}, beats best-of-n of as many codes"
        checks.append(Check(words, _gain_at_equal_codes(found, "accuracy"), decides=False))
    return checks


Found = Mapping[str, Mapping[str, Sequence[Statistic]]]


def _rise(found: Found | None, column: str) -> Statistic | None:
    """From the first image to the last round."""
    return None if found is None else found["search"][column][-1].minus(found["search"][column][0])


def _gain_at_equal_codes(found: Found | None, column: str) -> Statistic | None:
    """The search's last number less that of the fewest whole images that cost as many codes, seed by seed."""
    if found is None:
        return None
    search, whole = found["search"], found["best_of_n"]
    differences = []
    for seed, drawn in enumerate(search["images_worth"][-1].values):
        enough = [at for at, worth in enumerate(whole["images_worth"]) if worth.values[seed] >= drawn - 1e-9]
        at = enough[0] if enough else -1
        differences.append(search[column][-1].values[seed] - whole[column][at].values[seed])
    return Statistic(tuple(differences))
