"""A small text encoder for the embedded data set, made on the spot and never trained.

It is a T5 like any other (config, tokenizer, safetensors) and is loaded by `language.t5.T5Encoder`, so that
the quickstart runs the same code as FLAN-T5-XL does. Its weights are chosen, not drawn blindly: at equal
training time an image model learns more from frozen random word vectors than from a randomly initialised T5,
whose attention averages all words into every row. But word vectors alone do not say which words belong
together: "a red circle, a blue square" and "a blue circle, a red square" have the same rows in another order,
and the image model gives text no positions, so it would have to learn the binding from the causal mask alone.

So the one layer here is an n-gram extractor:

- words: orthogonal vectors of unit variance (exactly orthogonal up to `width` words, nearly so beyond);
- attention: queries and keys are zero, which leaves T5's relative position bias to decide alone; head k looks
  at one neighbour, at offset -4..4 without 0, and at the word itself where a sentence has no such neighbour;
- values and outputs: a random rotation per head, of strength below 1, so that neighbours are added to a
  word's vector without hiding it, and each offset keeps its own directions;
- feed-forward: zero.

The row of "circle" in "a red circle at the top left" thus is its own vector plus a rotated "red" and, further
on, "top" and "left". The final T5 norm brings every row to unit mean square.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from dataset.records.jsonl import JsonlRecords
from language.caption_cleaning import clean_caption
from language.published import MAX_TOKENS
from runtime.errors import UserError

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in every T5
OFFSETS = (-1, 1, -2, 2, -3, 3, -4, 4)  # the neighbour each head looks at
NEIGHBOUR_STRENGTH = 0.5  # against 1 of the word itself
# exp(-20) is 2e-9: the own word counts only where the neighbour is absent, the others never.
FALLBACK_BIAS, OTHER_BIAS = -20.0, -40.0
TEXT_KEYS = (
    "text",
    "edit_prompt",
    "instruction",
    "input_caption",
    "output_caption",
    "source_caption",
    "target_caption",
)


def make_small_t5(captions: Iterable[str], output_dir: str | Path, width: int = 128, seed: int = 0) -> None:
    """Makes the encoder and saves it as transformers does.

    Args:
      captions: all texts whose words it must know; other words become <unk>.
      output_dir: folder to write config.json, the tokenizer's files and model.safetensors into.
      width: feature width C.
      seed: of the word vectors and rotations.
    Raises:
      UserError: no words.
    """
    vocabulary = _vocabulary(captions)
    if not vocabulary:
        raise UserError("the texts hold no words; a text encoder needs at least one caption")
    tokenizer = _build_tokenizer(vocabulary)
    model = _build_model(len(tokenizer), width, torch.Generator().manual_seed(seed))
    try:
        tokenizer.save_pretrained(output_dir)
        model.save_pretrained(output_dir)
    except OSError as problem:
        raise UserError(f"cannot write {output_dir}: {problem.strerror or problem}") from problem


def read_captions(files: Sequence[str | Path]) -> set[str]:
    """All different captions and instructions of some jsonl files, under any of `TEXT_KEYS`."""
    captions: set[str] = set()
    for line in JsonlRecords(files, parse=lambda line: line):
        for key in TEXT_KEYS:
            value = line.values.get(key)
            texts = value if isinstance(value, list) else [value]
            captions.update(text for text in texts if isinstance(text, str))
    return captions


def _vocabulary(captions: Iterable[str]) -> list[str]:
    split = pre_tokenizers.Whitespace()
    return sorted({word for text in set(captions) for word, _ in split.pre_tokenize_str(clean_caption(text))})


def _build_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    ids = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
        padding_side="right",
    )


def _build_model(vocab_size: int, width: int, generator: torch.Generator) -> T5EncoderModel:
    config = T5Config(
        vocab_size=vocab_size,
        d_model=width,
        d_kv=width,  # every head carries a whole word vector
        d_ff=width,
        num_layers=1,
        num_heads=len(OFFSETS),
        feed_forward_proj="relu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5EncoderModel(config)
    attention, feed_forward = model.encoder.block[0].layer
    attention = attention.SelfAttention
    with torch.no_grad():
        model.shared.weight.copy_(_word_vectors(vocab_size, width, generator))
        attention.q.weight.zero_()
        attention.k.weight.zero_()
        attention.v.weight.copy_(torch.cat([torch.eye(width)] * len(OFFSETS)))
        rotations = [_rotation(width, generator) for _ in OFFSETS]
        attention.o.weight.copy_(NEIGHBOUR_STRENGTH * torch.cat(rotations, dim=1))
        attention.relative_attention_bias.weight.copy_(_offset_biases(attention))
        for weight in feed_forward.DenseReluDense.parameters():
            weight.zero_()
    return model


def _offset_biases(attention: nn.Module) -> Tensor:
    """Biases (buckets, heads): head h attends to `OFFSETS[h]` alone, at the edges to its own word."""

    def bucket(offset: int) -> int:
        return int(
            attention._relative_position_bucket(
                torch.tensor([offset]),
                bidirectional=True,
                num_buckets=attention.relative_attention_num_buckets,
                max_distance=attention.relative_attention_max_distance,
            )
        )

    farthest = max(map(abs, OFFSETS)) + 1
    buckets = [bucket(offset) for offset in range(-farthest, farthest + 1)]
    assert len(set(buckets)) == len(buckets), "offsets share a position bucket"
    biases = torch.full((attention.relative_attention_num_buckets, len(OFFSETS)), OTHER_BIAS)
    for head, offset in enumerate(OFFSETS):
        biases[bucket(0), head] = FALLBACK_BIAS
        biases[bucket(offset), head] = 0.0
    return biases


def _rotation(width: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (width, width)."""
    return torch.linalg.qr(torch.randn(width, width, generator=generator)).Q


def _word_vectors(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Vectors (count, width) of unit mean square; each run of `width` of them is orthogonal."""
    blocks = [_rotation(width, generator) for _ in range(0, count, width)]
    return torch.cat(blocks)[:count] * width**0.5
