from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchmetrics.functional.image import structural_similarity_index_measure

from dataset.records.images import load_image
from evaluations.editing.registry import (
    EMU_METRICS,
    MAGICBRUSH_METRICS,
    Metric,
    PairFeatures,
    PairImages,
    measure_pair,
    select_metrics,
)
from evaluations.images import load_region, load_rgb, resize_rgb
from evaluations.metrics.formulas import (
    PSNR_CAP,
    EditStep,
    cosine,
    direction_cosine,
    half_interval95,
    l1,
    l2,
    mean_over_pairs,
    psnr,
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
    values = measure_pair([MAGICBRUSH_METRICS["region"]], images, "pair")
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
    def names(asked, *provided, add=()):
        return [metric.name for metric in select_metrics(asked, MAGICBRUSH_METRICS, provided, add)]

    assert names("l1, L2,l1,") == ["l1", "l2"]
    assert names("clip-t,dino", "caption") == ["clip-t", "dino"]
    assert names("unchanged", "region", add=("region", "unchanged")) == ["unchanged", "region"]
    for asked, message in (("l1,l3", "unknown metric 'l3'.*l1, l2"), (",", "names no metric"),
                           ("clip-dir", "unknown metric 'clip-dir'"), ("region", "regions-path"),
                           ("clip-t", "'clip-t' needs captions.*--caption_path")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            names(asked)


def test_cosines_in_closed_form():
    x, y = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 2.0])
    assert cosine(x, y) == 0 and cosine(x, -2 * x) == -1
    assert cosine(x, x + y) == pytest.approx(3 / math.sqrt(13), abs=1e-12)
    assert math.isnan(cosine(x, 0 * x))
    # From x to y is (-3, 2); the captions go straight up.
    assert direction_cosine((x, y), (0 * x, y)) == pytest.approx(2 / math.sqrt(13), abs=1e-12)
    assert direction_cosine((x, x), (0 * x, y)) == 0
    assert direction_cosine((x, y), (y, y)) is None and direction_cosine((x, x), (y, y)) is None
    assert direction_cosine((x, x + 1e-6), (0 * x, y)) == 0  # float32 noise is no direction
    assert math.isnan(direction_cosine((0 * x, 0 * x), (0 * x, y)))
    assert math.isnan(direction_cosine((x, x + math.nan), (0 * x, y)))


def test_numbers_of_features():
    up, right = torch.tensor([0.0, 5.0]), torch.tensor([2.0, 0.0])
    features = PairFeatures(up, right, source=right, caption=up + right, input_caption=right)
    images = PairImages(flat(0.0), flat(0.0), features=dict.fromkeys(("clip", "dino", "clip-l14"), features))
    emu = measure_pair(
        [EMU_METRICS["clip-i"], EMU_METRICS["clip-t"], EMU_METRICS["clip-dir-l14"]], images, ""
    )
    cos_out = 5 / math.sqrt(29)
    assert emu["clip-i"] == 0 and emu["clip-out"] == pytest.approx(cos_out, abs=1e-12)
    assert emu["clip-dir"] == pytest.approx(cos_out, abs=1e-12)
    # Of length 1: from (1, 0) to (0, 1), and from (1, 0) to (2, 5) / sqrt(29).
    step = torch.tensor([2 / math.sqrt(29) - 1, cos_out], dtype=torch.float64)
    expected = cosine(torch.tensor([-1.0, 1.0]), step)
    assert emu["clip-dir-l14"] == pytest.approx(expected, abs=1e-7)
    brush = measure_pair([MAGICBRUSH_METRICS["clip-t"], MAGICBRUSH_METRICS["dino"]], images, "")
    assert brush["clip-t_oracle"] == pytest.approx(2 / math.sqrt(29), abs=1e-12) and brush["dino"] == 0
    silent = PairImages(flat(0.0), flat(0.0), features={"clip": PairFeatures(up, right, right)})
    assert measure_pair([EMU_METRICS["clip-t"]], silent, "") == {"clip-out": None, "clip-dir": None}


def test_lpips_by_side_of_the_region():
    class Lpips:
        def distance(self, image, other):
            return 0.25

        def distance_map(self, image, other):
            return (image - other).abs()[:1]

    changed = flat(0.5)
    changed[:, :, :8] = 1.0
    metric = [MAGICBRUSH_METRICS["lpips"]]
    images = PairImages(changed, flat(0.5), region=left_half(), networks={"lpips": Lpips()})
    assert measure_pair(metric, images, "") == {"lpips": 0.25, "inside_lpips": 0.5, "outside_lpips": 0.0}
    everywhere = PairImages(changed, flat(0.5), region=left_half() | True, networks={"lpips": Lpips()})
    assert measure_pair(metric, everywhere, "")["outside_lpips"] is None
    assert measure_pair(metric, PairImages(changed, flat(0.5), networks={"lpips": Lpips()}), "") == {
        "lpips": 0.25
    }


def test_interval_of_seeds():
    # t(0.975) for 2 and 11 degrees of freedom: 4.302653 and 2.200985.
    assert half_interval95([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    values = [0.0, 1.0] * 6
    assert half_interval95(values) == pytest.approx(2.200985 * math.sqrt(3 / 11 / 12), rel=1e-6)
    assert half_interval95([0.3]) is None and half_interval95([0.3, 0.3]) == 0


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
    assert load_rgb(path).shape == (2, 4, 3) and (load_rgb(path) == 255).all()  # over white
    with pytest.raises(UserError, match="transparency"):
        load_region(path)
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(path)
    assert load_region(path).tolist() == [[False, False, True, True]]
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(path)
    assert (load_rgb(path) == 156).all()
    with pytest.raises(UserError, match="nothing.png"):
        load_rgb(tmp_path / "nothing.png")


def _turned(path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.effect_noise((6, 4), 90).convert("RGB").save(path, exif=exif)


def _transparent(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8), "RGBA").save(path)


def _transparent_palette(path):
    palette = Image.effect_noise((6, 4), 90).convert("RGB").quantize(8)
    palette.save(path, transparency=3)


PICTURES = {
    "exif": _turned,
    "rgba": _transparent,
    "palette": _transparent_palette,
    "grey and alpha": lambda path: Image.new("LA", (6, 4), (90, 100)).save(path),
    "16 bits": lambda path: Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2700).save(path),
}


@pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)
def test_evaluators_read_pictures_as_samplers_do(tmp_path, make):
    """So that an untouched picture, written by a sampler, is unchanged."""
    make(tmp_path / "source.png")
    seen = load_image(tmp_path / "source.png")
    seen.save(tmp_path / "result.png")
    source, result = load_rgb(tmp_path / "source.png"), load_rgb(tmp_path / "result.png")
    np.testing.assert_array_equal(source, np.asarray(seen))
    np.testing.assert_array_equal(source, result)


def test_images_are_read_within_the_projects_limits(tmp_path):
    path = tmp_path / "image.png"
    Image.new("1", (9000, 9000)).save(path)
    for load in (load_rgb, load_region):
        with pytest.raises(UserError, match="image.png: 9000x9000 is above the limit of 64 megapixels"):
            load(path)
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    with pytest.raises(UserError, match="image.png: not an image of a known format .PNG, JPEG"):
        load_rgb(path)


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
