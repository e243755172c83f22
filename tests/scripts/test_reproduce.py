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
from runtime.errors import UserError
from scripts.reproduce.scaling_config import ReproduceScaling

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


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.0, 0.0, 0.0), "holds"),
        ((-0.0004, -0.0005, -0.0006), "holds"),  # a loss, but none that matters
        ((-0.004, -0.005, -0.006), "does not hold"),
        ((-0.004, 0.004, 0.0), "undecided"),
    ],
)
def test_a_claim_that_nothing_is_lost_has_a_margin(values, verdict):
    from scripts.reproduce.claims import LOSS, Check

    assert Check("", statistic(*values), loss=LOSS).verdict == verdict


def test_figures_stand_with_their_section_over_a_caption():
    from scripts.reproduce.report import FOUND, with_figures

    shown = {"edits_auto_mask": "figures/edits_auto_mask.png", "scaling": "figures/scaling.png"}
    part = with_figures(f"## {FOUND}\n\n| a |", shown, seed=3)
    assert part.startswith(
        f"## {FOUND}\n\n| a |\n\n![edits auto mask](figures/edits_auto_mask.png)\n*The same"
    )
    assert "scaling" not in part and with_figures("## Other\n\nwords", shown, 3) == "## Other\n\nwords"
    strip = with_figures(
        "## Test-time scaling (table 7)", {"scaling_draw_shapes": "figures/scaling_draw_shapes.png"}, 3
    )
    assert "first task of seed 3" in strip and "text to image, led by shapes" in strip


def test_what_stands_beside_a_claim_decides_nothing():
    from scripts.reproduce.claims import Check, Claim

    good, bad = statistic(0.1, 0.11, 0.12), statistic(-0.1, -0.11, -0.12)
    claim = Claim("1. x", (Check("a", good), Check("b", bad, decides=False)))
    assert claim.verdict == "holds" and [c["decides"] for c in claim.to_dict()["checks"]] == [True, False]
    assert Claim("1. x", (Check("a", good), Check("b", bad))).verdict == "does not hold"


def results_of(rows):
    from scripts.reproduce.numbers import MULTI, SINGLE, Results

    both = {name: {SINGLE: numbers, MULTI: numbers} for name, numbers in rows.items()}
    return Results(both, {}, {})


def test_claims_follow_the_rows():
    from scripts.reproduce.claims import judge

    near = {number: statistic(0.01, 0.011, 0.012) for number in ("l1", "l2")}
    far = {number: statistic(0.05, 0.052, 0.051) for number in ("l1", "l2")}
    good = {"passed_and_unchanged": statistic(0.90, 0.91, 0.92), **near}
    bad = {"passed_and_unchanged": statistic(0.50, 0.52, 0.51), **far}
    claims = judge(results_of({"nep": good, "ntp": bad, "no_marks": good}))
    assert [(claim.words[0], claim.verdict) for claim in claims] == [("1", "holds"), ("2", "not measured")]
    assert claims[0].why == "" and "Every slot is told which cell comes next" in claims[1].why
    claims = judge(results_of({"nep": bad, "ntp": good}))
    assert [claim.verdict for claim in claims] == ["does not hold"]
    assert [check["words"][:2] for check in claims[0].to_dict()["checks"]] == ["mo", "mo", "L1", "L2"]
    rows = {"zero_shot": good, "zero_shot_random_order": good, "copy_source": bad}
    (claim,) = judge(results_of(rows))
    deciding = [check.verdict for check in claim.checks if check.decides]
    assert deciding == ["holds"] * 6 + ["not measured"] * 8
    assert claim.verdict == "undecided" and claim.to_dict()["checks"][8]["difference"] is None
    rows |= {f"named_{name}": numbers for name, numbers in rows.items()}
    assert judge(results_of(rows))[-1].verdict == "holds"
    rows["named_zero_shot_random_order"] = bad
    assert judge(results_of(rows))[-1].verdict == "does not hold"


def test_marks_are_decided_where_they_carry_information():
    from scripts.reproduce.claims import judge

    with_marks, without = (
        {"add_fitting": statistic(0.9, 0.91, 0.92)},
        {"add_fitting": statistic(0.5, 0.5, 0.52)},
    )
    old = {"passed_and_unchanged": statistic(0.7, 0.9, 0.8)}
    rows = {"fitting_marks": with_marks, "fitting_no_marks": without, "nep": old, "no_marks": old}
    (claim,) = (claim for claim in judge(results_of(rows)) if claim.words[0] == "2")
    assert claim.verdict == "holds" and [c.verdict for c in claim.checks[1:]] == ["no difference"] * 2


def test_scaling_rises_and_is_held_against_best_of_n_at_equal_codes():
    from scripts.reproduce.claims import judge
    from scripts.reproduce.numbers import Results

    low, middle, high = (statistic(x, x + 0.01, x + 0.03) for x in (0.1, 0.4, 0.8))
    worth = [statistic(k, k, k) for k in (1, 2, 3)]
    search = {
        "reward": [low, high],
        "accuracy": [low, middle],
        "images_worth": [worth[0], statistic(1.5, 1, 2.5)],
    }
    whole = {"reward": [low, middle, high], "accuracy": [low, high, high], "images_worth": worth}
    methods = {"search": search, "best_of_n": whole}
    names = [
        f"{task}_{reward}" for task in ("draw", "edit", "crowded") for reward in ("shapes", "likelihood")
    ]
    (claim,) = judge(Results({}, {}, dict.fromkeys(names, methods)))
    rises = [check for check in claim.checks if check.decides]
    assert len(rises) == 6 and claim.verdict == "holds"
    assert "the verifier's share of text to image, led by likelihood, rises" in rises[2].words
    (crowded,) = (c for c in claim.checks if "6 to 8 objects, led by shapes" in c.words)
    # Seeds whose search drew 1.5, 1 and 2.5 images' worth meet the best of 2, 1 and 3.
    assert crowded.difference.values == pytest.approx((0.4 - 0.8, 0.41 - 0.11, 0.43 - 0.83))


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
    from scripts.reproduce.rows import GROUPS, MASK_ERRORS, Prepared, data_of, run_seed

    runner = Recorder(tmp_path)
    variants = {name: Recorder(tmp_path / name) for name in data_of(GROUPS)}
    run_seed(ReproduceResults().recipe(), Prepared("vq.pt", runner, variants), GROUPS, 10)
    check_variants(variants)
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


def check_variants(variants):
    """Each has data, models and scores of its own."""
    assert list(variants) == ["named_offsets", "fitting_adds", "crowded"]
    told = {name: runner.commands for name, runner in variants.items()}
    named = parse(SampleMagicBrush, told["named_offsets"]["edit_seed0/named_zero_shot"][1:])
    assert named.mask_error == 4 and "named_offsets/seed0/stage1" in named.gpt_ckpt
    fitting = {
        name.split("/")[1]: parse(EditingConfig, command[1:])
        for name, command in told["fitting_adds"].items()
        if command[0].endswith("train_editing.py")
    }
    assert [config.mask_in_context for config in fitting.values()] == [True, False]
    assert all(config.mask_dilation == 0 and config.full_mask_share == 0 for config in fitting.values())
    measured = parse(ReproduceScaling, told["crowded"]["seed0/scaling"][1:])
    assert measured.tasks == ["draw"] and "crowded/data/test" in measured.magicbrush_path


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


@pytest.mark.slow
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


def test_seeds_and_rows_of_several_runs_are_shown_together():
    from scripts.reproduce.added import about_all, check_together
    from scripts.reproduce.numbers import SINGLE, Results

    def row(*values):
        return {SINGLE: {"l1": statistic(*values)}}

    first = Results({"nep": row(1.0, 2.0)}, {}, {"draw": [statistic(1.0, 2.0)]})
    second = Results({"nep": row(None)}, {}, {"draw": [statistic(3.0), statistic(4.0)]})
    other_rows = Results({"ntp": row(6.0, 5.0, 7.0)}, {}, {})
    stored = Results.from_dict(json.loads(json.dumps(first.to_dict())))
    assert stored == first
    all_runs = Results.together([([0, 2], stored), ([1], second), ([2, 1, 0], other_rows)])
    assert all_runs.find("nep", "l1").values == (1.0, None, 2.0)  # seeds 0, 1, 2
    assert all_runs.find("ntp", "l1").values == (7.0, 5.0, 6.0)
    assert [point.values for point in all_runs.scaling["draw"]] == [(1.0, 3.0, 2.0), (1.0, 4.0, 2.0)]
    with pytest.raises(UserError, match="rows, nep, all_turn: one run has measured l2 and another has not"):
        more = row(1.0)[SINGLE] | {"l2": statistic(1.0)}
        Results.together([([0], second), ([1], Results({"nep": {SINGLE: more}}, {}, {}))])

    plan = {"num_train": 9, "num_test": 9, "num_scaled": 2, "steps": {"stage1": 5}}
    made = {"date": "d", "commit": "c", "rows": ["nep", "scaling"]}
    parts = [
        {**plan, **made, "seeds": [0, 2], "machine": "A", "minutes": 3, "command": "a"},
        {**plan, **made, "seeds": [1], "machine": "B", "minutes": 4, "command": "b"},
        {**plan, **made, "seeds": [2, 1, 0], "machine": "B", "minutes": 1, "command": "c", "rows": ["ntp"]},
    ]
    check_together(parts)
    facts = {"seeds": [0, 1, 2], "rows": ["nep", "scaling", "ntp"], "machine": "A, B", "minutes": 8}
    assert about_all(parts) == {**plan, **made, **facts, "command": "c"}
    with pytest.raises(UserError, match="nep of seed 2 is in two runs"):
        check_together([parts[0], {**parts[1], "seeds": [2]}])
    with pytest.raises(UserError, match="ntp of seed 1 is in no run.*measure it: --rows ntp --seeds 1"):
        check_together([*parts[:2], {**parts[2], "seeds": [0, 2]}])
    with pytest.raises(UserError, match="num_test 9 does not go with this one's 8"):
        check_together([parts[0], {**parts[1], "num_test": 8}])


def test_a_file_to_add_is_checked_before_anything_is_trained(tmp_path):
    """It may hold other things, or results of another size."""
    other = tmp_path / "other.json"
    flags = ["scripts/reproduce_results.py", "--results-dir", tmp_path / "run", "--add", other]
    old = json.dumps({"about": {"seeds": [7], "num_train": 9}, "rows": {}, "mask_error": {}, "scaling": {}})
    cases = [("{}", "other.json holds no results"), (old, "other.json does not say its num_test, num_scaled")]
    for content, words in (*cases, (None, "other.json: cannot be read")):
        if content is not None:
            other.write_text(content)
        elif other.exists():
            other.unlink()
        done = run_program(*flags, check=False)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert not (tmp_path / "run").exists()
