"""Crops: the squares that the model sees of a photograph, and pictures of all kinds given back whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageCms, ImageOps
from scipy import ndimage
from torch import Tensor

from autoregressive.decoding.engine import Drawn
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.arguments import EditOptions
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.crop import MOST_CROPS, Window, crop_windows, put, views_of
from autoregressive.editing.model_folders import Defaults
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from dataset.edit_masks import EmptyMaskError
from dataset.records.images import as_native, as_seen
from runtime.errors import UserError
from runtime.pictures import save_picture

PLAIN = {"sampling": Sampling(cfg_scale=1.0), "mask_rule": "exact"}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
MODEL, GRID = 24, 3  # the tiny pipeline's


def _given(codes: Tensor, *args, **options) -> Drawn:
    """Draws what was there."""
    return Drawn(codes.cpu(), [1] * len(codes))


@pytest.fixture(scope="module")
def pipeline(gpt_ckpts, vq_ckpt, t5_dir) -> EditingPipeline:
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


def region_of(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    region = np.zeros(size[::-1], bool)
    for left, top, right, bottom in boxes:
        region[top:bottom, left:right] = True
    return region


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def windows(size, *boxes, model_size: int = 72, grid: int = 9, padding: int | None = None) -> list[Window]:
    return crop_windows(torch.from_numpy(region_of(size, *boxes)), model_size, grid, padding)


@pytest.mark.parametrize(
    ("size", "boxes", "expected"),
    [
        ((4000, 3000), [(2400, 1000, 2800, 1400)], [(2199, 799, 3000, 1600)]),  # twice the region's side
        ((4000, 3000), [(2000, 1500, 2001, 1501)], [(1964, 1464, 2036, 1536)]),  # one pixel: the model's side
        ((4000, 3000), [(0, 0, 10, 10)], [(0, 0, 72, 72)]),
        ((4000, 3000), [(3990, 2990, 4000, 3000)], [(3928, 2928, 4000, 3000)]),
        ((4000, 3000), [(0, 1000, 30, 1020)], [(0, 974, 72, 1046)]),
        ((4000, 3000), [(0, 0, 2000, 2000)], [(0, 0, 2997, 2997)]),  # the largest square of whole cells
        ((4000, 3000), [(0, 0, 4000, 3000)], [(0, 0, 4000, 3000)]),
        ((4000, 3000), [(100, 0, 200, 3000)], [(0, 0, 3000, 3000)]),  # as wide as high
        ((97, 1031), [(0, 500, 97, 510)], [(0, 456, 97, 553)]),
        ((97, 1031), [(10, 500, 12, 502)], [(0, 465, 72, 537)]),
        ((97, 1031), [(10, 100, 12, 400)], [(0, 0, 97, 603)]),  # longer than the short side: no square
        ((40, 30), [(5, 5, 6, 6)], [(0, 0, 27, 27)]),  # smaller than the model's size
        ((5, 4), [(2, 2, 3, 3)], [(0, 0, 4, 4)]),
        ((1, 1), [(0, 0, 1, 1)], [(0, 0, 1, 1)]),
        (
            (4000, 3000),
            [(100, 100, 110, 110), (3000, 100, 3010, 110), (1500, 2500, 1900, 2900)],
            [(69, 69, 141, 141), (2969, 69, 3041, 141), (1299, 2199, 2100, 3000)],
        ),
        ((4000, 3000), [(100, 100, 110, 110), (140, 100, 150, 110)], [(71, 51, 179, 159)]),  # near each other
    ],
)
def test_windows(size, boxes, expected):
    assert windows(size, *boxes) == expected


def test_padding_is_what_the_square_has_around_the_region():
    assert windows((4000, 3000), (1000, 1000, 1300, 1100), padding=0) == [(997, 897, 1303, 1203)]
    assert windows((4000, 3000), (1000, 1000, 1300, 1100), padding=30) == [(970, 870, 1330, 1230)]
    assert windows((4000, 3000), (1000, 1000, 1300, 1100), padding=10**6) == [(0, 0, 2997, 2997)]


def test_windows_of_any_region_hold_it_and_share_no_pixel():
    rng = np.random.default_rng(0)
    for _ in range(200):
        width, height = rng.integers(1, 400, 2).tolist()
        region = np.zeros((height, width), bool)
        for _ in range(rng.integers(1, 6)):
            left, top = int(rng.integers(width)), int(rng.integers(height))
            region[top : top + int(rng.integers(1, 60)), left : left + int(rng.integers(1, 60))] = True
        found = crop_windows(torch.from_numpy(region), 72, 9)
        seen = np.zeros((height, width), int)
        for window in found:
            assert 0 <= window.left < window.right <= width and 0 <= window.top < window.bottom <= height
            seen[window.top : window.bottom, window.left : window.right] += 1
            inside = region[window.top : window.bottom, window.left : window.right]
            assert inside.any()
            longest = max(np.ptp(axis) + 1 for axis in inside.nonzero())
            side, short = max(window.size), min(width, height)
            assert window.size == (side, side) or longest > short
            assert side >= min(72, short // 9 * 9)
            assert side % 9 == 0 or longest > short // 9 * 9
        assert (seen[region] == 1).all() and seen.max() == 1


def test_many_parts_are_one():
    spots = [(100 + 400 * i, 100 + 400 * j, 104 + 400 * i, 104 + 400 * j) for i in range(9) for j in range(7)]
    assert len(windows((4000, 3000), *spots[:MOST_CROPS])) == MOST_CROPS
    assert len(windows((4000, 3000), *spots[: MOST_CROPS + 1])) == 1
    rng = np.random.default_rng(0)
    assert len(crop_windows(torch.from_numpy(rng.random((3000, 4000)) > 0.999), 72, 9)) == 1


def test_auto_takes_the_whole_where_squares_would_hold_most_of_it():
    def seen(size, box, crop):
        region, how = torch.from_numpy(region_of(size, box)), EditOptions(crop=crop, mask_rule="exact")
        views = views_of(0, size, region, None, how=how.over(Defaults()), grid=9, model_size=72)
        return [tuple(view.window) for view in views]

    whole = [(0, 0, 4000, 3000)]
    assert seen((4000, 3000), (0, 0, 400, 400), "none") == whole
    assert seen((4000, 3000), (500, 500, 2500, 2500), "auto") == [(1, 1, 2998, 2998)]
    assert seen((3900, 3000), (500, 500, 2500, 2500), "auto") == [(0, 0, 3900, 3000)]
    assert seen((3900, 3000), (500, 500, 2500, 2500), "region") == [(1, 1, 2998, 2998)]
    assert seen((72, 72), (3, 3, 5, 5), "auto") == seen((72, 72), (3, 3, 5, 5), "region") == [(0, 0, 72, 72)]


SIZES = [(400, 300), (97, 1031), (17, 11), (24, 24), (61, 47)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", ["auto", "region"])
def test_what_is_outside_of_the_edited_cells_stays(pipeline, size, crop):
    width, height = size
    source = noise(width, height)
    places = [(0, 0, 1, 1), (width - 1, height - 1, width, height), (0, height // 2, 5, height // 2 + 3)]
    masks = [region_of(size, place) for place in places]
    masks += [region_of(size, places[0], places[1]), np.ones((height, width), bool), None]
    for mask in masks:
        result = pipeline.edit(source, "make it red", mask, crop=crop, **PLAIN)[0]
        edited, region = np.asarray(result.image), result.region.numpy()
        assert result.image.size == size and (edited[~region] == source[~region]).all()
        assert mask is None or (region | ~mask).all()  # all that is masked may change
        assert (edited != source).any()
        cells = np.zeros((height, width), bool)
        for part in result.crops:
            left, top, right, bottom = part.box
            edges = [[round(i * n / GRID) for i in range(GRID + 1)] for n in (bottom - top, right - left)]
            for cell in part.edit_mask.nonzero().flatten().tolist():
                (y0, y1), (x0, x1) = (edges[a][k : k + 2] for a, k in enumerate(divmod(cell, GRID)))
                cells[top + y0 : top + y1, left + x0 : left + x1] = True
        assert (cells == region).all()


def test_a_photograph_of_twelve_megapixels(pipeline):
    source = Image.fromarray(noise(4000, 3000))
    mask = region_of((4000, 3000), (2400, 1000, 2800, 1400), (10, 2980, 30, 3000))
    result = pipeline.edit(source, "make it red", mask, crop="auto", **PLAIN)[0]
    assert [part.box for part in result.crops] == [(2199, 799, 3000, 1600), (0, 2958, 42, 3000)]
    region = result.region.numpy()
    assert region[mask].all() and region.mean() < 0.06
    assert (np.asarray(result.image)[~region] == np.asarray(source)[~region]).all()


def test_known_codes_land_where_they_were(pipeline, monkeypatch):
    """An edit that draws the crop's own codes shows the crop as the tokenizer gives it back."""
    source = noise(400, 300)
    mask = region_of((400, 300), (200, 100, 203, 103))
    drawn = pipeline.edit(source, "make it red", mask, crop="region", **PLAIN)[0]
    left, top, right, bottom = drawn.crops[0].box
    assert (right - left, bottom - top) == (MODEL, MODEL)
    assert (np.asarray(drawn.crops[0].seen) == source[top:bottom, left:right]).all()
    codes = pipeline.encode([source[top:bottom, left:right]])
    monkeypatch.setattr(pipeline.token_editor, "edit", _given)
    for known in (None, codes):
        same = pipeline.edit(source, "x", mask, crop="region", source_codes=known, **PLAIN)[0]
        expected, region = source.copy(), same.region.numpy()
        expected[top:bottom, left:right] = np.asarray(pipeline.decode(codes)[0])
        assert torch.equal(same.codes, codes[0]) and region.any()
        assert (np.asarray(same.image)[region] == expected[region]).all()
        assert (np.asarray(same.image)[~region] == source[~region]).all()


@pytest.fixture
def perfect(pipeline, monkeypatch) -> EditingPipeline:
    """Its tokenizer loses nothing, and its transformer draws the codes that were there."""
    seen: list[Image.Image] = []

    def encode(images):
        seen.extend(images)
        return torch.arange(len(seen) - len(images), len(seen))[:, None].expand(-1, GRID**2)

    monkeypatch.setattr(pipeline, "encode", encode)
    monkeypatch.setattr(pipeline, "decode", lambda codes: [seen[number] for number in codes[:, 0]])
    monkeypatch.setattr(pipeline.token_editor, "edit", _given)
    return pipeline


def test_an_identity_edit_at_the_models_size_changes_nothing(perfect):
    source = noise(200, 150)
    for box in ((0, 0, 1, 1), (100, 70, 103, 75), (199, 149, 200, 150), (0, 149, 3, 150)):
        result = perfect.edit(source, "x", region_of((200, 150), box), crop="region", **PLAIN)[0]
        assert result.region.any() and (np.asarray(result.image) == source).all()


@pytest.mark.parametrize("side", [48, 75, 120, 201])
def test_an_identity_edit_of_a_larger_crop_moves_nothing(perfect, side):
    """A soft spot stays where it is within a twentieth of a pixel."""
    y, x = np.mgrid[:300, :400]
    for cy, cx in ((150.3, 200.7), (60.0, 70.0), (250.5, 300.2)):
        spot = 200 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (side / 8) ** 2))
        source = np.repeat(np.rint(spot)[..., None], 3, axis=2).astype(np.uint8)
        half = side // 4
        box = (int(cx) - half, int(cy) - half, int(cx) + half, int(cy) + half)
        mask = region_of((400, 300), box)
        result = perfect.edit(source, "x", mask, crop="region", crop_padding=side // 4, **PLAIN)[0]
        left, top, right, bottom = result.crops[0].box
        assert right - left == bottom - top == -(-(2 * half + 2 * (side // 4)) // GRID) * GRID
        before, after = (
            ndimage.center_of_mass(picture[..., 0].astype(float) * result.region.numpy())
            for picture in (source, np.asarray(result.image))
        )
        assert np.abs(np.subtract(before, after)).max() < 0.05


@pytest.fixture(scope="module")
def shipped() -> EditingPipeline:
    return EditingPipeline.from_pretrained(ROOT / "pretrained_models" / "shapes")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Twelve megapixels of wall; at (2011, 1103) a scene of the kind that the shipped models know."""
    scene = (
        Image.open(ROOT / "assets" / "scene.png").convert("RGB").resize((720, 720), Image.Resampling.BICUBIC)
    )
    pixels = np.full((3000, 4000, 3), 150, np.uint8)
    pixels[1103:1823, 2011:2731] = np.asarray(scene)
    return pixels


def blue(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 2].astype(int) - pixels[..., 0] > 60


def test_known_codes_of_the_shipped_models_land_to_the_pixel(shipped, photo, monkeypatch):
    """A star, drawn anew from its crop's own codes, 10 pixels for one of the model's."""
    mask = region_of((4000, 3000), (2171, 1263, 2571, 1663))
    monkeypatch.setattr(shipped.token_editor, "edit", _given)
    result = shipped.edit(photo, "x", mask, crop="auto", crop_padding=160)[0]
    assert result.crops[0].box == (2011, 1103, 2731, 1823)
    edited, region = np.asarray(result.image), result.region.numpy()
    assert region[mask].all() and (edited[~region] == photo[~region]).all()
    before, after = blue(photo), blue(edited)
    moved = np.subtract(ndimage.center_of_mass(after), ndimage.center_of_mass(before))
    assert np.abs(moved).max() < 1 and abs(after.sum() / before.sum() - 1) < 0.03
    assert np.abs(edited[region].astype(int) - photo[region]).mean() < 3


def test_the_shipped_models_edit_a_region_of_400_pixels(shipped, photo):
    """A star becomes a circle; of the whole picture the model would see it 3 pixels wide."""
    mask = region_of((4000, 3000), (2171, 1263, 2571, 1663))
    words = "turn the large blue star into a circle"
    result = shipped.edit(photo, words, mask, crop="auto", crop_padding=160)[0]
    region = result.region.numpy()
    assert (np.asarray(result.image)[~region] == photo[~region]).all()
    star, circle = blue(photo), blue(np.asarray(result.image))
    assert circle.sum() > 1.5 * star.sum() and not circle[~region].any()
    height, width = (np.ptp(axis) + 1 for axis in circle.nonzero())
    assert abs(circle.sum() / (height * width) - np.pi / 4) < 0.03  # of its box


def test_an_edit_in_several_parts_is_the_same_in_any_batch(pipeline):
    size = (400, 300)
    sources, prompts = [noise(*size, seed=seed) for seed in range(3)], ["red", "a blue square", "remove it"]
    masks = [
        region_of(size, (5, 5, 9, 9), (300, 200, 310, 210)),
        None,
        region_of(size, (50, 50, 60, 60), (390, 0, 400, 9), (0, 290, 4, 300)),
    ]
    options = {**PLAIN, "sampling": Sampling(cfg_scale=1.0, temperature=2.0), "crop": "auto"}
    together = pipeline.edit(sources, prompts, masks, seeds=4, num_samples=2, **options)
    assert [len(result.crops) for result in together] == [2, 2, 1, 1, 3, 3]
    for i, result in enumerate(together):
        asked = (sources[i // 2], prompts[i // 2], masks[i // 2])
        alone = pipeline.edit(*asked, seeds=[4 + i], **options)[0]
        assert (np.asarray(alone.image) == np.asarray(result.image)).all()
        assert alone.num_tokens == result.num_tokens == sum(int(c.edit_mask.sum()) for c in result.crops)
    assert (np.asarray(together[0].image) != np.asarray(together[1].image)).any()
    with pytest.raises(UserError, match="source_codes are those of what the model sees, one crop"):
        pipeline.edit(
            sources[0], "red", masks[0], crop="auto", source_codes=torch.zeros(1, 9, dtype=torch.long)
        )


def test_a_region_that_is_found_is_cropped_too(pipeline, monkeypatch):
    """Its cells are those that hold some of it: only hand-drawn masks are widened by the rule "published"."""
    source = noise(400, 300)
    found = torch.arange(GRID**2) == 4
    monkeypatch.setattr(AutoMaskSettings, "region", lambda self, scores, grid: found[None])
    options = {"sampling": PLAIN["sampling"], "mask_rule": "published", "crop_padding": 134}
    cropped = pipeline.edit(source, "a red circle", "auto", crop="region", **options)[0]
    assert cropped.crops[0].box == (50, 0, 350, 300)
    # The cell found is 133 to 267 by 100 to 200: all columns of the crop, and its middle row alone.
    assert cropped.edit_mask.view(GRID, GRID).tolist() == [[False] * 3, [True] * 3, [False] * 3]
    monkeypatch.undo()
    result = pipeline.edit(source, "a red circle", "auto", crop="region", **PLAIN)[0]
    whole = pipeline.edit(source, "a red circle", "auto", **PLAIN)[0]
    found, region = whole.region.numpy(), result.region.numpy()
    assert region[found].all() and (np.asarray(result.image)[~region] == source[~region]).all()
    assert "locate" in result.timings


def files(folder) -> dict[str, Image.Image]:
    """Photographs of each kind, and what Pillow itself says that they hold, upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    colour = Image.fromarray(noise(120, 90))
    alpha = Image.fromarray(noise(120, 90, 4))
    deep = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (90, 120)).astype(np.uint16))
    colour.save(folder / "rgb.png", icc_profile=SRGB)
    alpha.save(folder / "rgba.png", icc_profile=SRGB)
    alpha.save(folder / "rgba.webp", lossless=True, exact=True)
    alpha.convert("LA").save(folder / "la.png")
    deep.save(folder / "deep.png", icc_profile=GREY)
    deep.save(folder / "turned_deep.png", exif=exif)
    colour.convert("L").save(folder / "grey.png")
    colour.convert("1").save(folder / "bits.png")
    colour.quantize(32).save(folder / "palette.png")
    colour.quantize(32).save(folder / "clear_palette.png", transparency=3)
    colour.save(folder / "keyed.png", transparency=tuple(np.asarray(colour)[0, 0].tolist()))
    colour.save(folder / "turned.jpg", exif=exif, icc_profile=SRGB, quality=90)
    colour.save(folder / "photo.webp", quality=80, icc_profile=SRGB)
    colour.save(folder / "photo.bmp")
    modes = {
        "rgba": "RGBA",
        "la": "RGBA",
        "clear": "RGBA",
        "keyed": "RGBA",
        "deep": "I;16",
        "turned_d": "I;16",
    }
    held = {}
    for path in sorted(folder.iterdir()):
        mode = next((mode for start, mode in modes.items() if path.name.startswith(start)), "RGB")
        upright = ImageOps.exif_transpose(Image.open(path))
        held[path.name] = upright if mode == "I;16" else upright.convert(mode)
    return held


def test_pictures_of_each_kind_come_back_whole(pipeline, tmp_path):
    (tmp_path / "in").mkdir()
    held = files(tmp_path / "in")
    assert len(held) == 14
    for name, expected in held.items():
        mask = region_of(expected.size, (30, 30, 40, 36))
        for picture in (tmp_path / "in" / name, Image.open(tmp_path / "in" / name)):
            result = pipeline.edit(picture, "make it red", mask, crop="region", **PLAIN)[0]
            suffix = ".webp" if name == "rgba.webp" else ".png"
            save_picture(result.image, tmp_path / f"out{suffix}")
            written, region = Image.open(tmp_path / f"out{suffix}"), result.region.numpy()
            assert written.mode == expected.mode and written.size == expected.size, name
            before, after = np.asarray(expected), np.asarray(written)
            assert (before[~region] == after[~region]).all() and (before != after).any(), name
            if written.mode == "RGBA":
                assert (before[..., 3] == after[..., 3]).all(), name
            assert written.info.get("icc_profile") == Image.open(tmp_path / "in" / name).info.get(
                "icc_profile"
            )
            assert not written.getexif(), name


def test_the_whole_way_is_as_it_was(pipeline, tmp_path):
    """crop "none" gives 8-bit RGB over white, from the picture squashed to a square."""
    for name in files(tmp_path):
        picture = Image.open(tmp_path / name)
        seen = as_seen(picture)
        assert (np.asarray(as_seen(as_native(picture))) == np.asarray(seen)).all(), name
        result = pipeline.edit(picture, "make it red", region_of(seen.size, (30, 30, 40, 36)), **PLAIN)[0]
        kept = ~result.region.numpy()
        assert result.image.mode == "RGB" and result.crops[0].box == (0, 0, *seen.size)
        assert (np.asarray(result.image)[kept] == np.asarray(seen)[kept]).all(), name
        assert torch.equal(pipeline.encode([result.crops[0].seen]), pipeline.encode([seen]))


def test_edited_colours_look_as_decoded_whatever_their_opacity():
    opacity = np.array([255, 200, 128, 40, 0], np.uint8)
    pixels = np.zeros((1, 5, 4), np.uint8)
    pixels[..., 3] = opacity
    colour = Image.new("RGB", (5, 1), (250, 240, 230))
    put(pixels, colour, torch.ones(1, 5, dtype=torch.bool))
    assert (pixels[0, :, 3] == opacity).all()
    seen = np.asarray(as_seen(Image.fromarray(pixels)))[0].astype(int)
    assert np.abs(seen[:4] - (250, 240, 230)).max() <= 1
    deep = np.zeros((1, 5), np.uint16)
    put(deep, Image.new("RGB", (5, 1), (200, 200, 200)), torch.tensor([[True, False, True, True, True]]))
    assert deep.tolist() == [[200 * 257, 0, *[200 * 257] * 3]]


def test_a_transparent_region_is_warned_of(pipeline, capfd):
    clear = noise(100, 100, 4)
    clear[..., 3] = 0
    for mask, told in ((region_of((100, 100), (5, 5, 9, 9)), True), (np.ones((100, 100), bool), False)):
        if not told:
            clear[0, 0, 3] = 255
        pipeline.edit(Image.fromarray(clear), "make it red", mask, crop="region", **PLAIN)
        assert ("is transparent in its picture" in capfd.readouterr().err) == told


def test_a_session_of_crops_leaves_the_rest_alone_and_undoes(pipeline):
    source = Image.fromarray(noise(400, 300, 4))
    session = EditSession(pipeline, source, crop="auto")
    touched, states = np.zeros((300, 400), bool), [np.asarray(session.image)]
    for turn, box in enumerate([(5, 5, 9, 9), (200, 200, 260, 240), (7, 7, 12, 12), (390, 290, 400, 300)]):
        result = session.edit("a red circle", region_of((400, 300), box), seed=turn, **PLAIN)
        touched |= result.region.numpy()
        now = np.asarray(session.image)
        kept = ~result.region.numpy()
        assert (now[kept] == states[-1][kept]).all() and (now != states[-1]).any()
        states.append(now)
    assert session.image.mode == "RGBA" and touched.mean() < 0.2
    assert (states[-1][~touched] == states[0][~touched]).all()
    assert torch.equal(session.codes, pipeline.encode([session.image])[0])
    for state in reversed(states[:-1]):
        session.undo()
        assert (np.asarray(session.image) == state).all()
    with pytest.raises(UserError, match="crop 'all' is not known; use one of none, auto, region"):
        EditSession(pipeline, source, crop="all")


def test_wrong_choices_are_named(pipeline):
    source = noise(100, 100)
    for options, message in (
        ({"crop": "best"}, "crop 'best' is not known; use one of none, auto, region"),
        ({"crop_padding": -1, "crop": "auto"}, "crop_padding is -1; give 0 or more pixels"),
        ({"crop_padding": 1.5, "crop": "auto"}, "crop_padding 1.5 is of type float"),
        ({"crop_padding": 3}, "crop_padding 3 without a crop: give crop 'auto' or 'region' too"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.edit(source, "x", **options)
    for crop in ("auto", "region"):
        with pytest.raises(EmptyMaskError, match="100x100 mask marks no pixel"):
            pipeline.edit(source, "x", np.zeros((100, 100)), crop=crop)
        with pytest.raises(UserError, match="the image is 100x100"):
            pipeline.edit(source, "x", np.ones((24, 24)), crop=crop)


def test_real_photographs(pipeline, tmp_path):
    """Those that come with scikit-image: squares and others, JPEG and PNG, colour and grey."""
    data = pytest.importorskip("skimage.data", reason="needs the extra `photos`")
    names = ["astronaut.png", "retina.jpg", "hubble_deep_field.jpg", "rocket.jpg", "coffee.png", "coins.png"]
    for name in names:
        path = Path(data.__file__).parent / name
        source = np.asarray(Image.open(path).convert("RGB"))
        height, width = source.shape[:2]
        mask = region_of((width, height), (width // 2, height // 3, width // 2 + 40, height // 3 + 30))
        result = pipeline.edit(path, "make it red", mask, crop="auto", **PLAIN)[0]
        save_picture(result.image, tmp_path / "out.png")
        edited, region = np.asarray(Image.open(tmp_path / "out.png")), result.region.numpy()
        assert result.crops[0].seen.size == (MODEL, MODEL) and region[mask].all() and region.mean() < 0.1
        assert (edited[~region] == source[~region]).all() and (edited != source).any(), name


def test_widened_masks_are_widened_in_the_pictures_own_pixels(pipeline):
    mask = region_of((400, 300), (200, 100, 203, 103))
    plain, wide = (
        pipeline.edit(noise(400, 300), "x", mask, crop="region", mask_error=pixels, **PLAIN)[0]
        for pixels in (0, 20)
    )
    assert plain.crops[0].box == (189, 89, 213, 113)
    assert wide.crops[0].box == (158, 58, 245, 145) and wide.region.numpy()[80:123, 180:223].all()


def test_other_composites_stay_in_their_crop(pipeline):
    source, mask = noise(400, 300), region_of((400, 300), (200, 100, 203, 103))
    for composite in ("mask", "none", "published"):
        result = pipeline.edit(source, "x", mask, crop="region", composite=composite, **PLAIN)[0]
        left, top, right, bottom = result.crops[0].box
        region = result.region.numpy().copy()
        assert (np.asarray(result.image)[~region] == source[~region]).all()
        assert composite != "mask" or (region == mask).all()
        assert composite != "none" or region[top:bottom, left:right].all()
        region[top:bottom, left:right] = False
        assert not region.any()


def test_crops_are_fields_of_the_options_like_others():
    how = EditOptions(crop="auto", crop_padding=7).over(Defaults())
    assert (how.crop, how.crop_padding) == ("auto", 7)
    assert (EditOptions().crop, EditOptions().crop_padding) == ("none", None)
