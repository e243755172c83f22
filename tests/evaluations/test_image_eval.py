from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from magicbrush_run import REFERENCE, TURNS, config, make_run, reference_config, save
from PIL import Image

from dataset.shapes.scenes import PLACES, box_to_pixels, place_box
from evaluations.editing.flags import ImageEvalConfig
from evaluations.editing.image_eval import main
from evaluations.editing.magicbrush_scores import check, evaluate_run
from evaluations.editing.tables import format_tables
from runtime.config import parse
from runtime.errors import UserError


@pytest.fixture
def run(tmp_path) -> Path:
    """One session of one turn and one of three, with every side file."""
    return make_run(tmp_path)


@pytest.fixture(params=[None, 0, 1])
def listing_order(request, monkeypatch):
    """The order in which folders are listed: the file system's, and two shuffles."""
    if request.param is not None:
        shuffle = random.Random(request.param)
        for name in ("iterdir", "glob", "rglob"):
            listed = getattr(Path, name)

            def shuffled(*args, listed=listed):
                files = list(listed(*args))
                shuffle.shuffle(files)
                return iter(files)

            monkeypatch.setattr(Path, name, shuffled)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_recorded_scores(tmp_path, listing_order, num_workers):
    expected = json.loads((REFERENCE / "expected.json").read_text())
    evaluate_run(reference_config(tmp_path, num_workers=num_workers))
    written = json.loads((tmp_path / "scores" / "evaluation_metrics.json").read_text())
    for protocol, key in (("all_turn", "single_turn"), ("final_turn", "multi_turn")):
        assert written[protocol] == pytest.approx(expected[key], abs=1e-9, rel=0)
    assert set(written) == {"final_turn", "all_turn", "copy_source", "info"}
    assert list(written)[:2] == ["final_turn", "all_turn"]
    assert written["info"]["num_edits"] == 6 and written["info"]["num_sessions"] == 3


def test_perfect_run(run):
    result = evaluate_run(config(run))
    for protocol in ("all_turn", "final_turn"):
        scores, copied = result[protocol], result["copy_source"][protocol]
        assert scores["l1"] == scores["l2"] == 0
        assert scores["unchanged_pixel_share"] == 1
        assert copied["l1"] > 0 and copied["inside_l1"] > 0 and copied["outside_l1"] == 0
        assert result["tokenizer_ceiling"][protocol]["l1"] == 0
        for row in ("generated", "tokenizer_ceiling"):
            rates = result["verifier"][row][protocol]
            names = ("passed_and_unchanged", "passed", "others_unchanged", "cells_fit", "one_offset")
            assert all(rates[name] == 1 for name in names)
    verifier = result["verifier"]["generated"]["all_turn"]
    assert verifier["counts"]["passed"] == sum(TURNS)
    assert list(verifier)[0] == "passed_and_unchanged"
    assert sum(table["counts"]["passed"] for table in verifier["by_kind"].values()) == sum(TURNS)
    assert result["verifier"]["copy_source"]["all_turn"]["passed_and_unchanged"] == 0
    items = json.loads((run / "scores" / "evaluation_items.json").read_text())
    assert len(items) == 3 * (sum(TURNS) + len(TURNS))
    assert all(item["instruction"] and item["caption"] and item["verdict"]["kind"] for item in items)
    tables = format_tables(result)
    assert "tokenizer_ceiling final_turn" in tables and "unchanged_pixel_share" in tables


def test_one_pixel_of_an_intermediate_turn_shows_in_the_final_share(run):
    path = run / "out" / "images" / "2" / "2_iter_2.png"
    image = np.asarray(Image.open(path)).copy()
    region = np.asarray(Image.open(run / "out" / "regions" / "2" / "2_iter_2.png")).astype(bool)
    row, column = np.argwhere(~region)[0]
    image[row, column] ^= 1
    save(path, image)
    result = evaluate_run(config(run))
    assert result["all_turn"]["unchanged_pixel_share"] == 1
    assert result["final_turn"]["unchanged_pixel_share"] < 1


def test_samples_json_says_what_was_edited(run):
    path = run / "out" / "samples.json"
    samples = json.loads(path.read_text())
    samples["edits"]["2/2_inde_3.png"]["input"] = "black.png"
    save(run / "out" / "black.png", np.zeros((72, 72, 3), np.uint8))
    path.write_text(json.dumps(samples))
    assert evaluate_run(config(run))["all_turn"]["unchanged_pixel_share"] == pytest.approx(3 / 4)
    assert evaluate_run(config(run, samples_json=None))["all_turn"]["unchanged_pixel_share"] == 1
    del samples["edits"]["2/2_inde_3.png"]
    path.write_text(json.dumps(samples))
    with pytest.raises(UserError, match="2/2_inde_3.png"):
        evaluate_run(config(run))
    path.write_text("[]")
    with pytest.raises(UserError, match="samples.json"):
        evaluate_run(config(run))


def test_sessions_of_twelve_turns(tmp_path):
    """Every image is grey: the target of turn k at level k, the single-turn edit k levels off, others 2k."""
    level = {f"gt/5/5-output{k}.png": k for k in range(1, 13)} | {
        "gt/5/5-input.png": 0,
        "images/5/5_1.png": 2,
    }
    level |= {f"images/5/5_inde_{k}.png": 2 * k for k in range(2, 13)}
    level |= {f"images/5/5_iter_{k}.png": 3 * k for k in range(2, 13)}
    for name in sorted(level, reverse=True):
        save(tmp_path / name, np.full((8, 8, 3), level[name], np.uint8))
    captions = {"5": {f"5-output{k}.png": "grey" for k in range(12, 0, -1)}}
    (tmp_path / "local.json").write_text(json.dumps(captions))
    names = {"generated_path": [str(tmp_path / "images")], "gt_path": str(tmp_path / "gt")}
    names["caption_path"] = str(tmp_path / "local.json")
    result = evaluate_run(reference_config(tmp_path, **names))
    assert result["all_turn"]["l1"] == pytest.approx(6.5 / 255, rel=1e-6)
    assert result["final_turn"]["l1"] == pytest.approx(24 / 255, rel=1e-6)
    assert result["copy_source"]["all_turn"]["l1"] == pytest.approx(1 / 255, rel=1e-6)
    assert result["copy_source"]["final_turn"]["l1"] == pytest.approx(12 / 255, rel=1e-6)


def test_failed_edit_counts(run):
    save(run / "out" / "images" / "1" / "1_1.png", np.asarray(Image.open(run / "gt" / "1" / "1-input.png")))
    result = evaluate_run(config(run))
    assert result["verifier"]["generated"]["all_turn"]["passed_and_unchanged"] == 3 / 4
    assert result["verifier"]["generated"]["final_turn"]["passed_and_unchanged"] == 1 / 2


def test_a_result_that_the_verifier_cannot_read_is_named(run):
    path = run / "out" / "images" / "1" / "1_1.png"
    save(path, np.asarray(Image.open(path))[:60])
    with pytest.raises(UserError, match=r"1_1.png: the shapes verifier reads square .* not \(60, 72, 3\)"):
        evaluate_run(config(run, regions_path=None, samples_json=None))


def test_an_edit_that_damages_something_else_is_not_done(run):
    path = run / "out" / "images" / "1" / "1_1.png"
    (example,) = json.loads((run / "shapes.json").read_text())["1"]
    image = np.asarray(Image.open(path)).copy()
    place = next(p for p in PLACES if all(thing["place"] != p for thing in example["after"]["objects"]))
    left, top, right, bottom = box_to_pixels(place_box(place), 72)
    image[top + 4 : bottom - 4, left + 4 : right - 4] = 0
    save(path, image)
    result = evaluate_run(config(run))
    rates = result["verifier"]["generated"]["all_turn"]
    assert (rates["passed_and_unchanged"], rates["passed"], rates["others_unchanged"]) == (3 / 4, 1, 3 / 4)
    items = json.loads((run / "scores" / "evaluation_items.json").read_text())
    verdicts = [item["verdict"] for item in items if item["generated"] == str(path)]
    assert [v["passed_and_unchanged"] for v in verdicts] == [False] * len(verdicts) and verdicts[0]["passed"]
    columns = format_tables(result).split("\n\n")[2].split()
    assert columns[:4] == ["edits", "passed_and_unchanged", "passed", "others_unchanged"]
    assert "✗ failed: others unchanged" in " ".join(
        (run / "scores" / "evaluation_items.html").read_text().split()
    )


def test_region_everywhere_and_nowhere(run):
    for path in (run / "out" / "regions").rglob("*.png"):
        save(path, np.ones((72, 72), bool))
    result = evaluate_run(config(run))
    assert result["all_turn"]["unchanged_pixel_share"] is None and result["all_turn"]["outside_l1"] is None
    assert result["info"]["num_pairs_defined"]["all_turn"]["unchanged_pixel_share"] == 0
    for path in (run / "out" / "regions").rglob("*.png"):
        save(path, np.zeros((72, 72), bool))
    result = evaluate_run(config(run))
    assert result["all_turn"]["inside_l1"] is None and result["all_turn"]["unchanged_pixel_share"] < 1


def test_generated_at_another_size(run):
    path = run / "out" / "images" / "1" / "1_1.png"
    target = Image.open(run / "gt" / "1" / "1-output1.png")
    generated = target.resize((40, 40))
    generated.save(path)
    with pytest.raises(UserError, match="1_1.png: 72x72"):
        evaluate_run(config(run))
    items = evaluate_and_read(run, regions_path=None)
    back = np.asarray(generated.resize((72, 72)), np.float64)
    expected = np.abs(back - np.asarray(target)).mean() / 255
    assert items["generated", "all_turn", "1", 1]["metrics"]["l1"] == pytest.approx(expected, abs=1e-7)


def evaluate_and_read(run: Path, **changes) -> dict:
    evaluate_run(config(run, **changes))
    items = json.loads((run / "scores" / "evaluation_items.json").read_text())
    return {(item["row"], item["protocol"], item["session"], item["turn"]): item for item in items}


def test_copied_source_starts_at_the_turn_or_at_the_session(run):
    items = evaluate_and_read(run)
    assert items["copy_source", "all_turn", "2", 3]["generated"].endswith("2-output2.png")
    assert items["copy_source", "final_turn", "2", 3]["generated"].endswith("2-input.png")


@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        ("out/images/2/2_iter_3.png", "missing"),
        ("out/images/2/2_inde_2.png", "truncated"),
        ("out/regions/2/2_iter_2.png", "missing"),
        ("gt/1/1-output1.png", "truncated"),
        ("ceiling/2/2-output3.png", "missing"),
        ("out/images/2/2_iter_4.png", "extra"),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(run, victim, damage):
    path = run / victim
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:60])
    else:
        save(path, np.zeros((72, 72, 3), np.uint8))
    with pytest.raises(UserError, match=path.name):
        evaluate_run(config(run))
    assert not (run / "scores").exists()


def test_side_files_must_describe_the_same_sessions(run):
    sessions = json.loads((run / "edit_sessions.json").read_text())
    sessions["2"].pop()
    (run / "edit_sessions.json").write_text(json.dumps(sessions))
    with pytest.raises(UserError, match="edit_sessions.json.*'2'"):
        evaluate_run(config(run))
    shapes = json.loads((run / "shapes.json").read_text())
    del shapes["1"]
    (run / "shapes.json").write_text(json.dumps(shapes))
    with pytest.raises(UserError, match="shapes.json.*'1'"):
        evaluate_run(config(run, sessions_json=None))


def test_needs_are_checked_before_any_image_is_read(tmp_path):
    for changes, message in (
        ({"metric": "region"}, "regions-path"),
        ({"metric": ","}, "names no metric"),
        ({"metric": "clip-i", "clip_ckpt": "no.pt"}, "--clip_ckpt no.pt: no such file"),
        ({"metric": "dino", "dino_ckpt": "no.pth"}, "--dino_ckpt no.pth: no such file"),
        ({"gt_path": str(REFERENCE / "generated")}, "Missing: 139306/139306-input.png"),
    ):
        broken = reference_config(tmp_path, **changes)
        for call in (check, evaluate_run):
            with pytest.raises(UserError, match=message):
                call(broken)
    check(reference_config(tmp_path, generated_path=["not made yet"]))
    with pytest.raises(UserError, match="caption_path"):
        evaluate_run(ImageEvalConfig(generated_path=["a"], gt_path="b"))
    with pytest.raises(UserError, match="generated_path is missing"):
        evaluate_run(reference_config(tmp_path, generated_path=[]))
    with pytest.raises(UserError, match="local_descriptions.json is a file, not a folder"):
        evaluate_run(reference_config(tmp_path, save_path=str(REFERENCE / "local_descriptions.json" / "x")))
    with pytest.raises(UserError, match="batch-size 0"):
        reference_config(tmp_path, batch_size=0)


def test_command_line(tmp_path, monkeypatch, capsys):
    words = ["--generated_path", str(REFERENCE / "generated"), "--gt_path", str(REFERENCE / "gt"),
             "--caption_path", str(REFERENCE / "local_descriptions.json"), "--metric", "l1,l2",
             "--save_path", str(tmp_path), "--device", "cpu", "--num_workers", "1"]  # fmt: skip
    kebab = [word.replace("_", "-") if word.startswith("--") else word for word in words]
    assert parse(ImageEvalConfig, words) == parse(ImageEvalConfig, kebab)
    monkeypatch.setattr("sys.argv", ["image_eval.py", *words])
    capsys.readouterr()
    main()
    output = capsys.readouterr()
    assert ["generated", "final_turn", "0.2922", "0.1347"] in [
        line.split() for line in output.out.splitlines()
    ]
    table = (tmp_path / "evaluation_table.txt").read_text()
    assert table == output.out and "3 sessions, 6 edits" in table
    result = json.loads((tmp_path / "evaluation_metrics.json").read_text())
    assert result["info"]["command"].startswith("image_eval.py --generated_path")
    assert result["info"]["num_pairs"] == {"final_turn": 3, "all_turn": 6}
    assert "139306" in (tmp_path / "evaluation_items.html").read_text()
