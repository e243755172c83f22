"""The command line: both spellings, no abbreviations, unknown flags, legacy flags; the list is frozen."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from autoregressive.train.config import EditingConfig
from runtime.config import argument, build_parser, dump_config, legacy, option, parse
from runtime.errors import UserError

FROZEN = Path(__file__).parent / "frozen_flags.json"
COMMANDS = {
    "train_t2i": ("autoregressive.train.config", "T2IConfig"),
    "train_editing": ("autoregressive.train.config", "EditingConfig"),
    "sample_editing": ("autoregressive.sample.sample_editing", "SampleEditing"),
    "sample_magicbrush": ("autoregressive.sample.sample_magicbrush", "SampleMagicBrush"),
    "sample_t2i": ("autoregressive.sample.sample_t2i", "SampleT2I"),
    "vq_train": ("tokenizer.tokenizer_image.vq_config", "VQTrainConfig"),
    "extract_t5_feature": ("language.extract_t5_feature", "ExtractConfig"),
    "image_eval": ("evaluations.editing.image_eval", "ImageEvalConfig"),
    "emuedit_eval": ("evaluations.editing.emuedit_eval", "EmuEvalConfig"),
    "t2i_evaluation": ("evaluations.t2i.evaluation", "T2IEvalConfig"),
    "tokenizer_evaluation": ("evaluations.tokenizer.evaluation", "TokenizerEvalConfig"),
    "reconstruction_eval": ("tokenizer.tokenizer_image.reconstruction_eval", "ReconstructionConfig"),
    "extract_codes_editing": ("autoregressive.train.extract_codes_editing", "PackEditsConfig"),
    "extract_codes_t2i": ("autoregressive.train.extract_codes_t2i", "ExtractCodesConfig"),
    "test_time_scaling": ("autoregressive.sample.test_time_scaling", "SampleScaled"),
    "sample_t2i_ddp": ("autoregressive.sample.sample_t2i_ddp", "SampleT2IDDP"),
    "prepare_magicbrush": ("dataset.prepare_magicbrush", "PrepareMagicBrushConfig"),
    "prepare_emu_edit": ("dataset.prepare_emu_edit", "PrepareEmuEditConfig"),
    "prepare_ultraedit": ("dataset.prepare_ultraedit", "PrepareUltraEditConfig"),
    "prepare_captions": ("dataset.prepare_captions", "PrepareCaptionsConfig"),
    "prepare_coco": ("dataset.prepare_coco", "PrepareCocoConfig"),
    "sample_emu_edit": ("autoregressive.sample.sample_emu_edit", "SampleEmuEdit"),
    "prepare_shapes": ("dataset.prepare_shapes", "PrepareShapesConfig"),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """An example."""

    folder: str = argument("a folder")
    num_things: int = option(3, help="how many")
    share: float | None = option(None, help="100 % or less", aliases=["portion"])
    names: list[str] | None = option(None, help="names")
    fast: bool = option(False, help="hurry")
    careful: bool = option(True, help="look twice")
    kind: str = option("a", help="which", choices=["a", "b"])
    old_flag: str = legacy("nothing is stored there any more")


@pytest.mark.parametrize("dash", ["-", "_"])
def test_both_spellings(dash):
    words = [
        "f",
        f"--num{dash}things",
        "7",
        "--portion",
        "0.5",
        "--names",
        "x",
        "y",
        "--fast",
        "--no-careful",
    ]
    config = parse(Example, words)
    assert config == Example("f", 7, 0.5, ["x", "y"], True, False, "a")


@pytest.mark.parametrize(
    "words", [["--num", "7"], ["--unknown", "1"], ["--kind", "c"], ["--num-things", "x"]]
)
def test_abbreviations_unknown_flags_and_bad_values_end_the_program(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(Example, ["f", *words])
    assert stopped.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_legacy_flag_says_why_it_has_no_effect(capsys):
    parse(Example, ["f", "--old_flag", "gs://bucket"])
    assert "--old-flag has no effect: nothing is stored there any more" in capsys.readouterr().err


def test_a_config_file_is_the_command_line_that_was_dumped(tmp_path):
    words = ["--num-things", "7", "--portion", "1e-4", "--names", "x", "y", "--no-careful", "--kind", "b"]
    config = parse(Example, ["f", *words])
    dump_config(config, tmp_path)
    file = str(tmp_path / "config.yaml")
    assert parse(Example, ["f", "--config", file]) == config
    assert parse(Example, ["g", "--num_things=-1", "--config", file]) == dataclasses.replace(
        config, folder="g", num_things=-1
    )


@pytest.mark.parametrize(
    "content, message",
    [
        ("things: 3", "'things' is no setting of this command"),
        ("- 3", "must hold 'name: value' lines, got list"),
        ("a: [", "not YAML"),
        ("names: {a: 1}", "'names' must be a value or a list"),
        ("folder: x", "'folder' is no setting"),
    ],
)
def test_config_files_that_are_wrong_are_named(content, message, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=f"run.yaml: .*{message}"):
        parse(Example, ["f", "--config", str(file)])
    with pytest.raises(UserError, match="missing.yaml: cannot be read"):
        parse(Example, ["f", "--config", str(tmp_path / "missing.yaml")])


def test_help_is_grouped_by_topic_and_ends_with_examples():
    text = build_parser(EditingConfig).format_help()
    titles = ["validation:", "results and data:", "optimizer and schedule:", "stage 2:", "examples:"]
    places = [text.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert text.index("\nstage 2:") < text.index("--mask-in-context") < text.index("\nexamples:")
    assert "  torchrun --nproc_per_node=4 autoregressive/train/train_editing.py" in text


def test_the_command_lines_are_frozen():
    """A flag that goes or changes its default breaks somebody's script: change the file on purpose.

    `python tests/test_config.py` writes it anew.
    """
    assert current_flags() == json.loads(FROZEN.read_text())


def current_flags() -> dict[str, dict[str, str]]:
    flags = {}
    for command, (module, name) in COMMANDS.items():
        parser = build_parser(getattr(importlib.import_module(module), name))
        flags[command] = {
            " ".join(a.option_strings): repr(a.default) for a in parser._actions if a.option_strings
        }
    return flags


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(current_flags(), indent=1) + "\n")
