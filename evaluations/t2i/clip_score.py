"""CLIP score: how well images fit their captions (arXiv 2104.08718), as a cosine, without the factor 2.5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluations.flags import CLIP_MODEL
from evaluations.folders import load_batches
from evaluations.images import load_rgb
from evaluations.metrics.encoders import ClipEncoder
from evaluations.metrics.weights import PRETRAINED, find_weights, import_package, read_state_dict
from evaluations.t2i.flags import VIT_B, VIT_G, WITHOUT
from runtime.checkpoint import load_weights
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.logging import progress

PREFIX = "A photo depicts "
# The published evaluation's "ViT-G/14" is open_clip's small g, trained on LAION-2B.
_G_MODEL, _G_REPOSITORY = "ViT-g-14", "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"
_G_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load_clip(choice: str, path: str | None, device: torch.device) -> ClipEncoder | None:
    """The network of a `--clip_model4eval` choice from `path` or the usual places; None without CLIP."""
    try:
        if choice == VIT_B:
            return ClipEncoder.load(CLIP_MODEL, path, device)
        return _load_vit_g(path, device) if choice == VIT_G else None
    except UserError as error:
        raise UserError(f"{error}; or do without CLIP: --clip_model4eval {WITHOUT}") from None


def clip_scores(
    clip: ClipEncoder,
    paths: Sequence[Path],
    captions: Sequence[str],
    world: Distributed,
    *,
    cut: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
    num_workers: int,
) -> list[float]:
    """The cosine of every image with its prefixed caption, in their order; the ranks share the images.

    The prefix goes before the caption's words, so that a caption that fills CLIP's 77 tokens loses its end.

    Args:
      cut: (H, W, 3) uint8 to what of it is evaluated.
    Raises:
      UserError: for unreadable images, and similarities that are not finite.
    """

    def load(index: int) -> Tensor:
        return clip.prepare(cut(load_rgb(paths[index])))

    mine = range(world.rank, len(paths), world.world_size)
    scores: list[float] = []
    with (
        ThreadPoolExecutor(max(num_workers, 1)) as pool,
        progress(total=len(mine), desc="clip", unit="image", disable=not world.is_main) as bar,
    ):
        for batch in load_batches(mine, load, batch_size, pool):
            texts = [PREFIX + captions[index] for index in mine[len(scores) : len(scores) + len(batch)]]
            features = clip.embed_images(torch.stack(batch)), clip.embed_texts(texts)
            scores += torch.cosine_similarity(*(side.double() for side in features)).tolist()
            bar.update(len(batch))
    shares = world.gather_objects(scores)
    ordered = [shares[index % world.world_size][index // world.world_size] for index in range(len(paths))]
    for path, caption, score in zip(paths, captions, ordered, strict=True):
        if not np.isfinite(score):
            raise UserError(f"the CLIP score of {path} with {caption!r} is {score}")
    return ordered


def _load_vit_g(path: str | None, device: torch.device) -> ClipEncoder:
    open_clip = import_package("open_clip", "open_clip_torch")
    file = PRETRAINED / f"{_G_MODEL}.safetensors"
    found = find_weights(path, "--clip_ckpt", f"CLIP {_G_MODEL}", [file], {_G_REPOSITORY: _G_FILES})
    network = open_clip.CLIP(**open_clip.get_model_config(_G_MODEL))
    load_weights(network, read_state_dict(found), found)
    transform = open_clip.image_transform(
        network.visual.image_size,
        is_train=False,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
    )
    return ClipEncoder(_G_MODEL, found, network.to(device), transform, open_clip.get_tokenizer(_G_MODEL))
