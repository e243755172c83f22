"""Lists that people write: what their values mean, their encodings, and errors before the first edit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_program
from pictures import picture
from PIL import Image

from autoregressive.editing.choices import AUTO
from autoregressive.sample import file_edits, sample_editing
from autoregressive.sample.drawing import read_prompts
from autoregressive.sample.drawing_captions import read_captions
from autoregressive.sample.file_edits import read_jobs, require_usable
from autoregressive.sample.flags import SampleEditing, SampleScaled, SampleT2I
from autoregressive.sample.scaling_run import _write_captions, read_lines
from dataset.prepare.caption_items import parse_caption
from dataset.records.jsonl import JsonlRecords
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.testsets.emu_edit import read_valid_list
from dataset.testsets.emu_pairs import load_emu_list
from dataset.testsets.magicbrush import read_listed_sessions, read_sessions
from runtime.errors import UserError

LINE = {"image": "in.png", "prompt": "make it red", "output": "o.png"}


@pytest.fixture
def folder(tmp_path) -> Path:
    picture().save(tmp_path / "in.png")
    region = np.zeros(picture().size[::-1], np.uint8)
    region[2:9, 3:9] = 255
    Image.fromarray(region).save(tmp_path / "mask.png")
    Image.fromarray(region[:-1]).save(tmp_path / "small.png")
    Image.fromarray(region * 0).save(tmp_path / "empty.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "in.png").read_bytes()[:60])
    return tmp_path


def listed(folder: Path, *changes: dict, encoding: str = "utf-8") -> SampleEditing:
    lines = [{**LINE, "output": f"{i}.png", **change} for i, change in enumerate(changes)]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding=encoding)
    return SampleEditing(list=str(folder / "list.jsonl"))


@pytest.mark.parametrize("key", ["prompt", "output", "image"])
@pytest.mark.parametrize("value", [None, "", 3, ["x"], True])
def test_a_value_that_is_no_text_is_named(folder, key, value):
    with pytest.raises(UserError) as refused:
        read_jobs(listed(folder, {}, {key: value}))
    assert f"list.jsonl line 2: '{key}' must be a non-empty string, got {value!r}" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  "}, "say what you want to see: the text is empty"),
        ({"prompt": "page 3"}, "say what you want to see in English words: .* nothing of 'page 3'"),
        ({"mask": ""}, "'mask' must be a non-empty string"),
        ({"mask_image": "mask.png"}, "'mask_image' is the key of training lists; here it is 'mask'"),
        ({"mask": 3}, "'mask' must be a non-empty string, got 3"),
        ({"mask": "no.png"}, ".*no.png does not exist"),
        ({"image": "no.png"}, ".*no.png does not exist"),
        ({"image": "a\0.png"}, ".*does not exist"),
        ({"output": "a\0.png"}, "the output .* cannot be used"),
        ({"output": "."}, "the output .* is a folder"),
    ],
)
def test_a_bad_line_is_named(folder, change, message):
    with pytest.raises(UserError, match=f"list.jsonl line 2: {message}"):
        read_jobs(listed(folder, {}, change))
    if "output" not in change:
        with pytest.raises(UserError, match=f"list.jsonl line 2: {message}"):
            read_lines(SampleScaled(task_list=str(folder / "list.jsonl")))


@pytest.mark.parametrize("other", ["0.png", "./0.png", "sub/../0.png", "link/0.png", "absolute"])
def test_two_lines_never_write_one_file(folder, other):
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder)
    other = str(folder / "0.png") if other == "absolute" else other
    with pytest.raises(UserError, match=r"list.jsonl line 3: the output .* is that of .*list.jsonl line 1"):
        read_jobs(listed(folder, {}, {}, {"output": other}))


@pytest.mark.parametrize("value", [None, "NONE", "masks/NONE", "masks_NONE"])
def test_no_mask_is_written_as_in_training_lists(folder, value):
    config = listed(folder, {"mask": value}, {"mask": "mask.png"}, {"mask": AUTO}, {})
    assert [job.mask for job in read_jobs(config)] == [None, folder / "mask.png", AUTO, None]
    (line, *_) = read_lines(SampleScaled(task_list=listed(folder, {"mask": value}).list))
    assert line.mask is None


def test_the_flag_mask_takes_none():
    for value in (None, "none", "NONE"):
        (job,) = read_jobs(SampleEditing(image="in.png", prompt="x", mask=value))
        assert job.mask is None


def test_only_line_ends_part_prompts_and_captions(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\u2028sat\x0cdown\r\n\na dog\rred", encoding="utf-8", newline="")
    prompts = read_prompts(SampleT2I(prompt_file=str(tmp_path / "p.txt")))
    assert prompts == ["a cat\u2028sat\x0cdown", "a dog", "red"]
    _write_captions(tmp_path, ["a\nb", "c"], rounds=0)
    assert (tmp_path / "0" / "captions.txt").read_text() == "a b\nc\n"
    (tmp_path / "p.tsv").write_text("Prompt\tPrompt\na\tb\n")
    with pytest.raises(UserError, match="p.tsv: has the column Prompt twice"):
        read_captions(tmp_path / "p.tsv")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_an_empty_list_is_an_error(tmp_path, content):
    path = tmp_path / "list.jsonl"
    path.write_bytes(content)
    for read in (
        lambda: read_jobs(SampleEditing(list=str(path))),
        lambda: read_lines(SampleScaled(task_list=str(path))),
        lambda: read_t2i_jsonl([path]),
    ):
        with pytest.raises(UserError, match="no records in .*list.jsonl"):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "broken.png"}, ".*broken.png: cannot be read as an image"),
        ({"mask": "broken.png"}, ".*broken.png: cannot be read as an image"),
        ({"mask": "small.png"}, ".*small.png: the mask is"),
        ({"mask": "empty.png"}, ".*empty.png: marks no pixel"),
    ],
)
def test_files_are_read_before_the_first_edit(folder, monkeypatch, change, message):
    config = listed(folder, {}, {"mask": "mask.png"}, change)
    monkeypatch.setattr(sample_editing, "parse", lambda kind: config)
    monkeypatch.setattr(file_edits, "load_pipeline", lambda *args: pytest.fail("models were loaded"))
    with pytest.raises(UserError, match=f"list.jsonl line 3: {message}"):
        sample_editing.main()
    require_usable(read_jobs(listed(folder, {}, {"mask": "mask.png"})), config)


def readers(folder: Path, encoding: str, word: str = "é") -> dict:
    """Each way of reading a file of texts, with that word in it: a call that gives the word back."""

    def written(name: str, content: object) -> Path:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_bytes(text.encode(encoding))
        return folder / name

    (folder / "images" / "s").mkdir(parents=True)
    (folder / "images" / "s" / "in.png").write_bytes((folder / "in.png").read_bytes())
    (folder / "images" / "s" / "s-output1.png").write_bytes((folder / "in.png").read_bytes())
    edit = {"input": "in.png", "mask": "in.png", "output": "s-output1.png", "instruction": word}
    written("edit_sessions.json", {"s": [edit]})
    captions = {"input_caption": "x", "output_caption": "y", "edit_instruction": word}
    emu = written("emu.json", [{"idx": 0, **captions}])
    lines = written("list.jsonl", {**LINE, "prompt": word})
    pairs = written("t2i.jsonl", {"image_path": "in.png", "text": word})
    prompts = written("prompts.txt", word)
    caption = written("caption.json", {"caption": word}).read_bytes()
    return {
        "sessions": lambda: read_sessions(folder)["s"][0].instruction,
        "emu": lambda: read_valid_list(emu)[0]["edit_instruction"],
        "scored sessions": lambda: read_listed_sessions(folder / "edit_sessions.json") and word,
        "scored emu": lambda: load_emu_list(emu) and word,
        "list": lambda: read_jobs(SampleEditing(list=str(lines)))[0].prompt,
        "scaling": lambda: read_lines(SampleScaled(task_list=str(lines)))[0].prompt,
        "training": lambda: read_t2i_jsonl([pairs])[0].text,
        "prompts": lambda: read_prompts(SampleT2I(prompt_file=str(prompts)))[0],
        "caption.txt": lambda: parse_caption(prompts.read_bytes(), ".txt", "here"),
        "caption.json": lambda: parse_caption(caption, ".json", "here"),
    }


READERS = (
    *("sessions", "emu", "scored sessions", "scored emu", "list", "scaling", "training", "prompts"),
    *("caption.txt", "caption.json"),
)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_changes_nothing(folder, name, encoding):
    assert readers(folder, encoding)[name]() == "é"


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "is UTF-16, not UTF-8"),
        ("utf-16-le", "is UTF-16 or UTF-32, or no text, not UTF-8"),
        ("utf-32", "is UTF-32, not UTF-8"),
        ("latin-1", "not UTF-8 .byte 0xe9"),
    ],
)
def test_other_encodings_are_refused_by_name(folder, name, encoding, message):
    with pytest.raises(UserError, match=message):
        readers(folder, encoding)[name]()


def test_lines_after_a_byte_order_mark_keep_their_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf\n{"n": 1}\n{oops\n')
    records = JsonlRecords([tmp_path / "a.jsonl"], lambda line: (line.number, line.values["n"]))
    assert len(records) == 2 and records[0] == (2, 1)
    with pytest.raises(UserError, match="line 3: not JSON"):
        records[1]
    (tmp_path / "a.jsonl").write_text('{"text": "a cat", "text": "a dog"}\n')
    with pytest.raises(UserError, match="a.jsonl line 1: the key 'text' is there twice"):
        JsonlRecords([tmp_path / "a.jsonl"], lambda line: line)[0]


def test_the_program_ends_without_a_traceback(folder, vq_ckpt, gpt_ckpts, t5_dir):
    config = listed(folder, {}, {}, encoding="utf-16")
    flags = [
        "--vq-ckpt",
        vq_ckpt,
        "--gpt-ckpt",
        gpt_ckpts["edit"],
        "--t5-path",
        t5_dir,
        "--list",
        config.list,
    ]
    failed = run_program("autoregressive/sample/sample_editing.py", *flags, check=False)
    assert failed.returncode == 2 and "UTF-16" in failed.stderr and "Traceback" not in failed.stderr
