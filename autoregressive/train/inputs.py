"""From samples to what the model reads and is held against: the only thing in which the two stages differ.

The loader's processes lay out, pack and tokenize (`Preparation`); the training thread copies to the device,
runs the frozen encoders there and puts their results into place (`Inputs`), waiting for nothing.

Letters: B batch, N cells, T text slots, C caption width, V codes.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autoregressive.models.config import ModelConfig
from autoregressive.models.flops import batch_flops
from autoregressive.models.gpt import Transformer
from autoregressive.sequence.builders import editing_layout, t2i_layout
from autoregressive.sequence.layout import TrainingLayout
from autoregressive.sequence.orders import edit_orders, random_orders, region_orders
from autoregressive.sequence.packing import pack_rows
from autoregressive.train.config import EditingConfig, T2IConfig, TrainConfig
from dataset.batches import EditBatch, T2IBatch, Text, collate_samples
from language.t5 import T5Encoder, T5Tokenizer, TokenizedTexts, encode_texts
from language.text_features import TextFeatures, says_nothing, stack_text_features
from runtime.devices import autocast
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.tensor_fields import TensorFields
from tokenizer.tokenizer_image.vq_model import VQModel

log = get_logger(__name__)
# Second word of the entropy beside a sample's seed, so that its choices use different random streams.
CAPTION_DROP, FULL_MASK, REGION_ORDER = 2, 3, 4
Key = tuple[int, int]
"""Index and seed of a sample."""


@dataclass(frozen=True)
class Encoders:
    """The frozen models that turn images and captions into what the transformer reads."""

    tokenizer: VQModel
    text_encoder: T5Encoder | None
    """None where all texts come as features."""
    text_width: int
    """C, of encoded texts and of ready-made features alike."""
    max_tokens: int
    """Most text slots; features beyond are cut off."""
    tokenizer_precision: str = "none"
    """Autocast type of the tokenizer."""

    def codes(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) images → (B, N) codes on the CPU; what is codes already passes through."""
        return to_codes(self.tokenizer, images, self.tokenizer_precision).cpu()

    def features(self, texts: list[Text]) -> list[TextFeatures]:
        """Features of each text, string or features already."""
        return encode_texts(self.text_encoder, texts)

    def to(self, device: str | torch.device) -> None:
        """Moves both."""
        self.tokenizer.to(device)
        if self.text_encoder is not None:
            self.text_encoder.to(device)


def to_codes(tokenizer: VQModel, images: Tensor, precision: str = "none") -> Tensor:
    """(B, 3, S, S) images → (B, N) int64 codes on the tokenizer's device; codes pass through."""
    if images.dim() == 2:
        return images.long()
    device = tokenizer.post_quant_conv.weight.device
    with autocast(device, precision):
        return tokenizer.encode_ids(images.to(device, non_blocking=True))


@dataclass(frozen=True)
class Treatment(TensorFields):
    """What is still to be done with a batch's (B, T, C) float32 features."""

    dropped: Tensor
    """(B,) bool: "no caption" takes the place of the whole text."""
    spoiled: Tensor
    """(B,) bool: a pixel of the sample is not finite. The features become not-a-number, and that step is
    skipped; the tokenizer would hide it, as it gives every pixel some code."""
    kept: Tensor | None
    """Which of the B·T slots a packed row keeps, in order; None where rows are not packed."""

    def __call__(self, text: Tensor, no_caption: Tensor) -> Tensor:
        text = torch.where(self.dropped[:, None, None], no_caption, text)
        text = torch.where(self.spoiled[:, None, None], torch.nan, text)
        return text if self.kept is None else text.flatten(0, 1)[self.kept][None]


@dataclass(frozen=True)
class PendingText(TensorFields):
    """The left-padded texts of a batch of which some are still words."""

    features: Tensor
    """(B, T, C) float32; zeros for the texts that are words."""
    words: TokenizedTexts
    places: Tensor
    """(M,) where in the B·T slots the M tokens of `words` go."""
    treatment: Treatment


@dataclass(frozen=True)
class Prepared(TensorFields):
    """A micro-batch as the loader hands it over."""

    layout: TrainingLayout
    """With addresses in the place of codes, see `Preparation`."""
    text: Tensor | PendingText
    """(B, T, C) float32 features, or what becomes them."""
    images: tuple[Tensor, ...]
    """The (B, 3, S, S) images, or (B, N) codes, that the addresses count through."""
    flops: float
    """Operations that a training step on it needs, see `batch_flops`."""
    step: int
    origins: list[str]
    seeds: list[int]
    problems: list[str | None]
    silent: list[str]
    """Origins of those samples whose text features are those of an empty text."""


@dataclass(frozen=True)
class Preparation(ABC):
    """Makes a `Prepared` of a batch, on the CPU, in any process.

    Codes need the tokenizer, so the layout is made of addresses: images and their cells are counted through,
    and the two addresses that follow stand for the marks.
    """

    model: ModelConfig
    config: TrainConfig
    tokenizer: T5Tokenizer | None
    no_caption: Tensor
    """(T, C) float32 features of no caption, T the most that a text has."""
    pack: bool

    @abstractmethod
    def images(self, batch: T2IBatch | EditBatch) -> tuple[Tensor, ...]:
        """Of a batch, in the order in which addresses count through them."""

    @abstractmethod
    def lay_out(
        self,
        batch: T2IBatch | EditBatch,
        addresses: Sequence[Tensor],
        mark: int,
        text_valid: Tensor,
        step: int,
    ) -> TrainingLayout:
        """The batch's layout.

        Args:
          addresses: (B, N) for each of the images.
          mark: what stands for V.
          text_valid: (B, T) bool, left-padded.
        """

    def __call__(self, batch: T2IBatch | EditBatch, step: int) -> Prepared:
        images = self.images(batch)
        num, cells = len(batch.seeds), self.model.block_size
        addresses = torch.arange(len(images) * num * cells).view(len(images), num, cells)
        words, counts = self._tokenize(batch.texts)
        valid = torch.arange(int(counts.max())) >= counts.max() - counts[:, None]
        layout, kept = self.lay_out(batch, addresses.unbind(), addresses.numel(), valid, step), None
        if self.pack:
            layout, kept = pack_rows(layout, valid.shape[1])
        dropped = chosen(CAPTION_DROP, batch.seeds, self.config.class_dropout_p)
        treatment = Treatment(dropped, ~_finite(images), kept)
        return Prepared(
            layout,
            self._text(batch.texts, words, valid, treatment),
            images,
            float(batch_flops(self.model, layout)),
            step,
            batch.origins,
            batch.seeds,
            batch.problems,
            silent=[
                origin
                for origin, text in zip(batch.origins, batch.texts, strict=True)
                if isinstance(text, TextFeatures) and says_nothing(text)
            ],
        )

    def _tokenize(self, texts: list[Text]) -> tuple[TokenizedTexts | None, Tensor]:
        """Those of the texts that are words, in tokens; and (B,) the slots that each of the texts takes."""
        strings = [text for text in texts if isinstance(text, str)]
        if strings and self.tokenizer is None:
            raise UserError(
                f"no text encoder is loaded for {strings[0][:80]!r}: give --t5-path, or text features"
            )
        words = self.tokenizer(strings) if strings else None
        lengths = iter(words.counts().tolist() if strings else [])
        most = len(self.no_caption)
        counts = [next(lengths) if isinstance(t, str) else min(int(t.valid.sum()), most) for t in texts]
        return words, torch.tensor(counts)

    def _text(
        self, texts: list[Text], words: TokenizedTexts | None, valid: Tensor, treatment: Treatment
    ) -> Tensor | PendingText:
        num, width = valid.shape
        features = torch.zeros(num, width, self.no_caption.shape[1])
        if ready := [i for i, text in enumerate(texts) if isinstance(text, TextFeatures)]:
            stacked, _ = stack_text_features([texts[i] for i in ready], width, width)
            features[ready] = stacked.float()
        if words is None:
            return treatment(features, self.no_caption[-width:])
        slots = torch.arange(num * width).view(num, width)
        rows = torch.tensor([i for i in range(num) if i not in ready])
        return PendingText(features, words, slots[rows][valid[rows]], treatment)


def _finite(images: tuple[Tensor, ...]) -> Tensor:
    """(B,) bool: samples all of whose pixels are finite; codes are."""
    kinds = [i.isfinite() if i.is_floating_point() else torch.ones_like(i, dtype=torch.bool) for i in images]
    return torch.stack([finite.flatten(1).all(1) for finite in kinds]).all(0)


def chosen(purpose: int, seeds: list[int], share: float) -> Tensor:
    """(B,) bool: samples that fall into the `share` of them, a coin each that nothing else uses."""
    return torch.tensor([np.random.default_rng([purpose, seed]).random() < share for seed in seeds])


@dataclass(frozen=True)
class T2IPreparation(Preparation):
    """Stage 1: a fresh order for every sample, random or that of an edit (raster order for `GPT-*`)."""

    config: T2IConfig

    def images(self, batch: T2IBatch) -> tuple[Tensor, ...]:
        return (batch.image,)

    def lay_out(
        self, batch: T2IBatch, addresses: Sequence[Tensor], mark: int, text_valid: Tensor, step: int
    ) -> TrainingLayout:
        return t2i_layout(addresses[0], self._orders(batch.seeds), text_valid, batch.valid)

    def _orders(self, seeds: list[int]) -> Tensor:
        """(B, N) the order in which each sample's cells are predicted."""
        num_cells = self.model.block_size
        if not self.model.any_order:
            return torch.arange(num_cells).expand(len(seeds), -1)
        orders = random_orders(seeds, num_cells)
        as_edits = chosen(REGION_ORDER, seeds, self.config.region_share)
        kinds = self.config.region_orders
        orders[as_edits] = region_orders(list(itertools.compress(seeds, as_edits)), num_cells, kinds)
        return orders


@dataclass(frozen=True)
class EditingPreparation(Preparation):
    """Stage 2: source codes, marks if the model has them, edited codes in the order of `--edit-orders`."""

    config: EditingConfig

    def images(self, batch: EditBatch) -> tuple[Tensor, ...]:
        return batch.source, batch.edited

    def lay_out(
        self, batch: EditBatch, addresses: Sequence[Tensor], mark: int, text_valid: Tensor, step: int
    ) -> TrainingLayout:
        # One coin a step, not one a sample: a single full mask makes every row of its batch long.
        coin = np.random.default_rng([FULL_MASK, self.config.global_seed, step]).random()
        full = coin < self.config.full_mask_share
        edit_mask = batch.edit_mask | (full & batch.valid[:, None])
        return editing_layout(
            *addresses,
            edit_mask,
            text_valid,
            mark,
            marks=self.model.mask_in_context,
            orders=edit_orders(batch.seeds, edit_mask, self.config.edit_orders),
            sample_valid=batch.valid,
            supervise_marks=self.config.supervise_marks,
        )


class Inputs:
    """What a stage makes of its batches."""

    def __init__(
        self,
        preparation: type[Preparation],
        model: Transformer,
        encoders: Encoders,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self._kind, self.model, self.encoders, self.config = preparation, model, encoders, config
        self.device = device
        vocab = model.config.vocab_size
        self._marks = torch.tensor([vocab, vocab + 1], device=device)
        self._num_silent = 0

    def preparation(self) -> Preparation:
        """The loader's half, with the features of no caption as the model has them now."""
        encoder = self.encoders.text_encoder
        no_caption = self.model.cls_embedding.uncond_embedding.detach().cpu().float()
        pack = self.config.packs_rows(self.device.type)
        return self._kind(
            self.model.config,
            self.config,
            encoder and encoder.tokenizer,
            no_caption[-self.encoders.max_tokens :],
            pack,
        )

    def __call__(self, batch: T2IBatch | EditBatch, step: int) -> tuple[TrainingLayout, Tensor]:
        """Both halves at once."""
        return self.finish(self.preparation()(batch, step))

    @torch.no_grad()
    def finish(self, prepared: Prepared) -> tuple[TrainingLayout, Tensor]:
        """The layout and its (B, T, C) float32 text, on the device."""
        self._notice_silent(prepared.silent)
        encoders, device = self.encoders, self.device
        codes = to_codes(encoders.tokenizer, torch.cat(prepared.images), encoders.tokenizer_precision)
        known = torch.cat([codes.to(device, non_blocking=True).flatten(), self._marks])
        layout = prepared.layout.to(device)
        layout = replace(layout, token_ids=known[layout.token_ids], targets=known[layout.targets])
        text = prepared.text.to(device, non_blocking=True)
        return layout, self._encode(text) if isinstance(text, PendingText) else text

    def _notice_silent(self, origins: list[str]) -> None:
        """Warns when the number of texts that say nothing has doubled; strings the text encoder counts."""
        before, self._num_silent = self._num_silent, self._num_silent + len(origins)
        if self._num_silent.bit_length() > before.bit_length():
            log.warning(
                "%s: its text features are those of an empty text, %d such sample(s) so far: the model is "
                "told nothing; write the text in English words and make its features again",
                *(origins[0], self._num_silent),
            )

    def _encode(self, pending: PendingText) -> Tensor:
        text, places = pending.features, pending.places
        encoded = self.encoders.text_encoder.encode_tokens(pending.words)
        text.flatten(0, 1).index_copy_(0, places, encoded.to(self.device))
        return pending.treatment(text, self.model.unconditional_text(text))


def t2i_inputs(model: Transformer, encoders: Encoders, config: T2IConfig, device: torch.device) -> Inputs:
    """Stage 1's."""
    return Inputs(T2IPreparation, model, encoders, config, device)


def editing_inputs(
    model: Transformer, encoders: Encoders, config: EditingConfig, device: torch.device
) -> Inputs:
    """Stage 2's."""
    return Inputs(EditingPreparation, model, encoders, config, device)


class PreparedBatches(Dataset[Prepared]):
    """A dataset that a loader asks for whole micro-batches, as (step, keys), and gets them prepared."""

    def __init__(self, dataset: Dataset, preparation: Preparation) -> None:
        """
        Args:
          dataset: map-style, keyed by (index, seed).
        """
        self.dataset, self.preparation = dataset, preparation

    def __getitem__(self, batch: tuple[int, list[Key]]) -> Prepared:
        step, keys = batch
        return self.preparation(collate_samples([self.dataset[key] for key in keys]), step)


@dataclass(frozen=True)
class NumberedBatches:
    """Micro-batches with the step that each is for."""

    batches: Sequence[list[Key]]
    first_step: int
    a_step: int
    """How many micro-batches a step has."""

    def __iter__(self) -> Iterator[tuple[int, list[Key]]]:
        for number, keys in enumerate(self.batches):
            yield self.first_step + number // self.a_step, keys
