"""What a training puts up with before it ends with an error."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import UserError

MAX_SKIPPED_STEPS = 10


def require_few_bad(
    num_bad: int, words: str, budget: float, num_samples: int, problems: Sequence[str]
) -> None:
    """
    Args:
      words: what has been counted.
      budget: the share of the samples that may be bad.
      problems: what is wrong with each.
    Raises:
      UserError: more samples are bad.
    """
    if num_bad > budget * num_samples:
        raise UserError(
            f"{num_bad} {words}, more than --bad-sample-budget {budget} of {num_samples}; "
            "mend the data or raise it:\n  " + "\n  ".join(problems)
        )


def require_few_skipped(num_skipped: int, advice: str) -> None:
    """
    Raises:
      UserError: too many steps have left the weights as they were.
    """
    if num_skipped > MAX_SKIPPED_STEPS:
        raise UserError(f"{num_skipped} steps had a gradient that is not finite; {advice}")
