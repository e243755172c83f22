from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.transforms import dilate, image_to_tensor, joint_transform, stage1_transform, trim_white_borders
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


def photograph(width: int, height: int, box: tuple[int, int, int, int]) -> tuple[Image.Image, torch.Tensor]:
    """A picture and its region: left, top, right, bottom."""
    region = torch.zeros(height, width)
    left, top, right, bottom = box
    region[top:bottom, left:right] = 1
    return picture(width, height), region


NEAR_A_SIDE = [
    (60, 40, (0, 10, 4, 20)), (60, 40, (56, 0, 60, 40)), (40, 60, (5, 0, 9, 3)), (40, 60, (0, 57, 40, 60)),
    (180, 120, (0, 0, 9, 9)), (90, 20, (89, 19, 90, 20)), (20, 90, (0, 89, 1, 90)), (600, 400, (0, 0, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("center_crop", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("width", "height", "box"), NEAR_A_SIDE)
def test_a_crop_holds_a_masked_pixel_wherever_the_mask_is(width, height, box, flip, center_crop):
    image, region = photograph(width, height, box)
    options = {"center_crop": center_crop, "random_flip": flip}
    for seed in range(20):
        _, _, mask = joint_transform(image, image, region, 20, rng(seed), **options)
        assert mask.any(), seed
        again = joint_transform(image, image, region, 20, rng(seed), **options)[2]
        assert torch.equal(mask, again)


def test_a_crop_that_holds_the_mask_stays_where_it_was_drawn():
    image, region = photograph(60, 20, (25, 5, 35, 15))  # 60 - 20 = 40 places; 5 to 34 hold it
    for seed in range(50):
        drawn = int(rng(seed).integers(41))
        source, _, mask = joint_transform(image, image, region, 20, rng(seed))
        left = int(to_pixels(source)[0, 0, 0])
        assert mask.any()
        assert left == drawn or not 6 <= drawn <= 34
        assert 6 <= left <= 34


def test_crops_drawn_anew_spread_over_all_places_that_hold_the_mask():
    image, region = photograph(60, 20, (0, 0, 10, 20))
    lefts = [
        int(to_pixels(joint_transform(image, image, region, 20, rng(s))[0])[0, 0, 0]) for s in range(400)
    ]
    assert set(lefts) == set(range(10))


def test_a_centre_crop_moves_no_farther_than_it_must():
    image, region = photograph(60, 20, (0, 0, 5, 20))
    source, _, mask = joint_transform(image, image, region, 20, rng(), center_crop=True)
    assert int(to_pixels(source)[0, 0, 0]) == 4 and mask.sum() == 20


def test_a_mask_that_is_empty_stays_empty():
    image, region = photograph(60, 40, (0, 0, 0, 0))
    assert not joint_transform(image, image, region, 20, rng())[2].any()
