"""What a client asks for, read and checked before anything is computed."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.choices import AUTO, CROPS
from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.results import EditResult, Progress
from integrations.server.errors import bad_request
from integrations.server.fields import DRAW_FIELDS, EDIT_FIELDS, Fields
from integrations.server.pictures import SUFFIXES, Format, as_upload, read_mask, read_picture, told_of
from integrations.server.served import Served, can_draw
from language.caption_cleaning import require_words
from runtime.errors import UserError

MOST_RESULTS, MOST_PARTIAL = 10, 3
MAX_PROMPT = 4000
"""Characters."""
_FLATTENED = {"RGBA": "its transparency becomes white", "I;16": "its 16-bit grey becomes 8 bits"}
"""What pictures lose as 8-bit RGB, by their mode."""
_LARGEST_SEED = 2**53  # what every reader of JSON holds


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
      kind: "image_edit" or "image_generation", as events are named.
      model: its name here.
      adapter: of the model's; None for none.
      size: (width, height) of the results.
      image: None draws.
      mask: (H, W) bool, True = edit, or "auto".
      warnings: what of the pictures that were sent is not taken.
      whole: all of the image is taken.
    """

    kind: str
    prompt: str
    model: str
    queue: EditQueue
    n: int
    seed: int
    sampling: Sampling
    format: Format
    stream: bool
    partial_images: int
    size: tuple[int, int]
    image: Image.Image | None = None
    mask: np.ndarray | str | None = None
    crop: str = "auto"
    adapter: str | None = None
    warnings: tuple[str, ...] = ()
    whole: bool = True

    @property
    def lossless(self) -> bool:
        """Whether all pixels outside of the edited cells arrive as the picture's own."""
        return self.format.lossless and self.whole

    def submit(self, progress: Progress | None = None) -> Future:
        """Puts it into its queue."""
        options = {"seeds": self.seed, "num_samples": self.n, "sampling": self.sampling}
        options["adapter"] = self.adapter
        if progress is not None:
            options["progress"] = progress
        if self.image is None:
            return self.queue.submit_drawing(self.prompt, **options)
        return self.queue.submit(self.image, self.prompt, self.mask, crop=self.crop, **options)

    def unknown_words(self) -> list[str]:
        """Words of the prompt that the model does not know."""
        return self.queue.pipeline.text_encoder.tokenizer.unknown_words(self.prompt)

    def num_cells(self, results: list[EditResult | Image.Image]) -> int:
        """Cells that were drawn."""
        cells = self.queue.pipeline.grid**2
        return sum(one.num_tokens if isinstance(one, EditResult) else cells for one in results)

    def usage(self, results: list[EditResult | Image.Image]) -> dict[str, Any]:
        """Tokens as OpenAI counts them: words and cells that were read, cells that were drawn."""
        pipeline = self.queue.pipeline
        words = pipeline.text_encoder.count_tokens([self.prompt])[0]
        read = 0 if self.image is None else len(results[0].crops) * pipeline.grid**2
        drawn = self.num_cells(results)
        return {
            "input_tokens": words + read,
            "input_tokens_details": {"text_tokens": words, "image_tokens": read},
            "output_tokens": drawn,
            "total_tokens": words + read + drawn,
        }


def read_edit(values: Mapping[str, Any], served: Served, max_pixels: int) -> Ask:
    """Of the fields of `/v1/images/edits`.

    Raises:
      ApiError: what is wrong, by its field.
    """
    fields = Fields(values, EDIT_FIELDS)
    common = _read_common(fields, served, draws=False)
    sent = as_upload("image", fields.raw("image"))
    image, warnings = read_picture(sent, max_pixels, common["n"]), told_of(sent)
    crop = fields.choice("crop", CROPS, "auto")
    if crop == "none" and (lost := _FLATTENED.get(image.mode)):
        warnings.append(f"image: with crop none it is taken as 8-bit RGB: {lost}")
    whole = not warnings
    if fields.has("mask") and fields.has("mask_image"):
        raise bad_request("both mask and mask_image were sent: send one", "mask_image", "invalid_mask")
    field = next((name for name in ("mask", "mask_image") if fields.has(name)), None)
    if field is not None:
        sent = as_upload(field, fields.raw(field))
        mask = read_mask(sent, image, max_pixels)
        warnings += told_of(sent)
    elif can_draw(common["queue"].pipeline):
        message = f"the model {common['model']!r} cannot find the region by itself: send mask or mask_image"
        raise bad_request(message, "mask", "missing_required_parameter")
    else:
        mask = AUTO
    _require_size(fields, image.size, "an edit has the size of its picture")
    common["format"].require_fit(image if crop != "none" else image.convert("RGB"))
    given = {"size": image.size, "image": image, "mask": mask, "crop": crop}
    return Ask("image_edit", **common, **given, warnings=tuple(warnings), whole=whole)


def read_drawing(values: Mapping[str, Any], served: Served, max_pixels: int) -> Ask:
    """Of the fields of `/v1/images/generations`. Raises as `read_edit`."""
    fields = Fields(values, DRAW_FIELDS)
    common = _read_common(fields, served, draws=True)
    side = common["queue"].pipeline.image_size
    if common["n"] * side * side > max_pixels:
        raise bad_request(
            f"n {common['n']}: that many have more than {max_pixels} pixels", "n", "invalid_value"
        )
    _require_size(fields, (side, side), f"the model {common['model']!r} draws {side}x{side}")
    return Ask("image_generation", **common, size=(side, side))


def _read_common(fields: Fields, served: Served, *, draws: bool) -> dict[str, Any]:
    prompt = fields.raw("prompt")
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
        raise bad_request(
            f"prompt: give a text of at most {MAX_PROMPT} characters", "prompt", "invalid_value"
        )
    adapter = fields.text("adapter")
    model, queue = served.find(fields.text("model"), draws=draws, adapter=adapter)
    try:
        require_words(prompt, "prompt")
        queue.pipeline.require_short(prompt, "prompt")
    except UserError as error:
        raise bad_request(str(error), "prompt", "invalid_value") from None
    if fields.choice("response_format", ("b64_json", "url"), "b64_json") == "url":
        message = (
            "response_format 'url': nothing is kept here that an address could lead to; ask for b64_json"
        )
        raise bad_request(message, "response_format", "unsupported_parameter")
    n, stream = fields.whole("n", 1, 1, MOST_RESULTS), fields.flag("stream")
    if stream and n > 1:
        raise bad_request(f"n {n}: a stream shows one result; leave out stream, or n", "n", "invalid_value")
    partial_images = fields.whole("partial_images", 0, 0, MOST_PARTIAL)
    if partial_images and not stream:
        message = f"partial_images {partial_images}: they come with stream alone"
        raise bad_request(message, "partial_images", "invalid_value")
    seed = fields.whole("seed", None, 0, _LARGEST_SEED - n + 1)  # the last result's too
    return {
        "prompt": prompt,
        "model": model,
        "queue": queue,
        "adapter": adapter,
        "n": n,
        "seed": secrets.randbelow(2**32) if seed is None else seed,
        "sampling": _read_sampling(fields, queue.pipeline.defaults.sampling),
        "format": _read_format(fields),
        "stream": stream,
        "partial_images": partial_images,
    }


def _read_sampling(fields: Fields, defaults: Sampling) -> Sampling:
    given = {
        "cfg_scale": fields.number("guidance_scale", 0, 100),
        "temperature": fields.number("temperature", 0, 100),
    }
    return dataclasses.replace(
        defaults, **{name: value for name, value in given.items() if value is not None}
    )


def _read_format(fields: Fields) -> Format:
    name = fields.choice("output_format", tuple(SUFFIXES), "png")
    quality = fields.whole("output_compression", None, 0, 100)
    if name == "png" and quality not in (None, 100):
        message = f"output_compression {quality}: png loses nothing; leave it out, or ask for webp or jpeg"
        raise bad_request(message, "output_compression", "invalid_value")
    return Format(name, None if quality == 100 and name != "jpeg" else quality)


def _require_size(fields: Fields, size: tuple[int, int], why: str) -> None:
    there = f"{size[0]}x{size[1]}"
    asked = fields.text("size", "auto")
    if asked not in ("auto", there):
        raise bad_request(f"size {asked[:80]!r}: {why}, {there}; give auto", "size", "invalid_size")
