"""Several cells a pass: the codes of one cell a pass, whoever else is in the batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_gpt import GREEDY, N, V, tiny, tiny_inputs
from torch import Tensor

from autoregressive.decoding.engine import Engine, place
from autoregressive.decoding.sampling import filtered_probabilities, gumbel_noise, pick
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.sequence.builders import editing_prompt, infill_prompt, t2i_layout, t2i_prompt
from autoregressive.sequence.orders import edit_orders, random_orders
from runtime.errors import UserError

HOT = Sampling(cfg_scale=1.0, temperature=1.5, window=1)


@pytest.fixture
def inputs():
    return tiny_inputs()


def _edit(engine: Engine, inputs: dict, mode: str, sampling: Sampling, rows=slice(0, 8), **given):
    """Codes on the grid and passes of the rows, of different numbers of cells, in random order."""
    codes, valid = inputs["codes"][rows], inputs["text_valid"][rows]
    seeds = list(range(8))[rows]
    mask = torch.ones_like(inputs["edit_mask"][rows]) if mode == "t2i" else inputs["edit_mask"][rows]
    counts = mask.sum(1)
    orders = edit_orders(seeds, mask, ["random"])[:, : int(counts.max())]
    if mode == "t2i":
        prompt = t2i_prompt(orders, valid)
    elif mode == "zero_shot":
        prompt = infill_prompt(codes, mask, orders, valid)
    else:
        prompt = editing_prompt(codes, mask, orders, valid, V)
    drawn = engine.generate(
        prompt, inputs["text"][rows], orders, seeds, sampling, counts=counts.tolist(), **given
    )
    return place(drawn.codes, orders, counts, codes), drawn.num_passes, counts.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cfg_scale": 3.0},
        {"cfg_scale": 3.0, "cfg_interval": 2},
        {"top_k": 5},
        {"top_p": 0.7},
        {"sample_logits": False},
        {"temperature": 0.0},
        {"draw": "inverse"},
        {"guesses": "last"},
    ],
)
@pytest.mark.parametrize("mode", ["marks", "zero_shot", "t2i"])
def test_any_window_gives_the_codes_of_one_cell_a_pass(inputs, mode, settings):
    engine = Engine(tiny(mask_in_context=mode == "marks"))
    alone, passes, counts = _edit(engine, inputs, mode, dataclasses.replace(HOT, **settings))
    assert passes == counts
    for window in (2, 5, 64):
        sampling = dataclasses.replace(HOT, window=window, **settings)
        codes, passes, _ = _edit(engine, inputs, mode, sampling)
        assert torch.equal(codes, alone)
        assert all(-(-count // window) <= num <= count for num, count in zip(passes, counts, strict=True))


@pytest.mark.parametrize("settings", [{}, {"query_turn": "next_cells"}, {"own_cell": True}])
def test_right_guesses_are_settled_a_window_a_pass(inputs, settings):
    engine = Engine(tiny(mask_in_context=True, **settings))
    alone, _, counts = _edit(engine, inputs, "marks", HOT)
    orders = edit_orders(list(range(8)), inputs["edit_mask"], ["random"])[:, : max(counts)]
    sampling = dataclasses.replace(HOT, window=4)
    codes, passes, _ = _edit(engine, inputs, "marks", sampling, guesses=alone.gather(1, orders))
    assert torch.equal(codes, alone)
    assert passes == [1 + -(-(count - 1) // 4) for count in counts]  # the prompt's pass gives the first code


def test_independent_guesses_are_what_each_cell_would_be_if_it_came_first(inputs):
    engine, orders = Engine(tiny()), random_orders(list(range(8)), N)
    text, valid = inputs["text"], inputs["text_valid"]
    with engine.batch(8, text.shape[1], N, window=4) as batch, torch.inference_mode():
        any_window = dataclasses.replace(HOT, window=None)
        batch.join(t2i_prompt(orders, valid), text, orders, range(8), any_window, [N] * 8)
        guessed = torch.stack([codes for _, codes in batch.codes()])
    for number in range(N):
        first = orders.roll(-number, 1)
        drawn = engine.generate(t2i_prompt(first, valid), text, first[:, :1], range(8), HOT)
        assert torch.equal(drawn.codes[:, 0], guessed[:, number])


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_join_and_leave_between_passes(inputs, compiled):
    """Of different prompts, sizes, guidance and temperature; each gets what it gets alone."""
    torch.compiler.reset()
    engine = Engine(tiny(mask_in_context=True))
    how = [
        HOT,
        dataclasses.replace(HOT, cfg_scale=3.0),
        dataclasses.replace(HOT, cfg_scale=2.0, cfg_interval=1),
        dataclasses.replace(HOT, top_k=3, temperature=0.7),
        dataclasses.replace(HOT, draw="inverse"),
        GREEDY,
    ]
    how = how[:3] if compiled else how  # a minute for each shape
    alone = [_edit(engine, inputs, "marks", how[i], slice(i, i + 1))[0][0] for i in range(len(how))]
    if compiled:
        engine.compile_steps()
    found: dict[int, Tensor] = {}
    names: dict[int, int] = {}

    def join(batch, i: int) -> None:
        mask = inputs["edit_mask"][i : i + 1]
        orders = edit_orders([i], mask, ["random"])[:, : int(mask.sum())]
        short = inputs["text_valid"][i].nonzero()[0, 0]  # prompts of different length
        text, valid = inputs["text"][i : i + 1, short:], inputs["text_valid"][i : i + 1, short:]
        prompt = editing_prompt(inputs["codes"][i : i + 1], mask, orders, valid, V)
        (row,) = batch.join(prompt, text, orders, [i], how[i], [orders.shape[1]])
        names[id(row)] = i

    length = inputs["text"].shape[1] + 2 * N
    with engine.batch(6, length, N, window=3) as batch, torch.inference_mode():
        waiting = list(range(len(how)))
        while waiting or batch.rows:
            if waiting and batch.free_lanes() >= 2:
                join(batch, waiting.pop(0))
            for row in batch.leave():
                i = names[id(row)]
                mask = inputs["edit_mask"][i]
                order = edit_orders([i], mask[None], ["random"])[0, : int(mask.sum())]
                found[i] = inputs["codes"][i].scatter(0, order, row.codes)
            if batch.rows:
                batch.step()
    assert sorted(found) == list(range(len(how)))
    for i, codes in found.items():
        assert torch.equal(codes, alone[i]), i


def test_a_row_can_leave_before_it_is_done(inputs):
    engine = Engine(tiny())
    orders, text, valid = random_orders([0, 1], N), inputs["text"][:2], inputs["text_valid"][:2]
    alone = engine.generate(t2i_prompt(orders, valid), text, orders, [0, 1], HOT).codes
    with engine.batch(2, text.shape[1], N, window=1) as batch, torch.inference_mode():
        first, second = batch.join(t2i_prompt(orders, valid), text, orders, [0, 1], HOT, [N, N])
        batch.step()
        assert batch.leave(lambda row: row is first) == [first]
        assert first.num_settled == 2 and torch.equal(first.codes[:2], alone[0, :2])
        while not second.done:
            batch.step()
        assert batch.leave() == [second] and torch.equal(second.codes, alone[1])
        assert batch.free_lanes() == 2


def test_gumbel_draws_follow_the_probabilities():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(40_000, -1)
    seeds = torch.arange(200).repeat_interleave(200)
    cells = torch.arange(200).repeat(200)
    sampling = Sampling(temperature=0.8, top_k=3)
    drawn = pick(logits, sampling, seeds, cells)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    wanted = filtered_probabilities(logits[:1], 0.8, 3, 1.0)[0]
    assert (shares - wanted).abs().max() < 4 * (0.25 / len(drawn)) ** 0.5


def test_gumbel_noise_is_a_fixed_function_with_independent_values():
    """The values are those of every version: a seed keeps its picture."""
    seeds, cells, codes = torch.tensor([0, 1]), torch.tensor([5, 5]), torch.tensor([[7, 8], [7, 8]])
    few = gumbel_noise(seeds, cells, codes)
    torch.testing.assert_close(few, torch.tensor(KEPT, dtype=torch.float64))
    seeds, cells = torch.arange(64).repeat_interleave(64), torch.arange(64).repeat(64)
    many = gumbel_noise(seeds, cells, torch.arange(256).expand(4096, -1))
    assert torch.equal(many[5, 7:9], few[0]) and torch.equal(many[64 + 5, 7:9], few[1])
    assert abs(many.mean() - 0.5772156649) < 0.006 and abs(many.var() - 1.6449340668) < 0.02
    by_seed = many.view(64, 64, 256)
    for other in (by_seed.roll(1, 0), by_seed.roll(1, 1), by_seed.roll(1, 2)):
        both = torch.stack([by_seed.flatten(), other.flatten()])
        assert torch.corrcoef(both)[0, 1].abs() < 0.006


KEPT = [[1.094774311734765, 1.2081759224837971], [1.8784485209721118, 1.532725975593572]]


@pytest.mark.parametrize(
    ("name", "value"), [("window", 0), ("window", 65), ("window", True), ("draw", "x"), ("guesses", "x")]
)
def test_settings_that_do_not_exist_are_refused(name, value):
    with pytest.raises(UserError, match=f"^{name} "):
        Sampling(**{name: value})


@pytest.mark.parametrize("settings", [{}, {"query_turn": "next_cells", "own_cell": True}])
def test_cells_in_parallel_know_what_was_settled_and_not_each_other(inputs, settings):
    """One, one, two, four and again four at a time, each as if it came next."""
    model = tiny(**settings)
    orders, text, valid = random_orders(list(range(8)), N), inputs["text"], inputs["text_valid"]
    sampling = dataclasses.replace(HOT, parallel=4)
    seen: list[list[int]] = []
    drawn = Engine(model).generate(
        t2i_prompt(orders, valid), text, orders, range(8), sampling,
        on_pass=lambda _codes, settled: seen.append(settled[:1]),
    )  # fmt: skip
    assert [count for (count,) in seen] == [1, 2, 4, 8, 12, 16]
    assert drawn.num_passes == [6] * 8
    seeds, raster = torch.arange(8), torch.zeros_like(orders).scatter(1, orders, drawn.codes)
    for done, until in ((1, 2), (2, 4), (4, 8), (8, 12), (12, 16)):
        for number in range(done, until):  # the cell of this number, moved to right behind the settled ones
            first = torch.cat([orders[:, :done], orders[:, number:], orders[:, done:number]], dim=1)
            with torch.inference_mode():
                logits = model(t2i_layout(raster, first, valid), text)[:, done]
            assert torch.equal(pick(logits, sampling, seeds, orders[:, number]), drawn.codes[:, number])


def test_edits_in_parallel_of_ragged_rows_with_guidance(inputs):
    engine = Engine(tiny(mask_in_context=True))
    sampling = dataclasses.replace(HOT, parallel=3, cfg_scale=2.0)
    together, passes, counts = _edit(engine, inputs, "marks", sampling)
    assert all(num <= 2 + -(-max(count - 2, 0) // 2) for num, count in zip(passes, counts, strict=True))
    for i in range(8):
        assert torch.equal(_edit(engine, inputs, "marks", sampling, slice(i, i + 1))[0][0], together[i])
