"""Weighted sums of rewards, judged group by group, here or in processes of their own."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from operator import mul

import torch
from PIL import Image

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.scaling.choices import split_weight
from autoregressive.scaling.reward import Reward, RewardCase
from autoregressive.scaling.rewards import JudgesOn, build_reward
from runtime.errors import UserError
from runtime.stopping import leave_signals_to_the_trainer


@dataclass(frozen=True)
class RewardSpec:
    """What judges, in words that another process can build it from."""

    rewards: tuple[str, ...]
    """Of `--rewards`: "shapes:1.0", "clip:0.2", "module:function"."""
    device: str = "cpu"
    clip_model: str | None = None
    clip_ckpt: str | None = None
    judge_files: tuple[str | None, ...] | None = None
    """Of "likelihood": tokenizer, text-to-image transformer, text encoder's folder and name."""

    def build(self) -> WeightedRewards:
        """
        Raises:
          UserError: an unknown name, a package that is not installed, weights that are missing.
        """
        where: JudgesOn | EditingPipeline = JudgesOn(torch.device(self.device))
        if self.judge_files is not None:
            where = EditingPipeline.load(*self.judge_files, device=self.device)
        options = {"clip_model": self.clip_model, "clip_ckpt": self.clip_ckpt}
        weights = dict(split_weight(word) for word in self.rewards)
        return WeightedRewards({n: (build_reward(n, where, **options), w) for n, w in weights.items()})


@dataclass(frozen=True)
class Judgement:
    """What rewards say of one group of G images."""

    total: list[float]
    """G weighted sums; empty where there is a problem."""
    scores: dict[str, list[float]]
    """G scores of each reward alone."""
    problem: str | None = None
    """Which reward failed, and how."""


class WeightedRewards:
    """Several rewards as one."""

    def __init__(self, rewards: dict[str, tuple[Reward, float]]) -> None:
        """
        Args:
          rewards: name → the reward and its weight.
        """
        self._rewards = rewards

    def judge(self, images: Sequence[Image.Image], cases: Sequence[RewardCase]) -> Judgement:
        """The scores of a group; a reward that raises or exits, or gives no finite number, spoils it."""
        scores: dict[str, list[float]] = {}
        for name, (reward, _) in self._rewards.items():
            try:
                scores[name] = [float(score) for score in reward.judge(images, cases)]
            except (Exception, SystemExit) as error:  # whatever the user's own reward may raise
                return Judgement([], {}, f"the reward {name!r} raised {type(error).__name__}: {error}")
            if len(scores[name]) != len(images):
                given = len(scores[name])
                return Judgement([], {}, f"the reward {name!r} gave {given} scores for {len(images)} images")
            if bad := [score for score in scores[name] if not math.isfinite(score)]:
                return Judgement([], {}, f"the reward {name!r} gave {bad[0]}")
        weights = [weight for _, weight in self._rewards.values()]
        totals = [math.fsum(map(mul, weights, column)) for column in zip(*scores.values(), strict=True)]
        return Judgement(totals, scores)


class Judges:
    """Takes groups and gives their judgements later; used in a `with` block."""

    def __init__(self, spec: RewardSpec, num_processes: int) -> None:
        """
        Args:
          num_processes: 0 judges in this one.
        """
        self._here = spec.build() if num_processes == 0 else None
        self._pool = None
        if num_processes > 0:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(num_processes, context, _begin, (spec,))

    def submit(self, images: Sequence[Image.Image], cases: Sequence[RewardCase]) -> Future[Judgement]:
        """Hands a group in; `judgement_of` reads what became of it."""
        if self._pool is not None:
            return self._pool.submit(_judge, list(images), list(cases))
        done: Future[Judgement] = Future()
        done.set_result(self._here.judge(images, cases))
        return done

    def __enter__(self) -> Judges:
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def judgement_of(future: Future[Judgement]) -> Judgement:
    """Waits for a judgement.

    Raises:
      UserError: the rewards cannot be built there, or their process died.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process of --reward-workers died, killed from outside or for lack of memory: take fewer, or 0 "
            "to judge in the training itself"
        ) from error


_rewards: WeightedRewards | UserError | None = None  # of a process that judges


def _begin(spec: RewardSpec) -> None:
    global _rewards
    leave_signals_to_the_trainer(0)
    torch.set_num_threads(1)
    _rewards = _built(spec)


def _built(spec: RewardSpec) -> WeightedRewards | UserError:
    """The rewards, or why there are none: an exception now would break the pool without a word."""
    try:
        return spec.build()
    except UserError as error:
        return error
    except (Exception, SystemExit) as error:  # of the user's own reward
        return UserError(f"the rewards cannot be made: {type(error).__name__}: {error}")


def _judge(images: list[Image.Image], cases: list[RewardCase]) -> Judgement:
    if isinstance(_rewards, UserError):
        raise _rewards
    return _rewards.judge(images, cases)
