from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from evaluations.images import load_region, load_rgb, resize_rgb
from evaluations.metrics import (
    METRICS,
    PSNR_CAP,
    EditStep,
    Metric,
    PairImages,
    l1,
    l2,
    mean_over_pairs,
    measure_pair,
    psnr,
    select_metrics,
    ssim,
    ssim_map,
    to_tensor,
    unchanged_pixel_share,
)
from runtime.errors import UserError


def flat(value: float, size: int = 16) -> torch.Tensor:
    return torch.full((3, size, size), value)


def left_half(size: int = 16) -> torch.Tensor:
    where = torch.zeros(size, size, dtype=torch.bool)
    where[:, : size // 2] = True
    return where


def test_flat_images_in_closed_form():
    assert l1(flat(0.25), flat(0.75)) == 0.5
    assert l2(flat(0.25), flat(0.75)) == 0.25
    assert psnr(flat(0.0), flat(0.1)) == pytest.approx(20, abs=1e-5)
    assert psnr(flat(0.3), flat(0.3)) == PSNR_CAP
    # Without variance only the luminance term is left: (2ab + C1) / (a^2 + b^2 + C1).
    assert ssim(flat(0.2), flat(0.6)) == pytest.approx((0.24 + 1e-4) / (0.4 + 1e-4), rel=1e-6)
    assert ssim(flat(0.2), flat(0.2)) == pytest.approx(1, abs=1e-12)


def test_one_channel_counts_a_third():
    other = flat(0.0)
    other[1] = 1
    assert l1(flat(0.0), other) == pytest.approx(1 / 3)


def test_regions_see_their_side_only():
    changed = flat(0.5)
    changed[:, :, :8] = 1.0
    assert l1(changed, flat(0.5), left_half()) == 0.5
    assert l1(changed, flat(0.5), ~left_half()) == 0
    assert l2(changed, flat(0.5), left_half()) == 0.25
    assert psnr(changed, flat(0.5), ~left_half()) == PSNR_CAP
    assert ssim(changed, flat(0.5), ~left_half()) > ssim(changed, flat(0.5), left_half())


def test_ssim_agrees_with_torchmetrics():
    random = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 32, 40, generator=random) for _ in range(2))
    b = 0.7 * a + 0.3 * b
    _, full = structural_similarity_index_measure(
        a[None].double(), b[None].double(), data_range=1.0, return_full_image=True
    )
    torch.testing.assert_close(ssim_map(a, b), full[0], atol=1e-9, rtol=0)
    assert math.isfinite(ssim(flat(0.1, 4), flat(0.2, 4)))


def test_unchanged_pixel_share():
    source = np.zeros((4, 4, 3), np.uint8)
    generated = source.copy()
    region = np.zeros((4, 4), bool)
    region[:2] = True
    generated[:2] = 9
    assert unchanged_pixel_share(EditStep(generated, source, region)) == 1
    generated[3, 0, 2] = 1
    assert unchanged_pixel_share(EditStep(generated, source, region)) == 7 / 8
    assert unchanged_pixel_share(EditStep(generated, source, np.ones((4, 4), bool))) is None
    assert unchanged_pixel_share(EditStep(generated, source, np.zeros((4, 4), bool))) == 7 / 16
    assert unchanged_pixel_share(EditStep(generated, np.zeros((8, 8, 3), np.uint8), region)) == 0


@pytest.mark.parametrize(("everything", "undefined"), [(True, "outside"), (False, "inside")])
def test_region_all_or_none_leaves_one_side_undefined(everything, undefined):
    images = PairImages(flat(0.25), flat(0.5), region=torch.full((16, 16), everything))
    values = measure_pair([METRICS["region"]], images, "pair")
    defined = "inside" if everything else "outside"
    assert all(values[f"{undefined}_{name}"] is None for name in ("l1", "l2", "psnr", "ssim"))
    assert values[f"{defined}_l1"] == 0.25


def test_means_skip_undefined_numbers():
    means = mean_over_pairs([{"a": 1.0, "b": None}, {"a": 2.0, "b": None}, {"a": None, "b": None}])
    assert means == {"a": 1.5, "b": None}
    values = [{"a": value} for value in (1e16, 1.0, -1e16, 0.1, 0.3)]
    assert mean_over_pairs(values) == mean_over_pairs(values[::-1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_number_names_the_pair(value):
    broken = Metric("broken", lambda images: {"similarity": value})
    with pytest.raises(UserError, match="similarity of session 7 turn 2"):
        measure_pair([broken], PairImages(flat(0.0), flat(0.0)), "session 7 turn 2")


def test_selection():
    assert [metric.name for metric in select_metrics(["l1", "l2", "l1"], ())] == ["l1", "l2"]
    for name in ("clip-i", "clip-t", "dino", "lpips"):
        with pytest.raises(UserError, match=f"'{name}' is not available yet.*l1, l2"):
            select_metrics(["l1", name], {"caption"})
    with pytest.raises(UserError, match="unknown metric 'l3'.*l1, l2"):
        select_metrics(["l3"], ())
    with pytest.raises(UserError, match="regions-path"):
        select_metrics(["region"], ())


def test_to_tensor_and_resize():
    image = np.zeros((2, 3, 3), np.uint8)
    image[1, 2, 0] = 255
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 3) and tensor[0, 1, 2] == 1 and tensor.sum() == 1
    assert resize_rgb(image, 2, 3) is image
    expected = np.asarray(Image.fromarray(image).resize((7, 5)))
    np.testing.assert_array_equal(resize_rgb(image, 5, 7), expected)


def test_reading_images(tmp_path):
    path = tmp_path / "image.png"
    Image.new("LA", (4, 2), (90, 0)).save(path)
    assert load_rgb(path).shape == (2, 4, 3) and (load_rgb(path) == 90).all()
    with pytest.raises(UserError, match="transparency"):
        load_region(path)
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(path)
    assert load_region(path).tolist() == [[False, False, True, True]]
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(path)
    with pytest.raises(UserError, match="8 bits"):
        load_rgb(path)
    with pytest.raises(UserError, match="nothing.png"):
        load_rgb(tmp_path / "nothing.png")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_unreadable_image_is_named(tmp_path, damage):
    path = tmp_path / "broken.png"
    Image.effect_noise((64, 64), 50).save(path)
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "text": b"not an image"}[damage]
    )
    with pytest.raises(UserError, match="broken.png"):
        load_rgb(path)
