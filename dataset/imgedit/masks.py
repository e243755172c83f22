"""Which pixels an edit of ImgEdit was made in: the mask beside it, or that of its object.

ImgEdit's own programs painted inside of an object's mask, which they kept as `mask.png`: black where painted.
Where it is not published with a sample, `result.json` names the picture, the object's class and box, and
ImgEdit_recap_mask has, in `jsons/`, a file for each picture with the masks of all objects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.imgedit.archives import Store
from dataset.prepare.pictures import ImageBytes
from dataset.records.images import open_first_frame
from dataset.records.masks import edit_region
from runtime.errors import UserError
from runtime.texts import parse_json, text_under

MASK, METADATA = "mask.png", "result.json"
_PHOTO = re.compile(r"(\d{5})\D?(\d{5})\D?(\d{9})")
_SAME_BOX = 1.0  # pixels that the corners of one box may be apart, for rounding


def read_painted_mask(data: bytes, origin: str) -> Tensor:
    """(H, W) in [0, 1], 1 = painted, of a `mask.png`, which is black there.

    Raises:
      UserError: not an image, or nothing painted.
    """
    image = open_first_frame(ImageBytes(data, origin)).convert("L")
    region = 1 - edit_region(image, origin)
    return _not_empty(region, origin)


def decode_coco_runs(counts: str, height: int, width: int) -> np.ndarray:
    """(height, width) bool of COCO's compressed run lengths, as pycocotools writes them.

    Runs go down the columns, the first one unmarked. A length is written in base 32, low digits first, each a
    character from "0" on, with 32 added to all but the last; from the fourth on it is the difference to the
    length two before.

    Raises:
      UserError: not such a text, or one for another size.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise UserError(f"{counts[:20]!r}…: {character!r} is no character of COCO's run lengths")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise UserError(f"{counts[:20]!r}…: no run lengths of a mask of {width}x{height}")
    marks = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return marks.reshape(width, height).T


class ObjectMasks:
    """The masks of ImgEdit_recap_mask, found by picture, class and box."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores, self._lock = stores, Lock()

    def find(self, metadata: dict[str, Any], origin: str) -> Tensor:
        """(H, W) in [0, 1], 1 = the object that an edit was made in.

        Args:
          metadata: of `result.json`: original_path, and edit_obj, or for what is added edit_result, with
            class_name and bbox.
          origin: names the sample in errors.
        Raises:
          UserError: the picture or the object is not there, or its mask is no mask.
        """
        photo, wanted = photo_of(metadata, origin), edited_object(metadata, origin)
        record, where = self._record(photo, origin)
        parts = record.get("segmentation")
        parts = [o for kind in ("object", "background") for o in _list_of(parts, kind)]
        same = [o for o in parts if o.get("class_name") == wanted["class_name"] and _is_box(o.get("bbox"))]
        found = min(same, key=lambda o: _apart(o["bbox"], wanted["bbox"]), default=None)
        if found is None or _apart(found["bbox"], wanted["bbox"]) > _SAME_BOX:
            names = ", ".join(sorted({str(o.get("class_name")) for o in parts})) or "none"
            raise UserError(
                f"{origin}: edits {wanted['class_name']!r} in {wanted['bbox']}, but {where} has no such "
                f"object there; its objects: {names}"
            )
        size = record.get("resolution")
        height, width = (size.get(k) if isinstance(size, dict) else None for k in ("height", "width"))
        if not all(type(side) is int and side > 0 for side in (height, width)):
            raise UserError(f"{where}: needs a resolution with height and width, got {size!r}")
        if not isinstance(found.get("mask"), str):
            raise UserError(f"{where}: the mask of {wanted['class_name']!r} must be a text")
        try:
            marks = decode_coco_runs(found["mask"], height, width)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return _not_empty(torch.from_numpy(marks.copy()).float(), where)

    @cached_property
    def _places(self) -> dict[str, list[tuple[Store, str]]]:
        """Picture -> where its files are. Names say which; a file whose name does not is read."""
        places: dict[str, list[tuple[Store, str]]] = {}
        for store in self._stores:
            for name in store.names():
                if not name.endswith(".json"):
                    continue
                match = _PHOTO.search(name.rpartition("/")[2])
                photo = "/".join(match.groups()) if match else None
                if photo is None:
                    path = _read_record(store, name).get("path")
                    photo = str(path).rpartition(".")[0]
                places.setdefault(photo, []).append((store, name))
        return places

    def _record(self, photo: str, origin: str) -> tuple[dict[str, Any], str]:
        with self._lock:
            places = self._places.get(photo)
        if places is None:
            raise UserError(f"{origin}: its picture {photo} is not in the jsons of ImgEdit_recap_mask")
        found = [(_read_record(store, name), store.locate(name)) for store, name in places]
        for record, where in found:
            if str(record.get("path")).rpartition(".")[0] != photo:
                raise UserError(f"{where}: is of {record.get('path')!r}, but its name says {photo}")
            if record != found[0][0]:
                raise UserError(f"{origin}: {found[0][1]} and {where} differ, both of {photo}; keep one")
        return found[0]


def photo_of(metadata: dict[str, Any], origin: str) -> str:
    """The picture that a sample was made of, such as "00094/00030/000304748"."""
    return text_under(metadata, "original_path", origin).rpartition(".")[0]


def edited_object(metadata: dict[str, Any], origin: str) -> dict[str, Any]:
    """Class and box of the object that was edited, or added."""
    for key in ("edit_obj", "edit_result"):
        value = metadata.get(key)
        if (
            isinstance(value, dict)
            and isinstance(value.get("class_name"), str)
            and _is_box(value.get("bbox"))
        ):
            return value
    raise UserError(f"{origin}: names no edited object with class_name and bbox of four numbers")


def _read_record(store: Store, name: str) -> dict[str, Any]:
    """A picture's record, bare or as the only value of an object."""
    content = parse_json(store.read(name), dict, store.locate(name))
    inner = next(iter(content.values())) if len(content) == 1 else content
    return inner if isinstance(inner, dict) else content


def _list_of(parts: Any, kind: str) -> list[dict[str, Any]]:
    values = parts.get(kind) if isinstance(parts, dict) else None
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


def _is_number(value: Any) -> bool:
    """Python's JSON reads NaN and Infinity too, and to Python true is a whole number."""
    return type(value) is int or type(value) is float and math.isfinite(value)


def _apart(box: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(box, other, strict=True))


def _not_empty(region: Tensor, origin: str) -> Tensor:
    if not (region > 0.5).any():
        raise UserError(f"{origin}: the mask marks nothing to edit")
    return region
