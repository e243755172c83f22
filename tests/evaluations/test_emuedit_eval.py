from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from pictures import picture

from dataset.testsets.emu_pairs import load_emu_list
from evaluations.editing.emu_scores import check, evaluate_run
from evaluations.editing.emuedit_eval import main
from evaluations.editing.flags import EmuEvalConfig
from evaluations.editing.tables import format_tables
from runtime.config import parse
from runtime.errors import UserError

PUBLISHED_LIST = ROOT / "assets" / "emu_test_data.json"
SIZE = 16


def entry(idx: int, **changes) -> dict:
    return {
        "idx": idx,
        "input_caption": f"a scene {idx}",
        "output_caption": f"a brighter scene {idx}",
        "edit_instruction": f"brighten {idx}",
    } | changes


@pytest.fixture
def run(tmp_path) -> Path:
    """Three items, one result of them as .jpg: idx 10, 2, 7, whose results are `idx` levels brighter."""
    for folder in ("samples", "gt", "ceiling"):
        (tmp_path / folder).mkdir()
    for idx in (10, 2, 7):
        source = picture(idx, SIZE)
        source.save(tmp_path / "gt" / f"{idx}_gt.png")
        brighter = picture(idx, SIZE).point(lambda level, by=idx: level + by)
        brighter.save(tmp_path / "samples" / f"{idx}.png")
        picture(idx, SIZE).point(lambda level: level + 1).save(tmp_path / "ceiling" / f"{idx}.png")
    picture(99).save(tmp_path / "gt" / "99_gt.png")
    write_list(tmp_path, [entry(10), entry(2), entry(7)])
    return tmp_path


def write_list(root: Path, entries: object) -> None:
    (root / "list.json").write_text(json.dumps(entries))


def config(root: Path, **changes) -> EmuEvalConfig:
    settings = {
        "generated_path": [str(root / "samples")],
        "gt_path": str(root / "gt"),
        "caption_path": str(root / "list.json"),
        "save_path": str(root / "scores"),
        "metric": "l1,l2",
    }
    return EmuEvalConfig(**(settings | changes))


def test_results_are_compared_with_their_sources(run):
    result = evaluate_run(config(run, ceiling_path=str(run / "ceiling")))
    written = json.loads((run / "scores" / "evaluation_metrics.json").read_text())
    assert written == result and list(written)[0] == "final_turn"
    assert result["final_turn"]["l1"] == pytest.approx((10 + 2 + 7) / 3 / 255, rel=1e-6)
    assert result["final_turn"]["l2"] == pytest.approx((100 + 4 + 49) / 3 / 255**2, rel=1e-6)
    assert result["copy_source"] == {"final_turn": {"l1": 0.0, "l2": 0.0}}
    assert result["tokenizer_ceiling"]["final_turn"]["l1"] == pytest.approx(1 / 255, rel=1e-6)
    info = result["info"]
    assert info["num_items"] == 3 and info["num_gt_not_scored"] == 1 and "another selection" in info["subset"]
    assert format_tables(result).startswith("3 items (another selection than the 3,589 or the 2,834")
    items = json.loads((run / "scores" / "evaluation_items.json").read_text())
    generated = [item for item in items if item["row"] == "generated"]
    assert [item["session"] for item in generated] == ["10", "2", "7"]
    assert generated[0]["source"] == generated[0]["target"] == str(run / "gt" / "10_gt.png")
    assert generated[0]["instruction"] == "brighten 10" and generated[0]["caption"] == "a brighter scene 10"
    assert (run / "scores" / "evaluation_items.html").exists()
    assert not (run / "scores" / "clip_t_score_by_idx.json").exists()


def test_scores_by_idx_of_another_time_do_not_stay(run):
    (run / "scores").mkdir()
    (run / "scores" / "clip_t_score_by_idx.json").write_text('{"10": 0.3}')
    evaluate_run(config(run))
    assert not (run / "scores" / "clip_t_score_by_idx.json").exists()


def test_results_may_be_jpeg(run):
    (run / "samples" / "7.png").unlink()
    picture(7, SIZE).save(run / "samples" / "7.jpg", quality=100)
    evaluate_run(config(run))
    picture(7, SIZE).save(run / "samples" / "7.png")
    with pytest.raises(UserError, match="7.png and 7.jpg are both there"):
        evaluate_run(config(run))


@pytest.mark.parametrize(
    ("victim", "damage", "message"),
    [
        ("samples/2.png", "missing", "samples: 3 generated images expected, 2 found. Missing: 2.png."),
        ("samples/99.png", "extra", "samples: 3 .* 4 found. Not in the list: 99.png."),
        ("samples/02.png", "extra", "Not in the list: 02.png"),
        ("samples/deep/2.png", "extra", "Not in the list: deep/2.png"),
        ("samples/2.png", "torn", "2.png: cannot be read as an image"),
        ("gt/7_gt.png", "missing", "gt: 3 sources expected, 2 found. Missing: 7_gt.png."),
        ("gt/7_gt.png", "torn", "7_gt.png: cannot be read as an image"),
        ("ceiling/7.png", "missing", "7.png: no such file"),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(run, victim, damage, message):
    path = run / victim
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.parent.mkdir(exist_ok=True)
        picture().save(path)
    with pytest.raises(UserError, match=message):
        evaluate_run(config(run, ceiling_path=str(run / "ceiling")))
    assert not (run / "scores").exists()


def test_a_folder_above_is_noticed(run):
    with pytest.raises(UserError, match="Did you mean .*samples"):
        evaluate_run(config(run, generated_path=[str(run)]))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        evaluate_run(config(run, generated_path=["nowhere"]))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "expected a list"),
        ([], "expected a list"),
        ([entry(1), 3], "item 2: needs a whole number"),
        ([entry(True)], "item 1: needs a whole number"),
        ([entry("1")], "item 1: needs a whole number"),
        ([entry(4), entry(5), entry(4)], "item 3: idx 4 is there twice"),
        ([entry(1, output_caption=3)], r"item 1 \(idx 1\): output_caption must be a string, got 3"),
    ],
)
def test_bad_lists(tmp_path, entries, message):
    write_list(tmp_path, entries)
    with pytest.raises(UserError, match=f"list.json.*{message}"):
        load_emu_list(tmp_path / "list.json")


def test_unreadable_lists(tmp_path):
    with pytest.raises(UserError, match="nothing.json: cannot be read"):
        load_emu_list(tmp_path / "nothing.json")
    (tmp_path / "torn.json").write_text('[{"idx": 1')
    with pytest.raises(UserError, match="torn.json: not JSON"):
        load_emu_list(tmp_path / "torn.json")


@pytest.mark.skipif(not PUBLISHED_LIST.exists(), reason="the published list is not part of the repository")
def test_the_published_list():
    sessions = load_emu_list(PUBLISHED_LIST)
    assert len(sessions) == 2834
    assert all(s.turns[0].caption != s.turns[0].input_caption for s in sessions)


def test_checks_before_there_are_results(run):
    check(config(run, generated_path=["not made yet"]))
    for changes, message in (
        ({"metric": "region"}, "unknown metric 'region'; available: l1, l2,.*clip-dir-l14"),
        ({"metric": "clip-t", "clip_ckpt": "no.pt"}, "--clip_ckpt no.pt: no such file"),
        ({"metric": "clip-dir-l14", "clip_l14_ckpt": "no.pt"}, "--clip_l14_ckpt no.pt: no such file"),
        ({"gt_path": "nowhere"}, "nowhere: no such folder"),
    ):
        for call in (check, evaluate_run):
            with pytest.raises(UserError, match=message):
                call(config(run, **changes))


def test_command_line(run, monkeypatch, capsys):
    words = ["--generated_path", str(run / "samples"), "--gt_path", str(run / "gt"), "--caption_path",
             str(run / "list.json"), "--metric", "l1,psnr", "--save_path", str(run / "scores"),
             "--device", "cpu", "--num_workers", "1"]  # fmt: skip
    kebab = [word.replace("_", "-") if word.startswith("--") else word for word in words]
    assert parse(EmuEvalConfig, words) == parse(EmuEvalConfig, kebab)
    monkeypatch.setattr("sys.argv", ["emuedit_eval.py", *words])
    main()
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    psnr = np.mean([20 * np.log10(255 / idx) for idx in (10, 2, 7)])
    assert ["generated", "final_turn", f"{19 / 3 / 255:.4f}", f"{psnr:.4f}"] in table
    assert ["copy_source", "final_turn", "0.0000", "100.0000"] in table


def test_published_defaults():
    config = parse(EmuEvalConfig, ["--generated_path", "a", "b", "--gt_path", "c"])
    assert config.metric == "l1,l2,clip-i,dino,clip-t" and config.folders == ["a", "b"]
    assert config.caption_path == "assets/emu_test_data.json"
