"""Optimizer groups, Muon on kernels, schedules against torch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runtime import devices
from runtime.optim import WholeMatrixMuon, build_optimizer, gradient_norm, lr_factor, orthogonalized
from runtime.training.adamw8bit import AdamW8bit, decode, encode
from runtime.training.ema import AveragedWeights

OFF = torch.amp.GradScaler("cpu", enabled=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 4, 5))


def test_adamw_decays_matrices_only():
    groups = build_optimizer(network(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.dim() >= 2 for p in groups[0]["params"]) and all(p.dim() < 2 for p in groups[1]["params"])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_the_kernel_it_views(memory_format):
    """One step is orthogonal: the update's singular values are near each other, for kernels as matrices."""
    model = network().to(memory_format=memory_format)
    kernel = model[0].weight
    before = kernel.detach().clone()
    optimizer = build_optimizer(model, "muon", lr=1e-3, weight_decay=0.0, betas=(0.9, 0.95), muon_lr=0.02)
    model(torch.randn(2, 3, 4, 4)).square().sum().backward()
    optimizer.step(OFF)
    change = (kernel.detach() - before).flatten(1)
    values = torch.linalg.svdvals(change.float())
    assert values.min() > 0.5 * values.max() > 0
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_state_round_trip_goes_on_alike():
    def run(steps, model, optimizer):
        for i in range(steps):
            torch.manual_seed(i + optimizer_steps[0])
            model(torch.randn(2, 3, 4, 4)).square().sum().backward()
            optimizer.step(OFF)
            optimizer.zero_grad()
        optimizer_steps[0] += steps

    settings = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    optimizer_steps = [0]
    model = network()
    optimizer = build_optimizer(model, "muon", **settings)
    run(2, model, optimizer)
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()
    other = network()
    other.load_state_dict(weights)
    resumed = build_optimizer(other, "muon", **settings)
    import copy

    resumed.load_state_dict(copy.deepcopy(state))
    run(2, model, optimizer)
    optimizer_steps[0] = 2
    run(2, other, resumed)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="holds 2 optimizers"):
        build_optimizer(other, "adamw", **settings).load_state_dict(state)


@pytest.mark.parametrize("matrices_alone", [False, True])
def test_the_state_of_another_kind_is_refused(matrices_alone):
    """Of matrices alone, as low-rank layers are, all kinds have one group; in 8 bits AdamW has as many."""
    settings = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    kinds = ("adamw", "adamw8bit", "muon", "sgd")
    model = nn.Linear(64, 64, bias=not matrices_alone)
    states = {}
    for kind in kinds:
        model(torch.randn(2, 64)).square().sum().backward()
        optimizers = build_optimizer(model, kind, **settings)
        optimizers.step(OFF)
        states[kind] = optimizers.state_dict()
    for kind in kinds:
        build_optimizer(model, kind, **settings).load_state_dict(states[kind])
        for other in {*kinds} - {kind}:
            with pytest.raises(ValueError, match="holds|is not one of|different number of parameter groups"):
                build_optimizer(model, kind, **settings).load_state_dict(states[other])


def test_the_gradients_norm_does_not_follow_the_order_of_its_sum():
    """In float32 clipping would hand the last digit on to every gradient."""
    torch.manual_seed(0)
    gradients = [torch.randn(301, 77) * 10.0**i for i in range(-4, 3)]
    norms = {gradient_norm([g[torch.randperm(301)] for g in gradients[::turn]]) for turn in (1, -1) * 10}
    assert len({norm.item() for norm in norms}) == 1
    assert next(iter(norms)) == torch.cat(gradients).double().norm().float()
    assert gradient_norm([torch.full((3,), 1e30)]).isfinite()
    assert gradient_norm([torch.ones(2), torch.tensor([torch.inf])]).isinf()


@pytest.mark.parametrize("signed", [True, False])
def test_codes_of_eight_bits_keep_a_number_to_a_few_percent(signed):
    torch.manual_seed(0)
    numbers = torch.randn(20, 512) * torch.logspace(-2, 0, 512)
    numbers = numbers if signed else numbers.square()
    codes, scales = encode(numbers, 256, signed)
    assert codes.dtype == torch.uint8 and scales.shape == (20, 2)
    kept = decode(codes, scales, signed)
    large = numbers.abs() > 0.1 * numbers.abs().amax()
    assert ((kept - numbers).abs() / numbers.abs())[large].max() < 0.08
    assert not decode(*encode(torch.zeros(1, 64), 64, signed), signed).any()


def eight_bits_and_whole(steps: int, *others) -> list[torch.Tensor]:
    """Weights after steps with the same gradients."""
    torch.manual_seed(0)
    start = torch.randn(96, 192)
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    made = [(p := nn.Parameter(start.clone()), kind([p], **settings)) for kind in (AdamW8bit, *others)]
    for _ in range(steps):
        gradient = torch.randn(96, 192) + start.sign()
        for weight, optimizer in made:
            weight.grad = gradient.clone()
            with torch.compiler.set_stance("force_eager"):
                optimizer.step()
    return [weight.detach() for weight, _ in made]


def test_adamw_of_eight_bits_goes_where_adamw_goes(monkeypatch):
    coded, whole = eight_bits_and_whole(30, torch.optim.AdamW)
    assert 0 < (coded - whole).norm() < 0.02 * (whole - whole.sign()).norm()
    monkeypatch.setattr("runtime.training.adamw8bit._AT_A_TIME", 1000)
    assert torch.equal(eight_bits_and_whole(30)[0], coded), "the parts of a step show"
    one, exact = eight_bits_and_whole(1, torch.optim.AdamW)
    torch.testing.assert_close(one, exact)


def test_adamw_of_eight_bits_is_torchaos(monkeypatch):
    torchao = pytest.importorskip("torchao.optim")
    monkeypatch.setattr("runtime.training.adamw8bit.BLOCK", 64)
    theirs = partial(torchao.AdamW8bit, block_size=64)
    ours, other = eight_bits_and_whole(30, theirs)
    # A number half-way between two values goes either way.
    assert ((ours - other).abs() > 1e-5).float().mean() < 1e-3


def test_averages_of_eight_bits_take_a_quarter_and_small_ones_stay():
    model = nn.Sequential(nn.Linear(256, 64, bias=False), nn.LayerNorm(64), nn.Linear(64, 3))
    optimizers = build_optimizer(model, "adamw8bit", lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
    model(torch.randn(2, 256)).square().sum().backward()
    optimizers.step(OFF)
    state = optimizers.state_dict()["state"]
    sizes = [sum(t.numel() * t.element_size() for n, t in state[i].items() if n != "step") for i in range(5)]
    assert sizes == [2 * (256 * 64 + 4 * 64), 8 * 64 * 3, 8 * 64, 8 * 64, 8 * 3]
    with pytest.raises(ValueError, match="is not one of AdamW8bit"):
        plain = build_optimizer(model, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
        plain.step(OFF)
        optimizers.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("annealing", ["cos", "linear"])
def test_one_cycle_is_torchs(annealing):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=50, pct_start=0.2, final_div_factor=100, anneal_strategy=annealing
    )
    for step in range(50):
        ours = lr_factor(step, 50, "onecycle", pct_start=0.2, final_div_factor=100, annealing=annealing)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if step < 49:
            schedule.step()


def test_constant_cosine_and_warm_up():
    assert lr_factor(7, 10) == 1
    assert lr_factor(0, 10, warmup_steps=4) == 0.25
    assert lr_factor(5, 10, "cosine") == pytest.approx(0.5)
    assert lr_factor(0, 10, "cosine") == 1 and lr_factor(10, 10, "cosine") == pytest.approx(0)
    with pytest.raises(ValueError, match="unknown schedule"):
        lr_factor(0, 10, "exponential")


@pytest.mark.parametrize("counts_initial", [False, True])
def test_averages_are_those_of_torch(counts_initial):
    """The transformer's first update copies the weights, the tokenizer's average holds the initial ones."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    initial = model.weight.detach().clone()
    ours = AveragedWeights(model, 0.9, counts_initial=counts_initial)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    if counts_initial:
        theirs.update_parameters(model)
    for number in range(4):
        for weight in model.parameters():
            weight.data += torch.randn_like(weight)
        ours.update_parameters(model)
        theirs.update_parameters(model)
        if number == 0:
            first = torch.lerp(initial, model.weight, 1 - 0.9) if counts_initial else model.weight
            assert torch.equal(ours.module.weight, first)
    assert ours.n_averaged == theirs.n_averaged == 4 + counts_initial
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b) and not a.requires_grad


def test_averaged_weights_are_put_into_a_model_for_a_while():
    model = torch.nn.Linear(3, 2)
    ours = AveragedWeights(model, 0.9, counts_initial=True)
    average, current = ours.module.weight.clone(), torch.ones(2, 3)
    model.weight.data.copy_(current)
    with pytest.raises(OSError), ours.put_into(model):
        assert torch.equal(model.weight, average)
        raise OSError
    assert torch.equal(model.weight, current) and torch.equal(ours.module.weight, average)


@pytest.mark.parametrize("shape", [(6, 6), (12, 4), (4, 12)])
def test_muon_in_float32_is_torchs_but_for_rounding(shape):
    """Torch's own computes in bfloat16, which has 8 bits: its values differ by about a percent."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    gradients = torch.randn(3, *shape)
    ends = []
    for kind in (torch.optim.Muon, WholeMatrixMuon):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.02, weight_decay=0.1, momentum=0.95)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    moved = (ends[0] - start).norm()
    assert (ends[1] - ends[0]).norm() < 0.03 * moved
    assert moved > 0.02


def test_orthogonalized_brings_singular_values_near_one():
    """The quintic iteration maps them into about (0.7, 1.2); Jordan et al. 2024."""
    values = torch.linalg.svdvals(orthogonalized(torch.randn(5, 8), (3.4445, -4.775, 2.0315), 5))
    assert values.min() > 0.3 and values.max() < 1.3


def test_a_cpu_that_is_slower_in_bfloat16_computes_in_float32(monkeypatch):
    """Without such products bfloat16 took eighty times as long, with Intel's without AMX twice."""
    if devices._cpu_multiplies_bfloat16():  # else they are missing, or were measured
        half, whole = (devices._seconds_of_product(t) for t in (torch.bfloat16, torch.float32))
        assert half < 1.25 * whole
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "_cpu_multiplies_bfloat16", lambda: False)
    with devices.autocast(cpu, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    kinds = {type(member) for member in _muon(torch.nn.Linear(4, 4)).members}
    assert WholeMatrixMuon in kinds
    monkeypatch.setattr(devices, "_cpu_multiplies_bfloat16", lambda: True)
    with devices.autocast(cpu, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert WholeMatrixMuon not in {type(member) for member in _muon(torch.nn.Linear(4, 4)).members}


def _muon(module):
    return build_optimizer(module, "muon", lr=1e-3, weight_decay=0.0, betas=(0.9, 0.95))
