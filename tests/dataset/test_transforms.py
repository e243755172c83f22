from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.edit_masks import pool_edit_mask
from dataset.records.images import image_to_tensor
from dataset.transforms import dilate, joint_transform, stage1_transform, trim_white_borders
from runtime.errors import UserError


def picture(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row, blue is 0."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def to_pixels(tensor: torch.Tensor) -> torch.Tensor:
    return ((tensor + 1) * 127.5).round().long()


def test_tensor_range():
    pixels = np.array([[[0, 127, 255]]], dtype=np.uint8)
    tensor = image_to_tensor(Image.fromarray(pixels))
    assert tensor.shape == (3, 1, 1) and tensor.dtype == torch.float32
    assert tensor.flatten().tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])


def test_white_borders_are_trimmed():
    page = Image.new("RGB", (40, 30), (255, 251, 255))
    page.paste(picture(20, 10), (7, 9))
    assert np.array_equal(np.asarray(trim_white_borders(page)), np.asarray(picture(20, 10)))
    almost = Image.new("RGB", (40, 30), (255, 250, 255))
    assert trim_white_borders(almost).size == (40, 30)
    with pytest.raises(UserError, match="40x30 image is white all over"):
        trim_white_borders(Image.new("RGB", (40, 30), (255, 255, 255)))


def test_stage1_crops_the_middle():
    assert to_pixels(stage1_transform(picture(30, 20), 20))[:, 0, 0].tolist() == [5, 0, 0]
    assert to_pixels(stage1_transform(picture(20, 30), 20))[:, 0, 0].tolist() == [0, 5, 0]


def test_stage1_halves_with_a_box():
    # 40 -> 20 by one halving: each pixel is the mean of a 2x2 block (bicubic would overshoot the checks).
    checks = np.kron(np.indices((20, 20)).sum(0) % 2, np.array([[200, 0], [0, 200]])).astype(np.uint8)
    image = Image.fromarray(np.stack([checks] * 3, axis=2))
    expected = checks.reshape(20, 2, 20, 2).mean(axis=(1, 3)).round()
    assert to_pixels(stage1_transform(image, 20))[0].tolist() == expected.astype(int).tolist()


def test_stage1_refuses_small_images():
    with pytest.raises(UserError, match="30x19, its short side is below 20"):
        stage1_transform(picture(30, 19), 20)
    assert stage1_transform(picture(20, 20), 20).shape == (3, 20, 20)


def test_joint_crop_is_the_same_for_all_three():
    region = torch.from_numpy(np.array(picture(60, 20))[..., 0] >= 30).float()
    places = set()
    for seed in range(8):
        source, edited, mask = joint_transform(picture(60, 20), picture(60, 20), region, 20, rng(seed))
        columns = to_pixels(source)[0, 0]
        places.add(int(columns[0]))
        assert torch.equal(source, edited)
        assert torch.equal(mask[0, 0].bool(), columns >= 30)
    assert len(places) > 4


def test_joint_center_crop_and_flip():
    pair = picture(60, 20), picture(60, 20)
    region = torch.zeros(20, 60)
    region[:, 20:25] = 1
    flipped = set()
    for seed in range(12):
        source, edited, mask = joint_transform(
            *pair, region, 20, rng(seed), center_crop=True, random_flip=True
        )
        columns = to_pixels(source)[0, 0].tolist()
        assert columns in (list(range(20, 40)), list(range(39, 19, -1)))
        assert mask[0, 0].tolist() == [float(column < 25) for column in columns]
        assert torch.equal(source, edited)
        flipped.add(columns[0])
    assert flipped == {20, 39}


def test_joint_resize_thresholds_the_mask():
    region = torch.zeros(40, 40)
    region[:21, :] = 1  # row 10 of the half-size mask is half covered, or a little more after smoothing
    source, _, mask = joint_transform(picture(40, 40), picture(40, 40), region, 20, rng(), center_crop=True)
    assert source.shape == (3, 20, 20) and mask.shape == (1, 20, 20)
    assert set(mask.unique().tolist()) == {0, 1}
    assert mask[0, :10].all() and not mask[0, 11:].any()


def test_joint_without_mask_and_with_wrong_sizes():
    assert joint_transform(picture(30, 20), picture(30, 20), None, 20, rng())[2] is None
    with pytest.raises(UserError, match="edited image is 31x20 but the source is 30x20"):
        joint_transform(picture(30, 20), picture(31, 20), None, 20, rng())
    with pytest.raises(UserError, match="mask is 20x30 but the source is 30x20"):
        joint_transform(picture(30, 20), picture(30, 20), torch.zeros(30, 20), 20, rng())


def test_long_thin_images_are_not_enlarged_to_gigabytes():
    strip = Image.new("RGB", (60_000, 1))
    with pytest.raises(UserError, match="60000x1, too long and thin to enlarge to 64"):
        joint_transform(strip, strip, None, 64, rng())
    page = Image.new("RGB", (60_000, 64), (255, 255, 255))
    page.paste(strip, (0, 30))
    with pytest.raises(UserError, match="too long and thin"):
        stage1_transform(page, 64)


def test_dilate_by_hand():
    region = torch.zeros(1, 5, 6)
    region[0, 1, 1] = 1
    expected = torch.zeros(1, 5, 6)
    expected[0, :4, :4] = 1
    assert torch.equal(dilate(region, 2), expected)
    assert torch.equal(dilate(region, 0), region)


SIZES = {"wide": (60, 40), "tall": (40, 60), "reduced": (240, 160), "strip": (200, 20)}
SIDES = {
    "left": (slice(None), slice(0, 4)),
    "right": (slice(None), slice(-4, None)),
    "top": (slice(0, 4), slice(None)),
    "corner": (slice(-1, None), slice(-1, None)),
    "first corner": (slice(0, 1), slice(0, 1)),
}


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SIZES)
def test_no_crop_loses_the_mask(shape, side, flip, center):
    width, height = SIZES[shape]
    region = torch.zeros(height, width)
    region[SIDES[side]] = 1
    image = picture(width, height)
    for seed in range(20):
        source, _, mask = joint_transform(
            image, image, region, 20, rng(seed), center_crop=center, random_flip=flip
        )
        again, _, same = joint_transform(
            image, image, region, 20, rng(seed), center_crop=center, random_flip=flip
        )
        assert pool_edit_mask(mask, 4).any() and torch.equal(mask, same) and torch.equal(source, again)


def test_a_mask_in_the_middle_leaves_the_crop_as_drawn():
    region = torch.zeros(20, 30)
    region[:, 10:20] = 1
    image = picture(30, 20)
    for seed in range(20):
        draws = rng(seed)
        left, _ = int(draws.integers(11)), int(draws.integers(1))
        flip = draws.random() < 0.5
        source, _, mask = joint_transform(image, image, region, 20, rng(seed), random_flip=True)
        columns = to_pixels(source)[0, 0].tolist()
        assert columns == list(range(left, left + 20))[:: -1 if flip else 1]
        assert torch.equal(mask[0, 0] > 0, torch.tensor([10 <= column < 20 for column in columns]))


def test_a_centre_crop_moves_no_further_than_to_the_mask():
    region = torch.zeros(20, 60)
    region[:, :5] = 1
    source, _, mask = joint_transform(picture(60, 20), picture(60, 20), region, 20, rng(), center_crop=True)
    assert to_pixels(source)[0, 0, 0] == 4 and mask.sum() == 20


def test_an_empty_mask_stays_empty():
    image = picture(60, 20)
    assert not joint_transform(image, image, torch.zeros(20, 60), 20, rng())[2].any()
