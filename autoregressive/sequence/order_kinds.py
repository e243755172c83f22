"""The names of orders; without PyTorch, so that flags can be read before it is imported."""

from __future__ import annotations

from runtime.errors import UserError

ORDER_KINDS = ("raster", "random", "reverse", "spiral", "outside_in", "columns", "spread")
REGION_ORDERS = ("random", "raster")  # of `region_orders`, one half each


def resolve_order(kind: str, random_order: bool) -> str:
    """The order that is meant where the published switch for "random" may be given too.

    Raises:
      UserError: the two contradict each other.
    """
    if not random_order:
        return kind
    if kind not in ("raster", "random"):
        raise UserError(f"order {kind!r} and random_order contradict each other: give one of them")
    return "random"
