"""Saved pictures: bytes that fit the suffix, and what a photograph says of its colours and its resolution."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture, square_mask
from PIL import Image, ImageCms, ImageFont

from autoregressive.editing.crop import compose
from autoregressive.editing.pictures import enlarge
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from autoregressive.sample import file_edits, sample_editing
from autoregressive.sample.file_edits import comparison, read_jobs, require_usable
from autoregressive.sample.flags import SampleEditing
from dataset.records.images import MAX_PIXELS, as_image, load_image
from evaluations.report.edit_grid import EditItem, edit_grid, to_image
from runtime import pictures
from runtime.errors import UserError
from runtime.pictures import FORMATS, require_saveable, save_picture, shortened

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY, CMYK = (SRGB[:16] + space + SRGB[20:] for space in (b"GRAY", b"CMYK"))
NAMES = ["a.png", "a.PNG", "a.b.webp", "a.bmp", "a.jpg", "a.JPEG", f"{'ü' * 125}a.png"]  # 255 bytes


@pytest.fixture(autouse=True)
def _new_run():
    """Notices that come once a run come once a test."""
    pictures._notice_loss.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_fit_the_suffix(tmp_path, name):
    save_picture(picture(), tmp_path / name)
    with Image.open(tmp_path / name) as written:
        assert written.format == FORMATS[Path(name).suffix.lower()]
    if written.format != "JPEG":
        assert (np.asarray(load_image(tmp_path / name)) == np.asarray(picture())).all()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_profile_that_a_format_has_no_place_for_is_told_of(tmp_path, caplog):
    image = picture()
    image.info["icc_profile"] = SRGB
    for name in ("a.png", "a.webp", "a.bmp"):
        save_picture(image, tmp_path / name)
        lost = Image.open(tmp_path / name).info.get("icc_profile") != SRGB
        assert lost == (name == "a.bmp") == ("no place for the picture's colour profile" in caplog.text)


@pytest.mark.parametrize("name", ["a", "a.gif", "a.tiff", "a.jpg.bak", ".png", "a."])
def test_other_suffixes_are_refused_by_name(tmp_path, name):
    for write in (save_picture, lambda image, path: edit_grid([EditItem(image, image, "x", image)], path)):
        with pytest.raises(UserError, match=rf"{name}: .*; use one of \.png, \.webp, \.bmp, \.jpg, \.jpeg$"):
            write(picture(), tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"{name}: pictures are not written as"):
        SampleEditing(image="in.png", prompt="x", output=name)
    with pytest.raises(UserError, match=f"{name}: pictures are not written as"):
        SampleEditing(image="in.png", prompt="x", comparison=name)


def test_a_list_names_the_line_of_a_bad_output(tmp_path):
    picture().save(tmp_path / "in.png")
    lines = [{"image": "in.png", "prompt": "x", "output": name} for name in ("a.png", "b.gif")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = SampleEditing(list=str(tmp_path / "list.jsonl"))
    with pytest.raises(UserError, match=r"list.jsonl line 2: .*b.gif: pictures are not written as .gif"):
        require_usable(read_jobs(config), config)


def test_pictures_too_long_for_their_format_are_refused_before_the_edit(tmp_path):
    Image.new("RGB", (16_400, 2)).save(tmp_path / "in.png")
    Image.new("RGB", (6_000, 2)).save(tmp_path / "short.png")
    for image, flags in (
        ("in.png", {"output": "a.webp"}),
        ("short.png", {"output": "a.webp", "comparison": "b.webp"}),  # three times as wide
    ):
        flags = {name: str(tmp_path / value) for name, value in {"image": image, **flags}.items()}
        config = SampleEditing(prompt="make it red", **flags)
        with pytest.raises(UserError, match=r"[ab].webp: 1[68].00x2 is more than a WEBP file takes, 16383"):
            require_usable(read_jobs(config), config)
    require_saveable(tmp_path / "a.png", (100_000, 600))
    with pytest.raises(UserError, match="is more than a JPEG file takes, 65500 pixels a side; write .png"):
        require_saveable(tmp_path / "a.jpg", (65_501, 2))


def test_jpeg_says_once_that_it_keeps_no_pixel(tmp_path, capsys):
    for number in range(3):
        save_picture(picture(), tmp_path / f"{number}.webp")
    assert "JPEG" not in capsys.readouterr().err
    for number in range(3):
        save_picture(picture(), tmp_path / f"{number}.jpg")
    assert capsys.readouterr().err.count("write .png, .webp or .bmp to keep them bit for bit") == 1


@pytest.fixture(scope="module")
def pipeline(gpt_ckpts, vq_ckpt, t5_dir) -> EditingPipeline:
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


def photograph(path: Path, **options: object) -> Path:
    picture(3, 64).save(path, **{"icc_profile": SRGB, "dpi": (300, 150), **options})
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_edits_keep_the_profile_and_the_resolution(tmp_path, pipeline, name):
    source = load_image(photograph(tmp_path / name))
    mask = np.array(square_mask(64))
    result = pipeline.edit(source, "make it red", mask)[0].image
    session = EditSession(pipeline, Image.open(tmp_path / name))
    for _ in range(2):
        session.edit("make it red", mask)
    seen = [source, result, session.image, comparison(source, pipeline.edit(source, "make it red", mask)[0])]
    for image in seen:
        assert image.info["icc_profile"] == SRGB
        if not name.endswith("webp"):  # which has no place for it
            assert [round(value) for value in image.info["dpi"]] == [300, 150]
        for suffix in FORMATS:
            save_picture(image, tmp_path / f"out{suffix}")
            with Image.open(tmp_path / f"out{suffix}") as written:
                if suffix != ".bmp":
                    assert written.info["icc_profile"] == SRGB
                if suffix != ".webp" and not name.endswith("webp"):
                    assert [round(value) for value in written.info["dpi"]] == [300, 150]


def test_turned_photographs_are_turned_once_and_so_is_their_resolution(tmp_path, pipeline):
    exif = Image.Exif()
    exif[0x0112] = 6
    source = load_image(photograph(tmp_path / "a.jpg", exif=exif))
    assert [round(value) for value in source.info["dpi"]] == [150, 300]
    result = pipeline.edit(source, "make it red")[0].image
    assert set(result.info) == {"icc_profile", "dpi"}
    save_picture(result, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as written:
        assert not written.getexif() and written.size == source.size


@pytest.mark.parametrize(
    ("mode", "profile", "kept"),
    [("RGB", SRGB, True), ("RGBA", SRGB, True), ("P", SRGB, True), ("L", GREY, False), ("LA", GREY, False),
     ("1", GREY, False), ("RGB", GREY, False), ("RGB", CMYK, False), ("RGB", b"no profile", False)],
)  # fmt: skip
def test_a_profile_stays_where_it_fits(tmp_path, mode, profile, kept):
    image = Image.new(mode, (8, 8))
    image.save(tmp_path / "in.png", icc_profile=profile)
    seen = load_image(tmp_path / "in.png")
    edited = compose(seen, picture(0, 8), torch.ones(8, 8, dtype=torch.bool))
    for info in (seen.info, as_image(Image.open(tmp_path / "in.png")).info, edited.info):
        assert info == ({"icc_profile": SRGB} if kept else {})
    save_picture(edited, tmp_path / "out.png")
    assert ("icc_profile" in Image.open(tmp_path / "out.png").info) == kept


def test_cmyk_profiles_do_not_outlive_their_colours(tmp_path):
    Image.new("CMYK", (8, 8)).save(tmp_path / "in.jpg", icc_profile=CMYK, dpi=(72, 72))
    assert load_image(tmp_path / "in.jpg").info == {"dpi": (72, 72)}


@pytest.mark.parametrize(
    "dpi", [(0, 0), (float("nan"), 1), (1e9, 1), (-3, 3), (300,), 300, "300", ("x", "y"), (None, 1)], ids=str
)
def test_a_resolution_that_is_none_is_left_out(tmp_path, dpi):
    image = picture()
    image.info["dpi"] = dpi
    for suffix in FORMATS:
        save_picture(image, tmp_path / f"a{suffix}")
    assert "dpi" not in Image.open(tmp_path / "a.png").info and "dpi" not in as_image(image).info


def test_the_program_writes_what_the_names_say(tmp_path, pipeline, monkeypatch):
    photograph(tmp_path / "in.jpg")
    square_mask(64).save(tmp_path / "mask.png")
    files = {"image": "in.jpg", "mask": "mask.png", "output": "out.webp", "comparison": "side.bmp"}
    config = SampleEditing(
        prompt="make it red", device="cpu", **{key: str(tmp_path / name) for key, name in files.items()}
    )
    monkeypatch.setattr(sample_editing, "parse", lambda kind: config)
    monkeypatch.setattr(file_edits, "load_pipeline", lambda *args: pipeline)
    sample_editing.main()
    out, side = (Image.open(tmp_path / name) for name in ("out.webp", "side.bmp"))
    assert (out.format, side.format) == ("WEBP", "BMP") and out.info["icc_profile"] == SRGB
    before, after = np.asarray(load_image(tmp_path / "in.jpg")), np.asarray(load_image(tmp_path / "out.webp"))
    assert (before[43:] == after[43:]).all() and (before != after).any()  # the mask is in the upper two rows


def test_the_data_of_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    picture(1).save(tmp_path / "a.webp", lossless=True)
    before = (tmp_path / "a.webp").read_bytes()

    def broken(self, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(UserError, match="cannot write .*a.webp: No space left on device"):
        save_picture(picture(), tmp_path / "a.webp")
    assert (tmp_path / "a.webp").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_thin_pictures_are_not_enlarged_without_bounds():
    assert enlarge(picture(), 40).size == (48, 48)
    long = enlarge(Image.new("RGB", (100_000, 2)), 144)
    assert long.width * long.height <= MAX_PIXELS and long.size == (100_000 * 17, 2 * 17)
    assert enlarge(Image.new("RGB", (2, 2)), 1).size == (2, 2)


def test_contact_sheets_show_pictures_as_viewers_do(tmp_path):
    """Opened pictures and arrays beside the files: upright, over white, 16 bits scaled."""
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    picture(0, 8).crop((0, 0, 8, 4)).save(tmp_path / "turned.png", exif=exif)
    clear = picture(0, 8).convert("RGBA")
    clear.putalpha(square_mask(8))
    clear.save(tmp_path / "clear.png")
    clear.quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for name in ("turned", "clear", "palette", "deep"):
        path = tmp_path / f"{name}.png"
        read = np.asarray(load_image(path))
        assert (np.asarray(to_image(path)) == read).all(), name
        assert (np.asarray(to_image(str(path))) == read).all(), name
        assert (np.asarray(to_image(Image.open(path))) == read).all(), name
    assert (np.asarray(to_image(deep)) == np.asarray(load_image(tmp_path / "deep.png"))).all()
    assert (np.asarray(to_image(np.eye(3, dtype=bool)))[..., 0] == 255 * np.eye(3)).all()


def test_a_long_caption_ends_where_its_picture_does():
    """It ran on over the next one's."""
    font = ImageFont.load_default(14)
    long = "move the hand with index finger and thumb crossed to the top left"
    short = shortened(long, font, 200)
    assert short.endswith("...") and long.startswith(short.removesuffix("...").strip())
    assert 150 < font.getlength(short) <= 200
    assert shortened("make it  red", font, 200) == "make it red"
