"""Files as phones, Macs, hubs and browsers leave them."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_gpt import tiny

from autoregressive.models.weights import initialise_from, load_transformer, model_args
from dataset.image_folder import list_images
from dataset.prepare.pictures import ImageBytes, check_image
from dataset.records.images import load_image
from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError


def camera_jpeg() -> bytes:
    """A multi-picture JPEG: the photograph, and a smaller one behind it."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    first, second = Image.fromarray(pixels), Image.new("RGB", (8, 8), "red")
    stream = io.BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[second], quality=95)
    return stream.getvalue()


@pytest.mark.parametrize("kept", ["original", "jpg", "png"])
def test_a_cameras_jpeg_is_the_picture_that_it_begins_with(tmp_path, kept):
    data = camera_jpeg()
    (tmp_path / "a.jpg").write_bytes(data)
    assert Image.open(tmp_path / "a.jpg").format == "MPO"
    seen = load_image(tmp_path / "a.jpg")
    assert seen.size == (32, 24)
    stored = check_image(ImageBytes(data, "a.parquet row 3"), kept)
    assert stored.suffix == (".png" if kept == "png" else ".jpg")
    (tmp_path / f"b{stored.suffix}").write_bytes(stored.data)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / f"b{stored.suffix}")), np.asarray(seen))


@pytest.mark.parametrize("companion", ["._a.png", "__MACOSX/a.png", "deep/._b.png", "__MACOSX/deep/._a.png"])
def test_companions_that_macs_add_are_no_pictures(tmp_path, companion):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / companion).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / companion).write_bytes(b"\0\5\x16\7")
    assert list_images(tmp_path) == [tmp_path / "a.png"]


STAND_INS = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer"),
    "page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML page"),
    "bare page": (b"\n<html><head></head></html>", "HTML page"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", STAND_INS)
def test_what_stands_in_a_checkpoints_place_is_called_by_its_name(tmp_path, kind, suffix):
    content, words = STAND_INS[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"model{suffix} is .*{words.removeprefix('is ')}"):
        load_checkpoint(path)


def llamagen(tmp_path: Path, **args) -> Path:
    path = tmp_path / "llamagen.pt"
    args = argparse.Namespace(gpt_model="GPT-tiny", **args)
    torch.save({"model": tiny("GPT-tiny").state_dict(), "args": args}, path)
    return path


def test_llamagens_files_say_their_image_size(tmp_path):
    path = llamagen(tmp_path, image_size=64)
    assert load_transformer(path, downsample=16).config.grid == 4
    assert load_transformer(path, downsample=8).config.grid == 8
    assert load_transformer(path, image_size=128, downsample=16).config.grid == 8  # the flag wins


@pytest.mark.parametrize("at", [64, 128])
def test_another_size_of_a_raster_file_is_said(tmp_path, at, capfd):
    path = llamagen(tmp_path, image_size=64)
    load_transformer(path, image_size=at, downsample=16)
    told = capfd.readouterr().err
    assert ("trained at 64 px; its grid is made anew for 128 px" in told) == (at == 128)
    initialise_from(tiny("GPT-tiny"), path, at)
    told = capfd.readouterr().err
    assert ("llamagen.pt was trained at 64 px and goes on at 128 px" in told) == (at == 128)


@pytest.mark.parametrize("kind", ["ours", "ours, raster", "any-order"])
@pytest.mark.parametrize("size", [32, 80, 512, 0, "64"])
def test_another_size_of_a_file_that_shows_its_own_is_refused(tmp_path, kind, size):
    path, model = tmp_path / "a.pt", tiny("GPT-tiny" if "raster" in kind else "R-GPT-tiny")
    args = model_args("", model.config) if "ours" in kind else argparse.Namespace(gpt_model="R-GPT-tiny")
    torch.save({"model": model.state_dict(), "args": args}, path)
    with pytest.raises(UserError, match=f"--image-size {size} contradicts .*a.pt, which has 64"):
        load_transformer(path, image_size=size, downsample=16)
    for right in (64, None):
        assert load_transformer(path, image_size=right, downsample=16).config.grid == 4


@pytest.mark.parametrize("size", [0, 4, -72, 72, "64", 64.0, True])
@pytest.mark.parametrize("by_flag", [True, False])
def test_sizes_that_make_no_grid_are_refused(tmp_path, size, by_flag):
    path = llamagen(tmp_path, **({} if by_flag else {"image_size": size}))
    with pytest.raises(UserError, match="llamagen.pt: image size .*must be a"):
        load_transformer(path, image_size=size if by_flag else None, downsample=16)
