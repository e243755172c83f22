"""Features of all images and captions of an evaluation, each computed once, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, stack

from dataset.testsets.listed import ListedTurn
from evaluations.editing.registry import PairFeatures
from evaluations.folders import load_batches
from evaluations.images import load_rgb
from evaluations.metrics.encoders import ClipEncoder, ImageEncoder, Network
from runtime.logging import progress


@dataclass(frozen=True)
class Features:
    """Encoder -> image path or caption -> (C,) float32; `cut_captions` were longer than CLIP reads."""

    images: dict[str, dict[Path, Tensor]] = field(default_factory=dict)
    captions: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    cut_captions: frozenset[str] = frozenset()

    def of_pair(
        self, generated: Path, target: Path, source: Path | None, turn: ListedTurn
    ) -> dict[str, PairFeatures]:
        """By encoder, what a pair's metrics look at."""
        return {
            name: PairFeatures(
                images[generated],
                images[target],
                None if source is None else images[source],
                self._caption(name, turn.caption),
                self._caption(name, turn.input_caption),
            )
            for name, images in self.images.items()
        }

    def _caption(self, name: str, caption: str | None) -> Tensor | None:
        return None if caption is None else self.captions.get(name, {}).get(caption)


def embed(
    networks: Mapping[str, Network],
    image_paths: Iterable[Path],
    captions: Iterable[str | None],
    batch_size: int,
    pool: ThreadPoolExecutor,
    quiet: bool,
) -> Features:
    """Embeds every distinct image with every encoder, and every distinct caption with every CLIP.

    Features of an image depend on the images beside it in the batch by float32 rounding only (some 1e-7).

    Args:
      networks: those that are no encoders are left alone.
      image_paths, captions: may repeat; a caption may be None.
      batch_size: images, or captions, at a time.
      pool: reads and prepares images while earlier ones are embedded.
      quiet: no progress bar.
    Raises:
      UserError: an image cannot be read.
    """
    encoders = {name: network for name, network in networks.items() if isinstance(network, ImageEncoder)}
    if not encoders:
        return Features()
    paths = list(dict.fromkeys(image_paths))

    def prepare(path: Path) -> dict[str, Tensor]:
        image = load_rgb(path)
        return {name: encoder.prepare(image) for name, encoder in encoders.items()}

    images: dict[str, dict[Path, Tensor]] = {name: {} for name in encoders}
    with progress(total=len(paths), desc="embed", unit="image", disable=quiet) as bar:
        for number, batch in enumerate(load_batches(paths, prepare, batch_size, pool)):
            batch_paths = paths[number * batch_size :][: len(batch)]
            for name, encoder in encoders.items():
                features = encoder.embed_images(stack([prepared[name] for prepared in batch]))
                images[name] |= zip(batch_paths, features, strict=True)
            bar.update(len(batch))

    texts = list(dict.fromkeys(caption for caption in captions if caption is not None))
    clips = {name: encoder for name, encoder in encoders.items() if isinstance(encoder, ClipEncoder)}
    embedded: dict[str, dict[str, Tensor]] = {name: {} for name in clips}
    for name, clip in clips.items():
        for start in range(0, len(texts), batch_size):
            batch_texts = texts[start : start + batch_size]
            embedded[name] |= zip(batch_texts, clip.embed_texts(batch_texts), strict=True)
    cut = frozenset(text for text in texts if any(clip.is_cut(text) for clip in clips.values()))
    return Features(images, embedded, cut)
