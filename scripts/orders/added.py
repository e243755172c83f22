"""Points that other runs have measured, on other days or machines, shown together with this run's."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.texts import read_json
from scripts.orders.config import OrderGap

SAME = ("seed", "num_train", "num_test", "orders")
"""Runs that differ in these have measured different curves."""
_POINT = ("data", "model", "samples")


def added_rows(config: OrderGap) -> list[dict[str, Any]]:
    """The rows of the `--add` files, in their order.

    Raises:
      UserError: a file is missing or holds no rows, is of different curves, or two runs share a point.
    """
    rows: list[dict[str, Any]] = []
    whose = {point: "this run" for point in product(config.data, config.gpt_models, config.points)}
    for file in config.add:
        found = read_json(Path(file), list, "give the order_gap.json of order_gap.py")
        if not all(isinstance(row, dict) and {*_POINT, *SAME, "order"} <= row.keys() for row in found):
            raise UserError(f"{file} holds no points of the gap; give the order_gap.json of order_gap.py")
        for row in found:
            if other := [name for name in SAME if row[name] != getattr(config, name)]:
                flag = f"--{other[0].replace('_', '-')}"
                raise UserError(f"--add {file}: its {flag} is {row[other[0]]}; give this run the same")
            point = tuple(row[name] for name in _POINT)
            if whose.setdefault(point, file) != file:
                words = ", ".join(map(str, point))
                raise UserError(
                    f"--add {file}: {words} is in {whose[point]} too; leave it out of one of them"
                )
        rows += found
    return rows
