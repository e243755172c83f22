"""BrushBench and EditBench, in the layout in which the authors of BrushNet (ECCV 2024) publish both.

BrushBench: 600 images to paint anew inside or outside of an object; EditBench: 240.
`mapping_file.json` {id: {image, caption, inpainting_mask, outpainting_mask}} and the pictures, 512 x 512, at
`image` below its folder. A mask is a flat list of starts, counted from 1, and lengths of runs, row by row, of
the pixels to paint: those of an object (`inpainting_mask`) or all around it (`outpainting_mask`). How a set
is prepared, see `dataset.testsets.region_sets`. There are no instructions: the editor is told the caption,
which describes the picture as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset.testsets.region_sets import (
    BRUSH_BENCH,
    RegionItem,
    is_count,
    prepare_region_set,
    require_within,
)
from runtime.errors import UserError
from runtime.texts import read_json, text_under


def read_brush_mapping(path: str | Path, mask_key: str) -> list[RegionItem]:
    """Reads mapping_file.json, in its order.

    Args:
      mask_key: which of an item's masks.
    Raises:
      UserError: another kind of file, an item without such a mask, or a mask of a larger picture; names it.
    """
    content = read_json(Path(path), dict, "give BrushBench's or EditBench's mapping_file.json")
    items = []
    for identity, entry in content.items():
        where = f"{path}: item {identity!r}"
        entry = entry if isinstance(entry, dict) else {}
        image, caption = (text_under(entry, key, where) for key in ("image", "caption"))
        runs = _runs(entry, mask_key, where)
        notes = {"mask_key": mask_key}
        items.append(RegionItem(identity, image, caption, None, caption, runs, notes))
    if not items:
        raise UserError(f"{path}: holds no item")
    return items


def prepare_brush_bench(source: Path, output: Path, mask_key: str) -> None:
    """Writes the set in MagicBrush's layout, with one of its masks; what is there already is left alone.

    Args:
      source: holds mapping_file.json and the pictures.
      output: the folder to write.
    Raises:
      UserError: a file that is missing or not as described, or a folder prepared with another mask.
    """
    items = read_brush_mapping(source / "mapping_file.json", mask_key)
    prepare_region_set(BRUSH_BENCH, items, source, output)


def _runs(entry: dict[str, Any], mask_key: str, where: str) -> tuple[int, ...]:
    """The runs with starts from 0."""
    runs = entry.get(mask_key)
    if runs is None:
        others = [key for key, value in entry.items() if isinstance(value, list)]
        advice = (
            f"it has {', '.join(others)}: give one with --mask-key" if others else "it has no mask at all"
        )
        raise UserError(f"{where}: has no mask under the key {mask_key!r}; {advice}")
    is_list = isinstance(runs, list) and len(runs) % 2 == 0 and all(is_count(run) for run in runs)
    if not is_list or 0 in runs[::2]:
        raise UserError(
            f"{where}: {mask_key} must be a list of starts, from 1, and lengths, got {str(runs)[:60]}"
        )
    require_within(runs[::2], 1, mask_key, where)
    return tuple(run if number % 2 else run - 1 for number, run in enumerate(runs))
