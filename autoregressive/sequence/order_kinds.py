"""The names of orders; without PyTorch, so that flags can be read before it is imported."""

from __future__ import annotations

ORDER_KINDS = ("raster", "random", "reverse", "spiral", "outside_in", "columns")
REGION_ORDERS = ("random", "raster")  # of `region_orders`, one half each
