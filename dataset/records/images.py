"""Pictures, from disk or handed over: everything that reads one goes through here, safely."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from runtime.errors import UserError
from runtime.files import require_regular
from runtime.logging import get_logger
from runtime.pictures import kept_info

log = get_logger(__name__)

ALLOWED_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 64_000_000
_MOST_TOLD = 100  # files of which a process says what it does not keep

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # rows become columns
_DECODING = threading.Lock()  # Pillow decodes a file when its pixels are first wanted, and for one thread
# Where Pillow looks for the orientation.
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


class ImageSource(Protocol):
    """Where an image's bytes are: a `Path`, or a cell of a parquet file. `str()` of it names it in errors."""

    def open(self, mode: str = "rb") -> IO[bytes]: ...


def load_image(source: str | ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads one image as 8-bit RGB, upright, with transparency laid over white.

    Args:
      source: a path, or anything else with `open("rb")`.
      max_pixels: largest width * height accepted, checked on the header, before any pixel is decoded.
    Returns:
      A PIL image of mode RGB; of an animation the first frame, with a warning.
    Raises:
      UserError: missing, not an image, truncated, of a format not allowed or too large; names the file.
    """
    return as_seen(open_first_frame(source, max_pixels))


def as_seen(image: Image.Image) -> Image.Image:
    """The picture as viewers show it: 8-bit RGB, upright by its EXIF orientation, transparency over white.

    Of its `info` what still holds: see `kept_info`.
    """
    turned = upright(image)
    seen = to_rgb(turned)
    seen.info = turned.info
    seen.info = kept_info(seen)
    return seen


def image_to_tensor(image: Image.Image) -> Tensor:
    """RGB image -> (3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return pixels.float().div(127.5).sub(1).contiguous()


def load_native(source: str | ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads one image as `as_native` has it; warns of `what_is_lost`. Args and errors as `load_image`."""
    native = as_native(open_image(source, max_pixels))
    for words in what_is_lost(source):
        _warn_once(f"{source}: {words}")
    return native


def what_is_lost(source: str | ImageSource) -> list[str]:
    """What `as_native` does not keep of a file that can be read, in words; as a rule nothing.

    Colours of 16 bits, which Pillow reads as 8, and of four inks; the transparency of 16-bit grey; frames
    after the first.
    """
    lost = []
    stream_source = Path(source) if isinstance(source, str) else source
    with stream_source.open("rb") as stream, Image.open(stream, formats=ALLOWED_FORMATS) as file:
        is_grey = file.mode.startswith("I")
        if not is_grey and _has_16_bits(file):
            lost.append("its colours have 16 bits, of which 8 are kept")
        if file.mode == "CMYK":
            lost.append("its colours are CMYK, and become RGB")
        if is_grey and "transparency" in file.info:
            lost.append(
                "transparency beside 16-bit grey is not kept, it becomes white; save it as 8 bits first"
            )
        if (frames := _num_frames(file)) > 1:
            lost.append(_first_of(frames))
    return lost


def open_first_frame(source: str | ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `open_image`, and warns of frames after the first."""
    image = open_image(source, max_pixels)
    frames = _num_frames(image)
    if image.format == "GIF":  # Pillow counts its frames in the file alone, which is closed
        stream_source = Path(source) if isinstance(source, str) else source
        with stream_source.open("rb") as stream, Image.open(stream, formats=ALLOWED_FORMATS) as file:
            frames = _num_frames(file)
    if frames > 1:
        _warn_once(f"{source}: {_first_of(frames)}")
    return image


def _first_of(frames: int) -> str:
    return f"of its {frames} frames the first is taken"


_told: set[str] = set()


def _warn_once(words: str) -> None:
    """Trainings read a file in every epoch, and a data set may have thousands of such files."""
    if words in _told or len(_told) == _MOST_TOLD:
        return
    _told.add(words)
    log.warning("%s", words)
    if len(_told) == _MOST_TOLD:
        log.warning("nothing is said of further such files")


def _has_16_bits(file: Image.Image) -> bool:
    """Whether a file that is open, not loaded, has them a value."""
    return any(";16" in str(tile[3]) for tile in file.tile)


def _num_frames(file: Image.Image) -> int:
    """Of an animation; the other pictures of a camera's JPEG are previews of the first."""
    try:
        return 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
    except Exception:
        return 1  # a frame behind the first is damaged: of no interest here


def as_native(image: Image.Image) -> Image.Image:
    """The picture upright, with all that its pixels say: transparency (RGBA) and 16-bit grey (I;16).

    16-bit grey has no place for transparency: it becomes white.
    All others are RGB: 8-bit grey and palettes in the same colours, so that an edit may bring new ones. Of
    its `info` what still holds: see `kept_info`. `as_seen` of it is that of the picture.
    """
    turned = upright(image)
    if turned.mode.startswith("I"):
        native = Image.fromarray(_grey16_over_white(turned).astype(np.uint16))
    else:
        native = turned.convert("RGBA" if _has_alpha(turned) else "RGB")
    native.info = dict(turned.info)
    native.info = kept_info(native)
    return native


def as_image(picture: Image.Image | np.ndarray | Tensor | str | Path) -> Image.Image:
    """An RGB image of any picture.

    Args:
      picture: a PIL image, taken as viewers show it (`as_seen`); a file's path; a (H, W, 3) array or a
        (3, H, W) tensor of bytes, or of floats in [0, 1]; one of shape (H, W) is grey. PIL's mode F has
        floats in [0, 1] too, its mode I 16-bit grey.
    Raises:
      UserError: another shape, type or range, or nothing in it.
    """
    if isinstance(picture, str | Path):
        return load_image(picture)
    if isinstance(picture, Image.Image):
        if 0 in picture.size:
            raise UserError(f"an image of {picture.width}x{picture.height}: it has no pixels")
        return as_seen(_in_its_range(decoded(picture)))
    if not isinstance(picture, np.ndarray | Tensor):
        raise UserError(
            f"an image of type {type(picture).__name__}: give a PIL image, a path, an array or a tensor"
        )
    kind, shape = ("array", "(H, W, 3)") if isinstance(picture, np.ndarray) else ("tensor", "(3, H, W)")
    pixels = picture
    if kind == "tensor":
        pixels = to_numpy(picture.movedim(0, -1) if picture.ndim == 3 else picture)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UserError(
            f"an image {kind} of shape {tuple(picture.shape)}: it must be {shape}, or (H, W) for grey"
        )
    if pixels.size == 0:
        raise UserError(f"an image {kind} of shape {tuple(picture.shape)}: it has no pixels")
    if pixels.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(pixels))
    if pixels.dtype.kind not in "biuf":
        raise UserError(f"an image {kind} of {pixels.dtype}: give bytes, or floats in [0, 1]")
    if pixels.dtype.kind != "f" or not (0 <= pixels.min() and pixels.max() <= 1):
        raise UserError(
            f"an image {kind} of {pixels.dtype} from {pixels.min()} to {pixels.max()}: give bytes, or floats "
            "in [0, 1]"
        )
    return Image.fromarray(np.ascontiguousarray(np.rint(pixels * 255).astype(np.uint8)))


def to_numpy(values: Tensor) -> np.ndarray:
    """The values of a tensor on any device and of any type."""
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16


def decoded(image: Image.Image) -> Image.Image:
    """A picture that is handed over, once Pillow has read all of its file: other threads may hold it too.

    Two that want its pixels first, at the same time, would both read the file, and get parts of it.
    """
    with _DECODING:
        if isinstance(image, ImageFile.ImageFile):
            _scale_key(image)
        image.load()
        _orientation(image)  # which Pillow reads once, too
    return image


def _in_its_range(image: Image.Image) -> Image.Image:
    """A picture that is handed over, whose mode may have numbers of any range: those of arrays and masks.

    Raises:
      UserError: floats outside of [0, 1], or whole numbers that are no 16-bit grey: bytes would be black.
    """
    if image.mode not in ("F", "I"):
        return image
    values = np.array(image)
    lowest, highest = values.min().item(), values.max().item()
    named = f"an image of PIL's mode {image.mode} from {lowest:g} to {highest:g}"
    if image.mode == "I":
        if lowest < 0 or highest > 65535 or 0 < highest <= 255:
            raise UserError(f"{named}: it is read as 16-bit grey, 0 to 65535; of bytes give .convert('L')")
        return image
    if not (0 <= lowest and highest <= 1):  # NaN neither
        raise UserError(f"{named}: give floats in [0, 1]; of bytes give .convert('L')")
    grey = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    grey.info = dict(image.info)
    return grey


def as_native_image(picture: Image.Image | np.ndarray | Tensor | str | Path) -> Image.Image:
    """An image of any picture that keeps its transparency and its 16-bit grey, see `as_native`.

    Args:
      picture: as in `as_image`, which it becomes otherwise.
    """
    if isinstance(picture, str | Path):
        return load_native(picture)
    if isinstance(picture, Image.Image) and 0 not in picture.size:
        return as_native(_in_its_range(decoded(picture)))
    return as_image(picture)


def opacity_of(image: Image.Image) -> np.ndarray | None:
    """(H, W) uint8 of the picture upright, 255 = opaque; None if it says nothing of transparency."""
    image = upright(image)
    if not _has_alpha(image):
        return None
    if image.mode.startswith("I"):  # Pillow's own conversion clips it at 255
        return np.where(_is_key(image), 0, 255).astype(np.uint8)
    return np.array(image.convert("RGBA").getchannel("A"))


def open_image(source: str | ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens, checks the header, and decodes; mode and orientation stay the file's. Raises as `load_image`."""
    stream_source = Path(source) if isinstance(source, str) else source
    if isinstance(stream_source, Path):
        require_regular(stream_source, "a picture")
    try:
        with stream_source.open("rb") as stream, Image.open(stream, formats=ALLOWED_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise UserError(
                    f"{source}: {image.width}x{image.height} is above the limit of "
                    f"{max_pixels / 1e6:g} megapixels; make it smaller"
                )
            _scale_key(image)
            image.load()
            return image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{source}: no such file") from None
    except UnidentifiedImageError:
        with stream_source.open("rb") as stream:
            if not stream.read(1):
                raise UserError(f"{source}: not an image: the file is empty; save it anew") from None
        known = ", ".join(ALLOWED_FORMATS)
        raise UserError(f"{source}: not an image of a known format ({known}): save it as one") from None
    except MemoryError:
        raise
    except Image.DecompressionBombError:  # before the size can be read
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise UserError(f"{source}: is far above the limit of {limit}; make it smaller") from None
    except Exception as error:
        # Pillow's decoders raise almost anything on damaged files (OSError, SyntaxError, struct.error, ...).
        raise UserError(f"{source}: cannot be read as an image: {error}; save it anew") from None


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; of its `info`, what still holds then."""
    orientation = _orientation(image)
    method = _UPRIGHT.get(orientation)
    if method is None:
        return image
    turned = image.transpose(method)
    for key in _ORIENTATION_KEYS:  # else it would be turned again
        turned.info.pop(key, None)
    if orientation in _TURNED and isinstance(turned.info.get("dpi"), tuple):
        turned.info["dpi"] = turned.info["dpi"][::-1]
    return turned


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # web images often carry broken EXIF blocks around good pixels


def _grey16(image: Image.Image) -> np.ndarray:
    """(H, W) int64 from 0 to 65535, of any of Pillow's modes of wide whole numbers."""
    return np.clip(np.array(image, dtype=np.int64), 0, 65535)


def _grey16_over_white(image: Image.Image) -> np.ndarray:
    """As `_grey16`, with transparent pixels in white."""
    if "transparency" not in image.info:
        return _grey16(image)
    return np.where(_is_key(image), 65535, _grey16(image))


def _is_key(image: Image.Image) -> np.ndarray:
    """(H, W) bool: where 16-bit grey has the one value that is transparent in it, if there is one."""
    return _grey16(image) == image.info.get("transparency", -1)


def _scale_key(file: Image.Image) -> None:
    """Brings the one colour that is transparent in a PNG file, open and not loaded, to 8 bits, as its pixels.

    Pillow leaves it in the file's bits, and compares it with pixels of 8: no pixel, or wrong ones, are clear.
    Of a file that is loaded the bits are not known any more, and nothing is done.
    """
    key, raw = file.info.get("transparency"), {str(tile[3]) for tile in file.tile}
    if file.mode == "RGB" and isinstance(key, tuple) and _has_16_bits(file):
        file.info["transparency"] = tuple(value >> 8 for value in key)
    for mode, times in (("L;2", 85), ("L;4", 17)):
        if isinstance(key, int) and mode in raw:
            file.info["transparency"] = key * times


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an upright picture, transparency over white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255 instead of scaling it.
        return Image.fromarray(((_grey16_over_white(image) + 128) // 257).astype(np.uint8)).convert("RGB")
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")
