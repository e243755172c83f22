"""Words that choose how a search at test time works; without PyTorch, so that flags can be read before it."""

from __future__ import annotations

import math

from runtime.errors import UserError

METHODS = {"search": "search", "best_of_n": "best of n"}
"""Names of the two functions of `scaling.search`, and words for them."""
REWARDS = ("clip", "image_reward", "clip_iqa", "likelihood", "shapes")
"""What judges images; `scaling.rewards` builds them."""
EDIT_REWARDS = {
    "shapes_edit": "passed_and_unchanged",
    "shapes_done": "passed",
    "shapes_unchanged": "others_unchanged",
}
"""What judges edits, beside these: fields of the shapes verifier's verdict."""
ENTRY_POINT = ":"
"""Stands in the names of rewards that are not ours, `module:function`."""


def split_weight(word: str) -> tuple[str, float]:
    """A word of `--rewards`, "clip", "clip:0.2" or "module:function:0.2", as name and weight (1 by default).

    Raises:
      UserError: a name that is not known, or a weight that is no finite number.
    """
    name, _, last = word.rpartition(ENTRY_POINT)
    try:
        weight = float(last)
    except ValueError:
        name, weight = word, 1.0
    known = [*REWARDS, *EDIT_REWARDS]
    if name not in known and not all(name.partition(ENTRY_POINT)):
        raise UserError(
            f"--rewards {word}: {name!r} is not known; use one of {', '.join(known)}, or module:function for "
            "one of your own, each with :WEIGHT behind it or without"
        )
    if not math.isfinite(weight):
        raise UserError(f"--rewards {word}: the weight must be a finite number")
    return name, weight


REGIONS = ("lowest", "likelihood", "random")
"""How the cells to draw again are chosen, see `scaling.regions`."""
