"""On an accelerator: the numbers of the CPU, and a training step of each stage. Skipped without one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from test_training import read_metrics, run_stage, stage_flags
from tiny_gpt import pack_batch
from torch.distributed.device_mesh import init_device_mesh

from autoregressive.decoding.engine import Engine
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.gpt import build_gpt
from autoregressive.models.loss import SupervisedLoss
from autoregressive.sequence.builders import editing_layout, editing_prompt, t2i_layout, t2i_prompt
from autoregressive.sequence.orders import raster_edit_order
from autoregressive.train import loop
from autoregressive.train.inputs import Inputs
from autoregressive.train.steps import parts_of
from runtime.devices import autocast, computing_type
from runtime.distributed import ONE_RANK
from runtime.optim import build_optimizer
from runtime.training.parallel import Sharding, parallel

pytestmark = pytest.mark.gpu
V, N = 32, 16


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_gpt("R-GPT-tiny", vocab_size=V, block_size=N, caption_dim=8, mask_in_context=True).eval()
    torch.nn.init.normal_(model.output.weight)
    return model


def test_logits_and_greedy_tokens_are_the_cpus(model):
    torch.manual_seed(1)
    text, text_valid = torch.randn(4, 6, 8), torch.ones(4, 6, dtype=torch.bool)
    codes, mask = torch.randint(V, (4, N)), torch.rand(4, N) < 0.5
    mask[:, 0] = True
    orders = raster_edit_order(mask)[:, : int(mask.sum(1).max())]
    layouts = [t2i_layout(codes, raster_edit_order(mask), text_valid)]
    layouts.append(editing_layout(codes, codes, mask, text_valid, V))
    prompts = [t2i_prompt(orders, text_valid), editing_prompt(codes, mask, orders, text_valid, V)]
    sampling = Sampling(cfg_scale=2.0, sample_logits=False)
    results = {}
    for device in ("cpu", "cuda"):
        model.to(device)
        logits = [model(layout.to(device), text.to(device)).cpu() for layout in layouts]
        drawn = [
            Engine(model)
            .generate(p.to(device), text.to(device), orders.to(device), range(4), sampling)
            .codes.cpu()
            for p in prompts
        ]
        results[device] = logits, drawn
    for a, b in zip(results["cpu"][0], results["cuda"][0], strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    for a, b in zip(results["cpu"][1], results["cuda"][1], strict=True):
        assert torch.equal(a, b)


def edits_of(model, counts, device):
    """A ragged batch of edits; the arguments of `generate` up to the sampling."""
    torch.manual_seed(3)
    mask = torch.arange(N) < torch.tensor(counts)[:, None]
    codes, text = torch.randint(V, mask.shape), torch.randn(len(mask), 6, 8)
    orders = raster_edit_order(mask)[:, : max(counts)]
    prompt = editing_prompt(codes, mask, orders, torch.ones(len(mask), 6, dtype=torch.bool), V)
    return prompt.to(device), text.to(device), orders.to(device), range(len(mask))


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_steps_replay_graphs_and_draw_the_same_codes(model, dtype, window):
    counts = [N, 9, 3, 3, 2, 1, 1, 1]
    model = copy.deepcopy(model).to("cuda", dtype)
    prompt, text, orders, seeds = edits_of(model, counts, "cuda")
    sampling = Sampling(cfg_scale=2.0, sample_logits=dtype is torch.bfloat16, window=window)

    engine = Engine(model)

    def run():
        return engine.generate(prompt, text.to(dtype), orders, seeds, sampling, counts=counts).codes

    plain = run()
    engine.compile_steps()
    for _ in range(3):  # recorded, then replayed
        same = (run() == plain).float().mean()
        assert same == 1 if dtype is torch.float32 else same > 0.9


def test_decoding_steps_never_wait_for_the_gpu(model):
    model = copy.deepcopy(model).to("cuda")
    engine, arguments = Engine(model), edits_of(model, [N, 5, 2], "cuda")

    def run(on_pass=None):
        sampling = Sampling(cfg_scale=2.0, window=1)  # a larger one asks how many guesses were right
        return engine.generate(*arguments, sampling, counts=[N, 5, 2], on_pass=on_pass)

    run()
    try:
        run(lambda *_: torch.cuda.set_sync_debug_mode("error"))  # from the first code on
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_steps_never_wait_for_the_gpu(optimizer, shapes, train_flags, tmp_path, monkeypatch):
    steps = []

    def strict(function):
        def run(*args):
            steps.append(function.__name__)
            torch.cuda.set_sync_debug_mode("error" if len(steps) > 9 else "default")  # warm by then
            try:
                return function(*args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    for name in ("backward", "update"):
        monkeypatch.setattr(loop, name, strict(getattr(loop, name)))
    monkeypatch.setattr(Inputs, "finish", strict(Inputs.finish))
    flags = stage_flags("editing", shapes, train_flags)
    flags[flags.index("--device") + 1] = "cuda"
    flags += ["--max-steps", "6", "--log-every", "6", "--epochs", "9", "--ema-decay", "0.9", "--cache-codes"]
    flags += ["--optimizer", optimizer]
    run_stage("editing", [*flags, "--center-crop"], tmp_path, device="cuda")
    assert len(steps) == 18


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("stage", ["t2i", "editing"])
def test_training_on_the_gpu(stage, precision, shapes, train_flags, tmp_path):
    flags = stage_flags(stage, shapes, train_flags)
    flags[flags.index("--device") + 1] = "cuda"
    flags[flags.index("--mixed-precision") + 1] = precision
    content = run_stage(stage, [*flags, "--max-steps", "3", "--preview-every", "3"], tmp_path, device="cuda")
    assert content["steps"] == 3 and all(line["loss"] < 10 for line in read_metrics(tmp_path))


def test_packed_rows_on_the_gpu_give_the_gradients_of_the_cpu(model):
    torch.manual_seed(2)
    text, text_valid = torch.randn(4, 6, 8), torch.arange(6) >= torch.tensor([[0], [2], [3], [1]])
    codes, mask = torch.randint(V, (4, N)), torch.rand(4, N) < 0.5
    mask[:, 0] = True
    layout = editing_layout(codes, codes.roll(1, 0), mask, text_valid, V)
    packed, packed_text = pack_batch(layout, text)
    gradients = []
    for device, a_layout, a_text in (("cpu", layout, text), ("cuda", packed, packed_text)):
        model.to(device).zero_grad()
        loss = SupervisedLoss(model)(a_layout.to(device), a_text.to(device))
        loss.backward()
        gradients.append(
            [loss.detach().cpu(), *(p.grad.cpu() for p in model.parameters() if p.grad is not None)]
        )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def train_packed(device: torch.device, *, sharded: bool, compiled: bool, num_steps: int = 4) -> list[float]:
    """Losses of steps on packed rows, with bfloat16 products; sharded over the ranks there are, or plain."""
    torch.manual_seed(0)
    model = build_gpt("R-GPT-tiny", vocab_size=V, block_size=N, caption_dim=8, mask_in_context=True).to(
        device
    )
    network = SupervisedLoss(model)
    if sharded:
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        sharding = Sharding(mesh, computing_type(device, "bf16"))
        network = parallel(network, ONE_RANK, sharding, parts_of(network), compiled=compiled)
    settings = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    optimizers = build_optimizer(model, "muon", **settings)
    off = torch.amp.GradScaler(device.type, enabled=False)
    losses = []
    for step in range(num_steps):
        torch.manual_seed(step)
        counts = torch.randint(1, N, (4, 1))  # rows of many lengths
        codes, text = torch.randint(V, (4, N)), torch.randn(4, 6, 8)
        mask, valid = torch.arange(N) < counts, torch.ones(4, 6, dtype=torch.bool)
        layout, text = pack_batch(editing_layout(codes, codes, mask, valid, V), text)
        with autocast(device, "bf16"):
            loss = network(layout.to(device), text.to(device)) / len(layout.supervised)
        loss.backward()
        optimizers.clip(model, 1.0, off)
        optimizers.step(off)
        optimizers.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("compiled", [False, True])
def test_sharded_compiled_blocks_train_on_packed_rows(compiled, tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        sharded = train_packed(torch.device("cuda"), sharded=True, compiled=compiled)
    finally:
        dist.destroy_process_group()
    plain = train_packed(torch.device("cuda"), sharded=False, compiled=False)
    assert sharded == pytest.approx(plain, rel=0.02)
