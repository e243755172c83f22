"""Reproducing the results: what is counted, which claims hold, which commands run, and a tiny run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run_program
from PIL import Image

from autoregressive.sample.flags import SampleMagicBrush
from autoregressive.train.config import EditingConfig
from runtime.config import parse

ROWS = ["zero_shot", "scaling"]


def statistic(*values):
    from scripts.reproduce.numbers import Statistic

    return Statistic(values)


def test_a_statistic_over_seeds():
    three = statistic(1.0, 2.0, 3.0)
    assert three.mean == 2 and three.half_interval == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert three.minus(statistic(0.0, 1.0, 2.0)).values == (1, 1, 1)
    assert statistic(1.0).half_interval is None
    gap = statistic(1.0, None)
    assert (
        gap.mean == 1
        and gap.half_interval is None
        and gap.minus(three.__class__((1.0, 1.0))).values[1] is None
    )
    assert statistic(None, None).mean is None


@pytest.mark.parametrize(
    ("values", "equal", "verdict"),
    [
        ((0.10, 0.11, 0.12), False, "holds"),
        ((-0.10, -0.11, -0.12), False, "does not hold"),
        ((-0.1, 0.2, 0.05), False, "undecided"),
        ((0.0, 0.0, 0.0), False, "no difference"),
        ((0.3,), False, "undecided"),  # one seed shows nothing
        ((0.0, 0.0, 0.0), True, "holds"),
        ((0.010, 0.011, 0.012), True, "holds"),  # a difference, but none that matters
        ((-0.1, 0.2, 0.05), True, "undecided"),
        ((0.10, 0.11, 0.12), True, "does not hold"),
        ((-0.10, -0.11, -0.12), True, "does not hold"),
        (None, False, "not measured"),
        (None, True, "not measured"),
    ],
)
def test_the_verdict_comes_from_the_interval(values, equal, verdict):
    from scripts.reproduce.claims import Check

    assert Check("", values and statistic(*values), equal).verdict == verdict


def results_of(rows):
    from scripts.reproduce.numbers import MULTI, SINGLE, Results

    both = {name: {SINGLE: numbers, MULTI: numbers} for name, numbers in rows.items()}
    return Results(both, {}, {})


def test_claims_follow_the_rows():
    from scripts.reproduce.claims import judge

    good = {"passed_and_unchanged": statistic(0.90, 0.91, 0.92), "l1": statistic(0.01, 0.011, 0.012)}
    bad = {"passed_and_unchanged": statistic(0.50, 0.52, 0.51), "l1": statistic(0.05, 0.052, 0.051)}
    claims = judge(results_of({"nep": good, "ntp": bad, "no_marks": good}))
    assert [(claim.words[0], claim.verdict) for claim in claims] == [("1", "holds"), ("2", "undecided")]
    assert claims[0].why == "" and "Every slot is told which cell comes next" in claims[1].why
    claims = judge(results_of({"nep": bad, "ntp": good}))
    assert [claim.verdict for claim in claims] == ["does not hold"]
    assert len(claims[0].to_dict()["checks"]) == 3
    rows = {"zero_shot": good, "zero_shot_random_order": good, "copy_source": bad}
    (claim,) = judge(results_of(rows))
    verdicts = [check.verdict for check in claim.checks]
    assert verdicts == ["holds"] * 2 + ["not measured"] * 4 + ["holds"] * 2 + ["not measured"] * 2
    assert claim.verdict == "undecided" and claim.to_dict()["checks"][2]["difference"] is None
    better = {"passed_and_unchanged": statistic(0.95, 0.96, 0.97), "l1": good["l1"]}
    rows |= {"nep": better, "nep_random_order": better, "zero_shot_tight": bad}
    assert judge(results_of(rows))[-1].verdict == "holds"


def test_scaling_is_held_against_best_of_n():
    from scripts.reproduce.claims import judge
    from scripts.reproduce.numbers import Results

    low, middle, high = (statistic(x, x + 0.01, x + 0.03) for x in (0.1, 0.4, 0.8))
    column = {"reward": [low, high], "accuracy": [low, middle]}
    baseline = {"reward": [low, middle], "accuracy": [low, high]}
    methods = {"search": column, "best_of_n": baseline}
    (claim,) = judge(Results({}, {}, {"draw_shapes": methods, "draw_likelihood": methods}))
    verdicts = [check.verdict for check in claim.checks if check.verdict != "not measured"]
    assert verdicts == ["holds", "does not hold", "holds", "does not hold", "holds"]
    assert "accuracy of text to image, led by likelihood, rises" in claim.checks[4].words
    assert claim.verdict == "does not hold"


def test_the_share_of_right_images_follows_what_is_accepted():
    from autoregressive.scaling.search import Round, SearchResult, SearchSettings
    from scripts.reproduce.scaling import summarise_both

    settings = SearchSettings(rounds=2, candidates=4)
    caption = "a red circle at the left, gray background"
    empty = Image.fromarray(np.full((72, 72, 3), 128, np.uint8))
    right = _picture_of(caption)

    def result(*rounds):
        return SearchResult(rounds[-1].image or empty, None, rounds[-1].reward, list(rounds))

    start = Round(0.5, True, 0.5, list(range(8)), 8, empty)
    improved = result(start, Round(0.4, False, 0.5, [0, 1], 16, None), Round(1.0, True, 1.0, [0], 24, right))
    solved = result(Round(1.0, True, 1.0, list(range(8)), 8, right))
    baseline = [result(start, Round(0.5, False, 0.5, list(range(8)), 16, None))] * 2
    summary = summarise_both({"search": [improved, solved], "best_of_n": baseline}, [caption] * 2, settings)
    assert summary["search"]["accuracy"] == [0.5, 0.5, 1.0]
    assert summary["search"]["reward"] == [0.75, 0.75, 1.0]
    assert summary["search"]["images_worth"] == [1, 1.5, 2]
    assert summary["search"]["budget"] == [1, 2, 3]
    assert summary["best_of_n"]["accuracy"] == [0, 0] and summary["best_of_n"]["budget"] == [1, 2]


def _picture_of(caption):
    from dataset.shapes.captions import parse_caption
    from dataset.shapes.scenes import render

    return Image.fromarray(render(parse_caption(caption), 72))


class Recorder:
    """Stands in for StepRunner: keeps the commands."""

    def __init__(self, root, commands=None):
        self.root, self.commands = root, {} if commands is None else commands

    def run(self, name, output, command, resume_flag=None, num_ranks=1):
        self.commands[name] = command

    def branch(self, *files):
        return Recorder(self.root, self.commands)


def test_every_row_gets_its_model_and_flags_that_exist(tmp_path):
    from scripts.reproduce.config import ReproduceResults
    from scripts.reproduce.rows import GROUPS, MASK_ERRORS, SeedModels, run_seed

    runner = Recorder(tmp_path)
    run_seed(SeedModels(ReproduceResults().recipe(), runner, "vq.pt"), GROUPS, 10)
    commands = runner.commands
    trained = {
        name: parse(EditingConfig, command[1:])
        for name, command in commands.items()
        if command[0].endswith("train_editing.py")
    }
    assert [name.split("/")[1] for name in trained] == [
        "stage2",
        "stage2_no_marks",
        "stage2_ntp",
        "stage2_supervised",
        "stage2_jitter",
    ]
    by_name = {name.split("/")[1]: config for name, config in trained.items()}
    assert [config.mask_in_context for config in by_name.values()] == [True, False, True, True, True]
    assert by_name["stage2_supervised"].supervise_marks and not by_name["stage2"].supervise_marks
    assert by_name["stage2_ntp"].enforce_fake_masking and not by_name["stage2"].enforce_fake_masking
    assert by_name["stage2_jitter"].mask_jitter == 8 and by_name["stage2_jitter"].mask_dilation == 0
    edits = {
        name: parse(SampleMagicBrush, command[1:])
        for name, command in commands.items()
        if command[0].endswith("sample_magicbrush.py")
    }
    assert len(edits) == 11 + 2 * len(MASK_ERRORS)
    assert edits["edit_seed0/mask_error_stage2_jitter_-8"].mask_error == -8
    assert "stage2_jitter" in edits["edit_seed0/mask_error_stage2_jitter_-8"].gpt_ckpt
    assert "stage1" in edits["edit_seed0/zero_shot_random_order"].gpt_ckpt
    widened = {name: edits[f"edit_seed0/{name}"].mask_error for name in ("zero_shot", "zero_shot_tight")}
    assert widened == {"zero_shot": 4, "zero_shot_tight": 0}
    assert edits["edit_seed0/auto_mask"].auto_mask and "calibrate_seed0" in commands
    assert edits["edit_seed0/ntp"].full_mask and edits["edit_seed0/ntp"].turns == "both"


def test_seeds_are_different_and_rows_known(tmp_path):
    done = run_program("scripts/reproduce_results.py", "--seeds", "1", "1", check=False)
    assert done.returncode == 2 and "different seeds" in done.stderr
    done = run_program(
        "scripts/reproduce_results.py",
        "--results-dir",
        tmp_path,
        "--vq-ckpt",
        tmp_path / "no.pt",
        check=False,
    )
    assert done.returncode == 2 and "--train-tokenizer" in done.stderr


def test_a_tiny_run_writes_report_numbers_and_figures_and_is_resumed(tmp_path, vq_ckpt):
    flags = ["--quick", "--vq-ckpt", vq_ckpt, "--results-dir", tmp_path, "--seeds", "0", "--rows", *ROWS]
    run_program("scripts/reproduce_results.py", *flags)
    results = json.loads((tmp_path / "results.json").read_text())
    rates = results["rows"]["zero_shot"]["all_turn"]
    assert (
        0 <= rates["passed_and_unchanged"]["mean"] <= 1
        and rates["passed_and_unchanged"]["half_interval95"] is None
    )
    assert rates["unchanged_pixel_share"]["mean"] == 1 and rates["tokens"]["mean"] > 0
    scaling = results["scaling"]["draw_likelihood"]["search"]
    rewards = [point["mean"] for point in scaling["reward"]]
    assert len(rewards) == 5 and rewards == sorted(rewards)
    assert [claim["verdict"] for claim in results["claims"]] == ["undecided"]
    report = (tmp_path / "RESULTS.md").read_text()
    assert (
        "zero-shot, region widened by half a cell" in report
        and "zero-shot edits, led by likelihood" in report
    )
    for name in ("scaling.png", "edits_zero_shot.png"):
        assert f"figures/{name}" in report and Image.open(tmp_path / "figures" / name).width > 300
    again = run_program("scripts/reproduce_results.py", *flags)
    assert again.stderr.count("done already") == len(list((tmp_path / "steps").rglob("*.json")))
