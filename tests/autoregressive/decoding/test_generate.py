"""Decoding: with a cache, in ragged batches, shared, compiled; from logits to codes."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_gpt import GREEDY, C, N, V, tiny, tiny_inputs
from torch import Tensor

from autoregressive.decoding.batch import NOT_FINITE
from autoregressive.decoding.engine import Engine, place
from autoregressive.decoding.sampling import draw, filtered_probabilities, guide
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.sequence.builders import (
    editing_layout,
    editing_prompt,
    infill_prompt,
    t2i_layout,
    t2i_prompt,
)
from autoregressive.sequence.orders import edit_orders, random_orders, raster_edit_order
from runtime.errors import UserError


@pytest.fixture
def inputs():
    return tiny_inputs()


@pytest.mark.parametrize("kind", ["raster", "random"])
@pytest.mark.parametrize("settings", [{}, {"query_turn": "next_cells"}, {"own_cell": True}])
def test_decoding_with_a_cache_gives_the_teacher_forced_logits(inputs, settings, kind):
    model = tiny(mask_in_context=True, **settings)
    mask, codes = inputs["edit_mask"], inputs["codes"]
    orders = edit_orders(list(range(8)), mask, [kind])
    longest = int(mask.sum(1).max())
    prompt = editing_prompt(codes, mask, orders, inputs["text_valid"], V)
    seen = []
    hook = model.output.register_forward_hook(lambda _module, _inputs, out: seen.append(out[:, -1]))
    drawn = Engine(model).generate(prompt, inputs["text"], orders[:, :longest], range(8), GREEDY).codes
    hook.remove()
    everything = torch.full((8,), longest)
    target = place(drawn, orders[:, :longest], everything, codes)
    layout = editing_layout(codes, target, mask, inputs["text_valid"], V, orders=orders)
    torch.testing.assert_close(torch.stack(seen, 1), model(layout, inputs["text"]), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "scale, settings",
    [(1.0, {}), (3.0, {}), (1.0, {"query_turn": "next_cells"}), (1.0, {"own_cell": True})],
)
@pytest.mark.parametrize("mode", ["marks", "no_marks", "zero_shot"])
def test_a_batch_of_eight_edits_gives_the_tokens_of_eight_single_ones(inputs, mode, scale, settings):
    model = tiny(mask_in_context=mode == "marks", **settings)
    sampling = dataclasses.replace(GREEDY, cfg_scale=scale)

    def edit(rows: slice):
        mask, codes, valid = (inputs[k][rows] for k in ("edit_mask", "codes", "text_valid"))
        counts = mask.sum(1)
        orders = raster_edit_order(mask)[:, : int(counts.max())]
        if mode == "zero_shot":
            prompt = infill_prompt(codes, mask, orders, valid)
        else:
            prompt = editing_prompt(codes, mask, orders, valid, V, marks=mode == "marks")
        drawn = Engine(model).generate(prompt, inputs["text"][rows], orders, range(len(mask)), sampling).codes
        return place(drawn, orders, counts, codes)

    together = edit(slice(0, 8))
    for i in range(8):
        assert torch.equal(together[i : i + 1], edit(slice(i, i + 1)))
    kept = ~inputs["edit_mask"]
    assert torch.equal(together[kept], inputs["codes"][kept])


def test_leaving_out_the_text_padding_changes_nothing(inputs):
    model = tiny()
    orders = random_orders(list(range(8)), N)
    short, valid = inputs["text"], inputs["text_valid"]
    padding = torch.full((8, 3, C), 7.0)
    long, long_valid = torch.cat([padding, short], 1), torch.cat([torch.zeros(8, 3).bool(), valid], 1)
    a = model(t2i_layout(inputs["codes"], orders, valid), short)
    b = model(t2i_layout(inputs["codes"], orders, long_valid), long)
    torch.testing.assert_close(a, b, atol=5e-6, rtol=0)
    guided = dataclasses.replace(GREEDY, cfg_scale=3.0)
    a = Engine(model).generate(t2i_prompt(orders, valid), short, orders, range(8), guided).codes
    b = Engine(model).generate(t2i_prompt(orders, long_valid), long, orders, range(8), guided).codes
    assert torch.equal(a, b)


def test_a_seed_gives_the_same_draws_in_any_batch(inputs):
    model = tiny()
    sampling = Sampling(cfg_scale=1.0, temperature=1.5)
    orders = random_orders(list(range(8)), N)

    def sample(rows: slice):
        seeds = list(range(8))[rows]
        prompt = t2i_prompt(orders[rows], inputs["text_valid"][rows])
        return Engine(model).generate(prompt, inputs["text"][rows], orders[rows], seeds, sampling).codes

    together = sample(slice(0, 8))
    assert torch.equal(together[5:6], sample(slice(5, 6)))
    assert not torch.equal(together, Engine(model).generate(
        t2i_prompt(orders, inputs["text_valid"]), inputs["text"], orders,
        range(8, 16), sampling,
    ).codes)  # fmt: skip


def test_guidance_interval_ends_guidance(inputs):
    """Interval 0: the prefill and the first decoding step are guided, the others are not."""
    model = tiny()
    orders = random_orders(list(range(8)), N)
    prompt = t2i_prompt(orders, inputs["text_valid"])

    def run(**settings):
        sampling = Sampling(sample_logits=False, **settings)
        return Engine(model).generate(prompt, inputs["text"], orders, range(8), sampling).codes

    guided, interval = run(cfg_scale=4.0), run(cfg_scale=4.0, cfg_interval=0)
    assert torch.equal(guided[:, :2], interval[:, :2])
    assert not torch.equal(guided, interval)
    assert torch.equal(run(cfg_scale=4.0, cfg_interval=N), guided)


def test_rows_that_are_done_cost_nothing(inputs):
    model, counts = tiny(mask_in_context=True), inputs["edit_mask"].sum(1).tolist()
    orders = raster_edit_order(inputs["edit_mask"])[:, : max(counts)]
    prompt = editing_prompt(inputs["codes"], inputs["edit_mask"], orders, inputs["text_valid"], V)
    widths = []
    hook = model.norm.register_forward_hook(lambda *args: widths.append(len(args[2])))
    Engine(model).generate(prompt, inputs["text"], orders, range(8), GREEDY, counts=counts)
    hook.remove()
    assert widths == [8] + [sum(c > i for c in counts) for i in range(1, max(counts))]
    assert len(set(widths)) > 2


@pytest.mark.parametrize("own_cell", [False, True])
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_steps_draw_the_same_codes_and_compile_once(inputs, own_cell):
    torch.compiler.reset()  # another model counts as a recompilation
    engine, orders = Engine(tiny(own_cell=own_cell)), random_orders([0, 1], N)
    prompt = t2i_prompt(orders, inputs["text_valid"][:2])
    guided = dataclasses.replace(GREEDY, cfg_scale=3.0)

    def run(rows: slice) -> Tensor:
        seeds = range(len(orders[rows]))
        some = prompt.rows(torch.arange(2)[rows])
        return engine.generate(some, inputs["text"][:2][rows], orders[rows], seeds, guided).codes

    plain = run(slice(0, 2))
    engine.compile_steps()
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(run(slice(0, 2)), plain)
        assert torch.equal(run(slice(0, 2)), plain)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_steps_of_ragged_batches_drop_rows_by_halves(inputs):
    engine = Engine(tiny(mask_in_context=True))
    counts = [9, 1, 1, 1, 4, 1, 1, 1]
    edit_mask = torch.arange(N)[None] < torch.tensor(counts)[:, None]
    orders = raster_edit_order(edit_mask)[:, : max(counts)]
    prompt = editing_prompt(inputs["codes"], edit_mask, orders, inputs["text_valid"], V)

    def run() -> Tensor:
        return engine.generate(prompt, inputs["text"], orders, range(8), GREEDY, counts=counts).codes

    plain = run()
    engine.compile_steps()
    widths, step = [], engine._step

    def counted(layout, *rest):
        widths.append(len(layout.cells))
        return step(layout, *rest)

    engine._step = counted
    assert torch.equal(run(), plain)
    assert widths == [2] * 3 + [1] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_an_earlier_call_left_in_the_cache_reaches_no_later_one(inputs, dtype):
    engine, orders = Engine(tiny().to(dtype)), random_orders(list(range(8)), N)
    prompt, text = t2i_prompt(orders, inputs["text_valid"]), inputs["text"].to(dtype)

    def run() -> Tensor:
        return engine.generate(prompt, text, orders, range(8), GREEDY).codes

    before = run()
    with torch.inference_mode():
        engine.caches._idle.buffer.fill_(float("nan"))
    assert torch.equal(run(), before)


def _run(engine, inputs, seed, on_pass=None):
    orders = random_orders([seed] * 8, N)
    prompt = t2i_prompt(orders, inputs["text_valid"])
    return engine.generate(prompt, inputs["text"], orders, range(8), GREEDY, on_pass=on_pass).codes


def test_a_callback_may_generate_with_the_same_model(inputs):
    engine = Engine(tiny())
    alone = [_run(engine, inputs, seed) for seed in (0, 1)]
    inner = []
    outer = _run(engine, inputs, 0, on_pass=lambda *_: inner.append(_run(engine, inputs, 1)))
    assert torch.equal(outer, alone[0])
    assert len(inner) == N and all(torch.equal(codes, alone[1]) for codes in inner)


def test_threads_share_a_model(inputs):
    engine = Engine(tiny())
    alone = [_run(engine, inputs, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = pool.map(lambda seed: _run(engine, inputs, seed), range(4))
            assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert engine.caches._idle is not None  # one of the four is kept


def test_an_error_in_a_callback_gives_the_cache_back(inputs):
    engine = Engine(tiny())
    before = _run(engine, inputs, 0)

    def fail(*_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        _run(engine, inputs, 0, on_pass=fail)
    assert engine.caches._idle is not None
    assert torch.equal(_run(engine, inputs, 0), before)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on CPUs")
def test_a_compiled_model_moves_and_copies(inputs):
    engine = Engine(tiny())
    plain = _run(engine, inputs, 0)
    engine.compile_steps()
    assert torch.equal(_run(engine, inputs, 0), plain)
    copied = copy.deepcopy(engine)
    assert not copied.compiled and copied.model is not engine.model
    assert torch.equal(_run(copied, inputs, 0), plain)
    engine.model.to(torch.float64).to(torch.float32)
    assert torch.equal(_run(engine, inputs, 0), plain)
    engine.move("cpu")
    assert engine.compiled
    assert torch.equal(_run(engine, inputs, 0), plain)


def test_samples_share_a_prompt_of_one_word(inputs):
    model, orders = tiny(), random_orders([3, 4, 5], N)
    valid, text = torch.ones(1, 1, dtype=torch.bool), inputs["text"][:1, :1]
    guided = dataclasses.replace(GREEDY, cfg_scale=2.0)
    shared = Engine(model).generate(t2i_prompt(orders[:1], valid), text, orders, range(3), guided).codes
    own = t2i_prompt(orders, valid.expand(3, -1))
    alone = Engine(model).generate(own, text.expand(3, -1, -1), orders, range(3), guided).codes
    assert torch.equal(shared, alone)


def test_repeated_calls_take_the_same_memory(inputs):
    engine, orders = Engine(tiny()), random_orders(list(range(8)), N)
    buffers = []
    for rows in (8, 8, 4):
        prompt = t2i_prompt(orders[:rows], inputs["text_valid"][:rows])
        engine.generate(prompt, inputs["text"][:rows], orders[:rows], range(rows), GREEDY)
        buffers.append(engine.caches._idle.buffer.data_ptr())
    assert len(set(buffers)) == 1


def test_guidance_is_computed_in_float32(inputs):
    """As LlamaGen does: what bfloat16 would round away of the difference is scaled."""
    model, orders = tiny().to(torch.bfloat16), random_orders(list(range(8)), N)
    seen = []
    hook = model.output.register_forward_hook(lambda _module, _inputs, out: seen.append(out[:, -1]))
    guided = dataclasses.replace(GREEDY, cfg_scale=7.5)
    prompt, text = t2i_prompt(orders, inputs["text_valid"]), inputs["text"].bfloat16()
    codes = Engine(model).generate(prompt, text, orders, range(8), guided).codes
    hook.remove()
    pairs = [(logits[::2], logits[1::2]) for logits in seen]
    exact = torch.stack([guide(a.float(), b.float(), 7.5).argmax(-1) for a, b in pairs], dim=1)
    rounded = torch.stack([guide(a, b, 7.5).argmax(-1) for a, b in pairs], dim=1)
    assert torch.equal(codes, exact) and not torch.equal(exact, rounded)


def test_rows_whose_numbers_are_not_finite_are_told_and_the_others_are_as_they_were(inputs):
    model, orders, text = tiny(), random_orders(list(range(8)), N), inputs["text"]
    prompt, counts = t2i_prompt(orders, inputs["text_valid"]), [N, 1, N, N, 3, N, N, N]

    def run(text: Tensor, **settings) -> Tensor:
        sampling = dataclasses.replace(GREEDY, **settings)
        return Engine(model).generate(prompt, text, orders, range(8), sampling, counts=counts).codes

    spoiled = text.clone()
    spoiled[1], spoiled[6, -1] = torch.nan, torch.inf  # row 1 is done after the first code
    for settings in ({}, {"cfg_scale": 2.0}, {"sample_logits": True}):
        codes, broken = run(spoiled, **settings), torch.tensor([1, 6])
        assert codes[1, 0] == NOT_FINITE and (codes[6] == NOT_FINITE).all()
        whole = run(text, **settings)
        kept = torch.ones(8, dtype=torch.bool).scatter(0, broken, False)
        assert torch.equal(codes[kept], whole[kept]) and (whole >= 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cfg_scale", float("nan")),
        ("cfg_scale", float("inf")),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", float("nan")),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(UserError, match=f"^{name} {value}: give "):
        Sampling(**{name: value})


def test_temperature_0_takes_the_likeliest_code():
    logits = torch.tensor([[0.1, 0.3, 0.2]])
    found = filtered_probabilities(logits, Sampling(temperature=0).temperature, 0, 1.0)
    assert found.argmax() == 1 and found.max() > 0.999


def test_draw_follows_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.0, 0.25, 0.25]])
    wanted = {0.0: 0, 0.49: 0, 0.51: 2, 0.74: 2, 0.76: 3, 0.9999999: 3}
    for uniform, code in wanted.items():
        assert draw(probabilities, torch.tensor([uniform], dtype=torch.float64)).item() == code
    uniforms = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = draw(probabilities.expand(20000, -1), uniforms).bincount(minlength=4) / 20000
    torch.testing.assert_close(shares, probabilities[0], atol=0.02, rtol=0)


def test_filters_and_guidance_in_closed_form():
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    torch.testing.assert_close(
        filtered_probabilities(logits, 1.0, 2, 1.0), torch.tensor([[4 / 7, 3 / 7, 0, 0]])
    )
    torch.testing.assert_close(
        filtered_probabilities(logits, 1.0, 0, 0.5), torch.tensor([[4 / 7, 3 / 7, 0, 0]])
    )
    both = torch.tensor([[2.0], [1.0]])
    assert guide(*both, 3.0).item() == 4.0 and guide(*both, 1.0).item() == 2.0
