"""Counting useful operations of training batches; the formula itself is tested in test_benchmark.py."""

import dataclasses

import pytest
import torch

from autoregressive.models.config import GPT_MODELS
from autoregressive.models.flops import batch_flops, peak_flops, training_flops
from autoregressive.sequence.builders import editing_layout
from autoregressive.sequence.packing import pack_rows


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_needs_what_its_samples_need_however_it_is_laid_out(packed):
    config = dataclasses.replace(GPT_MODELS["R-GPT-tiny"], vocab_size=32, block_size=16, caption_dim=8)
    edited, words = [2, 16, 7, 5], [5, 1, 3, 4]
    edit_mask = torch.arange(16) < torch.tensor(edited)[:, None]
    text_valid = torch.arange(5) >= 5 - torch.tensor(words)[:, None]
    codes = torch.randint(32, (2, 4, 16))
    usable = torch.tensor([True, True, True, False])
    layout = editing_layout(*codes, edit_mask, text_valid, 32, sample_valid=usable)
    if packed:
        layout, _ = pack_rows(layout, 5)
    samples = zip(edited[:3], words[:3], strict=True)
    wanted = sum(training_flops(config, w + 2 * 16 + e - 1, e, w) for e, w in samples)
    assert batch_flops(config, layout).item() == pytest.approx(wanted, rel=1e-12)


def test_no_peak_is_claimed_for_a_processor():
    assert peak_flops(torch.device("cpu")) is None
