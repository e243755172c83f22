"""A transformer is weights and a forward: it copies, pickles, moves, shards and compiles like any other."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
import torch.distributed as dist
from tiny_gpt import V, tiny, tiny_inputs
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from autoregressive.decoding.engine import Engine
from autoregressive.models.loss import SupervisedLoss
from autoregressive.sequence.builders import editing_layout


def layout_and_text():
    inputs = tiny_inputs()
    layout = editing_layout(inputs["codes"], inputs["codes"], inputs["edit_mask"], inputs["text_valid"], V)
    return layout, inputs["text"]


@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model.double().float()],
    ids=["deepcopy", "pickle", "moved"],
)
def test_copies_compute_the_same(change):
    model, (layout, text) = tiny(mask_in_context=True), layout_and_text()
    before = model(layout, text)
    assert torch.equal(change(model)(layout, text), before)


def test_a_model_holds_nothing_but_weights_tables_and_settings():
    model = tiny(mask_in_context=True)
    Engine(model)  # leaves nothing on it
    own = model.__dict__.keys() - nn.Module().__dict__.keys()
    assert own == {"config", "run_block"}
    shared = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    assert {"rotary", "tok_embeddings.weight"} <= shared


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on CPUs")
def test_blocks_compile_one_by_one():
    model, (layout, text) = tiny(mask_in_context=True), layout_and_text()
    before = model(layout, text)
    for block in model.layers:
        block.compile(dynamic=True)
    torch.testing.assert_close(model(layout, text), before, atol=1e-5, rtol=0)


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_blocks_shard_and_train_as_whole_ones(one_rank):
    layout, text = layout_and_text()
    results = []
    for sharded in (False, True):
        model = tiny(mask_in_context=True)
        if sharded:
            for block in model.layers:
                fully_shard(block, mesh=one_rank)
            fully_shard(model, mesh=one_rank)
        loss = model(layout, text).float().square().mean()
        loss.backward()
        grads = [p.grad.full_tensor() if sharded else p.grad for p in model.parameters()]
        results.append([loss.detach(), *grads])
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(plain, other, atol=1e-6, rtol=1e-5)
    assert SupervisedLoss(model).model is model
