"""The loop: draw groups, have them judged, learn from those whose rewards differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from autoregressive.scaling.choices import split_weight
from autoregressive.scaling.weighted import Judgement, Judges, judgement_of
from autoregressive.train.loop import batch_loader
from autoregressive.train.rewards.learner import WATCHED, Learner, Update
from autoregressive.train.rewards.policy import deviation_of, group_advantages, have_spread
from autoregressive.train.rewards.prompts import PromptBatches, Prompts, RewardPrompt
from autoregressive.train.rewards.rollout import Rollouts, Rows, join_rows
from autoregressive.train.rewards.saving import save
from autoregressive.train.rewards.watch import RewardMeter, SameAgain
from autoregressive.train.state import TrainState
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.stopping import Loading, StopSignals
from runtime.training.checkpoints import due
from runtime.training.checks import MAX_SKIPPED_STEPS, require_few_bad, require_few_skipped

log = get_logger(__name__)


def fit(
    state: TrainState,
    prompts: Prompts,
    rollouts: Rollouts,
    learner: Learner,
    judges: Judges,
    total_steps: int,
) -> TrainState:
    """Trains to the last step; saves at the intervals asked for and at the end."""
    config, ranks = learner.config, learner.ranks
    if state.step >= total_steps:
        log.info("step %d is the last: nothing left to train", state.step)
    loader = batch_loader(PromptBatches(prompts), state.sampler, config.num_workers)
    again = SameAgain(prompts, rollouts, config.results_dir) if config.preview_every > 0 else None
    with (
        StopSignals() as signals,
        RewardMeter(state, total_steps, config, ranks) as meter,
        Loading(loader) as batches,
        judges,
    ):
        stepping = Stepping(state, rollouts, learner, judges, meter)
        if again is not None and state.step == 0:
            _draw_again(again, meter)
        while state.step < total_steps:
            norm = stepping.take_step(batches.next())
            last = state.step == total_steps
            stopped = int(signals.heard_by(ranks)) > 0
            if last or stopped or state.step % config.log_every == 0:
                meter.line(norm)
            if last or stopped or due(config.ckpt_every, state.step):
                save(state, learner.reference.fingerprint, config, ranks)
            if again is not None and (last or due(config.preview_every, state.step)):
                _draw_again(again, meter)
            if stopped and not last:
                signals.end_run(state.step)
    return state


class Stepping:
    """The steps of a training by rewards, and what is counted over them."""

    def __init__(
        self, state: TrainState, rollouts: Rollouts, learner: Learner, judges: Judges, meter: RewardMeter
    ) -> None:
        self.state, self.rollouts, self.learner, self.judges = state, rollouts, learner, judges
        self.meter, self.config, self.ranks = meter, learner.config, learner.ranks
        self._unjudged_steps = 0

    def take_step(self, prompts: list[RewardPrompt]) -> float | None:
        """Draws, judges and learns; returns the gradient's norm, None where there was nothing to learn.

        Raises:
          UserError: too many prompts cannot be used, too many gradients are not finite, or no reward works.
        """
        usable = [prompt for prompt in prompts if prompt.problem is None]
        rows, judgements = self._draw_and_judge(usable) if usable else (None, [])
        size = self.config.group_size
        totals = [judgement.total or [math.nan] * size for judgement in judgements]
        rewards = torch.tensor(totals, dtype=torch.float64).view(len(totals), size)
        differ = have_spread(rewards)
        chosen = differ.repeat_interleave(size)
        advantages = group_advantages(rewards).float().flatten()[chosen]
        update = self.learner.learn(None if rows is None else rows.take(chosen), advantages)
        self.state.step += 1
        self.meter.add(self._counts(judgements, rewards, differ, update))
        self._check_problems(prompts, usable, judgements)
        self._check_norm(update, usable)
        if self.state.sampler.ends_epoch():
            self.state.num_bad = 0
            self.state.bad_samples.clear()
        self.state.sampler.advance()
        return None if update is None else update.norm

    def _draw_and_judge(self, prompts: list[RewardPrompt]) -> tuple[Rows, list[Judgement]]:
        """All rows, group after group, and a judgement of each group."""
        size = self.config.group_size
        encoded, parts, futures = self.rollouts.encode(prompts), [], []
        for index in torch.arange(len(prompts)).split(self.config.batch_size // size):
            some = [prompts[i] for i in index]
            parts.append(self.rollouts.draw(encoded.take(index), [prompt.seed for prompt in some], size))
            cases = [prompt.case for prompt in some for _ in range(size)]
            pictures = self.rollouts.pictures(parts[-1], [case.source for case in cases])
            for start in range(0, len(pictures), size):
                group = slice(start, start + size)
                futures.append(self.judges.submit(pictures[group], cases[group]))
        return join_rows(parts), [judgement_of(future) for future in futures]

    def _counts(
        self, judgements: list[Judgement], rewards: Tensor, differ: Tensor, update: Update | None
    ) -> dict[str, float]:
        """This rank's part of what `RewardMeter` divides."""
        judged = rewards[~rewards.isnan().any(1)]
        counts = {
            "groups": len(rewards),
            "failed": len(rewards) - len(judged),
            "equal": len(judged) - int(differ.sum()),
            "rows": judged.numel(),
            "reward": judged.sum().item(),
            "spread": deviation_of(judged).sum().item(),
        }
        for name in (split_weight(word)[0] for word in self.config.rewards):
            counts[f"reward_{name}"] = sum(sum(one.scores.get(name, [])) for one in judgements)
        # Of a step that was skipped they may be no numbers, which would spoil those of all others.
        trained = update is not None and math.isfinite(update.norm)
        watched = update.watched.tolist() if trained else [0.0] * len(WATCHED)
        counts["codes"] = update.num_codes if trained else 0
        return counts | dict(zip(WATCHED, watched, strict=True))

    def _check_problems(
        self, prompts: list[RewardPrompt], usable: list[RewardPrompt], judgements: list[Judgement]
    ) -> None:
        """Tells what could not be used or judged, on any rank; all ranks decide alike."""
        bad = [prompt.problem for prompt in prompts if prompt.problem is not None]
        pairs = zip(usable, judgements, strict=True)
        failed = [f"{prompt.origin}: {one.problem}" for prompt, one in pairs if one.problem is not None]
        gathered = self.ranks.gather_objects((bad, failed, len(usable)))
        new_bad, all_failed = ([text for part in gathered for text in part[kind]] for kind in (0, 1))
        if self.ranks.is_main:
            for problem in new_bad:
                log.warning("prompt left out: %s", problem)
            for problem in all_failed:
                log.warning("group left out: %s", problem)
        self.state.num_bad += len(new_bad)
        self.state.bad_samples += new_bad
        budget, num_samples = self.config.bad_sample_budget, self.state.sampler.num_samples
        words = "unusable prompts in this epoch"
        require_few_bad(self.state.num_bad, words, budget, num_samples, self.state.bad_samples)
        judged = sum(part[2] for part in gathered) - len(all_failed)
        self._unjudged_steps = self._unjudged_steps + 1 if all_failed and not judged else 0
        if self._unjudged_steps >= MAX_SKIPPED_STEPS:
            raise UserError(
                f"no group of the last {self._unjudged_steps} steps could be judged, so nothing is learned; "
                f"the last one: {all_failed[-1]}"
            )

    def _check_norm(self, update: Update | None, prompts: list[RewardPrompt]) -> None:
        if update is None or math.isfinite(update.norm) or self.state.scaler.is_enabled():
            return  # a scaler finds its scale by meeting infinities
        self.state.num_skipped += 1
        origins = ", ".join(prompt.origin for prompt in prompts)
        log.warning("step %d skipped: the gradient norm is %s; %s", self.state.step, update.norm, origins)
        require_few_skipped(self.state.num_skipped, "lower --lr or raise --kl-weight")


def _draw_again(again: SameAgain, meter: RewardMeter) -> None:
    """The main rank draws; the others go on."""
    with meter.paused(), meter.state.averaged_weights():
        if meter.ranks.is_main and (path := again.draw(meter.state.step)) is not None:
            meter.write_picture(meter.state.step, path)
