"""Edit pairs of parquet files as images, masks and lines of an UltraEdit list."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dataset.prepare.pictures import check_image, image_cell, region_png
from dataset.prepare.tables import Row
from dataset.records.masks import fit_region, marked
from runtime.errors import UserError


def pair_files(
    row: Row, columns: tuple[str, str], region: Tensor | None, image_format: str, spare: float = 0
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Checks one pair and names its files.

    Args:
      row: of the parquet file.
      columns: of the source and of the edited image.
      region: (H, W) in [0, 1], 1 = edit, resized to the source where it differs; None or all 1 = no mask.
      image_format: see `check_image`; masks are PNG always.
      spare: see `fit_region`.
    Returns:
      The keys `file_name`, `edited_image` and `mask_image` ("NONE" for no mask) of the list's line, and the
      files to write.
    Raises:
      UserError: an image that cannot be used, sizes that differ, or a mask without anything to edit.
    """
    source, edited = (
        check_image(image_cell(row.values.get(name), f"{row.origin} {name}"), image_format)
        for name in columns
    )
    if source.size != edited.size:
        raise UserError(
            f"{row.origin}: the source is {source.size[0]}x{source.size[1]} "
            f"but the edited image is {edited.size[0]}x{edited.size[1]}"
        )
    files = {
        f"images/{row.stem}_source{source.suffix}": source.data,
        f"images/{row.stem}_edited{edited.suffix}": edited.data,
    }
    line = dict(zip(("file_name", "edited_image"), files, strict=True)) | {"mask_image": "NONE"}
    if region is None:
        return line, files
    region = fit_region(region, source.size, row.origin, spare)
    if not marked(region).any():
        raise UserError(f"{row.origin}: the mask marks nothing to edit")
    if not marked(region).all():
        line["mask_image"] = f"masks/{row.stem}.png"
        files[line["mask_image"]] = region_png(region)
    return line, files
