"""Writes the codes of images to disk, so that training need not run the tokenizer.

The input is a folder of jsonl files with `image_path` (LlamaGen's layout), or one such file. The codes of
line i (from 0) of `<stem>.jsonl` go to `<code-path>/<stem>/<i>.npy`: int64 (1, N), raster order, of the
centre-cropped image. Train from them with `--dataset t2i_code --data-path CODE_PATH --t5-feat-path FEATURES`,
where the features are what language/extract_t5_feature.py writes for the same jsonl files.

    torchrun --nproc_per_node 8 autoregressive/train/extract_codes_t2i.py --data-path lists/ \\
        --code-path codes/ --vq-ckpt pretrained_models/vq_ds16_t2i.pt --image-size 256

Every run can be stopped and started again: codes that are there are kept, each file is whole or absent, and a
folder made with another tokenizer, image size or other images is refused instead of mixed. Images that cannot
be read are named in `<code-path>/unusable.txt`; run again once they are repaired.

With --packed-path instead of --code-path, codes and text features are packed into shards that training maps
into memory. The data is read as training reads it, and the flags are those of the training:

    torchrun --nproc_per_node 8 autoregressive/train/extract_codes_t2i.py --data-path data/cc12m.jsonl \\
        --packed-path data/cc12m_packed --vq-ckpt pretrained_models/vq_ds16_t2i.pt --image-size 256
    python autoregressive/train/train_t2i.py --packed-data data/cc12m_packed …
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from autoregressive.train.packing import pack, packed_settings
from autoregressive.train.packing_config import PackingConfig
from autoregressive.train.setup import load_encoders, read_dataset
from dataset.codes import code_settings, load_codes, save_codes
from dataset.extraction import Source, claim_folders, list_jsonl, missing_batches, share_size
from dataset.images import load_image
from dataset.jsonl import JsonLine, JsonlRecords
from dataset.preparation import check_disk, disk_bytes, require_budget
from dataset.transforms import center_crop, image_to_tensor
from language.t5 import TRUNCATION_LOG
from runtime.checkpoint import weights_fingerprint
from runtime.config import legacy, option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.files import without_mac_metadata
from runtime.logging import get_logger, progress
from runtime.ranges import COUNT_OR_NONE, SIZE
from tokenizer.tokenizer_image.vq_model import VQModel, load_vq_model, require_config

Job = tuple[Path, JsonLine]  # file to write, line that names the image
_PACKED_ONLY = ("t5_path", "t5_model_type", "t5_feature_max_len", "t5_feature_dim", "t5_feat_path")


@dataclass(frozen=True)
class ExtractCodesConfig(PackingConfig):
    """Writes the codes of the images that lists name: a .npy each, or packed with the text features."""

    code_path: str | None = option(None, help="folder for codes, a .npy an image; or give --packed-path")
    data_start: int = option(
        0, within=COUNT_OR_NONE, help="first jsonl file of a folder, from 0, in the order of their names"
    )
    data_end: int | None = option(
        None, within=COUNT_OR_NONE, help="last jsonl file of a folder, included; without it: all"
    )
    vq_model: str = option("VQ-16", help="tokenizer name, for files that do not hold it")
    image_size: int = option(512, within=SIZE, help="side of the square images, pixels")
    dataset: str = option(
        "t2i_cc12m", help="format of the data to pack", choices=["t2i_cc12m", "t2i_laion_coco", "t2i"]
    )
    t5_feat_path: str | None = option(None, help="features of a LlamaGen folder, to pack")
    global_seed: str | None = legacy("nothing is random here")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.code_path is None) == (self.packed_path is None):
            raise UserError("give one of --code-path (a .npy an image) and --packed-path (packed shards)")
        if self.code_path is not None:
            self._require_npy_flags()
        elif self.data_start or self.data_end is not None:
            raise UserError("--data-start and --data-end go with --code-path; name the lists to pack")

    def _require_npy_flags(self) -> None:
        if len(self.data_path) > 1:
            raise UserError("--code-path takes one --data-path: a folder of jsonl files, or one of them")
        for name in _PACKED_ONLY:
            if getattr(self, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} goes with --packed-path: a .npy holds codes only"
                )


class ImageBatch(NamedTuple):
    """(B, 3, S, S) images in [-1, 1], the B files for their codes, and why other images are missing."""

    images: Tensor
    targets: list[Path]
    problems: list[str]


class JobImages(Dataset):
    """The image of a job, centre-cropped."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __getitem__(self, job: Job) -> ImageBatch:
        target, line = job
        try:
            path = line.path("image_path")
            image = image_to_tensor(center_crop(load_image(path), self.image_size))
        except UserError as error:
            where = "" if str(error).startswith(line.origin) else f"{line.origin}: "
            blank = torch.empty(0, 3, self.image_size, self.image_size)
            return ImageBatch(blank, [], [f"{where}{error}"])
        return ImageBatch(image[None], [target], [])


def _collate(batches: list[ImageBatch]) -> ImageBatch:
    images = torch.cat([batch.images for batch in batches])
    return ImageBatch(images, sum((b.targets for b in batches), []), sum((b.problems for b in batches), []))


def extract(config: ExtractCodesConfig, process: Distributed) -> None:
    """Extracts what is missing; see the head of this file.

    Raises:
      UserError: bad input, other settings in the output folder, too little disk space, too many bad images.
    """
    if config.packed_path is not None:
        return _pack(config, process)
    sources = find_sources(config)
    tokenizer = load_vq_model(config.vq_ckpt, config.vq_model, process.device)
    require_config(
        tokenizer,
        config.vq_ckpt,
        codebook_size=config.codebook_size,
        codebook_embed_dim=config.codebook_embed_dim,
        vocab_size=config.vocab_size,
        downsample_size=config.downsample_size,
        image_size=config.image_size,
    )
    num_cells = (config.image_size // tokenizer.config.downsampling) ** 2
    is_done = partial(_is_done, num_cells=num_cells, codebook_size=tokenizer.config.codebook_size)
    total = sum(len(source.records) for source in sources)
    settings = code_settings(weights_fingerprint(tokenizer), config.image_size)
    claim_folders(sources, "images", settings, _image_path, "--code-path", process)
    if process.is_main:
        present = sum(len(without_mac_metadata(source.folder.glob("*.npy"))) for source in sources)
        check_disk(Path(config.code_path), max(0, total - present) * disk_bytes(8 * num_cells + 128))
    process.barrier()

    with progress(
        total=share_size(sources, process), desc="images", unit="image", disable=not process.is_main
    ) as bar:
        batches = _missing(sources, is_done, config.batch_size, process, bar)
        problems = _encode(tokenizer, batches, config, process, bar)
    problems = sum(process.gather_objects(problems), [])
    if process.is_main:
        listing = Path(config.code_path) / "unusable.txt"
        num_good = total - len(problems)
        require_budget(problems, len(problems), num_good, config.bad_sample_budget, listing)


def _pack(config: ExtractCodesConfig, process: Distributed) -> None:
    encoders = load_encoders(config, process.device)
    dataset = read_dataset(
        config,
        encoders,
        **({} if config.dataset == "t2i_cc12m" else {"t5_feat_path": config.t5_feat_path}),
    )
    pack(dataset, encoders, packed_settings(dataset, encoders, config), config, process)


def find_sources(config: ExtractCodesConfig) -> list[Source]:
    """The jsonl files to read, in the order of their names."""
    files = list_jsonl(config.data_path[0], config.data_start, config.data_end)
    return [
        Source(
            file,
            Path(config.code_path) / file.stem,
            JsonlRecords([file], _numbered, config.allow_outside_root, config.absolute_paths),
        )
        for file in files
    ]


def _numbered(line: JsonLine) -> tuple[int, JsonLine]:
    return line.number - 1, line


def _image_path(line: JsonLine) -> str:
    return line.text("image_path")


def _is_done(path: Path, num_cells: int, codebook_size: int) -> bool:
    try:
        load_codes(path, num_cells, codebook_size)
    except UserError:
        return False
    return True


def _missing(
    sources: list[Source], is_done: Callable[[Path], bool], batch_size: int, process: Distributed, bar: tqdm
) -> Iterator[list[Job]]:
    for source in sources:
        yield from missing_batches(source, is_done, batch_size, process, bar)


def _encode(
    tokenizer: VQModel,
    batches: Iterator[list[Job]],
    config: ExtractCodesConfig,
    process: Distributed,
    bar: tqdm,
) -> list[str]:
    """Writes the codes of all jobs; returns what is wrong with the images that have none."""
    loader = DataLoader(
        JobImages(config.image_size),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=config.num_workers,
        pin_memory=process.device.type == "cuda",
    )
    all_problems = []
    for images, targets, problems in loader:
        if targets:
            codes = tokenizer.encode_ids(images.to(process.device, non_blocking=True))
            for target, row in zip(targets, codes, strict=True):
                save_codes(target, row)
        all_problems += problems
        bar.update(len(targets) + len(problems))
    return all_problems


def main() -> None:
    config = parse(ExtractCodesConfig)
    get_logger(TRUNCATION_LOG).setLevel(logging.ERROR)
    with distributed(config.device) as process:
        extract(config, process)


if __name__ == "__main__":
    run_command(main)
