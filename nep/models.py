"""`nep models`: the models that come along, those that were published, and what is here of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from autoregressive.editing.model_folders import FolderConfig, at_hand, find_folder, read_args, read_config
from runtime.config import option, parse
from runtime.errors import run_command

PRETRAINED = Path("pretrained_models")


class Row(NamedTuple):
    """A model: what one gives to use it, what it can do, its size, and where it is."""

    name: str
    can: str
    size: str
    where: str


# Files of other projects, see pretrained_models/README.md; sizes follow from the numbers of parameters.
_PUBLISHED = (
    Row("vq_ds16_t2i.pt", "tokenizer VQ-16", "72 M, 0.3 GB", "hf download peizesun/llamagen_t2i"),
    Row("t2i_XL_stage1_256.pt", "draws from text, raster order", "778 M, 3.1 GB", "the same"),
    Row("RLlamaGen.pt", "draws in any order, edits zero-shot", "778 M, 3.1 GB", "hf download hmwhwm/NEP"),
    Row("NEP_256.pt", "edits, 256 px", "778 M, 3.1 GB", "not to be had in November 2026"),
    Row("NEP_512.pt", "edits, 512 px", "779 M, 3.1 GB", "not to be had in November 2026"),
    Row("t5-ckpt/flan-t5-xl", "reads the words of these", "2.85 B, 11.4 GB", "hf download google/flan-t5-xl"),
)


@dataclass(frozen=True)
class ListModels:
    """Lists models: what one gives as --model, what each can do, and what is here."""

    NEEDED: ClassVar[tuple[str, ...]] = ("folder",)
    EXAMPLES: ClassVar[str] = """
  nep models
  nep models --folder my_models/cats user/some-model
"""

    folder: list[str] | None = option(None, help="folders, or hub ids, to look into instead")


def rows_of(name: str) -> Iterator[Row]:
    """The transformers of a folder.

    Raises:
      UserError: no such folder, or one that is damaged.
    """
    folder = find_folder(name)
    config = read_config(folder)
    for number, (model, member) in enumerate(config.models.items()):
        files = [folder / member.file, folder / config.tokenizer]
        files += list((folder / config.text_encoder).glob("*")) if config.text_encoder else []
        size = sum(file.stat().st_size for file in files if file.is_file())
        given = f"--model {name}" + (f" --model-name {model}" if number else "")
        yield Row(given, _can(folder, config, model), f"{size / 1e6:.1f} MB", str(folder))


def _can(folder: Path, config: FolderConfig, model: str) -> str:
    known = read_args(folder / config.models[model].file).get("model_config", {})
    tokenizer = read_args(folder / config.tokenizer).get("vq_config", {})
    side = round(known.get("block_size", 0) ** 0.5) * tokenizer.get("stem_stride", 1)
    side *= 2 ** max(len(tokenizer.get("channel_mult", [])) - 1, 0)
    if known.get("mask_in_context"):
        does = "edits, finds regions itself"
    elif known.get("any_order", True):
        does = "draws in any order, edits zero-shot"
    else:
        does = "draws"
    return f"{does}, {side} px" if known else does


def _published() -> Iterator[Row]:
    for row in _PUBLISHED:
        here = (PRETRAINED / row.name).exists()
        yield row._replace(where=str(PRETRAINED / row.name) if here else f"not here: {row.where}")


def _table(rows: list[Row]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*(row[c].ljust(w) for c, w in enumerate(widths)), row.where]) for row in rows)


def main() -> None:
    config = parse(ListModels)
    head = Row("GIVE", "IT CAN", "SIZE", "WHERE")
    print(_table([head, *(row for name in config.folder or at_hand() for row in rows_of(name))]))
    if config.folder is None:
        print(f"\nThe published files, by their names in {PRETRAINED} (its README says how to get them):")
        print(_table([head._replace(name="FILE"), *_published()]))
        print("`nep convert` makes a folder for --model of such files, and of your own checkpoints.")


if __name__ == "__main__":
    run_command(main)
