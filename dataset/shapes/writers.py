"""The embedded data set, part 4: examples written in the published formats."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from dataset.shapes.edits import EditExample, ShapesConfig, random_session
from dataset.shapes.scenes import Scene, render
from runtime.errors import UserError
from runtime.pictures import shortened

TRAIN_STREAM, TEST_STREAM = 0, 1
# Kind of edit -> what Emu Edit calls it; all others are "local".
_EMU_TASKS = {
    "recolor": "color",
    "add": "add",
    "add_fitting": "add",
    "remove": "remove",
    "background": "background",
    "tone": "color",
    "color": "color",
}


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file's bytes; lightly compressed, because thousands of small files are written."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _save_png(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(encode_png(pixels))


def _white_region(example: Any, image_size: int) -> np.ndarray:
    return example.edit.region(image_size).astype(np.uint8) * 255


def make_train_folders(folder: Path) -> None:
    """Creates the folders that `write_train_chunk` fills."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_train_chunk(folder: Path, config: ShapesConfig, seed: int, indices: range) -> list[dict[str, Any]]:
    """Writes the images and masks of the training pairs `indices`; the same whatever the division in chunks.

    Returns:
      One row a pair: {"edit": its line of `editing.jsonl`, "t2i": its two lines of `t2i.jsonl`,
      "digests": of the two images' pixels}.
    """
    return [
        write_pair(
            folder,
            index,
            *random_session([seed, TRAIN_STREAM, index], config),
            config.image_size,
            render,
            config.caption,
        )
        for index in indices
    ]


def write_pair(
    folder: Path,
    index: int,
    example: Any,
    image_size: int,
    draw: Callable[[Any, int], np.ndarray],
    caption: Callable[[Any], str],
) -> dict[str, Any]:
    """Writes the two images and the mask of one training pair.

    Args:
      folder: with what `make_train_folders` makes.
      index: of the pair; names its files.
      example: has `before`, `after` and `edit`, which has `instruction`, `is_global` and `region`.
      draw: (scene, side in pixels) -> (side, side, 3) uint8.
      caption: gives the global description of a scene.
    Returns:
      The row that `merge_train_rows` takes.
    """
    names = [f"images/{index:06d}_{part}.png" for part in ("source", "edited")]
    captions = [caption(scene) for scene in (example.before, example.after)]
    digests = []
    for name, scene in zip(names, (example.before, example.after), strict=True):
        pixels = draw(scene, image_size)
        digests.append(hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest())
        _save_png(folder / name, pixels)
    edit = {
        "file_name": names[0],
        "edited_image": names[1],
        "mask_image": _write_shared_mask(folder, example, image_size),
        "edit_prompt": example.edit.instruction,
        "input_caption": captions[0],
        "output_caption": captions[1],
    }
    t2i = [{"image_path": n, "text": caption} for n, caption in zip(names, captions, strict=True)]
    return {"edit": edit, "t2i": t2i, "digests": digests}


def _write_shared_mask(folder: Path, example: Any, image_size: int) -> str:
    """Writes the region (white = edit) under a name made of its corners, so that equal masks are one file.

    A region that is no rectangle is named by its content too.
    """
    if example.edit.is_global:
        return "NONE"
    region = _white_region(example, image_size)
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    corners = f"{columns[0]}_{rows[0]}_{columns[-1] + 1}_{rows[-1] + 1}"
    if not region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all():
        corners += "_" + hashlib.blake2b(region.tobytes(), digest_size=6).hexdigest()
    name = f"masks/{corners}.png"
    if not (folder / name).exists():
        # Renamed into place: another process may want the same file now, and a torn one would stay.
        temporary = folder / f"{name}.{os.getpid()}"
        _save_png(temporary, region)
        os.replace(temporary, folder / name)
    return name


def merge_train_rows(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """The lines of `editing.jsonl` and `t2i.jsonl`; an image that occurs twice is listed once for t2i."""
    seen: set[str] = set()
    t2i = []
    for row in rows:
        for line, digest in zip(row["t2i"], row["digests"], strict=True):
            if digest not in seen:
                seen.add(digest)
                t2i.append(line)
    return {"editing.jsonl": [row["edit"] for row in rows], "t2i.jsonl": t2i}


def draw_test_sessions(config: ShapesConfig, seed: int, num_edits: int) -> dict[str, list[EditExample]]:
    """Held-out sessions of 1, 2 and 3 turns in rotation, `num_edits` different turns in all, by id."""
    sessions: dict[str, list[EditExample]] = {}
    seen: set[tuple[str, str]] = set()
    attempt = 0
    while len(seen) < num_edits:
        turns = min(1 + len(sessions) % 3, num_edits - len(seen))
        session = random_session([seed, TEST_STREAM, attempt], config, turns, held_out=True)
        attempt += 1
        keys = {example.key() for example in session}
        if len(keys) == turns and not keys & seen:
            seen |= keys
            sessions[f"{len(sessions):06d}"] = session
        elif attempt > 100 * num_edits:
            raise UserError(
                f"these shapes settings hold fewer than {num_edits} held-out edits; ask for fewer"
            )
    return sessions


def write_magicbrush(
    folder: Path,
    sessions: Mapping[str, Sequence[Any]],
    image_size: int,
    caption: Callable[[Any], str] = Scene.caption,
    draw: Callable[[Any, int], np.ndarray] = render,
    examples_name: str = "shapes",
) -> None:
    """Writes sessions as the MagicBrush test set, plus two files of our own.

    `shapes.json` holds the scenes for the verifier, `t2i.jsonl` lists all images with their captions.

    Args:
      caption: gives the global description of a scene.
      draw: as `write_pair`.
      examples_name: of the file for the verifier, in place of "shapes".
    """
    listings: dict[str, dict] = {
        name: {} for name in ("edit_sessions", "global_descriptions", "local_descriptions", examples_name)
    }
    for identity, session in sessions.items():
        images = folder / "images" / identity
        images.mkdir(parents=True, exist_ok=True)
        current = f"{identity}-input.png"
        pixels = draw(session[0].before, image_size)
        _save_png(images / current, pixels)
        turns, descriptions, local = [], {current: caption(session[0].before)}, {}
        for number, example in enumerate(session, start=1):
            mask, output = f"{identity}-mask{number}.png", f"{identity}-output{number}.png"
            alpha = 255 - _white_region(example, image_size)
            _save_png(images / mask, np.dstack([pixels, alpha]))
            pixels = draw(example.after, image_size)
            _save_png(images / output, pixels)
            turns.append(
                {"input": current, "mask": mask, "output": output, "instruction": example.edit.instruction}
            )
            descriptions[output] = caption(example.after)
            local[output] = example.edit.local_description
            current = output
        listings["edit_sessions"][identity] = turns
        listings["global_descriptions"][identity] = descriptions
        listings["local_descriptions"][identity] = local
        listings[examples_name][identity] = [example.to_dict() for example in session]
    lines = [
        json.dumps({"image_path": f"images/{identity}/{file}", "text": text})
        for identity, texts in listings["global_descriptions"].items()
        for file, text in texts.items()
    ]
    (folder / "t2i.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for name, listing in listings.items():
        (folder / f"{name}.json").write_text(json.dumps(listing, indent=1))


def write_emu(
    folder: Path,
    examples: Sequence[Any],
    image_size: int,
    caption: Callable[[Any], str] = Scene.caption,
    draw: Callable[[Any, int], np.ndarray] = render,
    examples_name: str = "shapes",
) -> None:
    """Writes examples as the Emu Edit test set: parquet, list, `images_valid/<idx>_gt.png` = the source.

    Args:
      caption, draw, examples_name: as `write_magicbrush`.
    """
    (folder / "images_valid").mkdir(parents=True, exist_ok=True)
    listing, rows, scenes = [], [], {}
    for index, example in enumerate(examples):
        source = encode_png(draw(example.before, image_size))
        (folder / "images_valid" / f"{index}_gt.png").write_bytes(source)
        captions = {
            "input_caption": caption(example.before),
            "output_caption": caption(example.after),
        }
        row = {
            "instruction": example.edit.instruction,
            "image": {"bytes": source, "path": f"{index}.png"},
            "task": _EMU_TASKS.get(example.edit.kind, "local"),
            "split": "test",
            "idx": index,
            "hash": hashlib.md5(source, usedforsecurity=False).hexdigest(),
        }
        rows.append(row | captions)
        listing.append({"idx": index, **captions, "edit_instruction": example.edit.instruction})
        scenes[str(index)] = [example.to_dict()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    (folder / "emu_test_data.json").write_text(json.dumps(listing, indent=1))
    (folder / f"{examples_name}.json").write_text(json.dumps(scenes, indent=1))


def write_ultraedit_parquet(folder: Path, path: Path, image_size: int) -> None:
    """Writes the pairs of `folder`/editing.jsonl as the UltraEdit hub does; without a region, all white."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images, texts = (
        ("source_image", "edited_image", "mask_image"),
        ("edit_prompt", "source_caption", "target_caption"),
    )
    schema = pa.schema([(name, image) for name in images] + [(name, pa.string()) for name in texts])
    everywhere = encode_png(np.full((image_size, image_size), 255, np.uint8))

    def cell(name: str) -> dict[str, Any]:
        return {"bytes": everywhere if name == "NONE" else (folder / name).read_bytes(), "path": name}

    lines = (folder / "editing.jsonl").read_text().splitlines()
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(lines), 500):
            rows = []
            for line in map(json.loads, lines[start : start + 500]):
                values = [cell(line[key]) for key in ("file_name", "edited_image", "mask_image")]
                values += [line[key] for key in ("edit_prompt", "input_caption", "output_caption")]
                rows.append(dict(zip(schema.names, values, strict=True)))
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def contact_sheet(
    examples: Sequence[Any],
    draw_scene: Callable[[Any, int], np.ndarray] = render,
    image_size: int | None = None,
) -> Image.Image:
    """A grid of source | region | target under each instruction, for people to look at.

    Args:
      draw_scene: as `write_pair`.
      image_size: scenes are drawn at this and enlarged; None = drawn at the size of a tile.
    """
    columns, tile, gap, line = 3, 144, 8, 24
    width, height = 3 * tile + 4 * gap, tile + line + gap
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height + gap), (225, 228, 232))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, example in enumerate(examples):
        left, top = number % columns * width + gap, number // columns * height + gap
        said = shortened(example.edit.instruction, font, width - 2 * gap)
        draw.text((left, top), said, fill="black", font=font)
        for position, pixels in enumerate(_triple(example, image_size or tile, draw_scene)):
            shown = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(shown, (left + position * (tile + gap), top + line - gap // 2))
    return sheet


def _triple(example: Any, size: int, draw: Callable[[Any, int], np.ndarray]) -> list[np.ndarray]:
    region = np.repeat(_white_region(example, size)[..., None], 3, axis=2)
    return [draw(example.before, size), region, draw(example.after, size)]
