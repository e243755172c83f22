"""Writes the text features of captions to disk, so that training need not run the text encoder.

Two kinds of input:

- a folder of jsonl files (LlamaGen's layout): line i (from 0) of `<stem>.jsonl` goes to
  `<output>/<stem>/<i>.npy`;
- one jsonl file: the same, and beside the input a list `<stem>_t5.jsonl` is written, the input's lines with
  the path of the features added. Train with that list.

      python language/extract_t5_feature.py --data-path data/my_images.jsonl
      torchrun --nproc_per_node 8 language/extract_t5_feature.py --data-path data/ultraedit.jsonl \\
          --caption-key output_caption

The key that is added is the one the readers look for: `embedding_path` for captions of images, for edit pairs
`target_caption_t5_path`, or `edit_prompt_t5_path` with --caption-key edit_prompt. To have both for the same
pairs, run a second time on the list that the first run wrote.

Every run can be stopped and started again: files that are there are kept, each file is whole or absent, and a
folder made with other settings or other captions is refused instead of mixed.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from dataset.extraction import Source, claim_folders, list_jsonl, missing_batches, share_size
from dataset.jsonl import JsonLine, JsonlRecords
from language.published import DEFAULT_T5
from language.t5 import T5Encoder, resolve_t5
from language.text_features import count_stored_tokens, save_text_features
from runtime.config import REQUIRED, legacy, option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.files import write_atomic
from runtime.logging import get_logger, progress
from runtime.precision import PRECISIONS
from runtime.ranges import COUNT, COUNT_OR_NONE

# LlamaGen's names for the entries of a line's `text` list.
CAPTION_INDEX = {"blip": 0, "llava": 1, "llava_first": 2}
# What the readers call the features of a text; of any other text: embedding_path.
FEATURE_KEYS = {"edit_prompt": "edit_prompt_t5_path", "output_caption": "target_caption_t5_path"}
SAMPLE_SIZE = 1000  # captions whose tokens are counted for the disk estimate


@dataclass
class ExtractConfig:
    """Writes the T5 features of the captions in jsonl files."""

    data_path: str = option(REQUIRED, help="a folder of jsonl files, or one jsonl file")
    output_dir: str | None = option(
        None,
        help="folder for the features; without it: t5_features beside the jsonl file",
        aliases=("t5_path", "t5_feat_path"),
    )
    data_start: int = option(
        0, within=COUNT_OR_NONE, help="first jsonl file of a folder, from 0, in the order of their names"
    )
    data_end: int | None = option(
        None, within=COUNT_OR_NONE, help="last jsonl file of a folder, included; without it: all"
    )
    caption_key: str = option(
        "blip",
        help="blip, llava or llava_first: entry 0, 1, 2 of `text` (a string counts as blip); else a key",
    )
    trunc_caption: bool = option(False, help="keep the caption up to its first full stop only")
    t5_model_path: str = option("pretrained_models/t5-ckpt", help="folder of text encoders, or one of them")
    t5_model_type: str = option(DEFAULT_T5, help="the text encoder's folder there, or its name on the hub")
    precision: str = option("bf16", help="arithmetic of the text encoder", choices=list(PRECISIONS))
    batch_size: int = option(32, within=COUNT, help="captions a step and rank")
    device: str = option("auto", help="auto, cpu or cuda")
    global_seed: str | None = legacy("nothing is random here")
    num_workers: str | None = legacy("reading captions takes no time beside the encoder")


def extract(config: ExtractConfig, process: Distributed) -> None:
    """Extracts what is missing; see the head of this file.

    Raises:
      UserError: bad input, no text encoder, other settings in the output folder, or too little disk space.
    """
    sources = find_sources(config)
    model = resolve_t5(config.t5_model_path, config.t5_model_type)
    encoder = T5Encoder(model, process.device, PRECISIONS[config.precision])
    extract_sources(sources, encoder, config.precision, config.batch_size, process)
    if process.is_main and Path(config.data_path).is_file():
        _write_list(sources[0], config.caption_key)


def extract_sources(
    sources: list[Source], encoder: T5Encoder, precision: str, batch_size: int, process: Distributed
) -> None:
    """Writes the features that are missing, each rank its share; returns when those of all ranks are there.

    Args:
      sources: records of (name of the .npy, caption), each source with a folder of its own.
      precision: the encoder's, a key of `PRECISIONS`; features of another one are not mixed in.
      batch_size: captions a step and rank.
    Raises:
      UserError: other settings in an output folder, or too little disk space.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    settings = {"precision": precision, "text_encoder": encoder.fingerprint()}
    claim_folders(sources, "captions", settings, str, "--output-dir", process)
    if process.is_main:
        _check_disk_space(sources, encoder)
    process.barrier()

    total = share_size(sources, process)
    with progress(total=total, desc="captions", unit="caption", disable=not process.is_main) as bar:
        for source in sources:
            _extract_source(source, encoder, batch_size, process, bar)
    process.barrier()


def find_sources(config: ExtractConfig) -> list[Source]:
    """The jsonl files to read, in the order of their names."""
    data = Path(config.data_path)
    files = list_jsonl(data, config.data_start, config.data_end)
    if data.is_dir() and config.output_dir is None:
        raise UserError(f"{data} is a folder: name a folder for its features with --t5-path")
    output = Path(config.output_dir) if config.output_dir else data.parent / "t5_features"
    if (output / "config.json").exists():
        raise UserError(
            f"--t5-path {output} holds a model: here it names the folder for the features, as in LlamaGen; "
            "--t5-model-path is the encoder's"
        )
    # A single list may hold several texts a line (instruction, caption): each has a folder of its own.
    suffix = f"_{config.caption_key}" if data.is_file() and config.caption_key in FEATURE_KEYS else ""
    read = partial(_read_caption, key=config.caption_key, first_sentence=config.trunc_caption)
    return [Source(file, output / f"{file.stem}{suffix}", JsonlRecords([file], read)) for file in files]


def _read_caption(line: JsonLine, key: str, first_sentence: bool) -> tuple[int, str]:
    value = line.values.get("text" if key in CAPTION_INDEX else key)
    if key in CAPTION_INDEX and isinstance(value, list):
        index = CAPTION_INDEX[key]
        value = value[index] if index < len(value) else None
    elif CAPTION_INDEX.get(key, 0) > 0:
        value = None  # a plain string is the only caption there is, not the second or third
    if not isinstance(value, str):
        raise UserError(
            f"{line.origin}: no caption for --caption-key {key}; "
            f"the line has {', '.join(map(repr, line.values))}"
        )
    return line.number - 1, value.split(".")[0] if first_sentence else value


def _check_disk_space(sources: list[Source], encoder: T5Encoder) -> None:
    """Logs how much space the features take, and refuses to start where there is less."""
    total = sum(len(source.records) for source in sources)
    largest = max(sources, key=lambda source: len(source.records)).records
    step = max(1, len(largest) // SAMPLE_SIZE)
    counts = encoder.count_tokens([largest[index][1] for index in range(0, len(largest), step)])
    bytes_each = 4 * encoder.width * sum(counts) / len(counts) + 128  # float32 rows behind a .npy header
    folder = sources[0].folder.parent
    present = sum(file.stat().st_size for source in sources for file in source.folder.glob("*.npy"))
    needed = max(0, total * bytes_each - present) / 1e9
    free = shutil.disk_usage(folder).free / 1e9
    get_logger("extract_t5").info(
        "%d captions, %.1f%% of them at the limit of %d tokens: about %.2f GB to write, %.2f GB free in %s",
        *(total, 100 * counts.count(encoder.max_tokens) / len(counts), encoder.max_tokens),
        *(needed, free, folder),
    )
    if needed > free:
        raise UserError(
            f"{folder}: the features need about {needed:.1f} GB more, {free:.1f} GB are free; "
            "free space, choose another --output-dir, or train from the captions themselves"
        )


def _extract_source(
    source: Source, encoder: T5Encoder, batch_size: int, process: Distributed, bar: tqdm
) -> None:
    is_done = partial(_is_done, width=encoder.width)
    for batch in missing_batches(source, is_done, batch_size, process, bar):
        features = encoder.encode([caption for _, caption in batch], batch_size)
        for (path, _), feature in zip(batch, features, strict=True):
            save_text_features(path, feature)
        bar.update(len(batch))


def _is_done(path: Path, width: int) -> bool:
    try:
        count_stored_tokens(path, width)
    except UserError:
        return False
    return True


def _write_list(source: Source, caption_key: str) -> None:
    """Writes the input's lines with the features' paths added; beside the input, where its paths hold."""
    feature_key = FEATURE_KEYS.get(caption_key, "embedding_path")
    root = source.file.parent.resolve()
    folder = source.folder.resolve()
    inside = folder.is_relative_to(root)
    shown = folder.relative_to(root) if inside else folder
    target = source.file.with_name(f"{source.file.stem}_t5.jsonl")

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            for line in JsonlRecords([source.file], lambda line: line):
                extended = {**line.values, feature_key: str(shown / f"{line.number - 1}.npy")}
                file.write(json.dumps(extended, ensure_ascii=False) + "\n")

    write_atomic(target, write)
    hint = "" if inside else " and --absolute-paths, for the features are not below its folder"
    get_logger("extract_t5").info("train with %s%s", target, hint)


def main() -> None:
    config = parse(ExtractConfig)
    get_logger("t5").setLevel(logging.ERROR)  # a truncation notice a batch would drown the progress bar
    with distributed(config.device) as process:
        extract(config, process)


if __name__ == "__main__":
    run_command(main)
