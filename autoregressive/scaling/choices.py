"""Words that choose how a search at test time works; without PyTorch, so that flags can be read before it."""

from __future__ import annotations

METHODS = {"search": "search", "best_of_n": "best of n"}
"""Names of the two functions of `scaling.search`, and words for them."""
REWARDS = ("clip", "image_reward", "clip_iqa", "likelihood", "shapes")
"""What judges images; `scaling.rewards` builds them."""
REGIONS = ("lowest", "likelihood", "random")
"""How the cells to draw again are chosen, see `scaling.regions`."""
