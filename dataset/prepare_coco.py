"""Makes the list of prompts for COCO-30K, the table that sample_t2i_ddp.py draws, each with its image's name.

python dataset/prepare_coco.py --annotations coco/annotations/captions_val2014.json --output data/coco30k.tsv

Which 30,000: the images in the order of their ids are shuffled by `--seed`, and the first ones are taken,
each with one caption, the one with the lowest annotation id. The columns, between tabs, are Prompt, image_id
and file_name; white space inside a caption, tabs and line ends too, becomes one space.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset.prepare.output import check_disk, log, require_budget, write_lines
from runtime.config import REQUIRED, check_ranges, option, parse
from runtime.errors import UserError, run_command
from runtime.flags import shared
from runtime.logging import progress
from runtime.texts import read_json

COLUMNS = ("Prompt", "image_id", "file_name")


@dataclass(frozen=True)
class PrepareCocoConfig:
    """Makes the list of COCO-30K prompts."""

    annotations: str = option(REQUIRED, help="captions_val2014.json")
    output: str = option(REQUIRED, help="the table to write, a .tsv file")
    num_prompts: int = shared.num_prompts("prompts, each of another image")
    seed: int = shared.seed("another seed takes other images in another order")
    bad_sample_budget: float = shared.bad_sample_budget(0.0, of="annotations")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))


def prepare_coco(config: PrepareCocoConfig) -> None:
    """Writes the table; one that holds the same already is left alone.

    Raises:
      UserError: a file that is not COCO's, too few images, too many bad annotations, or another table there.
    """
    output, source = Path(config.output), Path(config.annotations)
    captions, file_names, problems = read_coco(source)
    listing = output.with_name(f"{output.stem}_bad_items.txt")
    require_budget(problems, len(problems), len(captions), config.bad_sample_budget, listing)
    if len(captions) < config.num_prompts:
        raise UserError(
            f"{source}: holds captions of {len(captions)} images; ask for no more with --num-prompts"
        )
    identities = sorted(captions)
    order = np.random.default_rng(config.seed).permutation(len(identities))[: config.num_prompts]
    chosen = [identities[index] for index in order]
    rows = [COLUMNS, *((captions[identity], identity, file_names.get(identity, "")) for identity in chosen)]
    lines = [_tabbed(row) for row in rows]
    text = "".join(f"{line}\n" for line in lines)
    if not output.exists():
        check_disk(output.parent, len(text.encode()))
        write_lines(output, lambda: lines)
    elif output.read_bytes().decode(errors="replace") != text:
        raise UserError(f"{output} is another list already; delete it or choose another --output")
    log.info("%s: %d prompts, of %d images with captions", output, len(chosen), len(captions))


def read_coco(source: Path) -> tuple[dict[int, str], dict[int, str], list[str]]:
    """Reads COCO's captions.

    Returns:
      {image id: its caption of the lowest annotation id, on one line}, {image id: file name}, what is wrong.
    """
    content = read_json(source, dict)
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{source}: needs a list under the key {key!r}; give captions_val2014.json")
    file_names = {
        image["id"]: image["file_name"]
        for image in content["images"]
        if isinstance(image, dict)
        and isinstance(image.get("file_name"), str)
        and type(image.get("id")) is int
    }
    problems: list[str] = []
    found: dict[int, tuple[int, str]] = {}
    for number, entry in enumerate(
        progress(content["annotations"], desc="captions", unit="caption"), start=1
    ):
        try:
            identity, annotation, caption = _parse(entry, f"{source} annotation {number}")
        except UserError as error:
            problems.append(str(error))
            continue
        if identity not in found or annotation < found[identity][0]:
            found[identity] = annotation, caption
    return {identity: caption for identity, (_, caption) in found.items()}, file_names, problems


def _parse(entry: Any, origin: str) -> tuple[int, int, str]:
    values = entry if isinstance(entry, dict) else {}
    for key in ("image_id", "id"):
        if type(values.get(key)) is not int:
            raise UserError(f"{origin}: needs a whole number under the key {key!r}, got {values.get(key)!r}")
    caption = values.get("caption")
    caption = " ".join(caption.split()) if isinstance(caption, str) else ""
    if not caption:
        raise UserError(f"{origin} (image {values['image_id']}): no caption")
    return values["image_id"], values["id"], caption


def _tabbed(row: Iterable[Any]) -> str:
    """A line that pandas and csv read back, quotes included."""
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="").writerow(row)
    return stream.getvalue()


def main() -> None:
    prepare_coco(parse(PrepareCocoConfig))


if __name__ == "__main__":
    run_command(main)
