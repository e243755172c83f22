"""The command line: both spellings, no abbreviations, unknown flags, legacy flags; the list is frozen."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from autoregressive.train.config import EditingConfig
from runtime.config import argument, build_parser, dump_config, legacy, option, parse
from runtime.errors import UserError

PROGRAM_FOLDERS = (
    "autoregressive", "dataset", "evaluations", "integrations", "language", "nep", "scripts", "tokenizer",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]  # this file is a program too
FROZEN = ROOT / "tests" / "frozen_flags.json"
COMMANDS = {
    "train_t2i": ("autoregressive.train.config", "T2IConfig"),
    "train_editing": ("autoregressive.train.config", "EditingConfig"),
    "train_rewards": ("autoregressive.train.rewards.config", "RewardsConfig"),
    "sample_editing": ("autoregressive.sample.flags", "SampleEditing"),
    "sample_magicbrush": ("autoregressive.sample.flags", "SampleMagicBrush"),
    "sample_t2i": ("autoregressive.sample.flags", "SampleT2I"),
    "vq_train": ("tokenizer.tokenizer_image.vq_config", "VQTrainConfig"),
    "extract_t5_feature": ("language.extract_t5_feature", "ExtractConfig"),
    "image_eval": ("evaluations.editing.image_eval", "ImageEvalConfig"),
    "emuedit_eval": ("evaluations.editing.emuedit_eval", "EmuEvalConfig"),
    "t2i_evaluation": ("evaluations.t2i.evaluation", "T2IEvalConfig"),
    "tokenizer_evaluation": ("evaluations.tokenizer.evaluation", "TokenizerEvalConfig"),
    "reconstruction_eval": ("tokenizer.tokenizer_image.reconstruction_eval", "ReconstructionConfig"),
    "extract_codes_editing": ("autoregressive.train.extract_codes_editing", "PackEditsConfig"),
    "extract_codes_t2i": ("autoregressive.train.extract_codes_t2i", "ExtractCodesConfig"),
    "sample_test_time_scaling": ("autoregressive.sample.flags", "SampleScaled"),
    "sample_t2i_ddp": ("autoregressive.sample.flags", "SampleT2IDDP"),
    "prepare_magicbrush": ("dataset.prepare.flags", "PrepareMagicBrushConfig"),
    "prepare_emu_edit": ("dataset.prepare.flags", "PrepareEmuEditConfig"),
    "prepare_ultraedit": ("dataset.prepare.flags", "PrepareUltraEditConfig"),
    "prepare_captions": ("dataset.prepare.flags", "PrepareCaptionsConfig"),
    "prepare_coco": ("dataset.prepare_coco", "PrepareCocoConfig"),
    "sample_emu_edit": ("autoregressive.sample.flags", "SampleEmuEdit"),
    "prepare_shapes": ("dataset.shapes.flags", "PrepareShapesConfig"),
    "serve": ("integrations.server.config", "Serve"),
    "nep edit": ("nep.edit", "EditPicture"),
    "nep draw": ("nep.draw", "DrawPicture"),
    "prepare_emoji": ("dataset.emoji.flags", "PrepareEmojiConfig"),
    "prepare_pie_bench": ("dataset.testsets.prepare_pie_bench", "PreparePieBenchConfig"),
    "prepare_brush_bench": ("dataset.testsets.prepare_brush_bench", "PrepareBrushBenchConfig"),
    "prepare_imgedit": ("dataset.imgedit.flags", "PrepareImgEditConfig"),
    "sample_judged": ("autoregressive.sample.flags", "SampleJudged"),
    "pie_eval": ("evaluations.editing.pie_eval", "PieEvalConfig"),
    "leaderboard": ("evaluations.report.leaderboard", "LeaderboardConfig"),
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
    title: str | None = option(None, help="any text")
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


STAGE = "vq_ckpt: v.pt\ndata_path: [a.jsonl]\n"


@pytest.mark.parametrize(
    "line, name, wanted",
    [
        ("pack_rows: off", "pack_rows", "off"),
        ("pack_rows: on", "pack_rows", "on"),
        ("pack_rows: 'on'", "pack_rows", "on"),
        ("global_seed: 010", "global_seed", 10),
        ("lr: 1e-4", "lr", 1e-4),
        ("wandb_project: no", "wandb_project", "no"),
        ("wandb_project: 010", "wandb_project", "010"),
        ("wandb_project: 1:30", "wandb_project", "1:30"),
        ("wandb_project: 2026-01-02", "wandb_project", "2026-01-02"),
        ("wandb_project: -x", "wandb_project", "-x"),
        ("wandb_project: '--lr'", "wandb_project", "--lr"),
        ("wandb_project: ~", "wandb_project", None),
        ("wandb_project: 'null'", "wandb_project", "null"),
        ("packed_weights: 3", "packed_weights", [3.0]),
        ("compile: true", "compile", True),
        ("compile: false", "compile", False),
        ("no_local_save: false", "no_local_save", None),
    ],
)
def test_values_of_a_config_file_are_what_stands_there(line, name, wanted, tmp_path):
    (tmp_path / "run.yaml").write_text(
        STAGE.replace("data_path", "packed_data") + line if name == "packed_weights" else STAGE + line
    )
    config = parse(EditingConfig, ["--config", str(tmp_path / "run.yaml")])
    assert getattr(config, name) == wanted and type(getattr(config, name)) is type(wanted)


@pytest.mark.parametrize(
    "line, message",
    [
        ("mixed_precision: no", "mixed_precision 'no': choose from none, bf16, fp16"),
        ("mixed_precision: off", "mixed_precision 'off': choose from none"),
        ("pack_rows: true", "pack_rows 'true': choose from auto, on, off"),
        ("compile: off", "compile 'off': write true or false"),
        ("compile: yes", "compile 'yes': write true or false"),
        ("compile: 'true'", "compile 'true': write true or false, without quotes"),
        ("compile: 1", "compile '1': write true or false"),
        ("no_local_save: no", "no_local_save 'no': write true or false"),
        ("global_seed: 1:30", "global_seed '1:30': must be a whole number"),
        ("global_seed: 0x10", "global_seed '0x10': must be a whole number"),
        ("lr: fast", "lr 'fast': must be a number"),
        ("lr: nan", "lr nan: must be a number between 0"),
        ("lr: [1, 2]", "lr: takes one value, not a list"),
        ("packed_weights: []", "packed_weights: each item of the list needs a value"),
        ("lr: !!python/name:os.system", "'lr' must be a value or a list of values, without tags"),
        ("vq-ckpt: other.pt", "'vq-ckpt' stands in the file twice"),
    ],
)
def test_values_of_a_config_file_that_mean_something_else_are_refused(line, message, tmp_path):
    (tmp_path / "run.yaml").write_text(STAGE + line)
    with pytest.raises(UserError) as refused:
        parse(EditingConfig, ["--config", str(tmp_path / "run.yaml")])
    assert str(refused.value).startswith(f"--config {tmp_path / 'run.yaml'}: line 3: {message}")


TEXTS = [
    "- x", "-x", "--lr", "no", "off", "y", "010", "0o10", "1e3", "1_000", "1:30", ".nan", "null", "~", "",
    " x ", "true",
    "a: b", "a #b", "#x", "!x", "&x", "*x", "{x", "[x", "%x", "@x", "'", '"', "a\nb", "a\r\nb\n",
    "\t", "\x1b[31m", "\x85", "\u2028", "\ufeff", "\x7f", "Größe", "日本", "😀", "b\udcff", "x " * 200,
    "2026-01-02", "<<",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive_the_config_file(text, tmp_path, monkeypatch):
    """Also in lists, as a choice of the command line shown in the comment, and for readers of YAML 1.1."""
    monkeypatch.setattr("sys.argv", ["train.py", text])
    config = Example("f", names=[text, "x", text], title=text)
    dump_config(config, tmp_path)
    assert parse(Example, ["f", "--config", str(tmp_path / "config.yaml")]) == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_bytes())["title"] == text


LOCALE_PROGRAM = """
import dataclasses, os, sys
from runtime.config import dump_config, option, parse

@dataclasses.dataclass
class Named:
    title: str = option(help="any text")

config = parse(Named)
dump_config(config, ".")
sys.stdout.buffer.write(os.fsencode(config.title))
"""


@pytest.mark.parametrize("name", ["Größe".encode(), b"gr\xf6\xdfe", b"-\xff", b"plain"])
def test_names_keep_their_bytes_in_every_locale(name, tmp_path):
    """`LC_ALL=C` without and with Python's UTF-8 mode, in turn: names are ASCII with escapes, or UTF-8."""
    words = [b"--title=" + name]
    for mode in ("0", "1", "0"):
        environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": mode, "PYTHONCOERCECLOCALE": "0"}
        environment["PYTHONPATH"] = str(ROOT)
        program = [sys.executable, "-c", LOCALE_PROGRAM, *words]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0 and done.stdout == name, done.stderr.decode()
        words = [b"--config", b"config.yaml"]


def test_help_is_grouped_by_topic_and_ends_with_examples():
    text = build_parser(EditingConfig).format_help()
    titles = ["what it needs:", "validation:", "tokenizer:", "results and packed data:"]
    titles += ["optimizer and schedule:", "stage 2:", "examples:"]
    places = [text.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert text.index("\nstage 2:") < text.index("--mask-in-context") < text.index("\nexamples:")
    assert "  torchrun --nproc_per_node=4 autoregressive/train/train_editing.py" in text


def config_classes() -> list[type]:
    """Every config dataclass of the project, found by the word `option(` in its file."""
    files = [f for folder in PROGRAM_FOLDERS for f in sorted((ROOT / folder).rglob("*.py"))]
    classes = {}
    for file in (f for f in files if " = option(" in f.read_text()):
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for value in vars(module).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                classes[f"{value.__module__}.{value.__name__}"] = value
    return [c for c in classes.values() if any("aliases" in f.metadata for f in dataclasses.fields(c))]


def test_every_number_of_every_program_has_a_range():
    classes = config_classes()
    assert len(classes) > len(COMMANDS)
    for config_class in classes:
        annotations = typing.get_type_hints(config_class)
        for field in dataclasses.fields(config_class):
            if {"legacy", "positional"} & field.metadata.keys() or field.metadata["choices"]:
                continue
            where = f"{config_class.__name__}.{field.name}"
            if not {int, float} & set(all_types(annotations[field.name])):
                assert field.metadata["within"] is None, f"{where} is no number"
                continue
            allowed = field.metadata["within"]
            assert allowed is not None, f"{where} needs a range: option(..., within=...)"
            default = field.default_factory() if field.default is dataclasses.MISSING else field.default
            allowed.check(where, default)


def all_types(annotation) -> list[type]:
    """The types in an annotation: int and None of `int | None`, float of `list[float]`."""
    inner = typing.get_args(annotation)
    return [t for a in inner for t in all_types(a)] if inner else [annotation]


TRAIN = ["--vq-ckpt", "v.pt", "--data-path", "a.jsonl"]
OUT_OF_RANGE = [
    *[("train_t2i", flag, value) for flag, values in {
        "--warmup-steps": ["-1"], "--class-dropout-p": ["2", "-0.1", "nan"], "--max-steps": ["0", "-2"],
        "--lr": ["nan", "inf", "1e30", "-1"], "--muon-lr": ["nan", "-1"], "--dropout-p": ["1.5", "1"],
        "--beta1": ["1.5", "1", "nan"], "--beta2": ["-1"], "--ema-decay": ["1.5", "nan"],
        "--num-workers": ["-1"], "--image-size": ["0", "-256"], "--cls-token-num": ["0"],
        "--weight-decay": ["nan", "-1", "inf"], "--max-grad-norm": ["-1", "nan"],
        "--bad-sample-budget": ["nan", "2"], "--pct-start": ["5", "0"], "--final-div-factor": ["0", "inf"],
        "--peak-tflops": ["0"], "--global-seed": ["-1", str(2**64), "9" * 40], "--ckpt-every": ["-2"],
        "--epochs": ["9" * 400], "--top-p": ["0", "nan"], "--packed-weights": ["0", "nan"],
    }.items() for value in values],
    *[("vq_train", flag, value) for flag, value in (
        ("--steps", "0"), ("--lr", "nan"), ("--disc-start", "-1"), ("--ema-decay", "1"),
        ("--num-workers", "-1"), ("--perceptual-weight", "-1"), ("--reseed-until", "2"),
        ("--global-seed", str(2**63)),
    )],
    ("sample_t2i", "--cfg-scale", "nan"), ("sample_t2i", "--seed", "-1"),
    ("sample_t2i", "--temperature", "-1"),
    ("sample_test_time_scaling", "--rounds", "0"), ("sample_test_time_scaling", "--token-budget", "-1"),
    ("image_eval", "--num-workers", "-1"), ("t2i_evaluation", "--eval-res", "0"),
    ("extract_t5_feature", "--batch-size", "0"), ("extract_t5_feature", "--data-start", "-1"),
    ("extract_codes_editing", "--views", "0"), ("prepare_shapes", "--seed", "-1"),
    ("prepare_captions", "--min-side", "-1"), ("prepare_coco", "--num-prompts", "0"),
]  # fmt: skip


def parse_command(command: str, words: list[str]):
    """`parse` of a program of COMMANDS; what it requires is filled in."""
    module, name = COMMANDS[command]
    config_class = getattr(importlib.import_module(module), name)
    required = [f.name for f in dataclasses.fields(config_class) if f.metadata.get("required")]
    return parse(config_class, [*(w for n in required for w in (f"--{n}", "x")), *words])


@pytest.mark.parametrize("command, flag, value", OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused_by_name(command, flag, value):
    with pytest.raises(UserError, match=rf"^{flag} \S+: must be "):
        parse_command(command, [*(TRAIN if command.startswith("train") else []), flag, value])


@pytest.mark.parametrize("setting", ["lr: .nan", "lr: nan", "lr: 1e30", "warmup_steps: -1", "max_steps: 0"])
def test_numbers_of_a_config_file_have_the_same_ranges(setting, tmp_path):
    (tmp_path / "run.yaml").write_text(setting)
    with pytest.raises(UserError, match=setting.split(":")[0].replace("_", ".")):
        parse(EditingConfig, [*TRAIN, "--config", str(tmp_path / "run.yaml")])


def test_numbers_at_the_edges_are_taken_and_named_in_the_help():
    words = ["--max-steps", "-1", "--ckpt-every", "-1", "--lr", "1000", "--class-dropout-p", "1"]
    words += ["--max-grad-norm", "0", "--num-workers", "0", "--top-p", "1", "--beta1", "0", "--global-seed"]
    config = parse_command("train_t2i", [*TRAIN, *words, str(2**32 - 1)])
    assert (config.max_steps, config.lr, config.global_seed) == (-1, 1000, 2**32 - 1)
    text = " ".join(build_parser(EditingConfig).format_help().split())
    assert "peak learning rate (AdamW, SGD) (between 0 and 1000; default: 0.0001)" in text
    assert "stop after this many steps; -1 for never (at least 1, or -1)" in text


@pytest.mark.parametrize("values", [{"lr": float("nan")}, {"warmup_steps": -1}, {"max_steps": 0}])
def test_configs_made_by_python_have_the_same_ranges(values):
    with pytest.raises(UserError, match="must be "):
        EditingConfig(vq_ckpt="v.pt", data_path=["a.jsonl"], **values)


def test_the_command_lines_are_frozen():
    """A flag that goes or changes its default breaks somebody's script: change the file on purpose.

    `python tests/runtime/test_config.py` writes it anew.
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
