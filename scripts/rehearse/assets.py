"""Random weights in the published formats and sizes, and tiny data sets in the published layouts.

`make_assets` fills a folder from which the published commands run as they are written. The same files every
time; weights that are there already are kept, the data is written anew (seconds).

    pretrained_models/   vq_ds16_t2i.pt, t2i_XL_stage1_256.pt, ViT-B-32.pt, dino_deitsmall16_pretrain.pth,
                         t5-ckpt/flan-t5-xl/ (a T5 of one layer, as wide as FLAN-T5-XL)
    a.jsonl b.jsonl      captioned images, captions as T5 features
    ultraedit.jsonl      edit pairs; the first line has no mask
    edit_sessions_with_instruction_t5.json, test/                      MagicBrush
    emu_edit_test_set/data/*.parquet, images_valid/, assets/*.json     Emu Edit
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from autoregressive.models.config import GPT_MODELS, ModelConfig
from autoregressive.models.gpt import Transformer
from dataset.shapes.edits import ShapesConfig
from dataset.shapes.writers import (
    draw_test_sessions,
    make_train_folders,
    merge_train_rows,
    write_emu,
    write_magicbrush,
    write_train_chunk,
)
from language.caption_cleaning import clean_caption
from language.published import DEFAULT_T5, MAX_TOKENS
from language.t5 import T5Encoder
from language.text_features import save_text_features
from runtime.checkpoint import save_checkpoint
from runtime.logging import get_logger
from scripts.rehearse.config import NUM_TEST_ITEMS, llamagen_file
from tokenizer.tokenizer_image.vq_model import build_vq_model

log = get_logger("rehearsal")
SEED = 0
TEXT_WIDTH = 2048
TOKENIZER = "pretrained_models/vq_ds16_t2i.pt"
CLIP = "pretrained_models/ViT-B-32.pt"
DINO = "pretrained_models/dino_deitsmall16_pretrain.pth"
T5_FOLDER = "pretrained_models/t5-ckpt"


def make_assets(root: Path, gpt_model: str, image_size: int, ranks: int, *, validates: bool = True) -> None:
    """Writes everything that the published commands read.

    Args:
      gpt_model: an `R-GPT-*` name; the LlamaGen file holds the `GPT-*` model of its size.
      image_size: side of the training images; those of the test sets are twice as large, as MagicBrush's.
      ranks: there are as many samples as that many ranks need, one each a step.
      validates: the networks of the metrics too.
    """
    make_weights(root, gpt_model, validates=validates)
    make_data(root, image_size, ranks)


def empty_model(config: ModelConfig) -> Transformer:
    """A model with names and shapes but without memory for its weights."""
    with torch.device("meta"):
        return Transformer(config)


def make_weights(root: Path, gpt_model: str, *, validates: bool = True) -> None:
    """Writes the weight files that are missing; those of the metrics only where a command `validates`."""
    writers: dict[str, Callable[[Path], None]] = {
        TOKENIZER: _write_tokenizer,
        llamagen_file(gpt_model): lambda path: _write_llamagen(path, gpt_model.removeprefix("R-")),
        **({CLIP: _write_clip, DINO: _write_dino} if validates else {}),
    }
    for name, write in writers.items():
        if not (root / name).exists():
            log.info("making %s", root / name)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                write(root / name)


def _write_tokenizer(path: Path) -> None:
    save_checkpoint(path, {"model": build_vq_model("VQ-16").state_dict()})


def _write_llamagen(path: Path, name: str) -> None:
    """LlamaGen's training checkpoint: weights, the optimizer before its first step, args as a Namespace."""
    model = empty_model(GPT_MODELS[name])
    state = {n: _random_weight(n, tensor.shape) for n, tensor in model.state_dict().items()}
    args = argparse.Namespace(
        gpt_model=name,
        gpt_type="t2i",
        vq_model="VQ-16",
        image_size=256,
        downsample_size=16,
        vocab_size=model.config.vocab_size,
        cls_token_num=model.config.cls_token_num,
        num_classes=1000,
        dataset="t2i",
        lr=1e-4,
        weight_decay=5e-2,
        beta1=0.9,
        beta2=0.95,
        mixed_precision="bf16",
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(args.beta1, args.beta2))
    content = {"model": state, "optimizer": optimizer.state_dict(), "steps": 0, "args": args}
    save_checkpoint(path, content)


def _random_weight(name: str, shape: torch.Size) -> Tensor:
    if name.endswith("uncond_embedding"):
        return torch.randn(shape) / shape[-1] ** 0.5
    return torch.ones(shape) if len(shape) == 1 else torch.empty(shape).normal_(std=0.02)


def _write_clip(path: Path) -> None:
    import open_clip

    save_checkpoint(path, open_clip.create_model("ViT-B-32-quickgelu").state_dict())


def _write_dino(path: Path) -> None:
    import timm

    save_checkpoint(path, timm.create_model("vit_small_patch16_224.dino", num_classes=0).state_dict())


def make_data(root: Path, image_size: int, ranks: int) -> None:
    """Writes the training lists, both test sets, a text encoder that knows their words, and its features."""
    shapes = ShapesConfig(image_size=image_size)
    make_train_folders(root)
    rows = write_train_chunk(root, shapes, SEED, range(3 * ranks))  # the third command takes three steps
    lines = merge_train_rows(rows)
    drawn = draw_test_sessions(shapes, SEED, NUM_TEST_ITEMS + 1)  # a session of one turn, one of two turns
    edits = [example for session in drawn.values() for example in session]
    shutil.rmtree(root / "test", ignore_errors=True)
    # Each later turn would cost an edit at full size of the same kind as the first.
    write_magicbrush(root / "test", {name: turns[:1] for name, turns in drawn.items()}, 2 * image_size)
    texts = {line["text"] for line in lines["t2i.jsonl"]}
    texts |= {example.edit.instruction for example in edits}
    _make_t5(root / T5_FOLDER / DEFAULT_T5, texts)
    features = _Features(root, texts)
    for part, name in enumerate(("a.jsonl", "b.jsonl")):
        part_lines = lines["t2i.jsonl"][part * ranks : (part + 1) * ranks]
        _write_lines(
            root / name,
            [{"image_path": t["image_path"], "embedding_path": features.of(t["text"])} for t in part_lines],
        )
    _write_lines(root / "ultraedit.jsonl", _ultraedit_lines(lines["editing.jsonl"], features))
    words = json.loads((root / "test" / "edit_sessions.json").read_text())
    for turn in (turn for turns in words.values() for turn in turns):
        turn["instruction"] = features.of(turn["instruction"])
    (root / "edit_sessions_with_instruction_t5.json").write_text(json.dumps(words, indent=1))
    _write_emu_set(root, edits, 2 * image_size)


def _ultraedit_lines(lines: list[dict], features: _Features) -> list[dict]:
    written = []
    for line in lines:
        images = {key: line[key] for key in ("file_name", "edited_image", "mask_image", "edit_prompt")}
        written.append(images | {"target_caption_t5_path": features.of(line["output_caption"])})
    written[0]["mask_image"] = "NONE"
    return written


class _Features:
    """The T5 features of some texts, as .npy files."""

    def __init__(self, root: Path, texts: Iterable[str]) -> None:
        ordered = sorted(texts)
        self._names = {text: f"t5_features/{number:03d}.npy" for number, text in enumerate(ordered)}
        encoded = T5Encoder(root / T5_FOLDER / DEFAULT_T5).encode(ordered)
        for text, rows in zip(ordered, encoded, strict=True):
            save_text_features(root / self._names[text], rows)

    def of(self, text: str) -> str:
        """The file of a text, relative to the work folder."""
        return self._names[text]


def _write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _write_emu_set(root: Path, examples: list, image_size: int) -> None:
    """The parquet file holds all examples, the valid list only the first ones, as it is with the real set."""
    made = root / "emu_made"
    write_emu(made, examples, image_size)
    listed = json.loads((made / "emu_test_data.json").read_text())[:NUM_TEST_ITEMS]
    for folder in ("emu_edit_test_set/data", "assets", "images_valid"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (made / "test.parquet").replace(root / "emu_edit_test_set" / "data" / "test-00000-of-00001.parquet")
    (root / "assets" / "emu_test_data.json").write_text(json.dumps(listed, indent=1))
    for item in listed:
        name = f"images_valid/{item['idx']}_gt.png"
        (made / name).replace(root / name)
    shutil.rmtree(made)


def _make_t5(folder: Path, texts: Iterable[str]) -> None:
    """A random T5 encoder of one narrow layer and the published width, with a tokenizer of whole words."""
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(clean_caption(text))})
    pad, end, unknown = "<pad>", "</s>", "<unk>"
    ids = {word: number for number, word in enumerate([pad, end, unknown, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, ids[end])]
    )
    config = T5Config(
        vocab_size=len(ids),
        d_model=TEXT_WIDTH,
        d_kv=64,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: nn.Module = T5EncoderModel(config)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        unk_token=unknown,
        model_max_length=MAX_TOKENS,
        padding_side="right",
    ).save_pretrained(folder)
    model.save_pretrained(folder)
