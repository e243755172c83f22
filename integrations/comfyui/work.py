"""Edits and drawings in ComfyUI's types.

IMAGE is (B, H, W, 3) float32 in [0, 1], MASK (B, H, W), 1 = edit. Letters: B pictures, H and W their size.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.choices import AUTO
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import Drawing, EditResult, Progress
from autoregressive.editing.session import EditSession
from dataset.records.images import as_seen
from runtime.devices import pick_device
from runtime.errors import UserError

_PLACEHOLDER = (64, 64)
"""Of the zeros that Load Image gives as the mask of a picture without transparency."""
Draws = tuple[float, float]
"""Guidance, 0 for the model's; temperature, below 0 for the model's."""


@functools.lru_cache(maxsize=2)
def load(folder: str, model: str, device: str) -> EditingPipeline:
    """A pipeline; the last two stay in memory, so that workflows can change between them.

    Raises:
      UserError: no such folder, hub model, model in it, or device.
    """
    return EditingPipeline.from_pretrained(folder, model or None, device=pick_device(device))


def edit(
    pipeline: EditingPipeline,
    image: Tensor,
    prompt: str,
    masks: Sequence[np.ndarray | str],
    seed: int,
    draws: Draws,
    crop: str,
) -> tuple[Tensor, Tensor]:
    """Edits each picture of a batch; the first with `seed`, the next with the seeds after it.

    Args:
      masks: as `as_masks` gives them.
    Returns:
      IMAGE, whose pixels outside of the region are the batch's own, and MASK, the region.
    Raises:
      UserError: as `EditingPipeline.edit`, and for a batch that is none.
    """
    pictures = as_pictures(image)
    results = pipeline.edit(
        pictures,
        [prompt] * len(pictures),
        list(masks),
        seeds=seed,
        sampling=as_sampling(pipeline, draws),
        crop=crop,
        progress=host_progress(),
    )
    return put_into(image, results), torch.stack([result.region for result in results]).float()


def put_into(image: Tensor, results: Sequence[EditResult]) -> Tensor:
    """The batch with the regions of the results; what is not a whole number of 255ths stays so elsewhere."""
    edited = image.clone()
    for own, result in zip(edited, results, strict=True):
        own[result.region] = as_batch(result.image)[0][result.region].to(own)
    return edited


def draw(pipeline: EditingPipeline, prompt: str, seed: int, number: int, draws: Draws) -> Tensor:
    """IMAGE of `number` pictures. Raises as `EditingPipeline.draw`."""
    sampling = as_sampling(pipeline, draws)
    progress = host_progress()
    drawn = pipeline.draw(prompt, seeds=seed, num_samples=number, sampling=sampling, progress=progress)
    return torch.cat([as_batch(picture) for picture in drawn])


def open_session(pipeline: EditingPipeline, image: Tensor, crop: str) -> EditSession:
    """A session of the batch's one picture.

    Raises:
      UserError: there are several.
    """
    pictures = as_pictures(image)
    if len(pictures) != 1:
        raise UserError(
            f"a session is of one picture, the batch has {len(pictures)}: take one out of it first"
        )
    return EditSession(pipeline, pictures[0], crop=crop)


def edit_session(
    session: EditSession, prompt: str, mask: np.ndarray | str, seed: int, draws: Draws
) -> tuple[EditSession, Tensor, Tensor]:
    """The session after one more turn, its picture, and the region; the session that is given stays."""
    longer = session.branch()
    sampling = as_sampling(session.pipeline, draws)
    result = longer.edit(prompt, mask, seed=seed, sampling=sampling, progress=host_progress())
    return longer, as_batch(result.image), result.region[None].float()


def as_sampling(pipeline: EditingPipeline, draws: Draws) -> Sampling:
    """The model's, with what is given in its place."""
    guidance, temperature = draws
    given = {"cfg_scale": guidance} if guidance else {}
    given |= {"temperature": temperature} if temperature >= 0 else {}
    return dataclasses.replace(pipeline.defaults.sampling, **given)


def as_pictures(image: Tensor) -> list[Image.Image]:
    """RGB pictures of an IMAGE, rounded to bytes.

    Raises:
      UserError: another shape.
    """
    if image.ndim != 4 or image.shape[3] != 3:
        raise UserError(f"an image of shape {tuple(image.shape)}: it must be (pictures, height, width, 3)")
    levels = (image.detach().cpu().float() * 255).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(one) for one in levels.numpy()]


def as_batch(picture: Image.Image) -> Tensor:
    """IMAGE of one picture."""
    return torch.from_numpy(np.array(as_seen(picture), dtype=np.float32) / 255)[None]


def as_masks(mask: Tensor | None, image: Tensor) -> list[np.ndarray | str]:
    """A region for each picture of an IMAGE: (H, W) bool, or "auto" where no mask is given.

    None is given where nothing is connected, or Load Image's zeros for a picture without transparency.

    Args:
      mask: (B, H, W) or (1, H, W), for all; or (H, W).
    Raises:
      UserError: another size or number, or a mask that marks nothing.
    """
    number, height, width = image.shape[:3]
    if mask is None:
        return [AUTO] * number
    mask = mask[None] if mask.ndim == 2 else mask
    if not mask.any() and tuple(mask.shape[1:]) == _PLACEHOLDER != (height, width):
        return [AUTO] * number
    if mask.ndim != 3 or tuple(mask.shape[1:]) != (height, width) or len(mask) not in (1, number):
        raise UserError(
            f"a mask of shape {tuple(mask.shape)} for {number} images of {width}x{height}: it must be "
            f"(1 or {number}, {height}, {width})"
        )
    regions = (mask.detach().cpu().float() > 0.5).expand(number, -1, -1).numpy()
    for region in regions:
        if not region.any():
            raise UserError(
                "the mask marks nothing: paint the region (1 = edit), or connect none to have it found from "
                "the words"
            )
    return list(regions)


def host_progress() -> Progress | None:
    """Moves ComfyUI's progress bar, and stops where its user says so; None outside of it."""
    try:
        utils = importlib.import_module("comfy.utils")
        management = importlib.import_module("comfy.model_management")
    except ModuleNotFoundError:
        return None
    bar = None

    def note(drawing: Drawing) -> None:
        nonlocal bar
        management.throw_exception_if_processing_interrupted()
        bar = bar or utils.ProgressBar(drawing.num_steps)
        bar.update_absolute(drawing.step, drawing.num_steps)

    return note
