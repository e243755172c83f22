"""From logits to codes. Letters: B batch, V codes."""

from __future__ import annotations

import torch
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022).

    Args:
      logits: (2B, V), each conditional row followed by its unconditional one.
      scale: 1 gives the conditional logits.
    Returns:
      (B, V) uncond + (cond - uncond) · scale.
    """
    conditional, unconditional = logits[::2], logits[1::2]
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
    logits = logits.float() / max(temperature, 1e-5)
    if top_k > 0:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p < 1.0:
        ordered, index = logits.sort(descending=True)
        shares = ordered.softmax(-1)
        dropped = (shares.cumsum(-1) - shares) > top_p
        logits = logits.masked_fill(dropped.scatter(-1, index, dropped), float("-inf"))
    return logits.softmax(-1)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-transform sampling, so that one number a sample decides, whatever the batch.

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


def pick(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """One code a row: (B, V) logits → (B,) int64."""
    if not sampling.sample_logits:
        return logits.argmax(-1)
    return draw(
        filtered_probabilities(logits, sampling.temperature, sampling.top_k, sampling.top_p), uniforms
    )


def seeded_uniforms(seeds: list[int], num_cells: int) -> Tensor:
    """(B, N) float64 in [0, 1): row i depends on seed i alone, not on the batch nor on how many are used."""
    generator = torch.Generator()
    rows = [torch.rand(num_cells, generator=generator.manual_seed(s), dtype=torch.float64) for s in seeds]
    return torch.stack(rows)
