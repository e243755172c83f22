"""From a made package to the report of emoji edits, with trainings of two steps."""

from __future__ import annotations

import json
import subprocess

import pytest
from conftest import ROOT, run_program

from autoregressive.train.config import EditingConfig, T2IConfig
from dataset.emoji.flags import PrepareEmojiConfig
from runtime.config import parse
from runtime.errors import UserError
from scripts.emoji.config import STEPS, TrainEmoji
from scripts.emoji.run import ASKED, MODES, make_data, score, train
from scripts.shapes.recipe import make_text_encoder
from tests.emoji_package import make_package


class Recorder:
    """Stands in for StepRunner: keeps the commands."""

    def __init__(self, root):
        self.root, self.commands = root, {}

    def run(self, name, output, command, resume_flag=None, num_ranks=1):
        self.commands[name] = command

    def branch(self, *files):
        return self


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("made"))


def test_the_steps_say_what_programs_know(package, tmp_path):
    config, runner = TrainEmoji(str(package), str(tmp_path), steps_scale=0.5), Recorder(tmp_path)
    make_data(config, runner)
    make_text_encoder(config.recipe(), runner)
    _, made = train(config, config.recipe(), runner)
    score(config, runner, made)
    told = runner.commands
    data = parse(PrepareEmojiConfig, told["data"][1:])
    assert (data.num_train, data.num_test) == (60000, 600)
    assert "--codebook-size" in told["tokenizer"] and "4096" in told["tokenizer"]
    assert parse(T2IConfig, told["stage1"][1:]).max_steps == STEPS["stage1"] // 2
    assert parse(EditingConfig, told["stage2"][1:]).init_gpt_ckpt == made["stage1"]
    assert {f"judge_{mode}" for mode in MODES} <= told.keys()
    judge = told["judge_new_names"]
    assert judge[judge.index("--emoji-json") + 1] == str(tmp_path / "data" / "test_names" / "emoji.json")
    assert "--ceiling-path" in judge and "--emoji-scenes" in told["drawings"]


def test_a_missing_package_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="npm pack"):
        TrainEmoji(str(tmp_path / "nowhere.tgz"))
    script = ["bash", "scripts/emoji.sh"]
    environment = {"PATH": "/usr/bin:/bin", "PACKAGE": str(tmp_path / "nowhere.tgz")}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "does not exist" in done.stderr


def test_the_whole_run_at_two_steps(package, tmp_path):
    flags = ["--package", package, "--results-dir", tmp_path, "--steps-scale", "0.0001", "--num-train", "60"]
    flags += ["--num-test", "20"]
    run_program("scripts/emoji/train_emoji.py", *flags)
    summary = json.loads((tmp_path / "summary.json").read_text())
    rows = {*MODES, "tokenizer_ceiling", "copy_source"}
    assert rows <= summary["verifier"].keys()
    assert summary["verifier"]["copy_source"]["passed_and_unchanged"] == 0
    assert all(key in summary["verifier"]["masked"] for key in ASKED)
    assert sum(summary["verifier"]["copy_source"]["confusion"].values()) > 5
    assert summary["drawings"]["by_group"]["seen"]["num_images"] == 4
    page = (tmp_path / "report.html").read_text()
    assert "Drawn by name" in page and page.count("data:image/png") > 30
    again = run_program("scripts/emoji/train_emoji.py", *flags)
    assert again.stderr.count("done already") == 5 + 2 * len(MODES) + 2
