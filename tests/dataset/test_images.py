from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import SIZE, picture, png, square_mask
from PIL import Image

from autoregressive.sample.edit_run import _load_mask
from dataset.records.images import as_image, as_native_image, as_seen, load_image, load_native
from dataset.records.masks import edit_region, load_edit_region, load_magicbrush_mask
from runtime.errors import UserError


def test_modes_become_rgb(tmp_path):
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (255, 0, 0, 255))
    rgba.save(tmp_path / "rgba.png")
    rgba.quantize(4).save(tmp_path / "palette.png")
    rgba.save(tmp_path / "alpha.gif")
    Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    for name in ("rgba.png", "palette.png", "alpha.gif"):
        image = load_image(tmp_path / name)
        assert image.mode == "RGB"
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 0, 0)], name
    assert [p[0] for p in np.asarray(load_image(tmp_path / "deep.png"))[0].tolist()] == [0, 128, 255]
    assert np.abs(np.asarray(load_image(str(tmp_path / "cmyk.jpg"))).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().crop((0, 0, 6, 4)).save(tmp_path / "x.png", exif=exif)
    upright = load_image(tmp_path / "x.png")
    corner = {1: (0, 0), 2: (5, 0), 3: (5, 3), 4: (0, 3), 5: (0, 0), 6: (0, 3), 7: (5, 3), 8: (5, 0)}
    assert upright.size == ((6, 4) if orientation < 5 else (4, 6))
    assert upright.getpixel((0, 0)) == picture().getpixel(corner[orientation])
    assert as_seen(upright).tobytes() == upright.tobytes()  # not turned again


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises width x height pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


BAD_IMAGES = {
    "truncated.png": (lambda: png(picture(size=64))[:2000], "cannot be read as an image"),
    "text.png": (lambda: b"hello", "not an image"),
    "empty.png": (lambda: b"", "not an image"),
    "picture.ppm": (lambda: b"P6 1 1 255\n\0\0\0", "not an image"),
    "bomb.png": (lambda: bomb(8001, 8000), "8001x8000 is above the limit of 64 megapixels"),
    "huge.png": (lambda: bomb(100_000, 100_000), "far above the limit of 64 megapixels; make it smaller"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_named(tmp_path, name):
    content, reason = BAD_IMAGES[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(UserError, match=rf"{name}: .*{reason}"):
        load_image(tmp_path / name)


def test_missing_image_and_own_limit(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(UserError, match="none.png: no such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="is no file"):
        load_image(tmp_path)
    with pytest.raises(UserError, match="a.png: 16x16 is above the limit"):
        load_image(tmp_path / "a.png", max_pixels=255)


def test_edit_region_is_white(tmp_path):
    square_mask().save(tmp_path / "mask.png")
    square_mask(8).save(tmp_path / "small.png")
    region = load_edit_region(tmp_path / "mask.png", (SIZE, SIZE))
    assert region.nonzero().unique(dim=0).shape == (16, 2) and region[:4, 4:8].all()
    with pytest.raises(UserError, match="small.png: the mask is 8x8 but its image is 16x16"):
        load_edit_region(tmp_path / "small.png", (SIZE, SIZE))


def test_magicbrush_mask_is_transparent_or_black(tmp_path, capsys):
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(255 - np.array(square_mask())))
    image.save(tmp_path / "alpha.png")
    expected = torch.from_numpy(np.array(square_mask()) > 0).float()
    assert torch.equal(load_magicbrush_mask(tmp_path / "alpha.png"), expected)
    assert "black" not in capsys.readouterr().err

    black = np.array(picture()) | 1
    black[np.array(square_mask()) > 0] = 0
    for mode in ("RGB", "RGBA"):
        Image.fromarray(black).convert(mode).save(tmp_path / f"{mode}.png")
        assert torch.equal(load_magicbrush_mask(tmp_path / f"{mode}.png"), expected)
        assert f"{mode}.png has no transparent pixels; taking pure black" in capsys.readouterr().err


def test_what_is_not_kept_of_a_file_is_told(tmp_path, caplog):
    """Later frames of animations, CMYK, the transparent value of 16-bit grey; all else is told nothing of."""
    still, two = picture(), [picture(), picture().transpose(Image.Transpose.ROTATE_180)]
    for name in ("a.png", "a.gif", "a.webp"):
        two[0].save(tmp_path / name, save_all=True, append_images=two[1:])
        caplog.clear()
        assert load_native(tmp_path / name).size == still.size
        assert f"{name}: of its 2 frames the first is taken" in caplog.text
    still.convert("CMYK").save(tmp_path / "inks.jpg")
    assert load_native(tmp_path / "inks.jpg").mode == "RGB"
    assert "inks.jpg: its colours are CMYK, and become RGB" in caplog.text
    grey = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 9000)
    grey.save(tmp_path / "grey.png")
    content = (tmp_path / "grey.png").read_bytes()
    body = b"tRNS" + struct.pack(">H", 9000)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    start = content.index(b"IDAT") - 4
    (tmp_path / "clear.png").write_bytes(content[:start] + chunk + content[start:])
    caplog.clear()
    still.save(tmp_path / "still.gif")
    assert load_native(tmp_path / "grey.png").mode == "I;16" and load_native(tmp_path / "still.gif")
    assert not caplog.text
    clear = load_native(tmp_path / "clear.png")
    white = np.array(grey)
    white[white == 9000] = 65535
    assert clear.mode == "I;16" and np.array_equal(np.array(clear), white)
    assert "clear.png: transparency beside 16-bit grey is not kept, it becomes white" in caplog.text


def test_a_test_sets_mask_is_brought_to_its_images_size_but_never_to_another_shape(tmp_path):
    for name, size in (("small", (8, 8)), ("wide", (16, 8))):
        mask = Image.new("RGBA", size, (0, 0, 0, 255))
        mask.paste((0, 0, 0, 0), (0, 0, 4, 4))
        mask.save(tmp_path / f"{name}.png")
    assert _load_mask(tmp_path / "small.png", picture()).region.sum() == 16
    with pytest.raises(UserError, match="wide.png: the mask is 16x8, of another shape than its image 16x16"):
        _load_mask(tmp_path / "wide.png", picture())


@pytest.mark.parametrize("read", [load_image, load_edit_region, load_magicbrush_mask])
def test_every_reader_tells_of_frames_it_does_not_take_once_a_file(tmp_path, caplog, read):
    two = [square_mask(), square_mask().transpose(Image.Transpose.ROTATE_180)]
    for name in ("a.png", "a.gif", "a.webp"):
        two[0].save(tmp_path / name, save_all=True, append_images=two[1:])
        caplog.clear()
        read(tmp_path / name), read(str(tmp_path / name))
        assert caplog.text.count(f"{name}: of its 2 frames the first is taken") == 1


def test_no_more_than_some_files_are_told_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("dataset.records.images._told", set())
    monkeypatch.setattr("dataset.records.images._MOST_TOLD", 2)
    for name in "abc":
        picture(1).save(tmp_path / f"{name}.gif", save_all=True, append_images=[picture()])
        load_image(tmp_path / f"{name}.gif")
    told = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert told == ["of its 2 frames the first is taken"] * 2 + ["nothing is said of further such files"]


def _keyed(folder: Path, depth: int, color: int, rows: bytes, key: bytes, width: int) -> Path:
    """A PNG of one row with a transparent colour, in bits that Pillow does not write."""

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)
    parts = [b"IHDR" + header, b"tRNS" + key, b"IDAT" + zlib.compress(b"\0" + rows), b"IEND"]
    path = folder / f"{depth}-{color}.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, parts)))
    return path


KEYED = {  # depth, colour type, its one row, its key, and what is seen of its red
    "grey of 16 bits": (16, 0, struct.pack(">3H", 0, 30000, 257), struct.pack(">H", 30000), [0, 255, 1]),
    "grey of 2 bits": (2, 0, bytes([0b00011000]), struct.pack(">H", 1), [0, 255, 170]),
    "grey of 4 bits": (4, 0, bytes([0x03, 0x70]), struct.pack(">H", 3), [0, 255, 119]),
    "colours of 16 bits": (
        16, 2, struct.pack(">9H", *[0] * 3, *[0x1234] * 3, *[0x3434] * 3), struct.pack(">3H", *[0x1234] * 3),
        [0, 255, 0x34],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYED)
def test_the_one_transparent_colour_of_a_png_is_the_one_that_its_file_names(tmp_path, kind):
    *parts, seen = KEYED[kind]
    path = _keyed(tmp_path, *parts, width=3)
    assert np.array(load_image(path))[0, :, 0].tolist() == seen
    assert np.array(as_seen(load_native(path)))[0, :, 0].tolist() == seen
    assert load_edit_region(path).tolist() == [[0, 1, 0]] == load_magicbrush_mask(path).tolist()
    opened = Image.open(path)  # as people hand it over, more than once
    assert edit_region(opened).tolist() == [[0, 1, 0]]
    assert np.array(as_image(opened))[0, :, 0].tolist() == seen
    assert np.array(as_seen(as_native_image(opened)))[0, :, 0].tolist() == seen
