"""Pictures of a model's work while it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.train.config import EditingConfig, T2IConfig, TrainConfig
from autoregressive.train.inputs import to_codes
from dataset.batches import EditBatch, T2IBatch, collate_samples
from language.t5 import encode_texts
from runtime.pictures import save_picture

NUM_PREVIEWS = 8
GAP = 4
RANDOM_ORDER = 2  # of --eval-order-version-id


def t2i_preview(pipeline: EditingPipeline, dataset: Dataset, config: T2IConfig) -> Callable[[int], Path]:
    """A row of training images above a row drawn from their captions."""

    def draw(step: int) -> Path:
        batch = _first_samples(dataset)
        orders = "random" if config.eval_order_version_id == RANDOM_ORDER else "raster"
        texts = encode_texts(pipeline.text_encoder, batch.texts)  # features, for data may hold empty texts
        drawn = pipeline.draw(texts, sampling=config.sampling(), orders=orders)
        pipeline.engine.release()  # training needs the memory
        return _save_preview([*show_batch(pipeline, batch), drawn], config, step)

    return draw


def editing_preview(
    pipeline: EditingPipeline, dataset: Dataset, config: EditingConfig
) -> Callable[[int], Path]:
    """Rows of sources, of edited images as they should be, and of the model's edits."""

    def draw(step: int) -> Path:
        batch = _first_samples(dataset)
        source = to_codes(pipeline.tokenizer, batch.source)
        text, text_valid = pipeline.encode_texts(batch.texts)
        mode = "marks" if config.mask_in_context else "no_marks"
        seeds = list(range(len(source)))
        # An unusable sample still needs something to edit.
        edit_mask = batch.edit_mask | ~batch.valid[:, None]
        drawn = pipeline.token_editor.edit(
            source, edit_mask, text, text_valid, seeds, config.sampling(), mode=mode
        )
        pipeline.engine.release()  # training needs the memory
        rows = [*show_batch(pipeline, batch), pipeline.decode(drawn.codes)]
        return _save_preview(rows, config, step)

    return draw


def _first_samples(dataset: Dataset):
    return collate_samples([dataset[index, 0] for index in range(min(NUM_PREVIEWS, len(dataset)))])


def show_batch(
    pipeline: EditingPipeline, batch: T2IBatch | EditBatch, limit: int | None = None
) -> list[list[Image.Image]]:
    """Rows of the batch's images, passed through the tokenizer: captioned ones, or sources and results."""
    images = [batch.image] if isinstance(batch, T2IBatch) else [batch.source, batch.edited]
    return [pipeline.decode(to_codes(pipeline.tokenizer, row[:limit])) for row in images]


def _save_preview(rows: list[list[Image.Image]], config: TrainConfig, step: int) -> Path:
    path = Path(config.results_dir) / "previews" / f"{step:07d}.png"
    save_rows(rows, path)
    return path


def save_rows(rows: list[list[Image.Image]], path: Path) -> None:
    """Writes rows of images of one size as one PNG."""
    side = rows[0][0].width + GAP
    sheet = np.full((len(rows) * side + GAP, len(rows[0]) * side + GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = GAP + r * side, GAP + c * side
            sheet[top : top + image.height, left : left + image.width] = np.asarray(image)
    save_picture(Image.fromarray(sheet), path)
