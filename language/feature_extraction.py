"""Text features of captions, written to disk: the work of extract_t5_feature.py, whose head explains it."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

from tqdm import tqdm

from dataset.prepare.extraction import Source, claim_folders, list_jsonl, missing_batches, share_size
from dataset.records.jsonl import JsonLine, JsonlRecords
from language.flags import ExtractConfig
from language.t5 import T5Encoder, resolve_t5
from language.text_features import count_stored_tokens, save_text_features
from runtime.devices import PRECISIONS
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.logging import get_logger, progress

# LlamaGen's names for the entries of a line's `text` list.
CAPTION_INDEX = {"blip": 0, "llava": 1, "llava_first": 2}
# What the readers call the features of a text; of any other text: embedding_path.
FEATURE_KEYS = {"edit_prompt": "edit_prompt_t5_path", "output_caption": "target_caption_t5_path"}
SAMPLE_SIZE = 1000  # captions whose tokens are counted for the disk estimate


def extract(config: ExtractConfig, ranks: Distributed) -> None:
    """Extracts what is missing; see the head of extract_t5_feature.py.

    Raises:
      UserError: bad input, no text encoder, other settings in the output folder, or too little disk space.
    """
    sources = find_sources(config)
    model = resolve_t5(config.t5_model_path, config.t5_model_type)
    encoder = T5Encoder(model, ranks.device, PRECISIONS[config.precision])
    extract_sources(sources, encoder, config.precision, config.batch_size, ranks)
    if ranks.is_main and Path(config.data_path).is_file():
        _write_list(sources[0], config.caption_key)


def extract_sources(
    sources: list[Source], encoder: T5Encoder, precision: str, batch_size: int, ranks: Distributed
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
    claim_folders(sources, "captions", settings, str, "--output-dir", ranks)
    if ranks.is_main:
        _check_disk_space(sources, encoder)
    ranks.barrier()

    total = share_size(sources, ranks)
    with progress(total=total, desc="captions", unit="caption", disable=not ranks.is_main) as bar:
        for source in sources:
            _extract_source(source, encoder, batch_size, ranks, bar)
    ranks.barrier()


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
    source: Source, encoder: T5Encoder, batch_size: int, ranks: Distributed, bar: tqdm
) -> None:
    is_done = partial(_is_done, width=encoder.width)
    for batch in missing_batches(source, is_done, batch_size, ranks, bar):
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
