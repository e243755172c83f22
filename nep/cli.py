"""`nep COMMAND ...` runs the program of that name, in this process, as `python PROGRAM ...` does.

A command is a row of `COMMANDS`: the module whose `main` it runs, and a sentence. Nothing but that module is
imported, so that every `--help` is answered at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from nep import __version__
from runtime.errors import UserError, run_command


class Command(NamedTuple):
    """The module whose `main` a command runs, and what it does."""

    module: str
    does: str


COMMANDS = {
    "edit": Command("nep.edit", 'edit a picture: nep edit photo.png "make the circle blue"'),
    "draw": Command("nep.draw", "draw a picture from words"),
    "models": Command("nep.models", "which models there are, what they can do, and which are here"),
    "demo": Command("scripts.demo", "a web page to edit and draw on"),
    "serve": Command("integrations.server.serve", "the models behind OpenAI's image API"),
    "train editing": Command("autoregressive.train.train_editing", "stage 2; on your own pairs with --data"),
    "train t2i": Command("autoregressive.train.train_t2i", "stage 1: any-order text to image"),
    "train tokenizer": Command("tokenizer.tokenizer_image.vq_train", "an image tokenizer"),
    "train rewards": Command(
        "autoregressive.train.train_rewards", "an editor further, by what judges its draws"
    ),
    "evaluate pairs": Command("evaluations.editing.pairs_eval", "results beside true results, two folders"),
    "evaluate magicbrush": Command("evaluations.editing.image_eval", "results on MagicBrush's test set"),
    "evaluate emu": Command("evaluations.editing.emuedit_eval", "results on Emu Edit's test set"),
    "evaluate pie": Command("evaluations.editing.pie_eval", "results on PIE-Bench, BrushBench or EditBench"),
    "evaluate t2i": Command("evaluations.t2i.evaluation", "drawings of COCO's captions: FID, CLIP score"),
    "evaluate tokenizer": Command("evaluations.tokenizer.evaluation", "reconstructions beside originals"),
    "leaderboard": Command("evaluations.report.leaderboard", "your figures beside the paper's, a page"),
    "sample editing": Command("autoregressive.sample.sample_editing", "one edit, a list, or own pairs"),
    "sample magicbrush": Command("autoregressive.sample.sample_magicbrush", "all edits of MagicBrush's test"),
    "sample emu": Command("autoregressive.sample.sample_emu_edit", "all edits of Emu Edit's test set"),
    "sample judged": Command(
        "autoregressive.sample.judged.sample_judged", "GEdit-Bench or ImgEdit-Bench, for their own judges"
    ),
    "sample t2i": Command("autoregressive.sample.sample_t2i", "draw a list of texts"),
    "sample captions": Command("autoregressive.sample.sample_t2i_ddp", "draw COCO's captions, on many GPUs"),
    "sample scaling": Command(
        "autoregressive.sample.sample_test_time_scaling", "improve pictures by a reward"
    ),
    "prepare pairs": Command(
        "dataset.prepare.own_pairs", "check your own pairs, make their list for training"
    ),
    "prepare shapes": Command("dataset.prepare_shapes", "make the embedded data set"),
    "prepare emoji": Command("dataset.emoji.prepare_emoji", "emoji as a data set, from their npm package"),
    "prepare magicbrush": Command("dataset.prepare_magicbrush", "MagicBrush, as it comes from its authors"),
    "prepare emu": Command("dataset.prepare_emu_edit", "Emu Edit's parquet files"),
    "prepare pie": Command("dataset.testsets.prepare_pie_bench", "PIE-Bench, as it is published"),
    "prepare brush": Command(
        "dataset.testsets.prepare_brush_bench", "BrushBench and EditBench, as BrushNet publishes them"
    ),
    "prepare ultraedit": Command("dataset.prepare_ultraedit", "UltraEdit's parquet files"),
    "prepare imgedit": Command(
        "dataset.imgedit.prepare_imgedit", "ImgEdit's archives, with the masks of what was edited"
    ),
    "prepare captions": Command("dataset.prepare_captions", "captioned images, for stage 1"),
    "prepare coco": Command("dataset.prepare_coco", "COCO's captions, to draw"),
    "prepare features": Command("language.extract_t5_feature", "text features of a list"),
    "convert": Command("scripts.convert_checkpoint", "make a folder for --model out of checkpoints"),
    "plan": Command("scripts.planning.plan_run", "what a training would take, by arithmetic"),
    "plot": Command("scripts.plot_run", "one picture of one or several trainings"),
    "check": Command("scripts.check_reference", "compare with recorded outputs of the published code"),
    "benchmark": Command("scripts.benchmark", "measure speed and memory on this machine"),
}
_HELP = ("-h", "--help", "help")


def overview(group: str = "") -> str:
    """The manual of `nep`, or of a group of its commands."""
    chosen = {n: c for n, c in COMMANDS.items() if not group or n.startswith(f"{group} ")}
    width = max(map(len, chosen))
    lines = [f"  nep {name.ljust(width)}  {command.does}" for name, command in chosen.items()]
    ending = ["", "nep COMMAND --help lists a command's flags; nep --version. Under torchrun:"]
    ending.append("  torchrun --nproc_per_node=4 -m nep train editing ...")
    head = [f"usage: nep {group or 'COMMAND'} ...", ""]
    return "\n".join([*head, *lines, *([] if group else ending)])


def find_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command that the words begin with, and the words after it.

    Raises:
      UserError: there is no such command; names the near ones.
    """
    for count in (2, 1):
        if (name := " ".join(words[:count])) in COMMANDS:
            return name, list(words[count:])
    group = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if group:
        kinds = ", ".join(name.split()[1] for name in group)
        raise UserError(f"nep {words[0]} {' '.join(words[1:2])}: say which of {kinds}")
    firsts = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    near = difflib.get_close_matches(words[0], firsts, n=2)
    meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(firsts)}"
    raise UserError(f"nep: no command {words[0]!r}; {meant}")


def run(words: Sequence[str]) -> None:
    """Does what the words after `nep` ask for."""
    if not words or words[0] in _HELP:
        print(overview())
        return
    if words[0] in ("-V", "--version", "version"):
        print(f"nep {__version__}")
        return
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if words[0] in groups and (len(words) == 1 or words[1] in _HELP):
        print(overview(words[0]))
        return
    name, rest = find_command(words)
    sys.argv = [f"nep {name}", *rest]  # what a program's usage and its notes name
    importlib.import_module(COMMANDS[name].module).main()


def main() -> None:
    """Of `nep` and `python -m nep`."""
    run_command(lambda: run(sys.argv[1:]))
