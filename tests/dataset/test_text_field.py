"""Which text an editor is told: what the list has, said once; what is named and absent is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import run_program

from autoregressive.train.components import load_encoders, read_dataset
from autoregressive.train.config import EditingConfig
from autoregressive.train.packing.config import PackEditsConfig
from autoregressive.train.packing.edits import extract as pack_edits
from autoregressive.train.stages import load_pairs
from dataset.packed.dataset import PackedEdits
from dataset.records.edit_records import JsonlEditRecords, ParquetEditRecords, choose_text_field
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

BOTH = {"edit_prompt": "make it red", "output_caption": "a red thing"}
CAPTION, INSTRUCTION = {"output_caption": "a red thing"}, {"edit_prompt": "make it red"}
FEATURES = {"edit_prompt_t5_path": "a.npy"}
NEITHER = {"edit_prompt": None, "output_caption": ""}


def listed(folder: Path, *texts: dict | str, kind: str = "jsonl"):
    path = folder / f"list.{kind}"
    if kind == "jsonl":
        lines = [
            text if isinstance(text, str) else json.dumps({"file_name": "a.png", **text}) for text in texts
        ]
        path.write_text("".join(f"{line}\n" for line in lines))
        return JsonlEditRecords([path])
    columns = {name: [b""] * len(texts) for name in ("source_image", "edited_image")}
    for name, key in (("edit_prompt", "edit_prompt"), ("target_caption", "output_caption")):
        columns[name] = pa.array([text.get(key) for text in texts], pa.string())
    pq.write_table(pa.table(columns), path)
    return ParquetEditRecords([path])


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    keep = logging.Handler()
    keep.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("nep.dataset.records")
    logger.addHandler(keep)
    yield lines
    logger.removeHandler(keep)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("texts", "chosen"),
    [
        ([BOTH, BOTH], "target_caption"),
        ([INSTRUCTION, INSTRUCTION], "instruction"),
        ([CAPTION], "target_caption"),
        ([INSTRUCTION, CAPTION], "target_caption"),
        ([INSTRUCTION, BOTH, INSTRUCTION], "instruction"),
        ([NEITHER, INSTRUCTION], "instruction"),
    ],
)
def test_what_the_list_has_is_taken_and_said(tmp_path, said, kind, texts, chosen):
    records = listed(tmp_path, *texts, kind=kind)
    choose_text_field(records)
    assert records.text_field == chosen
    (line,) = said
    assert f"--text-field {chosen}: of {len(texts)} records looked at" in line
    counts = [sum(bool(text.get(key)) for text in texts) for key in ("output_caption", "edit_prompt")]
    assert f"{counts[0]} have target_caption" in line and f"{counts[1]} have instruction" in line


def test_without_a_text_encoder_features_count(tmp_path):
    records = listed(tmp_path, BOTH | FEATURES, CAPTION)
    choose_text_field(records, features_only=True)
    assert records.text_field == "instruction"
    choose_text_field(records)
    assert records.text_field == "target_caption"
    words = listed(tmp_path, INSTRUCTION)  # nothing can read them, which the samples say
    choose_text_field(words, features_only=True)
    assert words.text_field == "instruction"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_named_and_absent_is_refused(tmp_path, said, kind):
    records = listed(tmp_path, INSTRUCTION, NEITHER, kind=kind)
    refusal = (
        rf"list.{kind}: no text for --text-field target_caption: of 2 records looked at, "
        r"0 have target_caption .* give --text-field instruction"
    )
    with pytest.raises(UserError, match=refusal):
        choose_text_field(records, "target_caption")
    choose_text_field(records, "instruction")
    assert records.text_field == "instruction" and not said  # the user knows
    with pytest.raises(UserError, match="no text to tell the model: .*each record needs one"):
        choose_text_field(listed(tmp_path, NEITHER, kind=kind))
    with pytest.raises(UserError, match="unknown text field 'caption'"):
        choose_text_field(records, "caption")


def test_lines_that_cannot_be_read_decide_nothing(tmp_path):
    records = listed(tmp_path, "nonsense", INSTRUCTION, "[]")
    choose_text_field(records)
    assert records.text_field == "instruction"
    choose_text_field(listed(tmp_path, "nonsense"))  # the samples name it


def test_a_long_list_is_looked_at_evenly(tmp_path, said):
    choose_text_field(listed(tmp_path, *[BOTH] * 300, *[INSTRUCTION] * 700))
    assert "--text-field instruction: of 250 records looked at, 75 have" in said[0]


@pytest.fixture(scope="session")
def instructions(shapes) -> Path:
    """The shapes pairs without captions."""
    path = shapes / "train" / "instructions.jsonl"
    lines = [json.loads(line) for line in (shapes / "train" / "editing.jsonl").read_text().splitlines()]
    for line in lines:
        line["output_caption"] = None
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def config_of(kind, data: Path, vq_ckpt: Path, *more: object):
    words = ["--vq-ckpt", vq_ckpt, "--data-path", data, "--image-size", 24, "--device", "cpu", *more]
    return parse(kind, list(map(str, words)))


@pytest.mark.parametrize("kind", [EditingConfig, PackEditsConfig])
def test_both_programs_read_by_the_rule(instructions, vq_ckpt, t5_dir, tmp_path, kind):
    own = ["--packed-path", tmp_path] if kind is PackEditsConfig else ["--gpt-model", "R-GPT-tiny"]
    config = config_of(kind, instructions, vq_ckpt, "--t5-path", t5_dir, *own)
    encoders = load_encoders(config, torch.device("cpu"))
    dataset = read_dataset(config, encoders, grid=3, text_field=config.text_field)
    assert dataset.records.text_field == "instruction" and dataset[0, 0].problem is None
    with pytest.raises(UserError, match="instructions.jsonl: no text for --text-field target_caption"):
        read_dataset(config, encoders, grid=3, text_field="target_caption")


def test_packed_data_keeps_what_was_chosen(instructions, vq_ckpt, t5_dir, tmp_path):
    t5 = ["--t5-path", t5_dir]
    config = config_of(PackEditsConfig, instructions, vq_ckpt, *t5, "--packed-path", tmp_path / "packed")
    with distributed("cpu") as process:
        pack_edits(config, process)
        packed = PackedEdits(tmp_path / "packed")
        assert packed.settings.text_field == "instruction"
        encoders = load_encoders(config, torch.device("cpu"))
        words = ["--vq-ckpt", vq_ckpt, *t5, "--packed-data", tmp_path / "packed", "--image-size", 24,
                 "--gpt-model", "R-GPT-tiny", "--device", "cpu"]  # fmt: skip
        assert len(load_pairs(parse(EditingConfig, list(map(str, words))), encoders, process)) == len(packed)
        other = parse(EditingConfig, list(map(str, [*words, "--text-field", "target_caption"])))
        with pytest.raises(UserError, match="text field instruction there, target_caption here"):
            load_pairs(other, encoders, process)


def test_a_dry_run_of_instructions_alone(instructions, train_flags, tmp_path):
    words = [*train_flags, "--data-path", instructions, "--results-dir", tmp_path / "run", "--dry-run"]
    done = run_program("autoregressive/train/train_editing.py", *words)
    assert "--text-field instruction: of 24 records looked at, 0 have target_caption" in done.stderr
    assert " 0 tokens/s" not in done.stderr and "would be left out" not in done.stderr
    done = run_program(
        "autoregressive/train/train_editing.py", *words, "--text-field", "target_caption", check=False
    )
    assert done.returncode == 2 and "no text for --text-field target_caption" in done.stderr
