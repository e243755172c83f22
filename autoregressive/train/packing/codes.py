"""Writes the codes of images, a .npy each or packed: the work of extract_codes_t2i.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from autoregressive.train.components import load_encoders, load_tokenizer, read_dataset
from autoregressive.train.packing.config import ExtractCodesConfig
from autoregressive.train.packing.shards import pack, packed_settings
from dataset.packed.codes import code_settings, load_codes, save_codes
from dataset.prepare.extraction import Source, claim_folders, list_jsonl, missing_batches, share_size
from dataset.prepare.output import check_disk, disk_bytes, require_budget
from dataset.records.images import image_to_tensor, load_image
from dataset.records.jsonl import JsonLine, JsonlRecords
from dataset.transforms import center_crop
from runtime.checkpoint import weights_fingerprint
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.logging import progress
from tokenizer.tokenizer_image.vq_model import VQModel

Job = tuple[Path, JsonLine]  # file to write, line that names the image


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


def extract(config: ExtractCodesConfig, ranks: Distributed) -> None:
    """Extracts what is missing; see the head of extract_codes_t2i.py.

    Raises:
      UserError: bad input, other settings in the output folder, too little disk space, too many bad images.
    """
    if config.packed_path is not None:
        return _pack(config, ranks)
    sources = find_sources(config)
    tokenizer = load_tokenizer(config, ranks.device)
    num_cells = (config.image_size // tokenizer.config.downsampling) ** 2
    is_done = partial(_is_done, num_cells=num_cells, codebook_size=tokenizer.config.codebook_size)
    total = sum(len(source.records) for source in sources)
    settings = code_settings(weights_fingerprint(tokenizer), config.image_size)
    claim_folders(sources, "images", settings, _image_path, "--code-path", ranks)
    if ranks.is_main:
        present = sum(len(without_mac_metadata(source.folder.glob("*.npy"))) for source in sources)
        check_disk(Path(config.code_path), max(0, total - present) * disk_bytes(8 * num_cells + 128))
    ranks.barrier()

    with progress(
        total=share_size(sources, ranks), desc="images", unit="image", disable=not ranks.is_main
    ) as bar:
        batches = _missing(sources, is_done, config.batch_size, ranks, bar)
        problems = _encode(tokenizer, batches, config, ranks, bar)
    problems = sum(ranks.gather_objects(problems), [])
    if ranks.is_main:
        listing = Path(config.code_path) / "unusable.txt"
        num_good = total - len(problems)
        require_budget(problems, len(problems), num_good, config.bad_sample_budget, listing)


def _pack(config: ExtractCodesConfig, ranks: Distributed) -> None:
    encoders = load_encoders(config, ranks.device)
    dataset = read_dataset(
        config,
        encoders,
        **({} if config.dataset == "t2i_cc12m" else {"t5_feat_path": config.t5_feat_path}),
    )
    pack(dataset, encoders, packed_settings(dataset, encoders, config), config, ranks)


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
    sources: list[Source], is_done: Callable[[Path], bool], batch_size: int, ranks: Distributed, bar: tqdm
) -> Iterator[list[Job]]:
    for source in sources:
        yield from missing_batches(source, is_done, batch_size, ranks, bar)


def _encode(
    tokenizer: VQModel,
    batches: Iterator[list[Job]],
    config: ExtractCodesConfig,
    ranks: Distributed,
    bar: tqdm,
) -> list[str]:
    """Writes the codes of all jobs; returns what is wrong with the images that have none."""
    loader = DataLoader(
        JobImages(config.image_size),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=config.num_workers,
        pin_memory=ranks.device.type == "cuda",
    )
    all_problems = []
    for images, targets, problems in loader:
        if targets:
            codes = tokenizer.encode_ids(images.to(ranks.device, non_blocking=True))
            for target, row in zip(targets, codes, strict=True):
                save_codes(target, row)
        all_problems += problems
        bar.update(len(targets) + len(problems))
    return all_problems
