"""The run of the emoji models: what it says to programs, how results are judged, what the report shows."""

from __future__ import annotations

import json
import subprocess

import pytest
from conftest import ROOT
from PIL import Image
from test_pretrained import check_metadata

from autoregressive.train.config import EditingConfig, T2IConfig
from dataset.emoji.flags import PrepareEmojiConfig
from dataset.emoji.prepare import prepare_emoji
from dataset.testsets.magicbrush import read_listed_sessions, single_turn_name
from evaluations.editing.flags import ImageEvalConfig
from evaluations.editing.magicbrush_scores import evaluate_run
from evaluations.report.edit_grid import EditItem
from evaluations.report.report import build_report
from runtime.config import parse
from runtime.errors import UserError
from scripts.checks.drawings import emoji_judge
from scripts.checks.drawings import score as score_drawings
from scripts.emoji.config import STEPS, TrainEmoji
from scripts.emoji.run import ASKED, MODES, make_data, report_sections, score, summarise, train
from scripts.emoji.ship import card, write_tries
from scripts.shapes.finished_run import FinishedRun
from scripts.shapes.recipe import make_text_encoder
from scripts.shapes.step_runner import StepRunner
from scripts.web_demo.examples import examples_for
from tests.emoji_package import make_package


class Recorder:
    """Stands in for StepRunner: keeps the commands."""

    def __init__(self, root):
        self.root, self.commands = root, {}

    def run(self, name, output, command, resume_flag=None, num_ranks=1):
        self.commands[name] = command

    def branch(self, *files):
        return self


def test_the_demo_opens_with_edits_that_the_models_can_do(tmp_path):
    items = []
    for number in range(9):
        path = tmp_path / f"source{number}.png"
        Image.new("RGB", (72, 72), (number, 0, 0)).save(path)
        items.append(EditItem(path, path, f"add a {number}", path, passed=number % 4 > 0))
    write_tries(items, tmp_path / "examples")
    own = examples_for([], tmp_path)
    assert [one.words for one in own.tries] == ["add a 1", "add a 2", "add a 3", "add a 5", "add a 6"]
    assert [one.picture(72).getpixel((0, 0))[0] for one in own.tries] == [1, 2, 3, 5, 6]


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
    assert (data.num_train, data.num_portraits, data.num_test) == (48000, 8, 600)
    assert data.num_sticker_names == config.num_sticker_names == 100
    assert "--codebook-size" in told["tokenizer"] and "4096" in told["tokenizer"]
    assert parse(T2IConfig, told["stage1"][1:]).max_steps == STEPS["stage1"] // 2
    assert parse(EditingConfig, told["stage2"][1:]).init_gpt_ckpt == made["t2i"]
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


@pytest.fixture(scope="module")
def scored(package, tmp_path_factory):
    """What a run with perfect models would leave: the true results, judged."""
    root = tmp_path_factory.mktemp("run")
    prepare_emoji(PrepareEmojiConfig(str(package), str(root / "data"), 12, 0, 24, num_workers=1))
    for mode, (_, test_set) in MODES.items():
        test, edits = root / "data" / test_set, root / "edits" / mode
        if not test.exists():  # the made package holds out no name
            test = root / "data" / "test"
        for session in read_listed_sessions(test / "edit_sessions.json"):
            for folder in ("images", "regions", "ceiling"):
                (edits / folder / session.id).mkdir(parents=True)
            for turn in session.turns:
                key = f"{session.id}/{single_turn_name(session.id, turn.number)}"
                truth = test / "images" / session.id / turn.output
                for copy in (edits / "images" / key, edits / "ceiling" / session.id / turn.output):
                    copy.write_bytes(truth.read_bytes())
                mask = Image.open(truth.with_name(truth.name.replace("output", "mask")))
                mask.getchannel("A").point(lambda value: 255 - value).save(edits / "regions" / key)
        evaluate_run(
            ImageEvalConfig(
                generated_path=[str(edits / "images")],
                gt_path=str(test / "images"),
                sessions_json=str(test / "edit_sessions.json"),
                caption_path=str(test / "local_descriptions.json"),
                metric="l1",
                regions_path=[str(edits / "regions")],
                emoji_json=str(test / "emoji.json"),
                ceiling_path=str(edits / "ceiling"),
                protocols=["all_turn"],
                save_path=str(root / "scores" / mode),
                num_workers=1,
            )
        )
    lines = [json.loads(line) for line in (root / "data" / "drawings" / "t2i.jsonl").read_text().splitlines()]
    judge = emoji_judge(str(root / "data" / "drawings" / "scenes.json"), [line["text"] for line in lines])
    score_drawings(
        [root / "data" / "drawings" / line["image_path"] for line in lines],
        judge,
        root / "scores" / "drawings",
    )
    (root / "reconstructions").mkdir()
    (root / "reconstructions" / "reconstruction.json").write_text('{"psnr": 99.0}')
    return root


def test_perfect_results_are_all_done_and_the_copied_source_never(scored):
    result = json.loads((scored / "scores" / "masked" / "evaluation_metrics.json").read_text())
    rates = {row: result["verifier"][row]["all_turn"] for row in result["verifier"]}
    for row in ("generated", "tokenizer_ceiling"):
        assert [rates[row][key] for key in ("passed_and_unchanged", "sprite", "look_alike")] == [1, 1, 1]
        assert set(rates[row]["confusion"]) == {"right"}
    assert rates["copy_source"]["passed_and_unchanged"] == 0 and rates["copy_source"]["others_unchanged"] == 1
    assert rates["copy_source"]["confusion"]["tone"] > 0
    assert result["all_turn"]["unchanged_pixel_share"] == 1
    table = (scored / "scores" / "masked" / "evaluation_table.txt").read_text()
    assert "copy_source all_turn: found" in table and "look_alike" in table


def test_the_report_shows_edits_ceiling_copies_and_drawings(scored, package):
    runner = StepRunner(scored, {"data": 60.0}, {"abc"})
    summary = summarise(TrainEmoji(str(package)), runner)
    assert summary["minutes"] == 1 and summary["drawings"]["by_group"]["seen"]["sprite"] == 1
    assert summary["verifier"]["copy_source"]["passed_and_unchanged"] == 0
    assert all(key in summary["verifier"]["masked"] for key in ASKED)
    build_report(scored / "report.html", "Emoji", report_sections(scored, summary))
    page = (scored / "report.html").read_text()
    assert "Drawn by name" in page and "right or one change away" in page
    assert page.count("data:image/png") > 30


def test_the_card_tells_the_scores(scored):
    text = card(FinishedRun(scored, "train_emoji.py"), ["| a file |"], ["a note", ""])
    check_metadata(text, "image-to-image")
    assert "tokenizer: 99.0 dB" in text and "NOTICE.txt" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| copy source | 0.000")]
    assert line.count("|") == len(ASKED) + 2


def test_drawings_are_those_of_the_scenes(scored):
    with pytest.raises(UserError, match="not those of --captions"):
        emoji_judge(str(scored / "data" / "drawings" / "scenes.json"), ["a unicorn"])
    (scored / "edits" / "scenes.json").write_text("[1]")
    with pytest.raises(UserError, match="not the scenes"):
        emoji_judge(str(scored / "edits" / "scenes.json"), ["a unicorn"])
