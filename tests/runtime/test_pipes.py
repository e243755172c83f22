"""Pipes, sockets, devices and folders in the place of a file: refused by name, never waited for."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading

import pytest
from conftest import ROOT, run_within

from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.model_folders import read_config
from autoregressive.sample.drawing import read_prompts
from autoregressive.sample.drawing_captions import read_captions
from autoregressive.sample.file_edits import read_jobs
from autoregressive.sample.flags import SampleEditing, SampleScaled, SampleT2I
from autoregressive.sample.scaling_run import read_lines
from dataset.packed.codes import load_codes
from dataset.packed.format import read_manifest
from dataset.prepare.caption_items import CaptionItem, PathRules, line_of, llava_items, table_items
from dataset.prepare.extraction import list_jsonl
from dataset.prepare.tars import tar_jobs
from dataset.records.edit_records import JsonlEditRecords, ParquetEditRecords
from dataset.records.images import load_image
from dataset.records.parquet import require_columns
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.testsets.emu_edit import read_valid_list
from dataset.testsets.emu_pairs import load_emu_list
from dataset.testsets.magicbrush import read_descriptions, read_listed_sessions, read_sessions
from evaluations.editing.measure import load_edit_inputs
from evaluations.editing.verification import load_examples
from evaluations.metrics.weights import read_state_dict
from evaluations.report.curves import read_metrics
from evaluations.t2i.pictures import read_captions as read_scored_captions
from language.t5 import T5Encoder
from language.text_features import count_stored_tokens, load_text_features
from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError
from runtime.files import file_sha256, require_regular
from runtime.flags.settings_file import read_entries

LONGEST = 5.0  # seconds that a reader may take

READERS = {
    "list.jsonl": {
        "captions": lambda path: read_t2i_jsonl([path]),
        "edit pairs": lambda path: JsonlEditRecords([path]),
        "--list": lambda path: read_jobs(SampleEditing(list=str(path))),
        "scaling --list": lambda path: read_lines(SampleScaled(task_list=str(path))),
        "--data-path of extraction": lambda path: list_jsonl(path, 0, None),
    },
    "list.json": {
        "Emu list": read_valid_list,
        "scored Emu list": load_emu_list,
        "scored sessions": read_listed_sessions,
        "LLaVA": lambda path: list(llava_items(path)),
        "samples.json": load_edit_inputs,
        "shapes.json": lambda path: load_examples(path, []),
        "--auto-mask-settings": AutoMaskSettings.load,
    },
    "edit_sessions.json": {"sessions": lambda path: read_sessions(path.parent)},
    "local_descriptions.json": {"descriptions": lambda path: read_descriptions(path.parent, "local")},
    "manifest.json": {"packed manifest": lambda path: read_manifest(path.parent)},
    "config.json": {"model folder": lambda path: read_config(path.parent)},
    "metrics.jsonl": {"metrics": lambda path: read_metrics(path, ["loss"])},
    "captions.txt": {"scored captions": lambda path: read_scored_captions(path.parent, [])},
    "prompts.txt": {
        "--prompt-file": lambda path: read_prompts(SampleT2I(prompt_file=str(path))),
        "caption": lambda path: line_of(CaptionItem("a.png", None, path, "a"), PathRules(path.parent), path),
    },
    "table.tsv": {
        "--prompt-csv": read_captions,
        "tsv": lambda path: list(table_items(path, None, None)),
        "csv": lambda path: list(table_items(path, None, None)),
    },
    "a.parquet": {
        "columns": lambda path: require_columns(path, ()),
        "edit pairs": lambda path: ParquetEditRecords([path]),
    },
    "a.npy": {
        "features": lambda path: load_text_features(path, 8),
        "number of tokens": lambda path: count_stored_tokens(path, 8),
        "codes": lambda path: load_codes(path, 9, 16),
    },
    "a.png": {"picture": load_image, "picture by name": lambda path: load_image(str(path))},
    "a.tar": {"shard": lambda path: list(tar_jobs([path]))},
    "a.yaml": {"--config": lambda path: list(read_entries(str(path)))},
    "a.pt": {"checkpoint": load_checkpoint, "weights": read_state_dict, "content": file_sha256},
    "a.safetensors": {"checkpoint": load_checkpoint, "weights": read_state_dict},
}
CASES = [(name, reader) for name, readers in READERS.items() for reader in readers]


@pytest.fixture
def unblocked():
    """Lets whoever waits for a pipe's other end go after a while; says whether anybody had to be."""
    waited, pipes, over = [], [], threading.Event()

    def watch() -> None:
        while not over.wait(LONGEST):
            for pipe in pipes:
                try:  # opens only if somebody is waiting for the other end
                    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
                    waited.append(pipe)
                except OSError:
                    pass

    thread = threading.Thread(target=watch)
    thread.start()
    yield pipes
    over.set()
    thread.join()
    assert not waited


@pytest.mark.parametrize(("name", "reader"), CASES)
def test_a_pipe_is_refused_by_name(tmp_path, unblocked, name, reader):
    path = tmp_path / name
    os.mkfifo(path)
    unblocked.append(path)
    with pytest.raises(UserError, match=rf"{name}: is no file but a pipe; .* save it to a file first"):
        READERS[name][reader](path)


@pytest.mark.parametrize("name", READERS)
def test_a_folder_is_refused_by_name(tmp_path, name):
    (tmp_path / name).mkdir()
    for reader, read in READERS[name].items():
        if reader != "--data-path of extraction":  # takes folders of lists
            with pytest.raises(UserError, match=f"{name}: is no file but a folder; .* name a file in it"):
                read(tmp_path / name)


def test_sockets_and_devices_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("list.jsonl")
        with pytest.raises(UserError, match="list.jsonl: is no file but a socket"):
            read_t2i_jsonl(["list.jsonl"])
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match=f"{device}: is no file but a device"):
            read_t2i_jsonl([device])
        with pytest.raises(UserError, match=f"{device}: is no file but a device"):
            load_text_features(device, 8)
    with pytest.raises(UserError, match="link.png: is no file but a device"):
        (tmp_path / "link.png").symlink_to("/dev/zero")
        load_image(tmp_path / "link.png")


def test_what_is_missing_is_left_to_the_reader(tmp_path):
    require_regular(tmp_path / "absent")
    require_regular("a\0b")
    (tmp_path / "circle").symlink_to("circle")
    require_regular(tmp_path / "circle")


def test_a_manifest_beside_a_checkpoint(tmp_path, unblocked):
    (tmp_path / "a.pt").write_bytes(b"x")
    os.mkfifo(tmp_path / "a.pt.sha256")
    unblocked.append(tmp_path / "a.pt.sha256")
    with pytest.raises(UserError, match="a.pt.sha256: is no file but a pipe"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_text_encoders_files(t5_dir, tmp_path, unblocked):
    shutil.copytree(t5_dir, tmp_path / "t5")
    (tmp_path / "t5" / "tokenizer_config.json").unlink()
    os.mkfifo(tmp_path / "t5" / "tokenizer_config.json")
    unblocked.append(tmp_path / "t5" / "tokenizer_config.json")
    with pytest.raises(UserError, match="tokenizer_config.json: is no file but a pipe"):
        T5Encoder(tmp_path / "t5")


@pytest.mark.parametrize("key", ["image", "mask"])
@pytest.mark.parametrize("read", ["edits", "scaling"])
def test_a_pipe_that_a_line_names(tmp_path, unblocked, key, read):
    os.mkfifo(tmp_path / "pipe.png")
    unblocked.append(tmp_path / "pipe.png")
    (tmp_path / "a.png").write_bytes(b"")
    line = {"prompt": "a cat", "output": "o.png", "image": "a.png", key: "pipe.png"}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    listing = str(tmp_path / "list.jsonl")
    with pytest.raises(UserError, match="list.jsonl line 1: .*pipe.png: is no file but a pipe"):
        if read == "edits":
            read_jobs(SampleEditing(list=listing))
        else:
            read_lines(SampleScaled(task_list=listing))


def test_what_became_a_pipe_after_it_was_opened(tmp_path, unblocked):
    path = tmp_path / "list.jsonl"
    path.write_text('{"image_path": "a.png", "text": "x"}\n')
    records = read_t2i_jsonl([path])
    path.unlink()
    os.mkfifo(path)
    unblocked.append(path)
    with pytest.raises(UserError, match="list.jsonl: is no file but a pipe"):
        records[0]


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("autoregressive/sample/sample_editing.py", "--vq-ckpt v --gpt-ckpt g --list"),
        ("autoregressive/sample/sample_t2i.py", "--vq-ckpt v --gpt-ckpt g --prompt-file"),
        ("autoregressive/sample/sample_editing.py", "--config"),
    ],
)
def test_process_substitution_is_refused_by_name(program, flags):
    command = f"{sys.executable} {program} {flags} <(echo x)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = run_within(180, ["bash", "-c", command], cwd=ROOT, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "/dev/fd/" in done.stderr and "is no file but a pipe" in done.stderr
