from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import picture, png, square_mask

from autoregressive.sample.edit_sets import keys_of, magicbrush_rounds
from dataset.records.images import load_image
from dataset.testsets.emu_edit import read_emu_parquet, read_emu_prepared, read_valid_list
from dataset.testsets.emu_pairs import load_emu_list
from dataset.testsets.magicbrush import (
    iterate_turns,
    multi_turn_name,
    read_descriptions,
    read_listed_sessions,
    read_sessions,
    single_turn_name,
)
from runtime.errors import UserError


def magicbrush(root: Path, turns: dict[str, int]) -> None:
    sessions, descriptions = {}, {}
    for session_id, count in turns.items():
        folder = root / "images" / session_id
        folder.mkdir(parents=True)
        picture().save(folder / f"{session_id}-input.png")
        edits = []
        for k in range(1, count + 1):
            before = f"{session_id}-output{k - 1}.png" if k > 1 else f"{session_id}-input.png"
            edit = {
                "input": before,
                "mask": f"{session_id}-mask{k}.png",
                "output": f"{session_id}-output{k}.png",
            }
            square_mask().save(folder / edit["mask"])
            picture(k).save(folder / edit["output"])
            edits.append({**edit, "instruction": f"do {k}"})
        sessions[session_id] = edits
        descriptions[session_id] = {edit["output"]: f"after {edit['instruction']}" for edit in edits}
    (root / "edit_sessions.json").write_text(json.dumps(sessions))
    (root / "local_descriptions.json").write_text(json.dumps(descriptions))


def test_magicbrush_sessions(tmp_path):
    magicbrush(tmp_path, {"7": 12, "3": 1})
    sessions = read_sessions(tmp_path)
    assert list(sessions) == ["7", "3"] and [turn.number for turn in sessions["7"]] == list(range(1, 13))
    turns = list(iterate_turns(sessions))
    assert len(turns) == 13 and turns[9].output_path == tmp_path / "images" / "7" / "7-output10.png"
    assert turns[9].instruction == "do 10" and turns[9].input_path.name == "7-output9.png"
    assert read_descriptions(tmp_path, "local")["7"]["7-output10.png"] == "after do 10"

    (tmp_path / "images" / "7" / "7-mask11.png").unlink()
    (tmp_path / "images" / "3" / "3-input.png").unlink()
    with pytest.raises(UserError, match="2 missing file.*7-mask11.png.*3-input.png"):
        read_sessions(tmp_path)


def test_magicbrush_with_features(tmp_path):
    magicbrush(tmp_path, {"7": 2})
    sessions = json.loads((tmp_path / "edit_sessions.json").read_text())
    for k, edit in enumerate(sessions["7"], start=1):
        edit["instruction"] = f"t5/7_{k}.npy"
    file = tmp_path / "edit_sessions_with_instruction_t5.json"
    file.write_text(json.dumps(sessions))
    with pytest.raises(UserError, match="missing file.*7_1.npy"):
        read_sessions(tmp_path, with_features=True)
    (tmp_path / "t5").mkdir()
    for k in (1, 2):
        np.save(tmp_path / "t5" / f"7_{k}.npy", np.zeros((1, 1, 8), dtype=np.float32))
    turn = read_sessions(tmp_path, with_features=True)["7"][1]
    assert turn.text_feature_path == tmp_path / "t5" / "7_2.npy" and turn.instruction == "do 2"
    (tmp_path / "edit_sessions.json").unlink()
    assert read_sessions(tmp_path, with_features=True)["7"][1].instruction is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"7": []}', "session '7' must be a non-empty list"),
        ('{"7": [{"input": "x.png"}]}', "session '7' turn 1: needs a string under the key 'mask'"),
        ('{"7": ["x"]}', "turn 1: needs a string under the key 'input'"),
        (
            '{"7": [{"input": "../../../x", "mask": "m", "output": "o", "instruction": "i"}]}',
            "leads outside the data folder",
        ),
    ],
)
def test_bad_magicbrush_files(tmp_path, content, reason):
    (tmp_path / "edit_sessions.json").write_text(content)
    with pytest.raises(UserError, match=f"edit_sessions.json.*{reason}"):
        read_sessions(tmp_path)


def test_a_turn_means_the_same_to_samplers_and_evaluators(tmp_path):
    magicbrush(tmp_path, {"7": 12, "3": 1})
    sessions = read_sessions(tmp_path)
    listed = read_listed_sessions(tmp_path / "edit_sessions.json")
    described = read_listed_sessions(tmp_path / "local_descriptions.json")
    assert [session.id for session in listed] == [session.id for session in described] == list(sessions)
    for session, captions in zip(listed, described, strict=True):
        for turn, caption, located in zip(session.turns, captions.turns, sessions[session.id], strict=True):
            paths = (located.input_path, located.mask_path, located.output_path)
            assert [path.name for path in paths] == [turn.input, turn.mask, turn.output]
            assert (turn.input, turn.output) == (caption.input, caption.output)
            assert located.number == turn.number == caption.number
            assert located.instruction == turn.instruction and caption.caption == f"after {turn.instruction}"


def test_samplers_name_results_as_evaluators_expect(tmp_path):
    magicbrush(tmp_path, {"7": 12, "3": 1})
    sessions = read_sessions(tmp_path)
    for kind, namer in (("single", single_turn_name), ("multi", multi_turn_name)):
        rounds = magicbrush_rounds(sessions, kind, tmp_path, full_mask=False, descriptions=None, width=None)
        expected = {f"{t.session_id}/{namer(t.session_id, t.number)}" for t in iterate_turns(sessions)}
        assert keys_of(rounds) == expected
        for before, jobs in zip(rounds, rounds[1:], strict=False):
            assert {job.source for job in jobs} <= {tmp_path / job.key for job in before}


@pytest.mark.parametrize("edit", ["x", {"input": "7-input.png"}, {"instruction": 3}, None])
def test_bad_words_beside_features_are_named(tmp_path, edit):
    magicbrush(tmp_path, {"7": 1})
    sessions = (tmp_path / "edit_sessions.json").read_text()
    (tmp_path / "edit_sessions_with_instruction_t5.json").write_text(sessions.replace("do 1", "x.npy"))
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8), dtype=np.float32))
    assert read_sessions(tmp_path, with_features=True)["7"][0].instruction == "do 1"
    (tmp_path / "edit_sessions.json").write_text(json.dumps({"7": [edit]}))
    with pytest.raises(UserError, match="edit_sessions.json session '7' turn 1: needs a string"):
        read_sessions(tmp_path, with_features=True)


def test_an_instruction_to_be_scored_is_a_text(tmp_path):
    file = tmp_path / "sessions.json"
    edit = {"input": "7-input.png", "output": "7-output1.png"}
    file.write_text(json.dumps({"7": [edit]}))
    assert read_listed_sessions(file)[0].turns[0].instruction is None
    file.write_text(json.dumps({"7": [edit | {"instruction": ["a"]}]}))
    with pytest.raises(UserError, match="sessions.json session '7' turn 1: .*'instruction', got .'a'"):
        read_listed_sessions(file)


def test_descriptions_are_read_by_one_rule(tmp_path):
    file = tmp_path / "local_descriptions.json"

    def read(texts: object) -> tuple:
        file.write_text(json.dumps({"7": texts}))
        return read_descriptions(tmp_path, "local")["7"], read_listed_sessions(file)[0].turns[0].caption

    texts = {"7-output1.png": "a"}
    assert read(texts) == read(texts | {"7-input.png": None}) == (texts, "a")  # nobody describes the input
    for bad in ({"7-output1.png": None}, texts | {"7-input.png": 3}):
        for reader in (lambda: read_descriptions(tmp_path, "local"), lambda: read_listed_sessions(file)):
            file.write_text(json.dumps({"7": bad}))
            with pytest.raises(UserError, match="session '7' must map image files to texts"):
                reader()


@pytest.mark.parametrize("number", ["1" * 5000, "1\N{ARABIC-INDIC DIGIT TWO}", "01"])
def test_turns_are_counted_in_plain_digits(tmp_path, number):
    file = tmp_path / "local_descriptions.json"
    file.write_text(json.dumps({"7": {f"7-output{number}.png": "a"}}))
    with pytest.raises(
        UserError, match="local_descriptions.json: session '7': .* is not '7-output<turn>.png'"
    ):
        read_listed_sessions(file)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([], "at least one item"),
        ([{"idx": -1}], "item 1: needs a whole number"),
        ([{"idx": 1, "input_caption": 3, "edit_instruction": "a"}], "input_caption must be a string, got 3"),
    ],
)
def test_samplers_and_evaluators_refuse_the_same_emu_lists(tmp_path, entries, reason):
    (tmp_path / "valid.json").write_text(json.dumps(entries))
    for read in (read_valid_list, load_emu_list):
        with pytest.raises(UserError, match=f"valid.json.*{reason}"):
            read(tmp_path / "valid.json")


def test_an_emu_item_without_captions_can_be_sampled_and_scored(tmp_path):
    listing = tmp_path / "valid.json"
    listing.write_text(json.dumps([{"idx": 4, "input_caption": None, "edit_instruction": "a"}]))
    (tmp_path / "images").mkdir()
    picture().save(tmp_path / "images" / "4.png")
    (item,) = read_emu_prepared(tmp_path, listing)
    (turn,) = load_emu_list(listing)[0].turns
    assert item.instruction == turn.instruction == "a"
    assert item.input_caption is item.output_caption is turn.input_caption is turn.caption is None


def emu_entry(idx: int) -> dict:
    return {"idx": idx, "input_caption": "a", "output_caption": "b", "edit_instruction": f"edit {idx}"}


def test_emu_edit_prepared_and_parquet(tmp_path):
    listing = tmp_path / "valid.json"
    listing.write_text(json.dumps([emu_entry(5), emu_entry(2)]))
    with pytest.raises(UserError, match="2 missing file.*5.png.*2.png"):
        read_emu_prepared(tmp_path, listing)
    for name in ("images/5.png", "images_valid/2_gt.png"):
        (tmp_path / name).parent.mkdir()
        picture().save(tmp_path / name)
    items = read_emu_prepared(tmp_path, listing)
    assert [(item.idx, item.instruction) for item in items] == [(5, "edit 5"), (2, "edit 2")]
    assert items[1].source_path == tmp_path / "images_valid" / "2_gt.png"

    rows = [
        {
            "instruction": f"hub {idx}",
            "image": {"bytes": png(picture(idx)), "path": None},
            "task": "color",
            "split": "test",
            "idx": idx,
            "hash": "h",
            "input_caption": "a",
            "output_caption": "b",
        }
        for idx in (1, 2, 5)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    assert [item.instruction for item in read_emu_parquet([tmp_path / "test.parquet"])] == [
        "hub 1",
        "hub 2",
        "hub 5",
    ]
    chosen = read_emu_parquet([tmp_path / "test.parquet"], listing)
    assert [(item.idx, item.instruction, item.task) for item in chosen] == [
        (5, "edit 5", "color"),
        (2, "edit 2", "color"),
    ]
    assert np.array_equal(np.asarray(load_image(chosen[0].source_path)), np.asarray(picture(5)))
    pq.write_table(
        pa.Table.from_pylist([*rows[:2], rows[2] | {"instruction": " "}]), tmp_path / "test.parquet"
    )
    with pytest.raises(UserError, match=r"row 2 \(idx 5\): 'instruction' must be a text, got ' '"):
        read_emu_parquet([tmp_path / "test.parquet"])
    assert read_emu_parquet([tmp_path / "test.parquet"], listing)[0].instruction == "edit 5"
    listing.write_text(json.dumps([emu_entry(9)]))
    with pytest.raises(UserError, match=r"1 of its items are not in the parquet files: idx \[9\]"):
        read_emu_parquet([tmp_path / "test.parquet"], listing)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({}, "must be a list"),
        ([{"idx": "5"}], "item 1: needs a whole number"),
        ([emu_entry(1), emu_entry(1)], "item 2: idx 1 is there twice"),
        ([{**emu_entry(1), "edit_instruction": None}], "idx 1.*'edit_instruction'"),
        ([{**emu_entry(1), "edit_instruction": " "}], "idx 1.*'edit_instruction'"),
        ('[{"idx": 1, "idx": 2, "edit_instruction": "a"}]', "the key 'idx' is there twice"),
    ],
)
def test_bad_emu_lists(tmp_path, entries, reason):
    (tmp_path / "valid.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    with pytest.raises(UserError, match=f"valid.json.*{reason}"):
        read_valid_list(tmp_path / "valid.json")
