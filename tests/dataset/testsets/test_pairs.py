from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from dataset.testsets.magicbrush import read_listed_sessions
from dataset.testsets.pairs import ALL_TURN, FINAL_TURN, find_pairs
from runtime.errors import UserError

REFERENCE = ROOT / "tests" / "reference" / "magicbrush_eval"


def make_run(root: Path, turns: dict[str, int], reverse: bool = False) -> Path:
    """Empty files of a complete run, made in either order, with local_descriptions.json."""
    files = []
    for session_id, count in turns.items():
        files.append(f"gt/{session_id}/{session_id}-input.png")
        files.append(f"generated/{session_id}/{session_id}_1.png")
        for k in range(1, count + 1):
            files += [
                f"gt/{session_id}/{session_id}-output{k}.png",
                f"gt/{session_id}/{session_id}-mask{k}.png",
            ]
        for k in range(2, count + 1):
            files += [f"generated/{session_id}/{session_id}_{kind}_{k}.png" for kind in ("inde", "iter")]
    for name in reversed(files) if reverse else files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    captions = {
        session_id: {f"{session_id}-output{k}.png": f"text {k}" for k in range(1, count + 1)}
        for session_id, count in turns.items()
    }
    write_json(root / "local_descriptions.json", captions)
    return root


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def pairs_of(root: Path, **kwargs) -> dict:
    sessions = read_listed_sessions(root / "local_descriptions.json")
    return find_pairs(sessions, root / "generated", root / "gt", **kwargs)


def names(pairs: list) -> list[tuple[str, str]]:
    return [(pair.generated.name, pair.target.name) for pair in pairs]


def test_recorded_pairs():
    expected = json.loads((REFERENCE / "expected.json").read_text())
    pairs = pairs_of(REFERENCE)
    for protocol, key in ((ALL_TURN, "single_turn_pairs"), (FINAL_TURN, "multi_turn_pairs")):
        found = [
            [path.relative_to(REFERENCE).as_posix() for path in (pair.generated, pair.target)]
            for pair in pairs[protocol]
        ]
        assert found == expected[key]


def test_twelve_turns_are_in_numeric_order(tmp_path):
    root = make_run(tmp_path, {"5": 12})
    pairs = pairs_of(root)
    assert names(pairs[FINAL_TURN]) == [("5_iter_12.png", "5-output12.png")]
    assert names(pairs[ALL_TURN]) == [("5_1.png", "5-output1.png")] + [
        (f"5_inde_{k}.png", f"5-output{k}.png") for k in range(2, 13)
    ]
    chain = [edit.generated.name for edit in pairs[FINAL_TURN][0].edits]
    assert chain == ["5_1.png"] + [f"5_iter_{k}.png" for k in range(2, 13)]


def test_creation_order_and_json_key_order_do_not_matter(tmp_path):
    turns = {"10": 3, "9": 1, "100": 12}
    first = pairs_of(make_run(tmp_path / "a", turns))
    root = make_run(tmp_path / "b", turns, reverse=True)
    captions = json.loads((root / "local_descriptions.json").read_text())
    write_json(
        root / "local_descriptions.json",
        {session_id: dict(reversed(list(files.items()))) for session_id, files in captions.items()},
    )
    second = pairs_of(root)
    for protocol in (ALL_TURN, FINAL_TURN):
        assert names(first[protocol]) == names(second[protocol])


def test_inputs_of_the_edits(tmp_path):
    pairs = pairs_of(make_run(tmp_path, {"7": 3}))
    assert [pair.source.name for pair in pairs[ALL_TURN]] == ["7-input.png", "7-output1.png", "7-output2.png"]
    final = pairs[FINAL_TURN][0]
    assert final.source.name == "7-input.png"
    assert [edit.input.name for edit in final.edits] == ["7-input.png", "7_1.png", "7_iter_2.png"]
    assert final.edits[2].name == "7/7_iter_3.png"
    assert final.ceiling == "7/7-output3.png"
    assert [pair.ceiling for pair in pairs[ALL_TURN]] == [f"7/7-output{k}.png" for k in (1, 2, 3)]


def test_edit_sessions_give_the_same_pairs(tmp_path):
    root = make_run(tmp_path, {"7": 2})
    sessions = write_json(
        tmp_path / "edit_sessions.json",
        {
            "7": [
                {
                    "input": "7-input.png",
                    "mask": "7-mask1.png",
                    "output": "7-output1.png",
                    "instruction": "a",
                },
                {
                    "input": "7-output1.png",
                    "mask": "7-mask2.png",
                    "output": "7-output2.png",
                    "instruction": "b",
                },
            ]
        },
    )
    pairs = find_pairs(read_listed_sessions(sessions), root / "generated", root / "gt")
    assert {p: names(found) for p, found in pairs.items()} == {p: names(f) for p, f in pairs_of(root).items()}
    assert pairs[ALL_TURN][1].turn.instruction == "b"
    assert pairs_of(root)[ALL_TURN][1].turn.caption == "text 2"


@pytest.mark.parametrize(
    "victim",
    [
        "generated/7/7_1.png",
        "generated/7/7_iter_2.png",
        "generated/7/7_inde_3.png",
        "gt/7/7-output2.png",
        "gt/7/7-input.png",
    ],
)
def test_missing_file_is_named(tmp_path, victim):
    root = make_run(tmp_path, {"7": 3, "8": 1})
    (root / victim).unlink()
    with pytest.raises(UserError, match=Path(victim).name):
        pairs_of(root)


@pytest.mark.parametrize(
    "extra",
    ["generated/7/7_iter_4.png", "generated/7/7_inde_1.png", "generated/9/9_1.png", "gt/7/7-output4.png"],
)
def test_extra_file_is_named(tmp_path, extra):
    root = make_run(tmp_path, {"7": 3, "8": 1})
    (root / extra).parent.mkdir(exist_ok=True)
    (root / extra).touch()
    with pytest.raises(UserError, match=Path(extra).name):
        pairs_of(root)


def test_missing_session_and_wrong_folder(tmp_path):
    root = make_run(tmp_path, {"7": 1, "8": 1})
    shutil.rmtree(root / "generated" / "8")
    with pytest.raises(UserError, match="8/8_1.png"):
        pairs_of(root)
    (root / "out").mkdir()
    (root / "generated").rename(root / "out" / "images")
    with pytest.raises(UserError, match="Did you mean"):
        find_pairs(read_listed_sessions(root / "local_descriptions.json"), root / "out", root / "gt")
    with pytest.raises(UserError, match="no such folder"):
        find_pairs(read_listed_sessions(root / "local_descriptions.json"), root / "nowhere", root / "gt")


def test_further_ground_truth_sessions_and_notes_are_no_error(tmp_path):
    root = make_run(tmp_path, {"7": 2})
    (root / "gt" / "8").mkdir()
    (root / "gt" / "8" / "8-output1.png").touch()
    (root / "generated" / "notes.txt").touch()
    assert len(pairs_of(root)[ALL_TURN]) == 2


def test_single_turn_only_does_not_need_iterations(tmp_path):
    root = make_run(tmp_path, {"7": 2})
    (root / "generated" / "7" / "7_iter_2.png").unlink()
    assert list(pairs_of(root, protocols=[ALL_TURN])) == [ALL_TURN]
    with pytest.raises(UserError, match="7_iter_2.png"):
        pairs_of(root)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"7": []},
        {"7": {}},
        {"7": {"7-output2.png": "gap"}},
        {"7": {"8-output1.png": "other"}},
        {"7": {"7-output01.png": "zero"}},
        {"7": {"7-output1.png": 3}},
        {"../7": {"../7-output1.png": "escape"}},
        {"7": [{"input": "../7-input.png", "output": "7-output1.png"}]},
        {"7": [{"input": "7-input.png", "output": "7-output2.png"}]},
        {"7": [{"input": "7-input.png"}]},
        {"7": ["7-output1.png"]},
    ],
)
def test_bad_sessions_files(tmp_path, content):
    path = write_json(tmp_path / "bad.json", content)
    with pytest.raises(UserError, match="bad.json"):
        read_listed_sessions(path)


def test_unreadable_sessions_files(tmp_path):
    with pytest.raises(UserError, match="missing.json"):
        read_listed_sessions(tmp_path / "missing.json")
    (tmp_path / "torn.json").write_text('{"7": ')
    with pytest.raises(UserError, match="torn.json"):
        read_listed_sessions(tmp_path / "torn.json")
