"""Random numbers that belong to a cell: whatever is drawn before it, beside it and in which order.

Sampling with them is a function of the logits alone, so that a guess can be checked; see `decoding.batch`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_noise(seeds: Tensor, cells: Tensor, codes: Tensor) -> Tensor:
    """Standard Gumbel numbers, one for each (seed, cell, code): argmax(log p + them) is a draw from p.

    Args:
      seeds, cells: (n,) int64.
      codes: (n, k) int64.
    Returns:
      (n, k) float64, independent of how many others are asked for, and equal on all devices but for rounding.
    """
    cell_keys = _mixed(_mixed(seeds) + cells)
    bits = _mixed(cell_keys[:, None] + codes)
    uniform = ((_shifted(bits, 11)).double() + 0.5) * 2.0**-53  # in (0, 1)
    return -(-uniform.log()).log()


def seeded_uniforms(seeds: list[int], num_cells: int) -> Tensor:
    """(B, N) float64 in [0, 1): row i depends on seed i alone, not on the batch nor on how many are used."""
    generator = torch.Generator()
    rows = [torch.rand(num_cells, generator=generator.manual_seed(s), dtype=torch.float64) for s in seeds]
    return torch.stack(rows)


def _mixed(x: Tensor) -> Tensor:
    """A bijection of int64 in which neighbours share nothing: a step of SplitMix64 (Steele et al. 2014)."""
    x = x * signed(0x9E3779B97F4A7C15) + signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in: torch's own shift of int64 brings in the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def signed(number: int) -> int:
    """64 bits, such as a seed has, as int64 has them."""
    return number - (1 << 64) if number >> 63 else number


def widest_float(device: torch.device | str) -> torch.dtype:
    """float64, but float32 on Apple GPUs, which have no other."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64
