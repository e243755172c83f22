"""Rewards as trainings use them: edits judged by their captions, names and weights, groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.scaling import weighted
from autoregressive.scaling.choices import EDIT_REWARDS, split_weight
from autoregressive.scaling.own_reward import own_reward
from autoregressive.scaling.reward import Reward, RewardCase
from autoregressive.scaling.rewards import JudgesOn, build_reward
from autoregressive.scaling.weighted import Judges, RewardSpec, judgement_of
from dataset.shapes.captions import parse_edit
from dataset.shapes.edits import SETTINGS, VARIANTS, EditExample, ShapesConfig, random_session
from dataset.shapes.scenes import render
from dataset.shapes.verifier import verify_edit
from runtime.errors import UserError

FITTING = ShapesConfig(**{**vars(SETTINGS["hard"]), **VARIANTS["fitting_adds"]})


def case_of(example: EditExample, config: ShapesConfig) -> RewardCase:
    before, after = (config.caption(scene) for scene in (example.before, example.after))
    return RewardCase(after, example.edit.instruction, before)


@pytest.mark.parametrize("config", [SETTINGS["easy"], SETTINGS["hard"], FITTING], ids=["easy", "hard", "fit"])
def test_edits_are_judged_from_their_captions_as_from_their_records(config):
    """True results, sources, and results of other edits; every kind of edit occurs."""
    device, kinds = JudgesOn(torch.device("cpu")), set()
    examples = [random_session([9, number], config)[0] for number in range(24)]
    for number, example in enumerate(examples):
        case = case_of(example, config)
        parsed = parse_edit(case.source_caption, case.caption, case.instruction)
        assert (parsed.edit.kind, parsed.edit.place) == (example.edit.kind, example.edit.place)
        kinds.add(example.edit.kind)
        for scene in (example.after, example.before, examples[number - 1].after):
            pixels = render(scene, 72)
            verdict = verify_edit(pixels, example.before, example.after, example.edit)
            for name, field in EDIT_REWARDS.items():
                score = build_reward(name, device).judge([Image.fromarray(pixels)], [case])
                assert score.tolist() == [float(getattr(verdict, field))], (name, example)
    assert kinds == set(config.edits) or len(kinds) >= 6


def test_captions_that_are_no_edit_are_refused():
    one, two = "a red circle at the top, gray background", "a red star at the top, a red cross at the left, "
    with pytest.raises(UserError, match="differ in 0 things"):
        parse_edit(one, one)
    with pytest.raises(UserError, match="differ in 3 things"):
        parse_edit(one, f"{two}mint background")
    with pytest.raises(UserError, match="needs an input_caption"):
        build_reward("shapes_edit", JudgesOn(torch.device("cpu"))).judge([Image.new("RGB", (72, 72))],
                                                                         [RewardCase(one)])  # fmt: skip


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("clip", ("clip", 1.0)),
        ("shapes_edit:0.5", ("shapes_edit", 0.5)),
        ("shapes:-1e-1", ("shapes", -0.1)),
        ("my.judge:score", ("my.judge:score", 1.0)),
        ("my.judge:score:2", ("my.judge:score", 2.0)),
    ],
)
def test_names_and_weights(word, found):
    assert split_weight(word) == found


class Redness(Reward):
    name = "redness"

    def score(self, images, texts):
        return torch.tensor([np.asarray(image)[..., 0].mean() for image in images])


def test_rewards_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "exits_when_imported.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    pictures = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 255)]
    cases = [RewardCase("a")] * 2
    assert own_reward("toy_rewards:brightness").judge(pictures, cases).tolist() == pytest.approx([0, 1 / 3])
    assert (
        build_reward(f"{__name__}:Redness", JudgesOn(torch.device("cpu"))).score(pictures, ["a"] * 2)[1]
        == 255
    )
    for name, message in (
        ("toy_rewards:number", "is no function but int"),
        ("toy_rewards:none", "has no 'none'"),
        ("no_such_module:x", "is its folder on PYTHONPATH"),
        ("toy_rewards:ExitsWhenMade", r"cannot be made \(SystemExit: 3\)"),
        ("exits_when_imported:x", r"cannot be imported \(SystemExit: 0\)"),
    ):
        with pytest.raises(UserError, match=message):
            own_reward(name)


def test_weighted_sums_and_what_spoils_a_group():
    pictures = [Image.new("RGB", (8, 8), (level,) * 3) for level in (0, 255)]
    source = Image.new("RGB", (8, 8))
    red, blue, plain = (RewardCase(text, source=source) for text in ("red", "blue", "green"))
    spec = RewardSpec(("toy_rewards:brightness:0.5", "toy_rewards:of_the_case:2"))
    with Judges(spec, 0) as judges:
        found = judgement_of(judges.submit(pictures, [plain] * 2))
    assert found.total == pytest.approx([0, 2.5]) and found.problem is None
    assert found.scores == {"toy_rewards:brightness": [0, 1], "toy_rewards:of_the_case": [0, 1]}
    for name, case, problem in (
        ("toy_rewards:raises_at_red", red, "raised ZeroDivisionError: no red, please"),
        ("toy_rewards:exits_at_red", red, "raised SystemExit: no red, please"),
        ("toy_rewards:nan_at_blue", blue, "gave nan"),
        ("toy_rewards:too_few", plain, "gave 1 scores for 2 images"),
    ):
        with Judges(RewardSpec(("toy_rewards:brightness", name)), 0) as judges:
            found = judgement_of(judges.submit(pictures, [case] * 2))
        assert found.total == [] and name in found.problem and problem in found.problem


def test_another_process_judges_alike():
    pictures, cases = [Image.new("RGB", (8, 8), (level,) * 3) for level in (0, 255)], [RewardCase("a")] * 2
    with Judges(RewardSpec(("toy_rewards:brightness",)), 1) as judges:
        futures = [judges.submit(pictures, cases), judges.submit(pictures[::-1], cases)]
        assert [judgement_of(future).total for future in futures] == [[0, 1], [1, 0]]


def test_a_reward_that_another_process_cannot_build_ends_the_run(monkeypatch):
    monkeypatch.setattr(weighted, "_rewards", weighted._built(RewardSpec(("toy_rewards:none",))))
    with pytest.raises(UserError, match="has no 'none'"):
        weighted._judge([], [])
