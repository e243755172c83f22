"""Edits a shapes test set zero-shot in several in-mask orders, and measures each order's likelihood.

    python scripts/orders/score_orders.py --vq-ckpt vq.pt --gpt-ckpt t2i.pt --t5-path t5 --cfg-scale 1 \\
        --temperature 0.5 --magicbrush-path data/shapes/test --mask-error 4 --output orders.json

Regions are compared across orders by their negative log-likelihood. By the chain rule the likelihood of the
codes x of a region R, given the kept codes and the caption c, is the same product in every order s of its
cells:

    log p(x_R | kept, c) = sum over k of log p(x_s(k) | x_s(1) ... x_s(k-1), kept, c)

so a model that has learned the conditionals of one distribution gives a region one likelihood, whatever the
order. Averaged over true regions, the NLL of order s is H(x_R | kept, c) + KL(true || p_s): the entropy is
the same in all orders and the least that any can reach, and differences between orders are differences of
what the model lacks, in nats a region.
"""

from __future__ import annotations

from runtime.config import parse
from runtime.errors import run_command
from scripts.orders.config import ScoreOrders


def main() -> None:
    config = parse(ScoreOrders)
    from scripts.orders.score import score_orders  # PyTorch is imported once the flags are right

    score_orders(config)


if __name__ == "__main__":
    run_command(main)
