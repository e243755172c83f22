"""The recorded inputs and outputs of the published implementation, and the checker itself."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from scripts.checks.reference import check

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"


def test_every_recorded_quantity_agrees(capsys):
    assert check(REFERENCE, full=False)
    table = capsys.readouterr().out
    for kind in ("t2i.logits", "edit.grad_norm", "zero_shot.greedy.cfg3", "pre_quant", "probs.k1000.p0.5",
                 "table_16x16", "captions", "mask4.png 32x32", "all_turn.l2", "GPT-7B@256"):  # fmt: skip
        assert kind in table


def test_the_checker_notices_a_wrong_number(tmp_path, capsys):
    tensors = load_file(REFERENCE / "sampling_filter.safetensors")
    tensors["probs.k1.p1"] = tensors["probs.k1.p1"] + 1e-3 * torch.eye(4, 64)
    save_file(tensors, tmp_path / "renamed.safetensors")
    assert not check(tmp_path, full=False)
    assert "WRONG" in capsys.readouterr().out
