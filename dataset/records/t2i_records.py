"""What one captioned image is on disk, and the readers of its lists.

They return lazy sequences of records (see `records.jsonl`): errors name file and line when a record is asked
for, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset.records.jsonl import JsonLine, JsonlRecords, is_inside
from runtime.errors import UserError
from runtime.files import without_mac_metadata


@dataclass(frozen=True)
class T2IRecord:
    """One captioned image: at least one of `text` and `text_feature_path` is there.

    Attributes:
      image_path: the image.
      text: the caption.
      text_feature_path: .npy with the caption's features.
      short_text_feature_path: .npy with those of a shorter caption.
      origin: file and line.
    """

    image_path: Path
    text: str | None
    text_feature_path: Path | None
    short_text_feature_path: Path | None
    origin: str


def read_t2i_jsonl(
    files: Sequence[str | Path], allow_outside_root: bool = False, absolute_paths: bool = False
) -> JsonlRecords:
    """Reads lists of `image_path` with `embedding_path` (.npy) or `text` (a string, or a list: its first).

    Returns:
      A sequence of `T2IRecord`.
    """
    return JsonlRecords(files, _parse_t2i_line, allow_outside_root, absolute_paths)


def read_llamagen_folder(
    folder: str | Path,
    feature_folder: str | Path | None = None,
    short_feature_folder: str | Path | None = None,
    allow_outside_root: bool = False,
    absolute_paths: bool = False,
) -> JsonlRecords:
    """Reads LlamaGen's layout: a folder of jsonl files with `image_path` and `text`, features elsewhere.

    The features of a line are `<jsonl stem>/<line, from 0>.npy` or `<jsonl stem>/<image stem>.npy` there.

    Args:
      folder: holds the jsonl files.
      feature_folder: features of the captions; None = use the captions themselves.
      short_feature_folder: features of shorter captions, the same layout.
      allow_outside_root, absolute_paths: see `PathRules`.
    Returns:
      A sequence of `T2IRecord`.
    """
    files = without_mac_metadata(Path(folder).glob("*.jsonl"))
    if not files:
        raise UserError(f"{folder}: holds no *.jsonl file")
    parse = partial(
        _parse_llamagen_line,
        feature_folder=feature_folder and Path(feature_folder),
        short_feature_folder=short_feature_folder and Path(short_feature_folder),
    )
    return JsonlRecords(files, parse, allow_outside_root, absolute_paths)


def _parse_t2i_line(line: JsonLine) -> T2IRecord:
    features, text = line.optional_path("embedding_path"), line.caption("text")
    if features is None and text is None:
        raise UserError(f"{line.origin}: needs the key 'embedding_path' or 'text'")
    return T2IRecord(line.path("image_path"), text, features, None, line.origin)


def _parse_llamagen_line(
    line: JsonLine, feature_folder: Path | None, short_feature_folder: Path | None
) -> T2IRecord:
    image, text = line.path("image_path"), line.caption("text")
    features = _llamagen_features(feature_folder, line, image)
    if features is None and text is None:
        raise UserError(
            f"{line.origin}: lacks the key 'text', and no feature folder is given (--t5-feat-path)"
        )
    short_features = _llamagen_features(short_feature_folder, line, image)
    return T2IRecord(image, text, features, short_features, line.origin)


def _llamagen_features(folder: Path | None, line: JsonLine, image: Path) -> Path | None:
    """The one of the two published names that exists."""
    if folder is None:
        return None
    names = [folder / line.file.stem / f"{stem}.npy" for stem in (line.number - 1, image.stem)]
    candidates = list(dict.fromkeys(names))
    found = [path for path in candidates if path.exists()]
    if len(found) == 2:
        raise UserError(f"{line.origin}: both {found[0]} and {found[1]} exist; remove the one that is stale")
    if not found:
        raise UserError(f"{line.origin}: no text features at {' or '.join(map(str, candidates))}")
    if not line.rules.allow_outside_root and not is_inside(found[0], folder):
        raise UserError(f"{line.origin}: {found[0]} links outside {folder}; pass --allow-outside-root")
    return found[0]
