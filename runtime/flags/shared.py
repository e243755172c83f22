"""Flags that several programs have, each declared once; `tests/runtime/test_shared_flags.py` holds that.

device: str = shared.device()
bad_sample_budget: float = shared.bad_sample_budget(0.0, of="rows")

Those of trainings stand in `runtime.flags.training`, those that say which models are used in `models`, how
codes are drawn in `drawing`, and what judges images in `scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.config import REQUIRED, option
from runtime.errors import UserError
from runtime.flags.ranges import COUNT, COUNT_OR_NONE, PIXELS, SEED, SHARE, WORKERS, Range

# How a program runs


def device(what: str = "", *, choices: Sequence[str] | None = None) -> Any:
    """`--device`; `what` says what runs there."""
    return option("auto", help=f"{what and f'{what}: '}auto, cpu, cuda or mps (Apple)", choices=choices)


def batch_size(default: int, what: str, *, aliases: Sequence[str] = ()) -> Any:
    """`--batch-size`, of what a network takes at a time."""
    return option(default, within=COUNT, help=what, aliases=aliases)


def num_workers(default: int | None, what: str, *, within: Range = WORKERS) -> Any:
    """`--num-workers`, processes or threads; `within` says whether 0, for none, is a number of them."""
    return option(default, within=within, help=what)


def seeds(default: list[int], what: str) -> Any:
    """`--seeds` of a program that runs or compares several."""
    return option(default, within=SEED, help=what)


def require_different_seeds(given: list[int]) -> None:
    """Refuses the same seed twice: intervals would be too narrow."""
    if not given or len(set(given)) < len(given):
        raise UserError(f"--seeds {' '.join(map(str, given))}: give different seeds, at least one")


def seed(of: str, *, aliases: Sequence[str] = ()) -> Any:
    """`--seed`."""
    return option(0, within=SEED, help=of, aliases=aliases)


def compile(what: str) -> Any:
    """`--compile`."""
    return option(False, help=f"compile {what}")


def quick(what: str) -> Any:
    """`--quick` of a long program."""
    return option(False, help=what)


def host(lets_in: str) -> Any:
    """`--host` of a program that listens; `lets_in` says what to do before others are let in."""
    return option("127.0.0.1", help=f"address to listen on; 0.0.0.0 lets others in: {lets_in}")


def port(default: int) -> Any:
    """`--port` of a program that listens."""
    words = "of that address; 0 takes a free one"
    return option(default, within=Range(at_least=0, at_most=65_535), help=words)


def max_lanes() -> Any:
    """`--max-lanes` of a program whose users share passes."""
    words = "rows decoded together; a result is a row, two with guidance"
    return option(32, within=Range(at_least=2), help=words)


# What it reads


def bad_sample_budget(default: float, of: str = "samples") -> Any:
    """`--bad-sample-budget`, of samples, images, rows …"""
    return option(default, within=SHARE, help=f"share of unusable {of}, 0 to 1, past which the run fails")


def allow_outside_root(of: str = "data lists name files outside their own folder") -> Any:
    """`--allow-outside-root`; `of` says who may lead where."""
    return option(False, help=f"let {of}")


def absolute_paths() -> Any:
    """`--absolute-paths`."""
    return option(False, help="the list is your own: absolute paths in it are taken as they are")


def data_start() -> Any:
    """`--data-start`."""
    words = "first jsonl file of a folder, from 0, in the order of their names"
    return option(0, within=COUNT_OR_NONE, help=words)


def data_end() -> Any:
    """`--data-end`."""
    words = "last jsonl file of a folder, included; without it: all"
    return option(None, within=COUNT_OR_NONE, help=words)


def magicbrush_path(default: Any, what: str) -> Any:
    """`--magicbrush-path`, a test set in MagicBrush's format."""
    return option(default, help=what)


def with_t5_prompt() -> Any:
    """`--with-t5-prompt` of a program that reads such a test set."""
    return option(False, help="instructions come as features: edit_sessions_with_instruction_t5.json")


def valid_list(what: str, *, aliases: Sequence[str] = ()) -> Any:
    """`--valid-list`, which items of Emu Edit."""
    return option(None, help=what, aliases=aliases)


def split(what: str) -> Any:
    """`--split` of Emu Edit's parquet files."""
    return option("test", help=what, choices=("test", "validation"))


def dataset(choices: Sequence[str], more: str = "") -> Any:
    """`--dataset` of a program that reads lists for training; the first choice is the default."""
    return option(choices[0], help=f"format of the data{more}", choices=choices)


def text(choices: Sequence[str], more: str = "") -> Any:
    """`--text` of a program that edits a test set; the first choice is the default."""
    words = f"what the model is told: the instruction, or the description of the result{more}"
    return option(choices[0], help=words, choices=choices)


def text_field(choices: Sequence[str]) -> Any:
    """`--text-field` of a program that reads edits."""
    words = "what the model is told; default: the target caption, or the instruction if more of the data "
    words += "has that"
    return option(None, help=words, choices=list(choices))


def t5_feat_path(more: str = "") -> Any:
    """`--t5-feat-path` of a program that reads LlamaGen's folders."""
    return option(None, help=f"features of a LlamaGen folder{more}")


def mask_rule(choices: Sequence[str], what: str = "pixel mask to cells", *, of_model: bool = False) -> Any:
    """`--mask-rule`; `of_model`: the model's folder decides if it is not given, where there is one."""
    if of_model:
        return option(None, help=f"{what}; default: the model's own, published for files", choices=choices)
    return option("published", help=what, choices=choices)


def data(then: str, default: Any = None) -> Any:
    """`--data`, a folder of own pairs; `then` says what becomes of them."""
    layouts = "source/ edited/ mask/ prompts.csv, or NAME_source.png NAME_edited.png NAME_mask.png NAME.txt"
    return option(default, help=f"folder of your own pairs, {layouts} (docs/own_data.md): {then}")


def mask(default: str | None) -> Any:
    """`--mask` of a program that edits one picture."""
    words = "region, white = edit; auto finds it; none regenerates the whole image"
    return option(default, help=words)


def crop(choices: Sequence[str], default: str = "none") -> Any:
    """`--crop` of a program that edits."""
    words = (
        "what the model sees: none, the whole picture as a square (published); region, squares around the "
    )
    words += "region at their own resolution; auto, these, or the whole where they would hold most of it"
    return option(default, help=words, choices=choices)


def crop_padding() -> Any:
    """`--crop-padding`."""
    words = "pixels around the region in its crop; default: half the region's longer side"
    return option(None, within=COUNT_OR_NONE, help=words)


def mask_jitter() -> Any:
    """`--mask-jitter`."""
    words = "widen or shrink, and shift, each mask by up to this many pixels"
    return option(0, within=COUNT_OR_NONE, help=words)


def mask_error() -> Any:
    """`--mask-error` of a program that edits."""
    words = "widen each mask by this many of its pixels first; below 0: shrink it; default: the model's own, "
    return option(None, within=PIXELS, help=f"{words}0 for files")


def num_edits(default: int, what: str, within: Range = COUNT) -> Any:
    """`--num-edits` of a test set, from its first."""
    return option(default, within=within, help=what)


def num_prompts(what: str) -> Any:
    """`--num-prompts`, of COCO."""
    return option(30000, within=COUNT, help=what)


def work_dir(default: str, more: str = "") -> Any:
    """`--work-dir` of a program of many steps."""
    return option(default, help=f"everything goes here{more}")


def center_crop() -> Any:
    """`--center-crop`."""
    return option(False, help="crop the middle instead of a random place")


def random_flip(of: str = "samples") -> Any:
    """`--random-flip`."""
    return option(False, help=f"mirror half of the {of}")


# What it writes


def num_train(default: int, of: str = "edits") -> Any:
    """`--num-train` of a program that makes a shapes set."""
    return option(default, within=COUNT, help=f"training {of}")


def num_portraits(default: int) -> Any:
    """`--num-portraits` of the emoji set."""
    words = "training pictures of each emoji alone, beside the pairs"
    return option(default, within=COUNT_OR_NONE, help=words)


def num_sticker_names(default: int | None) -> Any:
    """`--num-sticker-names` of the emoji set."""
    words = "names that stickers have, those of one word first; all if not given"
    return option(default, within=COUNT, help=words)


def edit_kinds(choices: Sequence[str], instead_of: str) -> Any:
    """`--edits` of a program that makes a set of edits."""
    words = f"kinds of edit instead of {instead_of}; one named twice comes twice as often"
    return option(None, choices=choices, help=words)


def num_emu() -> Any:
    """`--num-emu`."""
    return option(100, within=COUNT_OR_NONE, help="held-out edits also written in the Emu Edit format")


def package() -> Any:
    """`--package`."""
    words = "the .tgz that `npm pack emoji-datasource-google` brings, or the folder it unpacks to"
    return option(REQUIRED, help=words)


def until(parts: Sequence[str]) -> Any:
    """`--until`, the last of `parts` by default."""
    return option(parts[-1], help="stop after this step", choices=parts)


def num_test(default: int, more: str = "") -> Any:
    """`--num-test` of a program that makes a shapes set."""
    return option(default, within=COUNT, help=f"held-out edits{more}")


def output_dir(
    default: Any = REQUIRED, what: str = "folder for the results", *, aliases: Sequence[str] = ()
) -> Any:
    """`--output-dir`."""
    return option(default, help=what, aliases=aliases)


def results_dir(default: str, what: str = "everything goes here") -> Any:
    """`--results-dir` of a training, or of a program that starts trainings."""
    return option(default, help=what)


def overwrite() -> Any:
    """`--overwrite` of a program that writes the file that --output names."""
    return option(False, help="let --output, or a picture beside it, replace a file")


def write_ceiling(of: str) -> Any:
    """`--write-ceiling`: what the tokenizer alone loses."""
    return option(False, help=f"also pass the {of} through the tokenizer, into ceiling/")
