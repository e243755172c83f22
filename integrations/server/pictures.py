"""Pictures of requests and of answers; all in memory."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dataset.records.images import as_native, edit_region, marked, opacity_of, open_image, what_is_lost
from integrations.server.errors import bad_request
from runtime.errors import UserError
from runtime.pictures import encode_picture, require_saveable

SUFFIXES = {"png": ".png", "jpeg": ".jpeg", "webp": ".webp"}
_HALF = 128


@dataclass(frozen=True)
class Upload:
    """Bytes of a picture; the reader of pictures opens it, and names it in errors, by its field."""

    field: str
    content: bytes

    def open(self, mode: str = "rb") -> io.BytesIO:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return self.field


@dataclass(frozen=True)
class Format:
    """How results are written.

    Attributes:
      name: "png", "jpeg" or "webp".
      quality: 0 to 100; None for as it is without loss, or best.
    """

    name: str = "png"
    quality: int | None = None

    @property
    def lossless(self) -> bool:
        """Whether every pixel arrives as it is."""
        return self.name == "png" or self.name == "webp" and self.quality is None

    def require_fit(self, image: Image.Image) -> None:
        """Raises `ApiError` for a picture of a size or mode that the format has no place for."""
        try:
            require_saveable(f"output_format{SUFFIXES[self.name]}", image.size, image.mode)
        except UserError as error:
            message = str(error).replace("write .png", "ask for png")
            raise bad_request(message, "output_format", "unsupported_format") from None

    def write(self, image: Image.Image) -> str:
        """The picture in base64."""
        return base64.b64encode(encode_picture(image, SUFFIXES[self.name], self.quality)).decode("ascii")


def as_upload(field: str, value: Any) -> Upload:
    """A file of a form, or base64 text, which may be a data URL.

    Raises:
      ApiError: another text.
    """
    if isinstance(value, bytes):
        return Upload(field, value)
    text = str(value)
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return Upload(field, base64.b64decode("".join(text.split()), validate=True))  # tools break lines
    except (binascii.Error, ValueError):
        message = f"{field}: send a file, or its bytes in base64; nothing is fetched from elsewhere"
        raise bad_request(message, field, "invalid_image") from None


def read_picture(upload: Upload, max_pixels: int, num_results: int) -> Image.Image:
    """A picture upright, with its transparency and its 16-bit grey.

    Args and errors as `_open`.
    """
    return as_native(_open(upload, max_pixels, num_results))


def told_of(upload: Upload) -> list[str]:
    """What is not taken of a picture that was read: frames after the first, bits, a transparency."""
    return [f"{upload.field}: {words}" for words in what_is_lost(upload)]


def _open(upload: Upload, max_pixels: int, num_results: int) -> Image.Image:
    """The picture as its file has it; its header is checked first.

    Args:
      max_pixels: of the picture, times the number of results.
    Raises:
      ApiError: it is too large, or no picture that can be read.
    """
    if not upload.content:
        raise bad_request(f"{upload.field}: the file is empty", upload.field, "invalid_image")
    try:
        return open_image(upload, max_pixels // num_results)
    except UserError as error:
        times = f" with n={num_results}" if num_results > 1 and "above the limit" in str(error) else ""
        raise bad_request(f"{error}{times}", upload.field, "invalid_image") from None


def read_mask(upload: Upload, image: Image.Image, max_pixels: int) -> np.ndarray:
    """A region: transparent pixels of the field `mask`, white ones of `mask_image`; never guessed.

    Returns:
      (H, W) bool, True = edit.
    Raises:
      ApiError: another size than the image's, the other field's kind, or nothing that is to be edited.
    """
    field, by_opacity = upload.field, upload.field == "mask"
    file = _open(upload, max_pixels, 1)
    picture, opacity = as_native(file), opacity_of(file)
    if picture.size != image.size:
        message = f"{field} is {picture.width}x{picture.height}, the image {image.width}x{image.height}: "
        raise bad_request(f"{message}send it at the image's size", field, "invalid_mask_size")
    if by_opacity and opacity is None:
        message = "mask has no transparency: its transparent pixels are edited. A mask whose white pixels "
        raise bad_request(f"{message}are edited goes into the field mask_image", field, "invalid_mask")
    if not by_opacity and opacity is not None and (opacity < 255).any():
        message = "mask_image has transparent pixels: its white pixels are edited. A mask whose transparent "
        raise bad_request(f"{message}pixels are edited goes into the field mask", field, "invalid_mask")
    try:
        chosen = opacity < _HALF if by_opacity else marked(edit_region(picture, field)).numpy()
    except UserError as error:
        raise bad_request(str(error), field, "invalid_mask") from None
    if not chosen.any():
        which = "transparent" if by_opacity else "white"
        message = f"{field} protects every pixel, so nothing is to be edited: make the region {which}"
        raise bad_request(message, field, "nothing_to_edit")
    return chosen
