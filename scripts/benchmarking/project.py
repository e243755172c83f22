"""The project's side: all calls of the benchmark into its models, pipeline, training and loaders."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoregressive.decoding.engine import Engine
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.models.loss import SupervisedLoss
from autoregressive.sequence.builders import editing_prompt
from autoregressive.sequence.orders import raster_edit_order
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.inputs import Encoders, Inputs, editing_inputs, t2i_inputs
from dataset.batches import EditBatch, T2IBatch, collate_samples
from dataset.build import build_dataset
from dataset.packed.dataset import PackedEdits
from language.text_features import TextFeatures, stack_text_features
from runtime.devices import autocast
from scripts.benchmarking.baseline import SlowTransformer
from scripts.benchmarking.cases import Edits, Scale
from tokenizer.tokenizer_image.vq_model import build_vq_model

# As the published commands draw: guidance 7.5, the 1000 likeliest codes, a pass a code. Of random weights no
# guess is right; what windows save is measured with trained ones, by scripts/checks/measure_passes.py.
SAMPLING = Sampling(window=1)


def build_model(
    scale: Scale, name: str, image_size: int, device: torch.device, dtype: torch.dtype, **overrides
) -> Transformer:
    """An editing model with random weights, the output head's included."""
    config = replace(
        GPT_MODELS[name],
        vocab_size=scale.vocab_size,
        caption_dim=scale.caption_dim,
        block_size=scale.cells(image_size),
        mask_in_context=True,
        **overrides,
    )
    gc.collect()  # a compiled model refers to itself: the one before may still be there
    torch.manual_seed(0)
    model = Transformer(config)
    torch.nn.init.normal_(model.output.weight, std=0.02)
    return model.to(device, dtype).eval()


def build_twin(model: Transformer) -> SlowTransformer:
    """The slow twin over the very tensors of `model`."""
    with torch.device("meta"):
        twin = SlowTransformer(model.config)
    twin.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return twin.train(model.training)


def build_engine(model: Transformer, *, compiled: bool) -> Engine:
    """What the pipeline makes of a loaded model: packed weights on CPUs; or compiled steps."""
    engine = Engine(model, pack=not compiled)
    if compiled:
        engine.compile_steps()
    return engine


def edit(
    engine: Engine,
    edits: Edits,
    sampling: Sampling,
    on_event: Callable[[str], None] = lambda name: None,
    *,
    num_samples: int = 1,
) -> Tensor:
    """Edits a batch of any masks; `on_event` is told "code" after every code.

    Args:
      num_samples: results of every edit, which share its prompt.
    Returns:
      (B · num_samples, K) codes.
    """
    model = engine.model
    weight = model.tok_embeddings.weight
    text, text_valid = stack_text_features(edits.texts)
    orders = raster_edit_order(edits.edit_mask)[:, : max(edits.counts())]
    prompt = editing_prompt(edits.source, edits.edit_mask, orders, text_valid, model.config.vocab_size)
    return engine.generate(
        prompt.to(weight.device),
        text.to(weight),
        orders.repeat_interleave(num_samples, 0).to(weight.device),
        range(len(edits) * num_samples),
        sampling,
        counts=[count for count in edits.counts() for _ in range(num_samples)],
        on_pass=lambda _codes, _numbers: on_event("code"),
    ).codes


def set_up_caches(engine: Engine, rows: int, length: int) -> None:
    """What stands between two edits of one shape."""
    with engine.borrow_cache(rows, length):
        pass


def build_pipeline(model: Transformer, scale: Scale, *, small: bool) -> EditingPipeline:
    """A pipeline around `model` with a random tokenizer; its texts are features."""
    size = {"width": 8, "z_channels": 8, "norm_groups": 2} if small else {}
    tokenizer = build_vq_model("VQ-16", codebook_size=scale.vocab_size, **size)
    weight = model.tok_embeddings.weight
    return EditingPipeline(tokenizer.to(weight.device).eval(), model, None)


def edit_image(pipeline: EditingPipeline, text: TextFeatures) -> None:
    """Edits a quarter of a grey image, the whole way from image to image."""
    side = pipeline.image_size
    mask = np.zeros((side, side), dtype=np.float32)
    mask[: side // 2, : side // 2] = 1
    image = Image.new("RGB", (side, side), "grey")
    pipeline.edit(image, text, mask, sampling=SAMPLING, mask_rule="exact")


def make_training_inputs(model: Transformer, *, editing: bool) -> Inputs:
    """What turns the loader's batches into the model's inputs; no caption is dropped."""
    encoders = Encoders(None, None, model.config.caption_dim, model.config.cls_token_num)
    needed = {"data_path": ["unused"], "vq_ckpt": "unused", "class_dropout_p": 0.0}
    device = model.device
    if editing:
        return editing_inputs(model, encoders, EditingConfig(**needed), device)
    return t2i_inputs(model, encoders, T2IConfig(**needed), device)


def training_network(model: Transformer, *, compiled: bool = False) -> SupervisedLoss:
    """What the training loop runs, on one rank."""
    network = SupervisedLoss(model)
    if compiled:
        network.compile(dynamic=True)
    return network


def training_loss(
    network: SupervisedLoss, make_inputs: Inputs, batch: EditBatch | T2IBatch, mixed_precision: str
) -> Tensor:
    """The mean loss of one batch, as the training loop computes it."""
    layout, text = make_inputs(batch, 0)
    with autocast(text.device, mixed_precision):
        return network(layout, text) / layout.loss_weight.sum().clamp(min=1)


def packed_dataset(folder: Path) -> Dataset:
    """Packed edits, their text left in bfloat16."""
    return PackedEdits(folder, torch.bfloat16)


def image_dataset(jsonl: Path, image_size: int, grid: int, width: int) -> Dataset:
    """Edits read from images, with random crops as in the published stage 2."""
    return build_dataset("editing_ultraedit", [jsonl], image_size, width, grid=grid)


class _Keys(torch.utils.data.Sampler):
    """(index, seed) of `num_samples` samples in batches, over and over the dataset."""

    def __init__(self, size: int, num_samples: int, batch: int) -> None:
        self.size, self.num_samples, self.batch = size, num_samples, batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, self.num_samples, self.batch):
            yield [(i % self.size, i) for i in range(start, start + self.batch)]

    def __len__(self) -> int:
        return self.num_samples // self.batch


def loader(dataset: Dataset, num_samples: int, batch: int, workers: int) -> DataLoader:
    """As the training loop makes it, with workers that stay between passes."""
    return DataLoader(
        dataset,
        batch_sampler=_Keys(len(dataset), num_samples, batch),
        collate_fn=collate_samples,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
