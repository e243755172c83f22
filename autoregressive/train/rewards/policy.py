"""Group relative policy optimization (Shao et al. 2024, arXiv 2402.03300) on drawn codes.

Letters: P prompts, G samples of each, B = P · G rows, R drawn codes of all rows, V codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import CHUNK
from autoregressive.sequence.layout import TrainingLayout
from autoregressive.train.rewards.shared_prompts import hidden_of_groups

LEAST_SPREAD = 1e-6
"""Groups whose rewards differ by no more are equal ones: they say nothing of what is better. Of rewards above
1 it is a share of the largest: they come in float32, and their last digits are noise."""


def group_advantages(rewards: Tensor) -> Tensor:
    """(r - mean) / standard deviation, by group.

    Args:
      rewards: (P, G) float64: squares of what float32 holds.
    Returns:
      (P, G) float; a group of equal rewards gets zeros.
    """
    differ = have_spread(rewards)[:, None]
    deviation = torch.where(differ, deviation_of(rewards)[:, None], 1.0)
    return torch.where(differ, (rewards - rewards.mean(1, keepdim=True)) / deviation, 0.0)


def deviation_of(rewards: Tensor) -> Tensor:
    """(P,) standard deviation of each group in (P, G) rewards, of all there are: by G, not by G - 1."""
    return (rewards - rewards.mean(1, keepdim=True)).square().mean(1).sqrt()


def have_spread(rewards: Tensor) -> Tensor:
    """(P,) bool: groups of (P, G) rewards that are not all equal."""
    largest = rewards.abs().amax(1).clamp(min=1.0)
    return rewards.amax(1) - rewards.amin(1) > LEAST_SPREAD * largest


class DrawnCodes(NamedTuple):
    """Of R drawn codes, row after row in the order of drawing."""

    log_probs: Tensor
    """(R,) float32, of each code given those before it, at the temperature of the draws."""
    entropy: Tensor
    """(R,) float32 nats, of the distribution that it was drawn from; without gradient."""


def drawn_codes(
    model: Transformer, layout: TrainingLayout, text: Tensor, temperature: float, group_size: int = 1
) -> DrawnCodes:
    """What a model says of the targets of a layout: the ordinary teacher-forced forward.

    Of the engine's draws without guidance, top-k and top-p: the probabilities that they were drawn with.

    Args:
      group_size: so many rows at a time have one prompt, which is computed once.
    """
    hidden = hidden_of_groups(model, layout, text, group_size).flatten(0, 1)[layout.supervised]
    targets = layout.targets.flatten()[layout.supervised]
    chunks = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    several = len(targets) > CHUNK

    def look_up(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = (model.output(hidden).float() / temperature).log_softmax(-1)
        with torch.no_grad():
            entropy = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs.gather(1, targets[:, None])[:, 0], entropy

    found = [checkpoint(look_up, *c, use_reentrant=False) if several else look_up(*c) for c in chunks]
    return DrawnCodes(*(torch.cat(parts) for parts in zip(*found, strict=True)))


class PolicyTerms(NamedTuple):
    """Of R drawn codes."""

    loss: Tensor
    """(R,) what is minimised."""
    kl: Tensor
    """(R,) ≥ 0, see `policy_terms`; without gradient."""
    clipped: Tensor
    """(R,) bool: the ratio has left its range on the side where the advantage pushes it."""


def policy_terms(
    log_probs: Tensor,
    old: Tensor,
    reference: Tensor,
    advantages: Tensor,
    *,
    clip_range: float,
    kl_weight: float,
) -> PolicyTerms:
    """The clipped policy gradient (Schulman et al. 2017) with a penalty for leaving a reference.

    The penalty is Schulman's k3 estimator of the Kullback-Leibler divergence from the reference: with
    Δ = log p_reference - log p, exp(Δ) - Δ - 1.

    Args:
      log_probs: (R,) of the model that is trained.
      old: (R,) of the model that drew.
      reference: (R,) of the reference model.
      advantages: (R,) of the rows that the codes belong to.
    """
    ratio = (log_probs - old).exp()
    within = ratio.clamp(1 - clip_range, 1 + clip_range)
    gain = torch.minimum(ratio * advantages, within * advantages)
    difference = reference - log_probs
    kl = difference.exp() - difference - 1
    return PolicyTerms(kl_weight * kl - gain, kl.detach(), (ratio * advantages > gain).detach())


class PolicyLoss(nn.Module):
    """Sums of the loss and of what is watched, over the drawn codes of a layout."""

    def __init__(
        self,
        model: Transformer,
        temperature: float,
        group_size: int = 1,
        *,
        clip_range: float,
        kl_weight: float,
    ) -> None:
        super().__init__()
        self.model, self.temperature, self.group_size = model, temperature, group_size
        self.clip_range, self.kl_weight = clip_range, kl_weight

    def forward(
        self, layout: TrainingLayout, text: Tensor, advantages: Tensor, reference: Tensor, old: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
          advantages: (B,).
          reference: (R,), see `policy_terms`.
          old: (R,), or None where this model drew: the ratio is 1, with the gradient of the log-probability.
        Returns:
          The summed loss; (3,) the sums of KL, entropy and clipped codes; the (R,) log-probabilities.
        """
        drawn = drawn_codes(self.model, layout, text, self.temperature, self.group_size)
        rows = layout.supervised // layout.num_predictions
        terms = policy_terms(
            drawn.log_probs,
            drawn.log_probs.detach() if old is None else old,
            reference,
            advantages[rows],
            clip_range=self.clip_range,
            kl_weight=self.kl_weight,
        )
        watched = torch.stack([terms.kl.sum(), drawn.entropy.sum(), terms.clipped.float().sum()])
        return terms.loss.sum(), watched, drawn.log_probs.detach()
