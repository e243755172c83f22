"""A thousand random inputs a reader: it gives a value or one of our named errors, never another."""

from __future__ import annotations

import contextlib
import json
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.choices import RULES, TEXT_FIELDS
from dataset.edit_masks import pool_edit_mask
from dataset.records.edit_records import JsonlEditRecords
from dataset.records.t2i_records import read_t2i_jsonl
from dataset.testsets.emu_edit import read_valid_list
from dataset.testsets.magicbrush import read_listed_sessions, read_sessions
from language.text_features import load_text_features
from runtime.checkpoint import load_checkpoint, manifest_path, save_checkpoint
from runtime.distributed import ONE_RANK
from runtime.errors import UserError
from runtime.training.resume import resume_point

WIDTH = 8
EDIT_KEYS = (
    "file_name",
    "edited_image",
    "mask_image",
    "edit_prompt",
    "output_caption",
    "edit_prompt_t5_path",
)
thousand = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,  # the same thousand in every run
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3)
)
PATHS = st.sampled_from(["a.png", "../a.png", "/etc/passwd", "", ".", "a/../b.png", "NONE", "a\0b"]) | VALUES


def records(*keys: str) -> st.SearchStrategy:
    """Objects that hold some of the keys, with sensible and senseless values."""
    return st.dictionaries(st.sampled_from(keys), PATHS, max_size=len(keys))


def lines(*keys: str) -> st.SearchStrategy[bytes]:
    """Files of lines: JSON of such objects, other JSON, and bytes."""
    line = (records(*keys) | VALUES).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
    return st.lists(line, max_size=4).map(b"\n".join)


def must_be_named(work) -> None:
    with contextlib.suppress(UserError):
        work()


def read_all(reader, file: Path) -> None:
    """Every record; a bad one must not spoil the others."""
    sequence = reader([file])
    for index in range(len(sequence)):
        must_be_named(partial(sequence.__getitem__, index))


@pytest.mark.parametrize(
    "keys, readers",
    [
        (("image_path", "text", "embedding_path"), [read_t2i_jsonl]),
        (
            (
                "file_name",
                "edited_image",
                "mask_image",
                "edit_prompt",
                "output_caption",
                "edit_prompt_t5_path",
            ),
            [lambda files, field=field: JsonlEditRecords(files, field) for field in TEXT_FIELDS],
        ),
    ],
    ids=["t2i", "editing"],
)
def test_jsonl(keys, readers, tmp_path):
    file = tmp_path / "list.jsonl"

    @thousand
    @given(lines(*keys))
    def run(content):
        file.write_bytes(content)
        for reader in readers:
            must_be_named(partial(read_all, reader, file))

    run()


@pytest.mark.parametrize("reader", ["magicbrush", "scored sessions", "emu"])
def test_json(reader, tmp_path):
    turn = records("input", "mask", "output", "instruction")
    sessions = st.dictionaries(
        st.sampled_from(["1", "../1", ""]) | st.text(max_size=3), st.lists(turn, max_size=3)
    )
    entries = st.lists(records("idx", "input_caption", "output_caption", "edit_instruction"), max_size=3)
    file = tmp_path / "edit_sessions.json"

    @thousand
    @given((sessions | entries | VALUES).map(lambda v: json.dumps(v).encode()) | st.binary(max_size=60))
    def run(content):
        file.write_bytes(content)
        read = {
            "magicbrush": lambda: read_sessions(tmp_path),
            "scored sessions": lambda: read_listed_sessions(file),
            "emu": lambda: read_valid_list(file),
        }
        must_be_named(read[reader])

    run()


def npy(shape: object, descr: str, fortran: object, data: bytes) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def test_features(tmp_path):
    file = tmp_path / "caption.npy"
    shapes = st.tuples(st.integers(0, 2), st.integers(-1, 1 << 50), st.integers(0, WIDTH + 1)) | VALUES
    types = st.sampled_from(["<f4", "<f2", ">f8", "<i8", "|O", "<U4", "", "<f99"])
    headers = st.builds(npy, shapes, types, st.booleans() | VALUES, st.binary(max_size=4 * WIDTH * 3))
    good = npy((1, 3, WIDTH), "<f4", False, np.arange(3 * WIDTH, dtype="<f4").tobytes())
    flipped = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)).map(
        lambda flip: good[: flip[0]] + bytes([flip[1]]) + good[flip[0] + 1 :]
    )

    @thousand
    @given(headers | flipped | st.binary(max_size=200))
    def run(content):
        file.write_bytes(content)
        try:
            features = load_text_features(file, WIDTH)
        except UserError as error:
            assert "caption.npy" in str(error)
        else:
            assert features.embeddings.shape[1] == WIDTH and features.embeddings.isfinite().all()

    run()


def test_mask_pooling():
    sides = st.integers(1, 40)
    values = st.floats(width=32) | st.sampled_from([0.0, 0.5, 1.0])

    @thousand
    @given(sides, sides, st.integers(1, 9), st.sampled_from(RULES), st.integers(0, 2**32 - 1), values)
    def run(height, width, grid, rule, seed, value):
        rng = np.random.default_rng(seed)
        mask = torch.from_numpy(np.where(rng.random((1, height, width)) < 0.2, value, 0).astype(np.float32))
        try:
            cells = pool_edit_mask(mask, grid, rule)
        except UserError:
            assert not (mask > 0.5).any() or max(height, width) < grid
        else:
            assert cells.shape == (grid * grid,) and cells.dtype == torch.bool and cells.any()

    run()


def test_checkpoint_manifest(tmp_path):
    old, new = (tmp_path / "checkpoints" / f"{step:07d}.pt" for step in (1, 2))
    for path in (old, new):
        save_checkpoint(path, {"model": {"weight": torch.zeros(3)}})
    manifest = manifest_path(new)
    line = manifest.read_bytes()
    cut = st.integers(0, len(line) - 1).map(lambda end: line[:end])

    @thousand
    @given(cut | st.binary(max_size=90) | st.text(max_size=90).map(str.encode))
    def run(content):
        manifest.write_bytes(content)
        whole = content.split()[:1] == line.split()[:1]
        assert resume_point(None, tmp_path, ONE_RANK, newest=True) == str(new if whole else old)
        if whole:
            load_checkpoint(new)
        else:
            with pytest.raises(UserError, match=new.name):
                load_checkpoint(new)

    run()
