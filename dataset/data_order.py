"""Which samples come next: a batch sampler whose whole state is (seed, epoch, samples consumed)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from torch.utils.data import Sampler

from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)

# First word of the entropy, so that the shuffle and the samples never share a random stream.
_SHUFFLE, _SAMPLE = 0, 1


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields micro-batches of (index, sample seed) for one rank.

    The samples of an epoch are shuffled by (seed, epoch) alone and cut into global batches. Each rank takes
    its contiguous part of every global batch and yields it as `micro_batches` lists, one for each forward
    pass of an optimizer step. So the data order does not depend on the number of ranks. An incomplete last
    global batch is left out.

    NOTE: iterating does not move the state, because loader workers read ahead of the training. The trainer
    calls `advance()` once after each optimizer step; `state_dict()` then tells what was really trained on.

    Attributes:
      epoch: the current epoch, from 0.
      consumed: samples trained on in the current epoch, over all ranks.
      batches_per_epoch: optimizer steps in an epoch.
    """

    def __init__(
        self,
        num_samples: int,
        global_batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        *,
        epoch: int = 0,
        consumed: int = 0,
        micro_batches: int = 1,
        num_epochs: int | None = None,
    ) -> None:
        """
        Args:
          num_samples: size of the dataset.
          global_batch_size: samples in an optimizer step, over all ranks and micro-batches.
          rank: this process.
          world_size: number of processes.
          seed: of the shuffle and of the samples; not negative.
          epoch: where to start.
          consumed: samples of that epoch already trained on.
          micro_batches: gradient accumulation steps.
          num_epochs: stop before this epoch; None = go on forever.
        Raises:
          UserError: a batch size that does not divide, or more than there are samples.
        """
        assert 0 <= rank < world_size
        if seed < 0:
            raise UserError(f"the seed must not be negative, got {seed}")
        _check_batch_size(num_samples, global_batch_size, world_size, micro_batches)
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.epoch = epoch
        self.consumed = consumed
        self.micro_batches = micro_batches
        self.num_epochs = num_epochs
        self.batches_per_epoch = num_samples // global_batch_size
        dropped = num_samples % global_batch_size
        if dropped and rank == 0:
            log.info("%d of %d samples do not fill a batch and sit out each epoch", dropped, num_samples)

    @property
    def micro_batch_size(self) -> int:
        """Samples of one rank's forward pass."""
        return self.global_batch_size // self.world_size // self.micro_batches

    def __len__(self) -> int:
        """Micro-batches of this rank in one whole epoch."""
        return self.batches_per_epoch * self.micro_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        consumed = self.consumed
        for epoch in count(self.epoch):
            if self.num_epochs is not None and epoch >= self.num_epochs:
                return
            shuffle = shuffled(self.num_samples, self.seed, epoch)
            size = self.global_batch_size
            for start in range(consumed, self.num_samples - size + 1, size):
                yield from self._micro_batches(epoch, shuffle[start : start + size])
            consumed = 0

    def indices_at(self, epoch: int, consumed: int) -> np.ndarray:
        """The samples of the global batch, of all ranks, that comes at that place."""
        order = shuffled(self.num_samples, self.seed, epoch)
        return order[consumed : consumed + self.global_batch_size]

    def ends_epoch(self) -> bool:
        """Whether the global batch that comes next is the last of its epoch."""
        return self.consumed + 2 * self.global_batch_size > self.num_samples

    def advance(self) -> None:
        """Counts one global batch as trained on."""
        ends_epoch = self.ends_epoch()
        self.consumed += self.global_batch_size
        if ends_epoch:
            self.epoch, self.consumed = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The whole state, the same on every rank."""
        names = ("seed", "epoch", "consumed", "num_samples", "global_batch_size")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, int], source: str | Path = "the checkpoint") -> None:
        """Goes to where `state` was taken; the number of ranks and micro-batches may differ.

        Args:
          source: names the file that holds it, in errors.
        Raises:
          UserError: the data or the batch size is not what it was, so that the batches could not be the same.
        """
        for name in ("num_samples", "global_batch_size"):
            if state[name] != getattr(self, name):
                raise UserError(
                    f"cannot go on where {source} stopped: {name} was {state[name]} and is now "
                    f"{getattr(self, name)}; use the same, or start anew from the checkpoint's weights"
                )
        self.seed, self.epoch, self.consumed = state["seed"], state["epoch"], state["consumed"]

    def _micro_batches(self, epoch: int, global_batch: np.ndarray) -> Iterator[list[tuple[int, int]]]:
        mine = np.split(global_batch, self.world_size)[self.rank]
        for indices in np.split(mine, self.micro_batches):
            yield [(int(index), sample_seed(self.seed, epoch, int(index))) for index in indices]


def shuffled(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """(num_samples,) int64: the order of the samples in an epoch."""
    return np.random.default_rng([_SHUFFLE, seed, epoch]).permutation(num_samples)


def first_samples(num_samples: int, seed: int, count: int | None) -> Sequence[int]:
    """The samples that come first in a training, in the order of their numbers.

    Args:
      count: how many; None or more than there are = all.
    """
    if count is None or count >= num_samples:
        return range(num_samples)
    return sorted(shuffled(num_samples, seed, 0)[:count].tolist())


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed, in [0, 2**63), of every random choice for one sample in one epoch."""
    state = np.random.SeedSequence([_SAMPLE, seed, epoch, index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _check_batch_size(num_samples: int, global_batch_size: int, world_size: int, micro_batches: int) -> None:
    unit = world_size * micro_batches
    if global_batch_size < 1 or global_batch_size % unit:
        below = max(unit, global_batch_size // unit * unit)
        nearest = [str(below)] + ([str(below + unit)] if global_batch_size > unit else [])
        raise UserError(
            f"a global batch size of {global_batch_size} cannot be shared by {world_size} rank(s) with "
            f"{micro_batches} micro-batch(es) each: it must be a multiple of {unit}; "
            f"nearest: {' or '.join(nearest)}"
        )
    if num_samples < global_batch_size:
        raise UserError(
            f"the data holds {num_samples} samples, fewer than one global batch of {global_batch_size}; "
            "use a smaller batch or more data"
        )
