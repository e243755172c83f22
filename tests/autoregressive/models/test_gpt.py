"""The transformer: fast paths against slow twins, published names, the registry."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny_gpt import C, N, T, V, pack_batch, tiny, tiny_inputs
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from autoregressive.models.attention import (
    block_attention,
    fused_attention,
    plain_attention,
    sample_blocks,
)
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import build_gpt
from autoregressive.models.layers import RMSNorm, _SwiGLU, rotate
from autoregressive.models.loss import SupervisedLoss, _ScoringInChunks, layout_loss
from autoregressive.models.weights import start_from_codebook
from autoregressive.sequence.builders import editing_layout, t2i_layout
from autoregressive.sequence.orders import random_orders


@pytest.fixture
def inputs():
    return tiny_inputs()


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
        slots=torch.arange(2 * length)[None],
        num_predictions=2 * length,
        sample_ids=torch.arange(2).repeat_interleave(length)[None],
        content_index=torch.cat([text_index, image_index], 1).reshape(1, -1),
    )
    logits = model(packed, text.reshape(1, -1, C)).view(2, length, V)[:, -N:]
    torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("num", [1, N, 3 * N])
def test_the_last_layer_on_predicting_slots_only_gives_their_logits_and_gradients(inputs, num):
    """Against all slots, of which the others are thrown away."""
    model = tiny()
    valid, codes = inputs["text_valid"], inputs["codes"]
    layout = editing_layout(codes, codes.roll(1, 0), inputs["edit_mask"], valid, V)
    length = layout.cells.shape[1]
    seen, gradients = [], []
    for asked in (num, length):
        model.zero_grad()
        logits = model(dataclasses.replace(layout, num_predictions=asked), inputs["text"])
        assert logits.shape[1] == asked
        seen.append(logits[:, asked - num :])
        seen[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*seen, atol=2e-5, rtol=0)
    for few, all_slots in zip(*gradients, strict=True):
        torch.testing.assert_close(few, all_slots, atol=1e-4, rtol=1e-4)


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
        torch.testing.assert_close(gradients["plain"][0], gradients["supervised"][0], atol=0, rtol=1e-6)
        for a, b in zip(*gradients.values(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_chunks_of_16384_codes_give_the_loss_and_gradients_of_the_whole(monkeypatch):
    monkeypatch.setattr("autoregressive.models.loss.CHUNK", 7)
    torch.manual_seed(0)
    head = nn.Linear(32, 16384, bias=False)
    hidden, targets = torch.randn(50, 32, requires_grad=True), torch.randint(16384, (50,))
    whole = F.cross_entropy(head(hidden), targets, reduction="sum")
    chunked = _ScoringInChunks(head)(hidden, targets)
    torch.testing.assert_close(chunked, whole, atol=0, rtol=1e-6)
    inputs = [hidden, head.weight]
    for a, b in zip(torch.autograd.grad(whole, inputs), torch.autograd.grad(chunked, inputs), strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


@pytest.mark.parametrize("own_cell", [False, True])
@pytest.mark.parametrize("marks", [True, False, None])
def test_a_packed_row_gives_the_loss_and_gradients_of_the_padded_batch(inputs, marks, own_cell):
    """One row without padding, text in its middle; `marks` None: text to image."""
    valid = torch.arange(8) != 3
    codes, text_valid = inputs["codes"], inputs["text_valid"]
    if marks is None:
        layout = t2i_layout(codes, random_orders(list(range(8)), N), text_valid, valid)
    else:
        layout = editing_layout(
            codes, codes.roll(1, 0), inputs["edit_mask"], text_valid, V, marks=marks, sample_valid=valid
        )
    model = tiny(mask_in_context=bool(marks), own_cell=own_cell)
    packed, text = pack_batch(layout, inputs["text"])
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


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -torch.inf)


def test_block_attention_is_fused_attention(inputs):
    """FlexAttention runs on the CPU without gradients; tests/test_gpu.py has its backward."""
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    packed, _ = pack_batch(layout, inputs["text"])
    query, key, value = torch.randn(3, 1, 2, packed.cells.shape[1], 16)
    torch.testing.assert_close(
        block_attention(query, key, value, 0.0, sample_blocks(packed.sample_ids)),
        fused_attention(query, key, value, 0.0, _bias(packed.attention_mask(), torch.float32)),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_plain_attention_is_fused_attention(inputs, dtype, tolerance):
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    mask = layout.attention_mask()
    states = torch.randn(3, 8, 2, mask.shape[-1], 16)
    results = []
    for attention, kind in ((fused_attention, torch.float32), (plain_attention, dtype)):
        leaves = [state.to(kind).requires_grad_() for state in states]
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
            mixed = attention(*leaves, 0.0, _bias(mask, kind))
        assert mixed.dtype == kind
        mixed.float().square().sum().backward()
        results.append([mixed, *(leaf.grad for leaf in leaves)])
    for exact, fast in zip(*results, strict=True):
        assert (exact - fast).norm() < tolerance * exact.norm()
    bias = _bias(mask, torch.float32)
    dropped = plain_attention(*states, 0.5, bias)
    assert dropped.shape == states[0].shape and (dropped != plain_attention(*states, 0.0, bias)).any()


def test_packing_a_batch_of_bad_samples_keeps_one(inputs):
    none = torch.zeros(8, dtype=torch.bool)
    orders = random_orders(list(range(8)), N)
    layout = t2i_layout(inputs["codes"], orders, inputs["text_valid"], none)
    packed, text = pack_batch(layout, inputs["text"])
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [8, 64])
def test_plain_and_compiled_steps_turn_pairs_alike(dtype, head_dim, monkeypatch):
    """Each writes the product of complex numbers in its own way."""
    random = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 5, 3, 4, head_dim, generator=random).to(dtype)[:, :, :2].requires_grad_()
    angles = torch.randn(2, 5, 2, 1, head_dim // 2, generator=random)
    rotary = torch.stack([angles.cos(), angles.sin()], dim=-1)
    grad = torch.randn(queries.shape, generator=random).to(dtype)
    turned = rotate(queries, rotary)
    (to_queries,) = torch.autograd.grad(turned, queries, grad)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    formula = rotate(queries, rotary)
    torch.testing.assert_close(turned, formula)
    torch.testing.assert_close(to_queries, torch.autograd.grad(formula, queries, grad)[0])
    even, odd = queries.detach().float()[..., 0::2], queries.detach().float()[..., 1::2]
    torch.testing.assert_close(turned[..., 0::2], (even * angles.cos() - odd * angles.sin()).to(dtype))
    torch.testing.assert_close(turned[..., 1::2], (odd * angles.cos() + even * angles.sin()).to(dtype))


def test_raster_models_and_any_order_models_differ_in_data_only():
    raster, any_order = tiny("GPT-tiny"), tiny()
    assert type(raster) is type(any_order)
    names = set(any_order.state_dict()) - set(raster.state_dict())
    assert names == {"target_aware_pos_embed_postfix"}
    assert raster.rotary[-1].abs().sum() == 0 and any_order.rotary[-1, :, 0].eq(1).all()


def test_a_query_that_turns_by_the_next_cell_knows_it_without_the_table(inputs):
    first, second = torch.arange(N), torch.arange(N).roll(1)
    codes = inputs["codes"][:1, :1].expand(1, N)  # all alike: only the cells tell the two orders apart
    layouts = [t2i_layout(codes, order[None], inputs["text_valid"][:1]) for order in (first, second)]
    for query_turn in ("cells", "next_cells"):
        model = tiny(query_turn=query_turn)
        torch.nn.init.zeros_(model.target_aware_pos_embed_postfix)
        # Behind the text alone, with a caption to measure directions from.
        one, other = (model(layout, inputs["text"][:1])[:, 0] for layout in layouts)
        assert torch.equal(one, other) == (query_turn == "cells")


@torch.no_grad()
def test_a_slot_on_a_cell_gets_its_row_and_text_gets_none(inputs):
    model = tiny(own_cell=True)
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    with_rows = model.embed(layout, inputs["text"])
    rows = model.own_cell_embedding[0].clone()
    model.own_cell_embedding.zero_()
    added = with_rows - model.embed(layout, inputs["text"])
    assert torch.equal(added[:, :T], torch.zeros(8, T, 64)) and layout.cells[:, :T].eq(-1).all()
    torch.testing.assert_close(added[:, T:], rows[layout.cells[:, T:]], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_fresh_model_with_own_cells_is_the_very_one_without(inputs):
    models = []
    for own_cell in (False, True):
        torch.manual_seed(0)
        sizes = {"vocab_size": V, "block_size": N, "caption_dim": C, "cls_token_num": 8}
        models.append(build_gpt("R-GPT-tiny", **sizes, own_cell=own_cell).eval())
    plain, other = (model.state_dict() for model in models)
    assert not other.pop("own_cell_embedding").any() and plain.keys() == other.keys()
    assert all(torch.equal(plain[name], weight) for name, weight in other.items())
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    hidden = [model.hidden(layout, inputs["text"]) for model in models]
    assert torch.equal(*hidden)


@torch.no_grad()
def test_codes_that_are_alike_start_alike(inputs):
    codebook = torch.nn.functional.normalize(torch.randn(V, 4), dim=1)
    model = build_gpt("R-GPT-mini", vocab_size=V, block_size=N, caption_dim=C, cls_token_num=8)
    before = model.tok_embeddings.weight.norm(dim=1).mean()
    start_from_codebook(model, codebook)
    for weight, tolerance in ((model.tok_embeddings.weight, 0.25), (model.output.weight, 1e-5)):
        rows = torch.nn.functional.normalize(weight, dim=1)
        torch.testing.assert_close(rows @ rows.T, codebook @ codebook.T, atol=tolerance, rtol=0)
    assert model.tok_embeddings.weight.norm(dim=1).mean() == pytest.approx(before.item(), rel=0.15)
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    assert 0.1 < model(layout, inputs["text"]).std() < 10


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


def test_a_fresh_model_scores_all_codes_alike_whatever_it_reads(inputs):
    model = build_gpt("R-GPT-tiny", vocab_size=V, block_size=N, caption_dim=C, cls_token_num=8)
    layout = t2i_layout(inputs["codes"], random_orders(list(range(8)), N), inputs["text_valid"])
    assert not model(layout, inputs["text"]).any()
    assert model.tok_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_compiled_loss_compiles_once_for_all_numbers_of_chunks(monkeypatch):
    monkeypatch.setattr("autoregressive.models.loss.CHUNK", 16)
    model, inputs, counter = tiny(), tiny_inputs(), CompileCounter()
    orders = random_orders(list(range(8)), N)
    layout = t2i_layout(inputs["codes"], orders, inputs["text_valid"])
    plain, compiled = SupervisedLoss(model), SupervisedLoss(model)
    compiled.compile(dynamic=True, backend=counter)
    graphs = []
    for chunks in (1, 2, 3, 5, 8, 1):
        some = dataclasses.replace(layout, supervised=torch.arange(16 * chunks - 3))
        losses = [network(some, inputs["text"]) for network in (plain, compiled)]
        torch.testing.assert_close(*losses)
        losses[1].backward()
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1, graphs
