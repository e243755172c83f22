"""Datasets by their published names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dataset.choices import DATASET_NAMES
from dataset.packed.codes import CodesDataset
from dataset.records.records import (
    TARGET_CAPTION,
    choose_text_field,
    read_llamagen_folder,
    read_t2i_jsonl,
    read_ultraedit_jsonl,
    read_ultraedit_parquet,
)
from dataset.t2i import T2IDataset
from dataset.t2i_editing import EditingDataset
from runtime.errors import UserError


def build_dataset(
    name: str,
    data_paths: Sequence[str | Path],
    image_size: int,
    feature_width: int | None,
    **options: Any,
) -> T2IDataset | CodesDataset | EditingDataset:
    """Reads the lists and makes the dataset of that name.

    Args:
      name: "t2i_cc12m" (jsonl files), "t2i_laion_coco" (a folder of them), "t2i" (the same, as LlamaGen
        reads it: white borders stay), "t2i_code" (a folder of codes) or "editing_ultraedit" (jsonl or
        parquet files).
      data_paths: files, or the folder.
      image_size: side of the square images.
      feature_width: width of the text features to read; None = use the strings.
      **options: for all, `allow_outside_root` and `absolute_paths` (see `PathRules`) and `features_only`
        (nothing can encode strings, so that records without features cannot be used); for "t2i_laion_coco"
        and "t2i_code" also `t5_feat_path` and `short_t5_feat_path`; for "t2i_code" also `grid` and
        `codebook_size`; for "editing_ultraedit" also `grid`, `text_field` ("instruction" or
        "target_caption"; None = what the list has, see `choose_text_field`), and the keyword arguments of
        `EditingDataset`.
    Raises:
      UserError: an unknown name, or lists that cannot be opened.
    """
    if name not in _BUILDERS:
        raise UserError(f"unknown dataset {name!r}; choose one of {', '.join(_BUILDERS)}")
    if not data_paths:
        raise UserError(f"dataset {name} needs at least one data path")
    return _BUILDERS[name](data_paths, image_size, feature_width, **options)


def _build_cc12m(
    data_paths: Sequence[str | Path],
    image_size: int,
    feature_width: int | None,
    *,
    allow_outside_root: bool = False,
    absolute_paths: bool = False,
    features_only: bool = False,
) -> T2IDataset:
    records = read_t2i_jsonl(data_paths, allow_outside_root, absolute_paths)
    return T2IDataset(records, image_size, feature_width, features_only=features_only)


def _build_laion_coco(
    data_paths: Sequence[str | Path],
    image_size: int,
    feature_width: int | None,
    *,
    t5_feat_path: str | Path | None = None,
    short_t5_feat_path: str | Path | None = None,
    allow_outside_root: bool = False,
    absolute_paths: bool = False,
    features_only: bool = False,
    trim: bool = True,
) -> T2IDataset:
    if len(data_paths) != 1:
        raise UserError(f"t2i_laion_coco takes one folder, got {len(data_paths)} data paths")
    records = read_llamagen_folder(
        data_paths[0], t5_feat_path, short_t5_feat_path, allow_outside_root, absolute_paths
    )
    return T2IDataset(records, image_size, feature_width, features_only=features_only, trim=trim)


def _build_codes(
    data_paths: Sequence[str | Path],
    image_size: int,
    feature_width: int | None,
    *,
    grid: int,
    codebook_size: int,
    t5_feat_path: str | Path | None = None,
    features_only: bool = True,
    absolute_paths: bool = False,  # such folders name no paths
    **options: Any,
) -> CodesDataset:
    if len(data_paths) != 1:
        raise UserError(f"t2i_code takes one folder, got {len(data_paths)} data paths")
    if t5_feat_path is None or feature_width is None:
        raise UserError("t2i_code needs --t5-feat-path: codes on disk have no captions beside them")
    return CodesDataset(
        data_paths[0], grid, codebook_size, feature_width, t5_feat_path=t5_feat_path, **options
    )


def _build_ultraedit(
    data_paths: Sequence[str | Path],
    image_size: int,
    feature_width: int | None,
    *,
    grid: int,
    text_field: str | None = TARGET_CAPTION,
    allow_outside_root: bool = False,
    absolute_paths: bool = False,
    features_only: bool = False,
    **options: Any,
) -> EditingDataset:
    named_field = TARGET_CAPTION if text_field is None else text_field
    suffixes = {Path(path).suffix for path in data_paths}
    if suffixes == {".parquet"}:
        records = read_ultraedit_parquet(data_paths, named_field)
    elif suffixes == {".jsonl"}:
        records = read_ultraedit_jsonl(data_paths, named_field, allow_outside_root, absolute_paths)
    else:
        named = ", ".join(map(str, data_paths))
        raise UserError(f"editing data must be all .jsonl or all .parquet files, got {named}")
    if text_field is None:
        choose_text_field(records, features_only=features_only)
    return EditingDataset(records, image_size, grid, feature_width, features_only=features_only, **options)


_BUILDERS = dict(
    zip(
        DATASET_NAMES,
        (
            _build_cc12m,
            _build_laion_coco,
            partial(_build_laion_coco, trim=False),
            _build_codes,
            _build_ultraedit,
        ),
        strict=True,
    )
)
