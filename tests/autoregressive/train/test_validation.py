"""Validation inside training: published file names, equal on any number of ranks, harmless to training."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import read_metrics, run_program
from PIL import Image
from test_training import run_stage, same, stage_flags

from runtime.errors import UserError


def validation_flags(shapes) -> list:
    test, emu = shapes / "test", shapes / "test_emu"
    return [
        "--val_dataset", "magicbrush,emuedit_test", "--validate_every", "2", "--max-steps", "3",
        "--magicbrush_json", test / "edit_sessions.json", "--magicbrush_input_path", test / "images",
        "--gt_path", test / "images", "--caption_path", test / "local_descriptions.json",
        "--emu_data_file", emu, "--valid_emuedit_test_data", emu / "emu_test_data.json",
        "--emuedit_gt_path", emu / "images_valid", "--emuedit_caption_path", emu / "emu_test_data.json",
        "--enforce_emu_validation_fake_masking", "--metric", "l1,l2", "--emuedit_metric", "l1,l2",
        "--cfg-scale", "2", "--val-global-batch-size", "3",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def flags(shapes, train_flags) -> list:
    return stage_flags("editing", shapes, train_flags) + validation_flags(shapes)


def pictures(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_files_scores_and_training_on_one_rank_and_two(flags, shapes, train_flags, tmp_path):
    one = run_stage("editing", flags, tmp_path / "one")
    samples = pictures(tmp_path / "one" / "samples-ckpt-0000002")
    sessions = json.loads((shapes / "test" / "edit_sessions.json").read_text())
    expected = {f"{i}/{i}_1.png" for i in sessions}
    for i, turns in sessions.items():
        expected |= {f"{i}/{i}_{kind}_{k}.png" for kind in ("inde", "iter") for k in range(2, len(turns) + 1)}
    assert set(samples) == expected
    emu_samples = pictures(tmp_path / "one" / "emuedit_test_samples-ckpt-0000002")
    assert set(emu_samples) == {"samples/0.png", "samples/1.png"}

    metrics = [m for m in read_metrics(tmp_path / "one") if "final_turn/l1" in m]
    assert [m["step"] for m in metrics] == [2]
    for prefix, folder in (("", "scores-ckpt"), ("emuedit_test_", "emuedit_test_scores-ckpt")):
        scores = json.loads(
            (tmp_path / "one" / f"{folder}-0000002.txt" / "evaluation_metrics.json").read_text()
        )
        assert scores["final_turn"]["l1"] == metrics[0][f"{prefix}final_turn/l1"] > 0
        assert {"copy_source", "tokenizer_ceiling"} <= set(scores)
        if not prefix:
            assert scores["all_turn"]["unchanged_pixel_share"] == 1
            assert scores["final_turn"]["unchanged_pixel_share"] == 1

    quiet = [*stage_flags("editing", shapes, train_flags), "--max-steps", "3"]
    assert same(run_stage("editing", quiet, tmp_path / "quiet")["model"], one["model"])

    program = "autoregressive/train/train_editing.py"
    run_program(program, *flags, "--results-dir", tmp_path / "two", ranks=2)
    two = pictures(tmp_path / "two" / "samples-ckpt-0000002")
    # The weights differ by rounding between one rank and two, so a draw may fall the other way.
    changed = [key for key in samples if samples[key] != two[key]]
    assert len(changed) <= len(samples) // 4, changed
    assert set(two) == set(samples)


def test_a_run_that_stopped_before_it_could_validate_does_so_when_it_goes_on(flags, tmp_path):
    flags = [*flags, "--val_dataset", "emuedit_test", "--ckpt-every", "2", "--auto-resume"]
    run_stage("editing", [*flags, "--max-steps", "2"], tmp_path)
    scores = tmp_path / "emuedit_test_scores-ckpt-0000002.txt"
    before = (scores / "evaluation_metrics.json").read_bytes()
    shutil.rmtree(scores)
    run_stage("editing", [*flags, "--max-steps", "3"], tmp_path)
    assert (scores / "evaluation_metrics.json").read_bytes() == before


def test_texts_from_descriptions_or_instructions(flags, tmp_path):
    settings = {}
    for name, extra in (("global", []), ("words", ["--instruction_based"]), ("full", [])):
        masks = ["--enforce_validation_fake_masking", "--magicbrush_skip_iter"] if name == "full" else []
        only = ["--val_dataset", "magicbrush", "--max-steps", "2"]
        run_stage("editing", [*flags, *extra, *masks, *only], tmp_path / name)
        path = tmp_path / name / "validation" / "samples-ckpt-0000002" / "samples.json"
        settings[name] = json.loads(path.read_text())
    assert len({s["settings_hash"] for s in settings.values()}) == 3
    assert not any("iter" in key for key in settings["full"]["edits"])
    assert {edit["tokens"] for edit in settings["full"]["edits"].values()} == {9}
    assert any(edit["tokens"] < 9 for edit in settings["words"]["edits"].values())


def test_earlier_outputs_are_kept_for_the_same_settings_only(flags, tmp_path, capfd):
    only = ["--val_dataset", "emuedit_test", "--max-steps", "2"]
    run_stage("editing", [*flags, *only], tmp_path)
    picture = tmp_path / "emuedit_test_samples-ckpt-0000002" / "samples" / "0.png"
    before = picture.read_bytes()
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(picture)
    shutil.rmtree(tmp_path / "checkpoints")
    run_stage("editing", [*flags, *only], tmp_path)
    assert "already" in capfd.readouterr().err and picture.read_bytes() != before
    shutil.rmtree(tmp_path / "checkpoints")
    run_stage("editing", [*flags, *only, "--lr", "2e-3"], tmp_path)
    assert np.asarray(Image.open(picture)).any()


def test_what_would_fail_at_the_first_validation_fails_before_the_first_step(flags, shapes, tmp_path):
    with pytest.raises(UserError, match="clip"):
        run_stage("editing", [*flags, "--metric", "l1,clip-i", "--clip_ckpt", "nowhere.pt"], tmp_path / "a")
    descriptions = json.loads((shapes / "test" / "local_descriptions.json").read_text())
    descriptions.popitem()
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(descriptions))
    with pytest.raises(UserError, match=r"stand in one of them only.*validation edits and scores the same"):
        run_stage("editing", [*flags, "--caption_path", fewer], tmp_path / "b")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run_stage("editing", [*flags, "--emu_data_file", "nowhere"], tmp_path / "c")
    assert not any((tmp_path / name / "metrics.jsonl").exists() for name in "abc")
