"""The benchmark: its slow twin computes what the project computes, its counts and its program hold."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections import Counter

import pytest
import torch
from conftest import run_program
from torch.utils._python_dispatch import TorchDispatchMode

from autoregressive.decoding.engine import Engine
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.flops import forward_flops, head_parameters, training_flops, trunk_parameters
from autoregressive.sequence.builders import editing_layout
from runtime.config import parse
from runtime.errors import UserError

SLOTS = 120
CPU = torch.device("cpu")


def load(name: str):
    return importlib.import_module(f"scripts.benchmarking.{name}")


@pytest.fixture
def networks():
    """A tiny model whose scores spread, and its twin."""
    project, cases = load("project"), load("cases")
    model = project.build_model(cases.TINY, "R-GPT-tiny", 64, CPU, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model, project.build_twin(model)


@pytest.fixture
def edits():
    """Edits of 10, 25, 50 and 100 % of 16 cells."""
    cases = load("cases")
    return cases.random_edits(cases.TINY, 64, [2, 4, 8, 16], seed=1)


def test_the_twin_holds_the_very_weights_of_the_model(networks):
    model, twin = networks
    ours, theirs = dict(model.named_parameters()), dict(twin.named_parameters())
    assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_greedy_tokens_of_the_twin_are_the_projects_singly_and_in_a_batch(networks, edits, scale):
    model, twin = networks
    project, slow = load("project"), load("baseline_edit")
    pad_text = load("baseline_data").pad_text
    greedy = Sampling(cfg_scale=scale, sample_logits=False)
    engine = Engine(model)
    together = project.edit(engine, edits, greedy)
    for i, count in enumerate(edits.counts()):
        one = edits.repeated(i, 1)
        alone = project.edit(engine, one, greedy)
        text, mask = pad_text(one.texts[0].embeddings[None])
        edited = slow.slow_edit(
            twin, one.source, one.edit_mask, text, mask[None].bool(), slow.greedy, scale=scale
        )
        wanted = edited[one.edit_mask]
        assert torch.equal(alone[0], wanted) and torch.equal(together[i, :count], wanted)
        assert torch.equal(edited[~one.edit_mask], one.source[~one.edit_mask])
        assert len(wanted.unique()) > 1 or count < 4, "tokens all alike would prove nothing"


def test_scores_of_the_twin_at_every_slot_are_the_projects(networks, edits):
    model, twin = networks
    cases, training = load("cases"), load("training")
    text_features = importlib.import_module("language.text_features")
    target, seen = edits.source.roll(1, 0), []
    hook = twin.output.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    training.slow_loss(twin, cases.slow_batch(edits, target), "none", editing=True)
    hook.remove()
    text, text_valid = text_features.stack_text_features(edits.texts)
    vocab = model.config.vocab_size
    layout = editing_layout(edits.source, target, edits.edit_mask, text_valid, vocab)
    all_slots = text.shape[1] + 2 * 16 + 16 - 1
    logits = model(dataclasses.replace(layout, num_predictions=all_slots, loss_weight=None), text)
    for i, count in enumerate(edits.counts()):
        start = text.shape[1] - len(edits.texts[i].valid)  # padding
        ours, theirs = logits[i, start:], seen[0][i, SLOTS - text.shape[1] + start :]
        live = len(ours) - 16 + count  # slots beyond the edit's last are of no use
        torch.testing.assert_close(ours[:live], theirs[:live], atol=2e-5, rtol=0)


def test_a_step_of_the_twin_has_as_many_operations_as_the_published_one(edits):
    """1,834 of 36 layers in the performance notes, views not counted; the twin must not have more."""
    project, cases, slow = load("project"), load("cases"), load("baseline_edit")
    model = project.build_model(cases.TINY, "R-GPT-tiny", 64, CPU, torch.float32, n_layer=36)
    twin = project.build_twin(model)
    totals = []
    for row in (0, 1):  # 2 codes and 4: two steps more
        one = edits.repeated(row, 1)
        text, mask = load("baseline_data").pad_text(one.texts[0].embeddings[None])
        with Operations() as operations:
            slow.slow_edit(twin, one.source, one.edit_mask, text, mask[None].bool(), slow.sample, scale=7.5)
        totals.append(operations.count)
    assert 0.94 * 1834 <= (totals[1] - totals[0]) / 2 <= 1834


class Operations(TorchDispatchMode):
    """Counts operations that compute or copy something."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.by_name.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:
            result = func.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        self.by_name[str(func)] += not func.is_view and func is not torch.ops.aten._unsafe_view.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", [1, 2])
def test_loss_and_gradients_of_the_twin_are_the_projects(networks, edits, stage, monkeypatch):
    model, twin = networks
    project, cases, training = load("project"), load("cases"), load("training")
    target = edits.source.roll(1, 0)
    if stage == 2:
        fast, slow = cases.fast_batch(edits, target), cases.slow_batch(edits, target)
    else:
        inputs = importlib.import_module("autoregressive.train.inputs")
        fast = cases.fast_t2i_batch(edits)
        torch.manual_seed(0)
        slow = cases.slow_batch(edits, edits.source, num_rasters=0)
        monkeypatch.setattr(inputs, "random_orders", lambda seeds, num_cells: slow.orders)
    make_inputs = project.make_training_inputs(model, editing=stage == 2)
    losses, gradients = [], []
    for compute in (
        lambda: project.training_loss(project.training_network(model), make_inputs, fast, "none"),
        lambda: training.slow_loss(twin, slow, "none", editing=stage == 2),
    ):
        model.zero_grad()
        loss = compute()
        loss.backward()
        losses.append(loss.item())
        gradients.append({
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()  # stage 1 needs no marks
            for name, p in model.named_parameters()
        })  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)
        assert gradient.any() or (stage == 1 and name.endswith("mask_embedding")), name


def test_both_loaders_read_the_same_edit(tmp_path):
    cases, slow_data, project = load("cases"), load("baseline_data"), load("project")
    jsonl = cases.write_images(tmp_path, cases.TINY, 3)
    side = cases.TINY.side_on_disk  # no crop is left to chance
    slow = slow_data.SlowEdits(jsonl, side, side // 16, 4)
    fast = project.image_dataset(jsonl, side, side // 16, cases.TINY.caption_dim)
    for i in range(3):
        a, b = slow[i], fast[i, 0]
        torch.testing.assert_close(a.source, b.source, atol=1e-5, rtol=0)
        torch.testing.assert_close(a.image, b.edited, atol=1e-5, rtol=0)
        assert torch.equal(a.weight.gather(0, a.orders.argsort()).bool(), b.edit_mask)
        tokens = len(b.text.valid)
        torch.testing.assert_close(a.text[0, SLOTS - tokens :], b.text.embeddings)
        assert (
            not a.text[0, : SLOTS - tokens].any() and a.mask[0, -1].sum() == a.mask.shape[1] - SLOTS + tokens
        )


def test_flops_are_those_of_the_performance_notes():
    """TFLOP of one training sample of R-GPT-XL with 120 text slots, and of a guided prefill."""
    limits = load("limits")
    small = GPT_MODELS["R-GPT-XL"]
    large = dataclasses.replace(small, block_size=1024)
    assert trunk_parameters(small) == pytest.approx(731.4e6, rel=1e-4)
    assert head_parameters(small) == pytest.approx(21.0e6, rel=2e-3)
    assert limits.slot_bytes(small, torch.bfloat16) == 184_320
    assert training_flops(small, 120 + 255, 256, 120) == pytest.approx(1.72e12, abs=5e9)
    known = [(small, 64, 3.19), (small, 256, 4.15), (large, 256, 12.3), (large, 1024, 16.95)]
    for config, edited, tera in known:
        slots = limits.editing_slots(config, 120, edited)
        flops = training_flops(config, slots, edited, 120) / 1e12
        assert flops == pytest.approx(tera, abs=0.05 if tera == 12.3 else 0.005)
    assert 2 * forward_flops(small, 120 + 512, 1, 120) == pytest.approx(1.92e12, abs=5e9)
    # 0.58 ms on an H100, of about 3 TB/s
    assert limits.decode_bytes(small, torch.bfloat16, 632 + 32, 2) / 3.0e12 == pytest.approx(
        0.58e-3, rel=0.01
    )


def test_flops_count_the_weights_of_a_real_model(networks):
    model, _ = networks
    trunk = sum(
        p.numel() for name, p in model.named_parameters() if name.startswith("layers") and p.dim() > 1
    )
    assert trunk_parameters(model.config) == trunk
    assert head_parameters(model.config) == model.output.weight.numel()


def test_peak_memory_counts_tensors_from_birth_to_death():
    measure = load("measure")
    linear = torch.nn.Linear(1000, 1000, bias=False)
    x = torch.randn(1000, 1000)
    with torch.no_grad(), measure.PeakMemory(CPU) as memory:
        y = linear(x)  # 4 MB
        y = y + 1  # 8 MB for a moment
        del y
        assert memory.peak == 8_000_000
        memory.restart()
        kept = linear(x).view(-1)  # noqa: F841  a view is no new memory
        assert memory.peak == 4_000_000
    with measure.PeakMemory(CPU) as memory:
        linear(x).square().sum().backward()
    assert 8_000_000 < memory.peak < 17_000_000  # output, square, a gradient, the weight's gradient


def test_memory_of_a_head_is_counted_from_the_norm_on():
    measure = load("measure")
    trunk, norm, head = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 100_000, bias=False)

    def step() -> None:
        head(norm(trunk(torch.zeros(10, 8)).relu())).sum().backward()

    scores = 4 * 10 * 100_000
    weight_gradient = 4 * 8 * 100_000
    assert scores <= measure.head_memory(CPU, norm, step) <= 2 * scores + 2 * weight_gradient


def test_a_profile_runs_the_products_and_the_attention_of_a_step(networks, edits):
    model, _ = networks
    project, profile, measure = load("project"), load("step_profile"), load("measure")
    with (
        torch.inference_mode(),
        project.joined(Engine(model), edits.repeated(3, 1), project.SAMPLING) as batch,
    ):
        forward = batch._step = profile.Forward(model, measure.Clock(CPU, "cpu"))
        seconds = profile.parts_of_step(batch, forward, 2)
        assert batch.rows[0].num_settled == 3, "they are steps like any other"
        counts = []
        for work in (
            batch.step,
            lambda: profile.run_products(forward),
            lambda: profile.run_attention(forward),
        ):
            with Operations() as operations:
                work()
            counts.append(operations.by_name)
    assert seconds.keys() == {profile.STEP, *profile.PARTS} and min(seconds.values()) >= 0
    step, products, attention = counts
    layers = model.config.n_layer
    assert products["aten.mm.default"] == 5 * layers + 1
    for name in ("aten.bmm.default", "aten._softmax.default", "aten.index_put_.default"):
        extra = name == "aten.index_put_.default"  # of the codes drawn
        assert attention[name] == step[name] - extra > 0, name


def test_ratios_are_of_pairs_and_targets_are_judged():
    measure, rows = load("measure"), load("rows")
    compared = measure.Comparison.of([1.0, 2.0, 1.0], [2.0, 6.0, 5.0])
    assert (compared.ratio.median, compared.ratio.low, compared.ratio.high) == (3.0, 2.0, 5.0)

    def reached(**target) -> bool | None:
        return rows.Row("g", "w", "s", "s", compared, rows.Target(**target), share=0.5).reached

    assert reached(ratio=3.0) and not reached(ratio=3.1) and reached() is None
    assert not reached(ratio=3.0, seconds=0.9) and reached(share=0.5) and not reached(share=0.51)


def test_the_slide_has_rows_of_one_size_that_have_a_baseline():
    measure, rows, pictures = load("measure"), load("rows"), load("pictures")
    compared = measure.Comparison.of([1.0, 1.0], [2.0, 3.0])

    def row(what: str, setting: str, comparison=compared):
        return rows.Row("g", what, setting, "s", comparison)

    alone = measure.Comparison.of([1.0], None)
    made = [
        row("decode step fp32", "256 px, batch 1"),
        row("decode step fp32", "512 px, batch 1"),
        row("training step, stage 2", "256 px, fp32", alone),
        row("edit, memory", "256 px, bf16"),
        row("cache set-up", "256 px"),
    ]
    assert pictures.headline_rows(made) == [made[3], made[0]]


def test_sides_run_in_turn_and_the_first_run_is_not_counted():
    measure, order = load("measure"), []

    def side(name: str):
        return lambda: order.append(name) or {"t": float(len(order))}

    measured = measure.in_turn({"fast": side("a"), "slow": side("b"), "none": None}, 2, "test")
    assert order == ["a", "b"] * 3 and measured.values == {"fast": {"t": [3, 5]}, "slow": {"t": [4, 6]}}


@pytest.mark.parametrize("words, message", [
    (["everything"], "cannot be measured"),
    (["all", "--repeats", "2"], "too few"),
    (["all", "--image-size", "250"], "not a multiple of 16"),
    (["decode", "--clock", "cpu"], "--threads 1"),
    (["all", "--clock", "cpu", "--threads", "1"], "no loader"),
])  # fmt: skip
def test_bad_requests_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse(load("config").Benchmark, words)


def test_quick_all_from_end_to_end(tmp_path):
    done = run_program("scripts/benchmark.py", "all", "--quick", "--threads", "1", "--output-dir", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["group"] for row in results["rows"]} == set(load("config").GROUPS)
    assert results["machine"]["threads"] == 1 and results["limits"]["bandwidth"] > 0
    assert "--quick" in results["command"]
    for row in results["rows"]:
        assert row["comparison"]["fast"]["median"] > 0 and row["what"] in done.stdout
        assert row["reached"] is None, "a tiny network is not judged"
    targets = {name for name in load("rows").TARGETS["cpu"]}
    assert targets <= {row["what"] for row in results["rows"]}, "every target has its row"
    pictures = {"ratios.png", "headline.png", "latency_64.png", "throughput_64.png", "memory.png"}
    assert pictures <= {path.name for path in tmp_path.iterdir()}


def test_without_a_baseline_only_the_project_is_measured(tmp_path):
    benchmark, threads = load("run"), torch.get_num_threads()
    flags = {"quick": True, "baseline": "none", "threads": 1, "output_dir": str(tmp_path)}
    config = load("config").Benchmark("decode", **flags)
    bench = benchmark.measure(config)
    torch.set_num_threads(threads)
    benchmark.write_results(bench, config)
    assert bench.rows and all(row.comparison.baseline is None for row in bench.rows)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["results.json", "table.md"], "there is no ratio to draw"
