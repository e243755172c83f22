"""Made-up inputs: edits as codes, batches as both loaders ship them, and a folder of images to load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from dataset.batches import EditBatch, EditSample, T2IBatch, T2ISample, collate_samples
from dataset.packed.format import PackedSettings
from dataset.packed.writer import PackedWriter, ShardColumns, pack_text
from language.text_features import TextFeatures, save_text_features
from scripts.benchmarking.baseline_data import TEXT_SLOTS, SlowSample, dense_mask, pad_text


@dataclass(frozen=True)
class Scale:
    """How large everything is but the image and the network."""

    vocab_size: int
    caption_dim: int
    downsample: int = 16
    text_tokens: tuple[int, int] = (20, 86)  # of a caption; 53 on average
    side_on_disk: int = 512

    def cells(self, image_size: int) -> int:
        return (image_size // self.downsample) ** 2


PUBLISHED = Scale(vocab_size=16384, caption_dim=2048)
TINY = Scale(vocab_size=64, caption_dim=32, side_on_disk=96)


@dataclass(frozen=True)
class Edits:
    """B edits: codes (B, N), which of them to make anew (B, N) bool, and B captions."""

    source: Tensor
    edit_mask: Tensor
    texts: list[TextFeatures]

    def __len__(self) -> int:
        return len(self.source)

    def repeated(self, index: int, times: int) -> Edits:
        """One of the edits, several times."""
        rows = [index] * times
        return Edits(self.source[rows], self.edit_mask[rows], [self.texts[index]] * times)

    def counts(self) -> list[int]:
        return self.edit_mask.sum(1).tolist()


def random_edits(scale: Scale, image_size: int, counts: list[int], seed: int = 0) -> Edits:
    """One edit for each of `counts`, of that many cells at random places."""
    generator = torch.Generator().manual_seed(seed)
    num_cells = scale.cells(image_size)
    source = torch.randint(scale.vocab_size, (len(counts), num_cells), generator=generator)
    mask = torch.zeros(len(counts), num_cells, dtype=torch.bool)
    for row, count in zip(mask, counts, strict=True):
        row[torch.randperm(num_cells, generator=generator)[:count]] = True
    return Edits(source, mask, [_random_text(scale, generator) for _ in counts])


def _random_text(scale: Scale, generator: torch.Generator) -> TextFeatures:
    low, high = scale.text_tokens
    length = int(torch.randint(low, high + 1, (), generator=generator))
    features = torch.randn(length, scale.caption_dim, generator=generator)
    return TextFeatures(features, torch.ones(length, dtype=torch.bool))


def share_of_cells(scale: Scale, image_size: int, share: float) -> int:
    return max(round(share * scale.cells(image_size)), 1)


def fast_batch(edits: Edits, target: Tensor) -> EditBatch:
    """What the project's loader ships for `edits` that lead to `target` (B, N), from codes."""
    return collate_samples([
        EditSample(source.int(), edited.int(), mask, text, seed=i, origin=f"edit {i}")
        for i, (source, edited, mask, text) in enumerate(
            zip(edits.source, target, edits.edit_mask, edits.texts, strict=True)
        )
    ])  # fmt: skip


def fast_t2i_batch(edits: Edits) -> T2IBatch:
    """The sources and captions of `edits` as a batch of stage 1."""
    samples = zip(edits.source, edits.texts, strict=True)
    return collate_samples([
        T2ISample(codes.int(), text, seed=i, origin=f"image {i}") for i, (codes, text) in enumerate(samples)
    ])  # fmt: skip


def slow_batch(edits: Edits, target: Tensor, num_rasters: int = 2) -> SlowSample:
    """What the slow loader ships for the same, with codes in the place of pixels.

    Args:
      num_rasters: segments of N cells before the predicted ones: 2 for an edit, 0 for text to image, where
        every cell is predicted, in random order.
    """
    samples = []
    for i in range(len(edits)):
        text, text_mask = pad_text(edits.texts[i].embeddings[None])
        cells = edits.edit_mask[i].int() if num_rasters else torch.ones_like(edits.source[i])
        raster = torch.arange(len(cells))
        orders = torch.cat([raster[cells == 1], raster[cells == 0]])
        if not num_rasters:
            orders = torch.randperm(len(cells))
        mask = dense_mask(text_mask, TEXT_SLOTS + (num_rasters + 1) * len(cells))
        samples.append(
            SlowSample(
                target[i], edits.source[i], text, orders, orders.flip(0), cells[orders], mask, torch.tensor(1)
            )
        )
    return default_collate(samples)


def write_packed(folder: Path, scale: Scale, image_size: int, count: int) -> None:
    """Packs `count` edits of 25 % of the cells."""
    edits = random_edits(scale, image_size, [share_of_cells(scale, image_size, 0.25)] * count)
    codes = edits.source.numpy().astype(np.uint16)[:, None]
    settings = PackedSettings(
        kind="editing", num_rows=count, rows_per_shard=count, image_size=image_size,
        grid=round(scale.cells(image_size) ** 0.5), codebook_size=scale.vocab_size,
        text_width=scale.caption_dim, max_text_tokens=TEXT_SLOTS, views=1, seed=0, center_crop=True,
        random_flip=False, mask_rule="published", text_field="target_caption", tokenizer="made up",
        text_encoder=None, data="made up",
    )  # fmt: skip
    columns = ShardColumns(
        codes={"source": codes, "edited": codes[::-1].copy()},
        masks=edits.edit_mask.numpy()[:, None],
        texts=[pack_text(text, TEXT_SLOTS) for text in edits.texts],
        strings={name: [f"{name} {i}" for i in range(count)] for name in settings.string_columns},
        problems=[[None]] * count,
    )
    writer = PackedWriter(folder, settings)
    writer.write_manifest([writer.write(0, columns)])


def write_images(folder: Path, scale: Scale, count: int) -> Path:
    """Writes `count` edits in the layout of UltraEdit: JPEGs, masks, caption features. Returns the list."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    side, lines = scale.side_on_disk, []
    for i in range(count):
        names = {"file_name": f"{i}_source.jpg", "edited_image": f"{i}_edited.jpg"}
        for name in names.values():
            # Smooth patches: noise would make every JPEG far larger than a photograph.
            patches = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
            patches.resize((side, side), Image.Resampling.BICUBIC).save(folder / name, quality=95)
        region = np.zeros((side, side), dtype=np.uint8)
        top, left = rng.integers(side // 2, size=2)
        region[top : top + side // 2, left : left + side // 2] = 255
        Image.fromarray(region).save(folder / f"{i}_mask.png")
        save_text_features(folder / f"{i}.npy", _random_text(scale, generator))
        names |= {"mask_image": f"{i}_mask.png", "target_caption_t5_path": f"{i}.npy"}
        lines.append(json.dumps(names | {"edit_prompt": "an edit"}))
    path = folder / "edits.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
