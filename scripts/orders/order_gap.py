"""What an in-mask order costs, against samples seen and model size, with and without unspoken offsets.

    python scripts/orders/order_gap.py --dry-run        # how many hours it takes here
    bash scripts/order_gap.sh --num-ranks 2      # can be stopped; goes on where it was

A stage-1 model is trained for every size, length and kind of data, each with a whole cosine schedule of its
own, so that a point is what one gets for that many samples. Regions are trained in the orders that are
measured, each as often as the others. Then zero-shot edits are drawn in each order (the verifier's share of
edits that are done with all else unchanged) and the true regions are scored in each: by the chain rule

    log p(x_R | kept, caption) = sum over k of log p(x_s(k) | x_s(1) ... x_s(k-1), kept, caption)

is one number for every order s of the region's cells, so that their NLLs compare (`score_orders.py`).
Writes order_gap.json, order_gap.csv and order_gap.png after every model.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.orders.config import OrderGap


def main() -> None:
    config = parse(OrderGap)
    from scripts.orders.gap import run  # slow libraries are imported once the flags are right

    run(config)


if __name__ == "__main__":
    run_command(main)
