"""The transformer: fast paths against slow twins, published names, the registry."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from torch import Tensor

from autoregressive.layout import (
    editing_layout,
    editing_prompt,
    infill_prompt,
    pack_rows,
    random_orders,
    raster_edit_order,
    t2i_layout,
    t2i_prompt,
)
from autoregressive.models.attention import block_attention, masked_attention, sample_blocks
from autoregressive.models.generate import generate, place
from autoregressive.models.gpt import GPT_MODELS, build_gpt, layout_loss
from autoregressive.models.layers import RMSNorm, _SwiGLU
from autoregressive.models.loss import SupervisedLoss
from autoregressive.models.sampling import Sampling, draw, filtered_probabilities, guide, seeded_uniforms

V, N, C, T = 32, 16, 8, 5
GREEDY = Sampling(cfg_scale=1, sample_logits=False)


def tiny(name: str = "R-GPT-tiny", **overrides):
    torch.manual_seed(0)
    model = build_gpt(name, vocab_size=V, block_size=N, caption_dim=C, cls_token_num=8, **overrides).eval()
    torch.nn.init.normal_(model.output.weight, std=0.2)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    text = torch.randn(8, T, C)
    text_valid = torch.arange(T) >= torch.tensor([0, 1, 2, 3, 4, 0, 2, 4])[:, None]
    edit_mask = torch.rand(8, N) < torch.linspace(0.1, 1.1, 8)[:, None]
    edit_mask[0] = False
    edit_mask[0, 3] = True
    return {
        "text": text, "text_valid": text_valid, "edit_mask": edit_mask,
        "codes": torch.randint(V, (8, N)), "target": torch.randint(V, (8, N)),
    }  # fmt: skip


def test_decoding_with_a_cache_gives_the_teacher_forced_logits(inputs):
    model = tiny(mask_in_context=True)
    mask, codes = inputs["edit_mask"], inputs["codes"]
    orders = raster_edit_order(mask)
    longest = int(mask.sum(1).max())
    prompt = editing_prompt(codes, mask, orders, inputs["text_valid"], V)
    seen = []
    hook = model.output.register_forward_hook(lambda _module, _inputs, out: seen.append(out[:, -1]))
    drawn = generate(model, prompt, inputs["text"], orders[:, :longest], torch.zeros(8, N), GREEDY)
    hook.remove()
    everything = torch.full((8,), longest)
    target = place(drawn, orders[:, :longest], everything, codes)
    layout = editing_layout(codes, target, mask, inputs["text_valid"], V)
    torch.testing.assert_close(torch.stack(seen, 1), model(layout, inputs["text"]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("mode", ["marks", "no_marks", "zero_shot"])
def test_a_batch_of_eight_edits_gives_the_tokens_of_eight_single_ones(inputs, mode, scale):
    model = tiny(mask_in_context=mode == "marks")
    sampling = dataclasses.replace(GREEDY, cfg_scale=scale)

    def edit(rows: slice):
        mask, codes, valid = (inputs[k][rows] for k in ("edit_mask", "codes", "text_valid"))
        counts = mask.sum(1)
        orders = raster_edit_order(mask)[:, : int(counts.max())]
        if mode == "zero_shot":
            prompt = infill_prompt(codes, mask, orders, valid)
        else:
            prompt = editing_prompt(codes, mask, orders, valid, V, marks=mode == "marks")
        drawn = generate(model, prompt, inputs["text"][rows], orders, torch.zeros(len(mask), N), sampling)
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
    a = generate(model, t2i_prompt(orders, valid), short, orders, torch.zeros(8, N), guided)
    b = generate(model, t2i_prompt(orders, long_valid), long, orders, torch.zeros(8, N), guided)
    assert torch.equal(a, b)


def test_two_samples_packed_into_one_row_give_their_own_logits(inputs):
    """Text slots in the middle of a row: what packed training needs of the layout."""
    model = tiny()
    orders = random_orders([0, 1], N)
    codes, text = inputs["codes"][:2], inputs["text"][:2]
    single = t2i_layout(codes, orders, torch.ones(2, T, dtype=torch.bool))
    wanted = model(single, text)
    length = single.cells.shape[1]
    text_index = torch.arange(2 * T).view(2, T)
    image_index = 2 * T + torch.arange(2 * (N - 1)).view(2, N - 1)
    packed = dataclasses.replace(
        single,
        token_ids=single.token_ids.reshape(1, -1),
        cells=single.cells.reshape(1, -1),
        next_cells=single.next_cells.reshape(1, -1),
        key_valid=single.key_valid.reshape(1, -1),
        slots=torch.arange(2 * length),
        num_predictions=2 * length,
        sample_ids=torch.arange(2).repeat_interleave(length)[None],
        content_index=torch.cat([text_index, image_index], 1).reshape(1, -1),
    )
    logits = model(packed, text.reshape(1, -1, C)).view(2, length, V)[:, -N:]
    torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=0)


def test_a_seed_gives_the_same_draws_in_any_batch(inputs):
    model = tiny()
    sampling = Sampling(cfg_scale=1.0, temperature=1.5)
    orders = random_orders(list(range(8)), N)

    def sample(rows: slice):
        seeds = list(range(8))[rows]
        prompt = t2i_prompt(orders[rows], inputs["text_valid"][rows])
        return generate(
            model, prompt, inputs["text"][rows], orders[rows], seeded_uniforms(seeds, N), sampling
        )

    together = sample(slice(0, 8))
    assert torch.equal(together[5:6], sample(slice(5, 6)))
    assert not torch.equal(together, generate(
        model, t2i_prompt(orders, inputs["text_valid"]), inputs["text"], orders,
        seeded_uniforms(list(range(8, 16)), N), sampling,
    ))  # fmt: skip


def test_guidance_interval_ends_guidance(inputs):
    """Interval 0: the prefill and the first decoding step are guided, the others are not."""
    model = tiny()
    orders = random_orders(list(range(8)), N)
    prompt = t2i_prompt(orders, inputs["text_valid"])

    def run(**settings):
        sampling = Sampling(sample_logits=False, **settings)
        return generate(model, prompt, inputs["text"], orders, torch.zeros(8, N), sampling)

    guided, interval = run(cfg_scale=4.0), run(cfg_scale=4.0, cfg_interval=0)
    assert torch.equal(guided[:, :2], interval[:, :2])
    assert not torch.equal(guided, interval)
    assert torch.equal(run(cfg_scale=4.0, cfg_interval=N), guided)


def test_loss_is_a_sum_over_the_supervised_slots(inputs):
    model = tiny()
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    half = dataclasses.replace(layout, loss_weight=layout.loss_weight * 0.5)
    logits = model(layout, inputs["text"])
    torch.testing.assert_close(layout_loss(logits, half) * 2, layout_loss(logits, layout))


@pytest.mark.parametrize("chunk", [4, 1000])
def test_the_head_on_supervised_slots_only_gives_the_plain_loss_and_gradients(inputs, chunk, monkeypatch):
    monkeypatch.setattr("autoregressive.models.loss.CHUNK", chunk)
    valid = torch.arange(8) != 3
    layouts = [
        t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"], valid),
        editing_layout(
            inputs["codes"], inputs["codes"].roll(1, 0), inputs["edit_mask"], inputs["text_valid"], V,
            sample_valid=valid,
        ),
    ]  # fmt: skip
    for layout in layouts:
        model = tiny(mask_in_context=True)
        gradients = {}
        for name, loss in (
            ("plain", lambda m, y: layout_loss(m(y, inputs["text"]), y)),
            ("supervised", lambda m, y: SupervisedLoss(m)(y, inputs["text"])),
        ):
            model.zero_grad()
            value = loss(model, layout)
            value.backward()
            gradients[name] = [value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
        for a, b in zip(*gradients.values(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("marks", [True, False, None])
def test_a_packed_row_gives_the_loss_and_gradients_of_the_padded_batch(inputs, marks):
    """One row without padding, text in its middle; `marks` None: text to image."""
    valid = torch.arange(8) != 3
    codes, text_valid = inputs["codes"], inputs["text_valid"]
    if marks is None:
        layout = t2i_layout(codes, random_orders(list(range(8)), N), text_valid, valid)
    else:
        layout = editing_layout(
            codes, codes.roll(1, 0), inputs["edit_mask"], text_valid, V, marks=marks, sample_valid=valid
        )
    model = tiny(mask_in_context=bool(marks))
    packed, text = pack_rows(layout, inputs["text"])
    assert packed.cells.shape[1] < layout.key_valid[valid].sum() + 1 <= layout.cells.numel()
    assert text.shape[1] == text_valid[valid].sum()
    gradients = []
    for some_layout, some_text in ((layout, inputs["text"]), (packed, text)):
        model.zero_grad()
        value = SupervisedLoss(model)(some_layout, some_text)
        value.backward()
        gradients.append([value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_block_attention_is_masked_attention(inputs):
    """FlexAttention runs on the CPU without gradients; tests/test_gpu.py has its backward."""
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    packed, _ = pack_rows(layout, inputs["text"])
    query, key, value = torch.randn(3, 1, 2, packed.cells.shape[1], 16)
    torch.testing.assert_close(
        block_attention(query, key, value, 0.0, sample_blocks(packed.sample_ids)),
        masked_attention(query, key, value, 0.0, packed.attention_mask()),
        atol=1e-5,
        rtol=0,
    )


def test_packing_a_batch_of_bad_samples_keeps_one(inputs):
    none = torch.zeros(8, dtype=torch.bool)
    orders = random_orders(list(range(8)), N)
    layout = t2i_layout(inputs["codes"], orders, inputs["text_valid"], none)
    packed, text = pack_rows(layout, inputs["text"])
    assert packed.sample_ids.unique().tolist() == [0] and len(packed.supervised) == 0
    SupervisedLoss(tiny())(packed, text).backward()


def test_a_batch_of_bad_samples_has_no_loss_but_gradients(inputs):
    model, none = tiny(), torch.zeros(8, dtype=torch.bool)
    orders = random_orders(list(range(8)), N)
    layout = t2i_layout(inputs["codes"], orders, inputs["text_valid"], none)
    loss = SupervisedLoss(model)(layout, inputs["text"])
    loss.backward()
    assert loss.item() == 0 and all(
        p.grad is not None and not p.grad.any() for n, p in model.named_parameters() if p.requires_grad
    )


def test_rows_that_are_done_cost_nothing(inputs):
    model, counts = tiny(mask_in_context=True), inputs["edit_mask"].sum(1).tolist()
    orders = raster_edit_order(inputs["edit_mask"])[:, : max(counts)]
    prompt = editing_prompt(inputs["codes"], inputs["edit_mask"], orders, inputs["text_valid"], V)
    widths = []
    hook = model.norm.register_forward_hook(lambda *args: widths.append(len(args[2])))
    generate(model, prompt, inputs["text"], orders, torch.zeros(8, N), GREEDY, counts=counts)
    hook.remove()
    assert widths == [8] + [sum(c > i for c in counts) for i in range(1, max(counts))]
    assert len(set(widths)) > 2


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_steps_draw_the_same_codes_and_compile_once(inputs):
    model, orders = tiny(), random_orders([0, 1], N)
    prompt = t2i_prompt(orders, inputs["text_valid"][:2])
    guided = dataclasses.replace(GREEDY, cfg_scale=3.0)

    def run(rows: slice) -> Tensor:
        zeros = torch.zeros(len(orders[rows]), N)
        some = prompt.rows(torch.arange(2)[rows])
        return generate(model, some, inputs["text"][:2][rows], orders[rows], zeros, guided)

    plain = run(slice(0, 2))
    model.compile_steps()
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(run(slice(0, 2)), plain)
        assert torch.equal(run(slice(0, 2)), plain)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_steps_of_ragged_batches_drop_rows_by_halves(inputs):
    model = tiny(mask_in_context=True)
    counts = [9, 1, 1, 1, 4, 1, 1, 1]
    edit_mask = torch.arange(N)[None] < torch.tensor(counts)[:, None]
    orders = raster_edit_order(edit_mask)[:, : max(counts)]
    prompt = editing_prompt(inputs["codes"], edit_mask, orders, inputs["text_valid"], V)

    def run() -> Tensor:
        return generate(model, prompt, inputs["text"], orders, torch.zeros(8, N), GREEDY, counts=counts)

    plain = run()
    model.compile_steps()
    widths, step = [], model.compiled_step

    def counted(layout, *rest):
        widths.append(len(layout.cells))
        return step(layout, *rest)

    model.compiled_step = counted
    assert torch.equal(run(), plain)
    assert widths == [2] * 3 + [1] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_an_earlier_call_left_in_the_cache_reaches_no_later_one(inputs, dtype):
    model, orders = tiny().to(dtype), random_orders(list(range(8)), N)
    prompt, text = t2i_prompt(orders, inputs["text_valid"]), inputs["text"].to(dtype)

    def run() -> Tensor:
        return generate(model, prompt, text, orders, torch.zeros(8, N), GREEDY)

    before = run()
    with torch.inference_mode():
        model.caches._buffer.fill_(float("nan"))
    assert torch.equal(run(), before)


def test_samples_share_a_prompt_of_one_word(inputs):
    model, orders = tiny(), random_orders([3, 4, 5], N)
    valid, text = torch.ones(1, 1, dtype=torch.bool), inputs["text"][:1, :1]
    zeros, guided = torch.zeros(3, N), dataclasses.replace(GREEDY, cfg_scale=2.0)
    shared = generate(model, t2i_prompt(orders[:1], valid), text, orders, zeros, guided)
    own = t2i_prompt(orders, valid.expand(3, -1))
    assert torch.equal(shared, generate(model, own, text.expand(3, -1, -1), orders, zeros, guided))


def test_lean_backward_passes_are_those_of_the_formulas():
    x, gain, grad = (torch.randn(3, 5, 16, dtype=torch.double, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(_SwiGLU.apply, (x, gain))
    norm = RMSNorm(16)
    torch.nn.init.normal_(norm.weight)
    single = x.detach().float().requires_grad_()

    def formula(values: Tensor) -> Tensor:
        return values * torch.rsqrt(values.square().mean(-1, keepdim=True) + norm.eps) * norm.weight

    wanted = torch.autograd.grad(formula(single), (single, norm.weight), grad.float())
    found = torch.autograd.grad(norm(single), (single, norm.weight), grad.float())
    torch.testing.assert_close(norm(single), formula(single))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_repeated_calls_take_the_same_memory(inputs):
    model, orders = tiny(), random_orders(list(range(8)), N)
    buffers = []
    for rows in (8, 8, 4):
        prompt = t2i_prompt(orders[:rows], inputs["text_valid"][:rows])
        generate(model, prompt, inputs["text"][:rows], orders[:rows], torch.zeros(rows, N), GREEDY)
        buffers.append(model.caches._buffer.data_ptr())
    assert len(set(buffers)) == 1


def test_raster_models_and_any_order_models_differ_in_data_only():
    raster, any_order = tiny("GPT-tiny"), tiny()
    assert type(raster) is type(any_order)
    names = set(any_order.state_dict()) - set(raster.state_dict())
    assert names == {"target_aware_pos_embed_postfix"}
    assert raster.rotary[-1].abs().sum() == 0 and any_order.rotary[-1, :, 0].eq(1).all()


def test_angles_stay_exact_in_a_half_precision_model(inputs):
    model = tiny()
    before = model.rotary.clone()
    assert (
        torch.equal(model.to(torch.bfloat16).rotary, before) and model.output.weight.dtype == torch.bfloat16
    )
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    exact = tiny()(layout, inputs["text"])
    half = model(layout, inputs["text"].to(torch.bfloat16)).float()
    assert (half - exact).abs().mean() < 0.02 * exact.abs().mean() + 0.02


def test_registry_holds_every_size_in_both_kinds():
    assert GPT_MODELS["GPT-XL-RAR"] is GPT_MODELS["R-GPT-XL"]
    for size in ("B", "L", "XL", "XXL", "XXXL", "1B", "3B", "7B"):
        assert {f"GPT-{size}", f"R-GPT-{size}"} <= set(GPT_MODELS)


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
    assert guide(both, 3.0).item() == 4.0 and guide(both, 1.0).item() == 2.0


def test_a_fresh_model_scores_all_codes_alike_whatever_it_reads(inputs):
    model = build_gpt("R-GPT-tiny", vocab_size=V, block_size=N, caption_dim=C, cls_token_num=8)
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    assert not model(layout, inputs["text"]).any()
    assert model.tok_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.1)
