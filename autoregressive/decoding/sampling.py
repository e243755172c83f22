"""From logits to codes, with random numbers that belong to a cell. Letters: B batch, V codes.

What is drawn before a cell, beside it and in which order changes none of its numbers. So a draw is a function
of the logits alone, and a guess can be checked; see `decoding.batch`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling
from runtime.devices import widest_float


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor | float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022) of logits: uncond + (cond - uncond) · scale.

    Args:
      scale: 1 gives the conditional logits.
    """
    return unconditional + (conditional - unconditional) * scale


def filtered_probabilities(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Temperature, then top-k, then top-p.

    Args:
      logits: (B, V).
      temperature: > 0; below 1e-5 counts as 1e-5.
      top_k: codes kept, 0 for all; ties with the last one stay.
      top_p: a code stays if the probability of those before it is at most this.
    Returns:
      (B, V) float32 probabilities.
    """
    return filtered_logits(logits, temperature, top_k, top_p).softmax(-1)


def filtered_logits(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """(B, V) float32, -inf where a code is dropped; see `filtered_probabilities`."""
    logits = logits.float() / max(temperature, 1e-5)
    if top_k > 0:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p < 1.0:
        ordered, index = logits.sort(descending=True)
        shares = ordered.softmax(-1)
        dropped = (shares.cumsum(-1) - shares) > top_p
        logits = logits.masked_fill(dropped.scatter(-1, index, dropped), float("-inf"))
    return logits


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-transform sampling: one number a sample decides.

    Args:
      probabilities: (B, V), rows summing to about 1.
      uniforms: (B,) in [0, 1).
    Returns:
      (B,) int64.
    """
    cumulative = probabilities.double().cumsum(-1)
    # Scaled to the actual total; the largest double below it keeps rounding from passing the last kept code.
    wanted = uniforms.double()[:, None] * cumulative[:, -1:]
    return (cumulative <= wanted).sum(-1).clamp(max=probabilities.shape[-1] - 1)


def pick(
    logits: Tensor, sampling: Sampling, seeds: Tensor, cells: Tensor, uniforms: Tensor | None = None
) -> Tensor:
    """One code a row: (B, V) logits → (B,) int64.

    Args:
      seeds, cells: (B,) what the noise belongs to, with `draw="gumbel"`.
      uniforms: (B,) in [0, 1), with `draw="inverse"`.
    """
    if not sampling.sample_logits:
        return logits.argmax(-1)
    if widest_float(logits.device) is not torch.float64:  # the noise needs all of it: drawn on the CPU
        given = [None if t is None else t.cpu() for t in (logits, seeds, cells, uniforms)]
        return pick(given[0], sampling, *given[1:]).to(logits.device)
    truncation = sampling.temperature, sampling.top_k, sampling.top_p
    if sampling.draw == "inverse":
        return draw(filtered_probabilities(logits, *truncation), uniforms)
    logits = filtered_logits(logits, *truncation).double()
    codes = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    return (logits + gumbel_noise(seeds, cells, codes)).argmax(-1)


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
    """64 bits, such as a seed has, as int64 has them; one below 0 is so already."""
    return number - (1 << 64) if number >= 1 << 63 else number
