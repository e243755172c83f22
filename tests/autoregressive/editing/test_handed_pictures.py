"""Pictures and masks as people hand them over: in any mode, orientation, depth and range."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.editing.arguments import check_mask
from dataset.records.images import as_image, as_native_image, edit_region, load_image
from runtime.errors import UserError

WIDTH, HEIGHT = 6, 4
IMAGE = Image.new("RGB", (WIDTH, HEIGHT))
REGION = np.zeros((HEIGHT, WIDTH), bool)
REGION[:2, :3] = True
BYTES = REGION.astype(np.uint8) * 255


def pictures(folder) -> dict[str, Image.Image]:
    """Files that do not show what their numbers are, opened as people open them."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = rgba.convert("RGB").quantize(8)
    deep = Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16))
    rgba.save(folder / "alpha.png")
    rgba.convert("RGB").save(folder / "turned.png", exif=exif)
    palette.save(folder / "palette.png", transparency=0)
    deep.save(folder / "deep.png")
    return {name: Image.open(folder / f"{name}.png") for name in ("alpha", "turned", "palette", "deep")}


def test_opened_pictures_are_what_the_command_line_reads(tmp_path):
    for name, picture in pictures(tmp_path).items():
        read = load_image(tmp_path / f"{name}.png")
        assert as_image(picture).size == read.size == ((HEIGHT, WIDTH) if name == "turned" else IMAGE.size)
        assert (np.asarray(as_image(picture)) == np.asarray(read)).all(), name
        assert (np.asarray(as_image(as_image(picture))) == np.asarray(read)).all()


class SlowFile(io.BytesIO):
    """Others have their turn between any two reads."""

    def read(self, *size: int) -> bytes:
        time.sleep(0.001)
        return super().read(*size)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_threads_that_are_handed_one_opened_picture_get_all_of_it(kind):
    """Pillow reads the file when the first of them wants its pixels, and is made for one thread."""
    pixels, stream = np.random.default_rng(0).integers(0, 256, (300, 301, 3), dtype=np.uint8), SlowFile()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(stream, kind, exif=exif)
    alone = np.asarray(as_image(Image.open(io.BytesIO(stream.getvalue()))))
    assert alone.shape == (301, 300, 3)
    opened = Image.open(stream)
    with ThreadPoolExecutor(4) as threads:
        reads = [as_image, as_native_image, as_image, edit_region]
        *pictures, mask = threads.map(lambda read: read(opened), reads)
    assert all(np.array_equal(picture, alone) for picture in pictures) and mask.shape == (301, 300)


def overshot() -> np.ndarray:
    """As bicubic interpolation leaves a mask: a little below 0 and above 1."""
    return np.where(REGION, 1.02, -0.02)


def inverse_palette() -> Image.Image:
    """White is number 0, black number 1."""
    mask = Image.fromarray((~REGION).astype(np.uint8), "P")
    mask.putpalette([255, 255, 255, 0, 0, 0])
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        REGION,
        BYTES,
        BYTES.astype(np.int64),
        overshot(),
        REGION / 1.0,
        torch.tensor(overshot(), dtype=torch.bfloat16),
        torch.tensor(BYTES),
        Image.fromarray(REGION),
        Image.fromarray(BYTES),
        Image.fromarray(overshot().astype(np.float32)),
        Image.fromarray(BYTES).convert("RGB"),
        Image.fromarray(BYTES).convert("RGBA"),
        Image.fromarray(BYTES.astype(np.uint16) * 257),
        inverse_palette(),
    ],
    ids=lambda mask: f"{type(mask).__name__}-{mask.mode if isinstance(mask, Image.Image) else mask.dtype}",
)
def test_masks_of_all_types_mark_the_same_pixels(mask):
    assert (check_mask(mask, IMAGE).numpy() == REGION).all()


@pytest.mark.parametrize("read", [as_image, as_native_image])
def test_pils_floats_and_wide_numbers_are_read_in_the_range_of_arrays(read):
    """Pillow's own conversions would make the first black, and clip the last."""
    floats = Image.fromarray(np.float32([[0, 0.5, 1]]))
    assert np.array_equal(read(floats), as_image(np.array(floats))) and np.array(read(floats))[0, 1, 0] == 128
    wide = Image.fromarray(np.int32([[0, 30000, 65535]]))
    assert np.asarray(as_image(read(wide)))[0, :, 0].tolist() == [0, 117, 255]
    assert (
        not np.asarray(read(Image.new("I", (2, 2)))).any()
        and not np.asarray(read(Image.new("F", (2, 2)))).any()
    )


@pytest.mark.parametrize("read", [as_image, as_native_image, check_mask])
@pytest.mark.parametrize(
    "values", [np.int32([[0, 255]]), np.int32([[0, 1]]), np.int32([[0, 70000]]), np.int32([[-9, 9000]]),
               np.float32([[0, 255]]), np.float32([[np.nan, 1]]), np.float32([[-1, 1]])],
)  # fmt: skip
def test_pils_numbers_of_another_range_are_refused_for_pictures_as_for_masks(read, values):
    picture = Image.fromarray(values)
    more = (Image.new("RGB", picture.size),) if read is check_mask else ()
    with pytest.raises(UserError, match=r"from (0|-9|-1|nan) to (255|1|70000|9000|nan)"):
        read(picture, *more)


def test_half_of_the_range_decides():
    for low, high in ((127, 128), (np.uint16(32767), np.uint16(32768)), (0.5, 0.51), (0, 1)):
        assert (check_mask(np.where(REGION, high, low), IMAGE).numpy() == REGION).all()
    assert not check_mask(BYTES // 255 * 100, IMAGE).any()


def test_a_mask_in_another_range_is_named_in_its_batch():
    with pytest.raises(UserError, match="mask 3: its values go from 0 to 1, .* multiply it by 255"):
        check_mask(BYTES // 255, IMAGE, "mask 3")


def test_transparent_pixels_of_a_mask_are_edited():
    transparent = Image.fromarray(BYTES).convert("RGBA")
    transparent.putpixel((5, 3), (255, 255, 255, 0))
    assert check_mask(transparent, IMAGE).nonzero().tolist() == [[3, 5]]


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"the mask has the shape \(4, 6, 3\), the image is 6x4"):
        check_mask(np.zeros((HEIGHT, WIDTH, 3)), IMAGE)
