from __future__ import annotations

from itertools import islice

import pytest
from torch.utils.data import DataLoader

from dataset.data_order import ResumableBatchSampler
from runtime.errors import UserError


def global_batches(world_size: int, steps: int, micro_batches: int = 1, **position) -> list[list]:
    """The samples of each optimizer step, all ranks and micro-batches joined in order."""
    by_rank = []
    for rank in range(world_size):
        sampler = ResumableBatchSampler(
            30, 8, rank, world_size, seed=5, micro_batches=micro_batches, **position
        )
        by_rank.append(list(islice(sampler, steps * micro_batches)))
    parts = range(micro_batches)
    return [
        [pair for batches in by_rank for part in parts for pair in batches[step * micro_batches + part]]
        for step in range(steps)
    ]


def test_same_global_batches_for_any_number_of_ranks_and_micro_batches():
    alone = global_batches(1, steps=7)
    assert alone == global_batches(2, steps=7) == global_batches(4, steps=7, micro_batches=2)


def test_an_epoch_is_a_partition_and_epochs_differ():
    batches = global_batches(2, steps=6, micro_batches=2)
    for epoch in (batches[:3], batches[3:]):
        indices = [index for batch in epoch for index, _ in batch]
        assert len(indices) == len(set(indices)) == 24 and set(indices) <= set(range(30))
    orders = [[index for batch in epoch for index, _ in batch] for epoch in (batches[:3], batches[3:])]
    assert orders[0] != orders[1] and all(order != sorted(order) for order in orders)


def test_sample_seeds_depend_on_index_and_epoch():
    first = dict(pair for batch in global_batches(1, steps=3) for pair in batch)
    second = dict(pair for batch in global_batches(1, steps=3, epoch=1) for pair in batch)
    assert len(set(first.values()) | set(second.values())) == 48
    assert all(0 <= seed < 2**63 for seed in first.values())


@pytest.mark.parametrize("steps_before", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("ranks", [(1, 1), (1, 2), (2, 1)])
def test_resume_gives_the_next_batches(steps_before, ranks):
    whole = global_batches(1, steps=steps_before + 5)
    first = ResumableBatchSampler(30, 8, 0, ranks[0], seed=5)
    for _ in range(steps_before):
        first.advance()
    parts = []
    for rank in range(ranks[1]):
        second = ResumableBatchSampler(30, 8, rank, ranks[1], seed=99)
        second.load_state_dict(first.state_dict())
        parts.append(list(islice(second, 5)))
    resumed = [[pair for part in step for pair in part] for step in zip(*parts, strict=True)]
    assert resumed == whole[steps_before:]


def test_state_follows_training_not_the_read_ahead_of_workers():
    sampler = ResumableBatchSampler(30, 8, 0, 1, seed=5)
    loader = iter(DataLoader(Echo(), batch_sampler=sampler, num_workers=1, collate_fn=list))
    first = next(loader)
    assert sampler.state_dict()["consumed"] == 0
    sampler.advance()
    assert sampler.state_dict()["consumed"] == 8
    assert [first, next(loader)] == global_batches(1, steps=2)


class Echo:
    def __getitem__(self, key):
        return key


def test_num_epochs_ends_the_iteration():
    sampler = ResumableBatchSampler(30, 8, 0, 2, seed=5, micro_batches=2, num_epochs=2, epoch=1)
    assert len(list(sampler)) == len(sampler) == 6


def test_dropped_samples_are_logged_once(capsys):
    for rank in (0, 1):
        list(ResumableBatchSampler(30, 8, rank, 2, seed=5, num_epochs=2))
    assert capsys.readouterr().err.count("6 of 30 samples do not fill a batch") == 1


def test_batch_size_that_does_not_divide():
    with pytest.raises(UserError, match="multiple of 64; nearest: 320 or 384"):
        ResumableBatchSampler(10_000, 360, 0, 64, seed=0)
    with pytest.raises(UserError, match="multiple of 8; nearest: 8$"):
        ResumableBatchSampler(10_000, 6, 0, 2, seed=0, micro_batches=4)
    with pytest.raises(UserError, match="30 samples, fewer than one global batch of 32"):
        ResumableBatchSampler(30, 32, 0, 1, seed=0)


def test_other_data_cannot_be_resumed():
    state = ResumableBatchSampler(30, 8, 0, 1, seed=5).state_dict()
    with pytest.raises(UserError, match="num_samples was 30 and is now 31"):
        ResumableBatchSampler(31, 8, 0, 1, seed=5).load_state_dict(state)
