"""The work of prepare_imgedit.py, whose head explains it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dataset.imgedit.archives import Archive, Store, UnpackedFolder, find_stores
from dataset.imgedit.flags import PrepareImgEditConfig
from dataset.imgedit.masks import MASK, METADATA, ObjectMasks, read_painted_mask
from dataset.prepare.output import claimed, log, write_jsonl
from dataset.prepare.pairs import pair_files
from dataset.prepare.tables import Row, export_rows, find_parquet
from dataset.records.parquet import cell_value, read_text_columns
from runtime.errors import UserError
from runtime.texts import parse_json

NAME = "imgedit"
IMAGES = ("input_images", "output_images")
COLUMNS = (*IMAGES, "prompt")
# What the parquet file's paths begin with, where it is neither the archive's name nor its folder's.
_RENAMED = {"replace": "results_replace_part0"}
# Masks are those of the photographs: by so much the sides' ratio may differ in a pair, made by rounding.
_OTHER_SHAPE = 0.03


def prepare_imgedit(config: PrepareImgEditConfig) -> Path:
    """Writes the set, or what an earlier run left undone.

    Returns:
      The list.
    Raises:
      UserError: files that are not ImgEdit's, archives or masks that are missing, a folder made otherwise,
        too little space, too many bad rows.
    """
    root = Path(config.data_path)
    files = [
        file
        for file in find_parquet([root / "Parquet"], ())
        if file.name.startswith(tuple(config.edit_types))
    ]  # fmt: skip
    if not files:
        raise UserError(f"{root / 'Parquet'}: holds no parquet file of {', '.join(config.edit_types)}")
    files = find_parquet(files, COLUMNS)
    samples = Samples(find_stores([root, root / "Singleturn"]), _masks(config.masks_path))
    for file in files:
        samples.require(file)
    folder = Path(config.output_dir)
    listing = folder / f"{NAME}.jsonl"
    settings = {"set": NAME, "image_format": config.image_format}
    with claimed(folder, NAME, settings, writes=("images", "masks", listing.name)) as records:
        convert = partial(_convert, samples=samples, image_format=config.image_format)
        outcome = export_rows(
            records,
            files,
            COLUMNS,
            convert,
            num_workers=config.num_workers,
            unit="pair",
            retry_bad=True,
        )
        count = outcome.settle(records / "bad_items.txt", config.bad_sample_budget)
        write_jsonl(listing, outcome.lines)
    log.info("%s: %d pairs", listing, count)
    return listing


def _masks(path: str | None) -> ObjectMasks | None:
    """Those of archives in `jsons/`, and of files that are unpacked there."""
    if path is None:
        return None
    folder = Path(path) / "jsons"
    archives = [store for store in find_stores([folder]) if isinstance(store, Archive)]
    return ObjectMasks([*archives, UnpackedFolder(folder)])


class Samples:
    """The files of the pairs, and their masks.

    Args:
      stores: the archives.
      masks: of ImgEdit_recap_mask, if they are here.
    """

    def __init__(self, stores: Sequence[Store], masks: ObjectMasks | None) -> None:
        self._stores, self._masks = stores, masks
        self._chosen: dict[str, list[Store]] = {}

    def require(self, file: Path) -> None:
        """Raises `UserError` where the pictures of a parquet file, or all of their masks, are not here."""
        column = read_text_columns(file, IMAGES[:1])[IMAGES[0]]
        path = None
        for row in range(len(column)):
            with suppress(UserError):
                path = _one(cell_value(column, row, IMAGES[0], str(file)), IMAGES[0], str(file))
                break
        if path is None:  # none of its rows is a pair, and each will be named
            return
        stores, sample = self._place(path, str(file))
        masks = [store.read(f"{sample}/{MASK}") for store in stores]  # also: the archives are whole
        if self._masks is None and not any(masks):
            raise UserError(
                f"{file}: its pairs, such as {stores[0].locate(sample)}, have no {MASK} beside them: give "
                "those of the hub's sysuyy/ImgEdit_recap_mask with --masks-path"
            )

    def read(self, path: str, origin: str) -> bytes:
        """The bytes of the picture that a parquet file names."""
        stores, sample = self._place(path, origin)
        name = f"{sample}/{Path(path).name}"
        _, data = _agreed(stores, name, origin)
        if data is None:
            raise UserError(f"{origin}: {stores[0].locate(name)}: no such file")
        return data

    def region(self, path: str, origin: str) -> Tensor:
        """(H, W) in [0, 1], 1 = edited, of the sample that a picture belongs to."""
        stores, sample = self._place(path, origin)
        if len(stores) > 1:  # the mask of the picture, not of another's of the same sample's name
            stores = _agreed(stores, f"{sample}/{Path(path).name}", origin)[0] or stores
        where = stores[0].locate
        _, painted = _agreed(stores, f"{sample}/{MASK}", origin)
        if painted is not None:
            return read_painted_mask(painted, where(f"{sample}/{MASK}"))
        name = f"{sample}/{METADATA}"
        _, metadata = _agreed(stores, name, origin)
        if self._masks is None or metadata is None:
            lacking = METADATA if metadata is None else "--masks-path"
            raise UserError(f"{origin}: {where(sample)} has no {MASK}, and there is no {lacking}")
        return self._masks.find(parse_json(metadata, dict, where(name)), where(name))

    def _place(self, path: str, origin: str) -> tuple[list[Store], str]:
        """The archives that a path of a parquet file may lead into, and the sample's folder there."""
        parts = Path(path).parts
        if len(parts) < 3 or ".." in parts:
            raise UserError(f"{origin}: {path!r} is not <folder>/<sample>/<file>")
        prefix = "/".join(parts[:-2])
        if prefix not in self._chosen:
            names = (prefix, _RENAMED.get(prefix))
            fitting = [s for s in self._stores if s.name in names] or [
                s for s in self._stores if s.top == prefix
            ]
            if not fitting:
                raise UserError(
                    f"{origin}: its pictures are in {prefix}/, of which there is no archive and no folder; "
                    "download the archive into Singleturn/, or take this parquet file away"
                )
            self._chosen[prefix] = fitting
        return self._chosen[prefix], parts[-2]


def _agreed(stores: Sequence[Store], name: str, origin: str) -> tuple[list[Store], bytes | None]:
    """Those of some archives that hold a file, and its bytes; None where none does.

    Raises:
      UserError: they hold files of this name that differ.
    """
    found = [(store, data) for store in stores if (data := store.read(name)) is not None]
    if any(data != found[0][1] for _, data in found):
        places = " and ".join(store.locate(name) for store, _ in found)
        raise UserError(f"{origin}: {places} differ, and nothing says which is meant; keep one")
    return [store for store, _ in found], found[0][1] if found else None


def _convert(row: Row, samples: Samples, image_format: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    prompt = row.text("prompt")
    source, edited = (_one(row.values.get(column), column, row.origin) for column in IMAGES)
    data = {
        column: samples.read(path, row.origin) for column, path in zip(IMAGES, (source, edited), strict=True)
    }
    region = samples.region(source, row.origin)
    pictures = Row(data, row.stem, f"{row.origin} ({source})")
    line, files = pair_files(pictures, IMAGES, region, image_format, spare=_OTHER_SHAPE)
    return line | {"edit_prompt": prompt}, files


def _one(paths: Any, column: str, origin: str) -> str:
    if not isinstance(paths, list) or len(paths) != 1 or not isinstance(paths[0], str):
        raise UserError(f"{origin}: {column} must name one picture, got {str(paths)[:80]}")
    return paths[0]
