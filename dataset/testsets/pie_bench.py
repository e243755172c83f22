"""PIE-Bench (PnP Inversion, ICLR 2024): 700 images with prompts, an instruction and the region of the edit.

As published: `mapping_file.json` {id: {image_path, original_prompt, editing_prompt,
editing_instruction, editing_type_id, blended_word, mask}} and `annotation_images/<image_path>`, 512 x 512. A
mask is a flat list of starts and lengths of runs, row by row, of the pixels to edit. How it is prepared, see
`dataset.testsets.region_sets`.
"""

from __future__ import annotations

from pathlib import Path

from dataset.testsets.region_sets import (
    PIE_BENCH,
    RegionItem,
    is_count,
    prepare_region_set,
    require_within,
)
from runtime.errors import UserError
from runtime.texts import read_json

EDIT_TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change color",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
_TEXTS = ("image_path", "original_prompt", "editing_prompt", "editing_instruction", "editing_type_id")


def read_mapping(path: str | Path) -> list[RegionItem]:
    """Reads mapping_file.json, in its order; prompts without the brackets around what differs.

    Raises:
      UserError: another kind of file; names the item.
    """
    content = read_json(Path(path), dict, "give PIE-Bench's mapping_file.json")
    items = []
    for identity, entry in content.items():
        where = f"{path}: item {identity!r}"
        values = {key: entry.get(key) if isinstance(entry, dict) else None for key in _TEXTS}
        for key, value in values.items():
            if not isinstance(value, str):
                raise UserError(f"{where}: needs a string under the key {key!r}, got {value!r}")
        runs = entry.get("mask")
        if not isinstance(runs, list) or len(runs) % 2 or not all(is_count(run) for run in runs):
            raise UserError(f"{where}: mask must be a list of starts and lengths, got {str(runs)[:60]}")
        require_within(runs[::2], 0, "mask", where)
        source, target = (values[key].replace("[", "").replace("]", "") for key in _TEXTS[1:3])
        image_path, instruction, kind = (values[key] for key in (_TEXTS[0], *_TEXTS[3:]))
        items.append(
            RegionItem(identity, image_path, instruction, source, target, tuple(runs), {"edit_type": kind})
        )
    if not items:
        raise UserError(f"{path}: holds no item")
    return items


def prepare_pie_bench(source: Path, output: Path) -> None:
    """Writes the set in MagicBrush's layout; items that are there already are left alone.

    Args:
      source: holds mapping_file.json and annotation_images/.
      output: the folder to write.
    Raises:
      UserError: a file that is missing or not as described.
    """
    items = read_mapping(source / "mapping_file.json")
    prepare_region_set(PIE_BENCH, items, source / "annotation_images", output)
