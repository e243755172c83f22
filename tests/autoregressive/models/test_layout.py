"""Layouts against tables written by hand. Cells of a 2×2 grid: 0 1 / 2 3."""

from __future__ import annotations

from itertools import pairwise

import torch

from autoregressive.sequence.builders import (
    editing_layout,
    editing_prompt,
    infill_prompt,
    t2i_layout,
    t2i_prompt,
)
from autoregressive.sequence.layout import SequenceLayout
from autoregressive.sequence.order_kinds import ORDER_KINDS
from autoregressive.sequence.orders import (
    drawing_orders,
    edit_orders,
    random_orders,
    raster_edit_order,
    region_orders,
    spiral_order,
)

V = 64
KEEP, EDIT = V, V + 1
CODES = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
TARGET = CODES + 30
TEXT = torch.tensor([[False, True], [True, True]])
MASK = torch.tensor([[False, True, True, False], [False, False, False, True]])


def test_t2i_in_any_order():
    orders = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]])
    layout = t2i_layout(CODES, orders, TEXT, torch.tensor([True, False]))
    assert layout.token_ids.tolist() == [[12, 10, 13], [20, 21, 22]]
    assert layout.cells.tolist() == [[-1, -1, 2, 0, 3], [-1, -1, 0, 1, 2]]
    assert layout.next_cells.tolist() == [[-1, 2, 0, 3, 1], [-1, 0, 1, 2, 3]]
    assert layout.targets.tolist() == [[12, 10, 13, 11], [20, 21, 22, 23]]
    assert layout.loss_weight.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert layout.key_valid.tolist() == [[False, True, True, True, True], [True] * 5]
    assert layout.num_predictions == 4


def test_editing_with_marks():
    layout = editing_layout(CODES, TARGET, MASK, TEXT, V)
    assert layout.token_ids.tolist() == [
        [10, 11, 12, 13, KEEP, EDIT, EDIT, KEEP, 41],
        [20, 21, 22, 23, KEEP, KEEP, KEEP, EDIT, 53],
    ]
    assert layout.cells.tolist() == [
        [-1, -1, 0, 1, 2, 3, 0, 1, 2, 3, 1],
        [-1, -1, 0, 1, 2, 3, 0, 1, 2, 3, 3],
    ]
    assert layout.next_cells.tolist() == [
        [-1, 0, 1, 2, 3, 0, 1, 2, 3, 1, 2],
        [-1, 0, 1, 2, 3, 0, 1, 2, 3, 3, 0],  # past its own count a row goes on with kept cells
    ]
    assert layout.targets.tolist() == [[41, 42], [53, 50]]
    assert layout.loss_weight.tolist() == [[1, 1], [1, 0]]


def test_editing_without_marks_and_full_regeneration():
    layout = editing_layout(CODES, TARGET, torch.ones_like(MASK), TEXT, V, marks=False)
    assert layout.token_ids.tolist()[0] == [10, 11, 12, 13, 40, 41, 42]
    assert layout.next_cells.tolist()[0] == [-1, 0, 1, 2, 3, 0, 1, 2, 3]
    assert layout.targets.tolist() == TARGET.tolist()


def test_marks_are_supervised_where_the_next_one_is_an_edited_cell():
    layout = editing_layout(CODES, TARGET, MASK, TEXT, V, supervise_marks=True)
    plain = editing_layout(CODES, TARGET, MASK, TEXT, V)
    assert torch.equal(layout.token_ids, plain.token_ids) and torch.equal(layout.next_cells, plain.next_cells)
    assert layout.targets.tolist() == [[40, 41, 42, 43, 41, 42], [50, 51, 52, 53, 53, 50]]
    assert layout.loss_weight.tolist() == [[0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
    predicted = layout.next_cells[:, -layout.num_predictions :]
    assert torch.equal(layout.targets, TARGET.gather(1, predicted))


def test_editing_layout_of_unusable_samples_only_has_no_weight():
    nothing = torch.zeros_like(MASK)
    layout = editing_layout(CODES, TARGET, nothing, TEXT, V, sample_valid=torch.zeros(2, dtype=torch.bool))
    assert layout.num_predictions == 1 and layout.loss_weight.sum() == 0


def test_prompts_are_the_training_sequences_cut_short():
    orders = raster_edit_order(MASK)
    prompt = editing_prompt(CODES, MASK, orders[:, :2], TEXT, V)
    trained = editing_layout(CODES, TARGET, MASK, TEXT, V)
    length = prompt.cells.shape[1]
    assert torch.equal(prompt.cells, trained.cells[:, :length])
    assert torch.equal(prompt.next_cells, trained.next_cells[:, :length])
    assert t2i_prompt(orders, TEXT).next_cells.tolist() == [[-1, 1], [-1, 3]]


def test_infill_aligns_rows_at_the_right():
    """Row 0 keeps two cells, row 1 three; all padding goes to the left of the text."""
    orders = raster_edit_order(MASK)[:, :2]
    layout = infill_prompt(CODES, MASK, orders, TEXT)
    assert layout.key_valid.tolist() == [[False, False, True, True, True], [True] * 5]
    contents = layout.arrange(
        torch.tensor([[[-7.0], [-8]], [[-7], [-8]]]), layout.token_ids[..., None].float()
    )
    assert contents[0, 2:, 0].tolist() == [-8, 10, 13]
    assert contents[1, :, 0].tolist() == [-7, -8, 20, 21, 22]
    assert layout.cells[0, 2:].tolist() == [-1, 0, 3] and layout.next_cells[0, 2:].tolist() == [0, 3, 1]
    assert layout.next_cells[1].tolist() == [-1, 0, 1, 2, 3]


def test_infill_of_a_whole_image_beside_a_small_one():
    mask = torch.tensor([[True] * 4, [False, False, False, True]])
    layout = infill_prompt(CODES, mask, raster_edit_order(mask), TEXT)
    assert layout.key_valid[0].tolist() == [False] * 4 + [True]  # one text slot, at the very end
    assert layout.next_cells[0, -1] == 0 and layout.cells[0, -1] == -1


def test_attention_is_causal_valid_or_itself():
    mask = t2i_prompt(raster_edit_order(MASK), TEXT).attention_mask()[:, 0]
    assert mask[0].tolist() == [[True, False], [False, True]]  # padding sees itself only
    assert mask[1].tolist() == [[True, False], [True, True]]


def test_packed_samples_do_not_see_each_other():
    import dataclasses

    layout = t2i_prompt(raster_edit_order(MASK), torch.ones(1, 4, dtype=torch.bool).expand(2, 4))
    packed = dataclasses.replace(layout, sample_ids=torch.tensor([[0, 0, 1, 1]] * 2))
    assert packed.attention_mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1],
    ]  # fmt: skip


def test_slots_never_look_behind_themselves():
    codes, valid = CODES[:, :2], torch.ones(2, 6, dtype=torch.bool)
    layout = SequenceLayout(codes, codes * 0, codes * 0 + 1, valid, torch.tensor([[3, 4], [1, 2]]), 2)
    assert layout.attention_mask()[:, 0].int().tolist() == [
        [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]], [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]],
    ]  # fmt: skip


def test_probes_see_the_prompt_and_themselves_alone():
    orders = torch.tensor([[2, 0, 1, 3]])
    prompt = t2i_prompt(orders, torch.tensor([[False, True, True]])).with_probes(orders[:, 1:])
    assert prompt.next_cells.tolist() == [[-1, -1, 2, 0, 1, 3]] and prompt.num_predictions == 4
    assert prompt.content_index.tolist() == [[0, 1, 2, 2, 2, 2]]
    assert prompt.attention_mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0],
        [0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1],
    ]  # fmt: skip


def test_region_orders_draw_a_rectangle_last():
    grid, seeds = 5, list(range(300))
    orders = region_orders(seeds, grid**2)
    sizes, num_sorted = [], 0
    for order in orders.tolist():
        assert sorted(order) == list(range(grid**2))
        num_sorted += order == sorted(order) or sum(a > b for a, b in pairwise(order)) == 1
        for start in range(1, grid**2):
            rows, columns = (
                {cell // grid for cell in order[start:]},
                {cell % grid for cell in order[start:]},
            )
            if order[:start] == sorted(order[:start]) and len(order) - start == len(rows) * len(columns):
                sizes.append((len(rows), len(columns)))
                break
    # One in 25 rectangles is the whole grid.
    assert (
        270 < len(sizes) < 300 and {(1, 1), (2, 4), (4, 2), (5, 3)} <= set(sizes) and 130 < num_sorted < 200
    )
    assert torch.equal(region_orders([7, 250], grid**2), orders[[7, 250]])
    assert region_orders([], 9).shape == (0, 9)


REGION = [5, 6, 7, 9, 10, 11]  # two rows of three in 4x4 cells
WANTED_ORDERS = {
    "raster": REGION,
    "reverse": [11, 10, 9, 7, 6, 5],
    "columns": [5, 9, 6, 10, 7, 11],
    "spiral": [6, 10, 5, 7, 11, 9],
    "outside_in": [9, 11, 7, 5, 10, 6],
    "spread": [5, 11, 6, 7, 9, 10],
}


def test_the_edited_cells_come_in_the_order_asked_for():
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, REGION] = True
    kept = [0, 1, 2, 3, 4, 8, 12, 13, 14, 15]
    for kind, wanted in WANTED_ORDERS.items():
        assert edit_orders([0], mask, [kind]).tolist() == [wanted + kept]
    drawn = edit_orders(list(range(50)), mask.expand(50, -1), ["random"])
    assert (drawn[:, :6].sort().values == torch.tensor(REGION)).all() and (
        drawn[:, 6:] == torch.tensor(kept)
    ).all()
    assert len({tuple(order) for order in drawn.tolist()}) > 40
    assert set(WANTED_ORDERS) | {"random"} == set(ORDER_KINDS)


def test_each_sample_draws_one_of_the_kinds_by_its_own_seed():
    masks = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[0] = False
    seeds = list(range(200))
    mixed = edit_orders(seeds, masks, ["raster", "reverse"])
    pure = {kind: edit_orders(seeds, masks, [kind]) for kind in ("raster", "reverse")}
    is_raster, is_reverse = ((mixed == orders).all(1) for orders in pure.values())
    assert (is_raster | is_reverse).all() and 70 < (is_raster & ~is_reverse).sum() < 130
    assert torch.equal(edit_orders(seeds[7:9], masks[7:9], ["raster", "reverse"]), mixed[7:9])
    assert torch.equal(edit_orders(seeds, masks, ["raster"]), raster_edit_order(masks))


def test_a_region_that_comes_last_may_come_in_any_kind_of_order():
    seeds = list(range(60))
    rectangles = [set(order[-4:]) for order in region_orders(seeds, 16, ["raster"]).tolist()]
    for kind in ORDER_KINDS:
        orders = region_orders(seeds, 16, [kind])
        assert [set(order[-4:]) for order in orders.tolist()] != rectangles or kind == "raster"
        assert (orders.sort(1).values == torch.arange(16)).all()
    both = region_orders(seeds, 16, ["columns", "spiral"])
    for order, columns, spiral in zip(
        both, region_orders(seeds, 16, ["columns"]), region_orders(seeds, 16, ["spiral"]), strict=True
    ):
        assert torch.equal(order, columns) or torch.equal(order, spiral)


def test_orders_of_samplers_draw_the_edited_cells_first():
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [5, 6, 9, 10]], mask[1, [0, 1, 4, 5, 8]] = True, True
    first = {kind: drawing_orders(kind, [7, 8], mask) for kind in ORDER_KINDS}
    assert first["raster"][0, :4].tolist() == [5, 6, 9, 10]
    assert first["reverse"][1, :5].tolist() == [8, 5, 4, 1, 0]
    assert first["columns"][1, :5].tolist() == [0, 4, 8, 1, 5]
    assert torch.equal(first["random"], random_orders([7, 8], 16, mask))
    for orders in first.values():
        assert orders[0, :4].sort().values.tolist() == [5, 6, 9, 10]
        assert torch.equal(orders.sort(1).values, torch.arange(16).expand(2, -1))
    whole = drawing_orders("spiral", [0], torch.ones(1, 16, dtype=torch.bool))
    assert torch.equal(whole[0], spiral_order(4))


def test_random_orders_hang_on_the_seed_alone():
    together = random_orders([3, 4], 9)
    assert torch.equal(together[1:], random_orders([4], 9))
    assert sorted(together[0].tolist()) == list(range(9))
    edited_first = random_orders([3, 4], 4, MASK)
    assert sorted(edited_first[0, :2].tolist()) == [1, 2] and edited_first[1, 0] == 3
