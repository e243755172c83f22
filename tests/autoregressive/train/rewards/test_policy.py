"""The policy gradient against numbers worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from autoregressive.models import loss
from autoregressive.train.rewards.policy import (
    PolicyLoss,
    drawn_codes,
    group_advantages,
    have_spread,
    policy_terms,
)

NAN = math.nan


def test_advantages_are_deviations_in_units_of_the_groups_own():
    rewards = torch.tensor([[1.0, 0, 0, 0], [2, 4, 4, 6], [0.5, 0.5, 0.5, 0.5], [NAN, NAN, NAN, NAN]])
    half, root = 1 / math.sqrt(3), math.sqrt(2)
    wanted = [[3 * half, -half, -half, -half], [-root, 0, 0, root], [0.0] * 4, [0.0] * 4]
    torch.testing.assert_close(group_advantages(rewards), torch.tensor(wanted))
    assert have_spread(rewards).tolist() == [True, True, False, False]
    assert group_advantages(torch.zeros(0, 4)).shape == (0, 4)


def test_clip_and_kl_against_hand_numbers():
    old = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5]).log()
    now = torch.tensor([0.75, 0.25, 0.75, 0.25, 0.55]).log()  # ratios 1.5, 0.5, 1.5, 0.5, 1.1
    reference = torch.tensor([0.75, 0.5, 0.75, 0.125, 0.55]).log()
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 2.0])
    terms = policy_terms(now, old, reference, advantages, clip_range=0.2, kl_weight=0.1)
    assert terms.clipped.tolist() == [True, False, False, True, False]
    # p_reference / p is 1, 2, 1, 1/2, 1: exp(Δ) - Δ - 1 is 0, 1 - log 2, 0, log 2 - 1/2, 0.
    kl = torch.tensor([0.0, 1 - math.log(2), 0.0, math.log(2) - 0.5, 0.0])
    torch.testing.assert_close(terms.kl, kl, atol=1e-6, rtol=0)
    gains = torch.tensor([1.2 * 2, 0.5 * 2, -1.5 * 2, -0.8 * 2, 1.1 * 2])
    torch.testing.assert_close(terms.loss, 0.1 * kl - gains, atol=1e-6, rtol=0)


class Arms(nn.Module):
    """A model whose every slot has the same scores, one a code."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.output = nn.Linear(1, len(scores), bias=False)
        self.output.weight.data = torch.tensor(scores)[:, None]

    def hidden(self, layout: SimpleNamespace, text: Tensor) -> Tensor:
        return torch.ones(*layout.targets.shape, 1)

    @property
    def scores(self) -> Tensor:
        return self.output.weight[:, 0]


def pulls(*arms: int) -> SimpleNamespace:
    """A layout in which each row draws one code."""
    return SimpleNamespace(
        targets=torch.tensor(arms)[:, None], supervised=torch.arange(len(arms)), num_predictions=1
    )


def gradient(model: Arms, layout: SimpleNamespace, rewards: list[float], **options) -> Tensor:
    kl_weight, reference = options.get("kl_weight", 0.0), options.get("reference", torch.zeros(len(rewards)))
    policy = PolicyLoss(model, options.get("temperature", 1.0), clip_range=0.2, kl_weight=kl_weight)
    advantages = group_advantages(torch.tensor([rewards]))[0]
    total, _, _ = policy(layout, torch.zeros(0), advantages, reference, options.get("old"))
    return torch.autograd.grad(total / len(rewards), model.output.weight)[0][:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_two_arms_have_the_known_gradient(temperature):
    """Of k right pulls in G, at p: the loss's gradient by the right arm's score is -√(k (G - k)) / (G T).

    An advantage is √((G - k) / k) where it was right and -√(k / (G - k)) where not; these sum to 0, so p is
    nowhere in it.
    """
    model = Arms([0.3, -0.4])
    layout = pulls(1, 0, 0, 0)
    found = gradient(model, layout, [1.0, 0.0, 0.0, 0.0], temperature=temperature)
    wanted = math.sqrt(3) / 4 / temperature
    torch.testing.assert_close(found, torch.tensor([wanted, -wanted]))


def test_two_arms_are_learned():
    """All groups of two, each as often as it comes: the expected step is the gradient of p itself, p (1 - p).

    A group teaches only if it holds one pull of each arm, with chance 2 p (1 - p); its advantages are ±1 and
    half the difference of the two log-probabilities' gradients is 1/2.
    """
    model = Arms([0.3, -0.4])
    p = model.scores.softmax(0)
    expected = torch.zeros(2)
    for first in (0, 1):
        for second in (0, 1):
            chance = (p[first] * p[second]).detach()
            expected += chance * gradient(model, pulls(first, second), [float(first), float(second)])
    (rising,) = torch.autograd.grad(p[1], model.output.weight)
    torch.testing.assert_close(-expected, rising[:, 0])
    for _ in range(60):
        step = gradient(model, pulls(0, 1), [0.0, 1.0])
        model.output.weight.data -= 0.2 * step[:, None]
    assert model.scores.softmax(0)[1] > 0.99


def test_at_the_first_update_the_ratio_is_one():
    model, rewards, layout = Arms([0.3, -0.4]), [1.0, 0.0, 0.0, 0.0], pulls(1, 0, 0, 0)
    policy = PolicyLoss(model, 1.0, clip_range=0.2, kl_weight=0.0)
    _, _, log_probs = policy(layout, torch.zeros(0), torch.zeros(4), torch.zeros(4), None)
    torch.testing.assert_close(log_probs, model.scores.log_softmax(0).detach()[[1, 0, 0, 0]])
    given = gradient(model, layout, rewards, old=log_probs)
    assert torch.equal(gradient(model, layout, rewards), given)
    # The model has moved since, past the range: what would go on in that direction has no gradient.
    model.output.weight.data += torch.tensor([[-1.0], [1.0]])
    assert not gradient(model, layout, rewards, old=log_probs).any()


def test_the_penalty_alone_leads_back_to_the_start():
    model, start = Arms([1.0, -1.0]), torch.tensor([0.5, 0.5]).log()
    for _ in range(60):
        p = model.scores.softmax(0).detach()
        slopes = [gradient(model, pulls(arm), [0.0], kl_weight=1.0, reference=start[[arm]]) for arm in (0, 1)]
        slope = p[0] * slopes[0] + p[1] * slopes[1]
        model.output.weight.data -= slope[:, None]
    torch.testing.assert_close(model.scores.softmax(0), torch.tensor([0.5, 0.5]), atol=0.01, rtol=0)


def test_entropy_is_that_of_the_draws():
    drawn = drawn_codes(Arms([1.0, 1.0, 1.0, 1.0]), pulls(2), torch.zeros(0), 0.7)
    torch.testing.assert_close(drawn.entropy, torch.tensor([math.log(4)]))
    drawn = drawn_codes(Arms([0.0, 1.0]), pulls(0), torch.zeros(0), 0.5)
    p = 1 / (1 + math.exp(2))
    torch.testing.assert_close(drawn.entropy, torch.tensor([-p * math.log(p) - (1 - p) * math.log(1 - p)]))


def test_chunks_change_nothing(monkeypatch):
    model, rewards, layout = Arms([0.3, -0.4]), [1.0, 0.0, 0.0, 1.0], pulls(1, 0, 0, 1)
    whole = gradient(model, layout, rewards)
    monkeypatch.setattr("autoregressive.train.rewards.policy.CHUNK", 3)
    assert loss.CHUNK > 3
    torch.testing.assert_close(gradient(model, layout, rewards), whole)
