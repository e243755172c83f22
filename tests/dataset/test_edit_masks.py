from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, run_program

from dataset.edit_masks import (
    EmptyMaskError,
    _bicubic_weights,
    _enlarge,
    cells_to_pixels,
    full_mask,
    jitter_mask,
    pool_edit_mask,
    resize_mask,
)
from dataset.records.masks import load_edit_region
from runtime.errors import UserError

REFERENCE = ROOT / "tests" / "reference" / "token_masks"
EXPECTED = json.loads((REFERENCE / "expected.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("grid", [16, 32])
def test_published_rule_gives_the_recorded_cells(name, grid):
    mask = load_edit_region(REFERENCE / name)[None]
    cells = pool_edit_mask(mask, grid, "published").nonzero().flatten().tolist()
    assert cells == EXPECTED[name][f"{grid}x{grid}"]


def table(text: str) -> torch.Tensor:
    return torch.tensor([[float(c == "#") for c in line] for line in text.split()])


# 6x6 pixels on a 3x3 grid: cells of 2x2.
SIX = table("""
    ......
    .#....
    ......
    ....##
    ......
    ......
""")


def test_exact_rule_by_hand():
    assert pool_edit_mask(SIX[None], 3, "exact").view(3, 3).tolist() == [
        [True, False, False],
        [False, False, True],
        [False, False, False],
    ]


def test_exact_rule_on_a_grid_that_does_not_divide():
    # 5 rows on 2 cells: the edge is at round(2.5) = 2; 7 columns: round(3.5) = 4.
    mask = table("....... .......  ...#... ....... .......")
    assert pool_edit_mask(mask[None], 2, "exact").tolist() == [False, False, True, False]
    covered = cells_to_pixels(torch.tensor([False, False, True, False]), 2, 5, 7)
    assert torch.equal(covered, table("....... ....... ####... ####... ####...").bool())


def test_published_rule_uses_overlapping_cells_where_512_is_not_a_multiple():
    # Grid 3 at 512: adaptive windows are rows 0-170, 170-341, 341-511; pixel row 170 is in the first two.
    mask = torch.zeros(1, 512, 512)
    mask[0, 170, 0] = 1
    assert pool_edit_mask(mask, 3).nonzero().flatten().tolist() == [0, 3]


def dense_weights(length: int) -> torch.Tensor:
    """(512, length) float64, the slow way: every pixel lit alone."""
    lit = torch.eye(length)[None, None]
    return F.interpolate(lit, size=(512, length), mode="bicubic", align_corners=False)[0, 0].double()


@pytest.mark.parametrize(
    "lengths",
    [range(1, 70), range(70, 1400, 61), (256, 511, 512, 513, 768, 1024), (2047, 2048, 2049, 3001), (5003,)],
    ids=str,
)
def test_bicubic_weights_are_those_of_every_pixel_lit_alone(lengths):
    for length in lengths:
        read, weights = _bicubic_weights(length)
        dense = dense_weights(length)
        assert len(read) == length if length <= 2048 else len(read) <= 2048
        assert torch.equal(weights, dense[:, read])
        dense[:, read] = 0
        assert not dense.any()


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 700), (256, 256), (333, 500), (1000, 600), (2300, 40), (70, 4099)]
)
def test_enlarged_masks_are_those_of_the_dense_weights(shape):
    rng = torch.Generator().manual_seed(0)
    vertical, horizontal = map(dense_weights, shape)
    for share in (0.001, 0.3, 0.9):
        region = torch.rand(shape, generator=rng) < share
        region[shape[0] // 2, shape[1] // 2] = True
        expected = (vertical @ region.double() @ horizontal.T).float()
        assert torch.equal(_enlarge(region), expected)
        cells = F.max_pool2d(expected[None], 32).flatten() > 0
        assert torch.equal(pool_edit_mask(region[None].float(), 16), cells)


@pytest.mark.parametrize("shape", [(30, 30_000), (30_000, 30), (100, 20_000), (1, 60_000)])
def test_long_thin_masks_take_little_memory(shape):
    code = (
        "import resource, torch\n"
        "from dataset.edit_masks import pool_edit_mask\n"
        "pool_edit_mask(torch.ones(1, 16, 24), 4)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"assert pool_edit_mask(torch.ones(1, *{shape}), 16).all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    assert int(run_program("-c", code).stdout) < 150_000  # kilobytes; the mask itself has 2 to 8 thousand


@pytest.mark.parametrize("shape", [(6000, 60), (60, 6000), (4100, 4100)])
def test_the_published_rule_loses_no_speck_of_a_large_mask(shape):
    """It reads four pixels in eight or in twelve."""
    for start in range(12):
        mask = torch.zeros(1, *shape)
        top, left = (side // 2 + start for side in shape)
        mask[0, top, left] = 1
        cells = pool_edit_mask(mask, 16)
        assert cells.any() and (cells | ~pool_edit_mask(mask, 16, "exact")).all()


def test_exact_cells_pixel_by_pixel():
    rng = np.random.default_rng(0)
    for height, width, grid in ((7, 5, 2), (5, 40, 9), (3, 3, 5), (31, 64, 16)):
        region = torch.from_numpy(rng.random((height, width)) < 0.1)
        region[1, 2] = True
        expected = torch.zeros(grid, grid, dtype=torch.bool)
        for y, x in region.nonzero().tolist():
            (row,) = [
                r for r in range(grid) if round(r * height / grid) <= y < round((r + 1) * height / grid)
            ]
            (column,) = [
                c for c in range(grid) if round(c * width / grid) <= x < round((c + 1) * width / grid)
            ]
            expected[row, column] = True
        assert torch.equal(pool_edit_mask(region[None].float(), grid, "exact"), expected.flatten())


def test_published_rule_spreads_one_pixel_by_hand():
    # One pixel per cell. The cubic kernel is positive up to 1 pixel away and negative from 1 to 2, so what is
    # 1 to 2 away in both directions is a product of two negatives: positive again.
    mask = torch.zeros(1, 8, 8)
    mask[0, 3, 3] = 1
    expected = table("""
        ........
        .##.##..
        .#####..
        ..###...
        .#####..
        .##.##..
        ........
        ........
    """)
    assert torch.equal(pool_edit_mask(mask, 8).view(8, 8), expected.bool())


def test_exact_cells_cover_the_region_and_published_contains_exact():
    torch.manual_seed(0)
    for _ in range(20):
        mask = torch.zeros(1, 72, 72)
        top, left, height, width = torch.randint(1, 30, (4,)).tolist()
        mask[:, top : top + height, left : left + width] = 1
        exact = pool_edit_mask(mask, 9, "exact")
        assert (cells_to_pixels(exact, 9, 72, 72) >= mask[0].bool()).all()
        assert (pool_edit_mask(mask, 9) >= exact).all()


def test_threshold_comes_before_the_bicubic_step():
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 0.5
    with pytest.raises(EmptyMaskError, match="64x64 mask marks no pixel"):
        pool_edit_mask(mask, 4)
    mask[0, 40, 40] = 0.51
    assert pool_edit_mask(mask, 4).nonzero().flatten().tolist() == [10]


@pytest.mark.parametrize("rule", ["published", "exact"])
def test_empty_mask_and_unknown_rule(rule):
    with pytest.raises(EmptyMaskError):
        pool_edit_mask(torch.zeros(1, 8, 8), 2, rule)
    with pytest.raises(UserError, match="unknown mask rule 'nearest'"):
        pool_edit_mask(torch.ones(1, 8, 8), 2, "nearest")
    assert torch.equal(pool_edit_mask(torch.ones(1, 8, 8), 2, rule), full_mask(2))


# A block, and a strip along the lower border.
TWO_PARTS = table("""
    .......
    .###...
    .###...
    .###...
    .......
    ....###
""")


def test_resized_masks_by_hand():
    widened = table("#####.. #####.. #####.. #####.. ####### ...####")
    assert torch.equal(resize_mask(TWO_PARTS[None], 1)[0], widened)
    shrunk = table("....... ....... ..#.... ....... ....... .......")
    for pixels in (-1, -2, -50):  # the last pixel stays
        assert torch.equal(resize_mask(TWO_PARTS[None], pixels)[0], shrunk)
    assert resize_mask(TWO_PARTS[None].bool(), 1).dtype == torch.bool
    assert torch.equal(resize_mask(TWO_PARTS[None], 0)[0], TWO_PARTS)


def test_masks_do_not_shrink_from_the_border_of_the_image():
    left = table("###... ###... ###...")
    assert torch.equal(resize_mask(left[None], -2)[0], table("#..... #..... #....."))
    assert resize_mask(torch.ones(1, 4, 5), -3).all()
    assert resize_mask(torch.ones(1, 4, 5), -(10**12)).all()  # at once
    assert torch.equal(resize_mask(left[None], 10**12), torch.ones(1, 3, 6))
    assert not resize_mask(torch.zeros(1, 4, 5), -3).any() and not resize_mask(torch.zeros(1, 4, 5), 3).any()


def test_jitter_draws_every_growth_and_shift_up_to_its_pixels():
    mask = torch.zeros(1, 12, 12)
    mask[0, 4:7, 4:7] = 1  # 3x3 around (5, 5)
    sides, centres = set(), set()
    for seed in range(400):
        jittered = jitter_mask(mask, 2, np.random.default_rng(seed))
        assert torch.equal(jittered, jitter_mask(mask, 2, np.random.default_rng(seed)))
        rows, columns = jittered[0].nonzero().T
        side = int(rows.max() - rows.min()) + 1
        assert side**2 == len(rows), "not a filled square"
        sides.add(side)
        centres.add((int(rows.sum()) // len(rows), int(columns.sum()) // len(columns)))
    assert sides == {1, 3, 5, 7} and centres == {(y, x) for y in range(3, 8) for x in range(3, 8)}


def test_jitter_that_would_empty_a_mask_keeps_it():
    corner = torch.zeros(1, 6, 5)
    corner[0, 0, 0] = 1
    jittered = [jitter_mask(corner, 4, np.random.default_rng(seed)) for seed in range(200)]
    assert all(mask.any() for mask in jittered)
    # Shrinking by any amount would empty it: 4 draws of 9, and there are shifts out of the image.
    assert sum(torch.equal(mask, corner) for mask in jittered) > 200 * 4 / 9
