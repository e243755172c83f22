"""The feature files, the type, and the padding."""

from __future__ import annotations

import io
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from language.text_features import (
    TextFeatures,
    count_stored_tokens,
    load_text_features,
    save_text_features,
    stack_text_features,
)
from runtime.errors import UserError

WIDTH = 6


def features(count: int, start: float = 1.0) -> TextFeatures:
    rows = torch.arange(count * WIDTH, dtype=torch.float32).reshape(count, WIDTH) + start
    return TextFeatures(rows, torch.ones(count, dtype=torch.bool))


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    encoded = text.encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(encoded))
    return b"\x93NUMPY" + bytes(version) + length + encoded


GOOD = np.ones((1, 3, WIDTH), np.float32)
BAD_FILES = {
    "empty": b"",
    "fake zip": b"PK\x03\x04 not a zip",
    "garbage": b"hello " * 40,
    "half a header": npy_bytes(GOOD)[:20],
    "two dimensions": npy_bytes(GOOD[0]),
    "batch of two": npy_bytes(np.ones((2, 3, WIDTH), np.float32)),
    "wrong width": npy_bytes(np.ones((1, 3, WIDTH + 1), np.float32)),
    "zero tokens": npy_bytes(np.ones((1, 0, WIDTH), np.float32)),
    "strings": npy_bytes(np.full((1, 3, WIDTH), "text")),
    "integers": npy_bytes(np.ones((1, 3, WIDTH), np.int64)),
    "pickled objects": npy_bytes(np.full((1, 3, WIDTH), None, dtype=object)),
    "huge shape": npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1, {10**14}, {WIDTH})}}"),
    "huge header": npy_header("{" + " " * 60000 + "}"),
    "huge header of version 2": npy_header("{" + " " * 200000 + "}", (2, 0)),
    "unbalanced header": npy_header("{'descr': '<f4', 'shape': (1,"),
    "negative tokens": npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1, -3, {WIDTH})}}"),
    "truncated": npy_bytes(GOOD)[:-4],
    "too long": npy_bytes(GOOD) + b"\0" * 4,
    "columns first": npy_bytes(np.asfortranarray(np.ones((1, 3, WIDTH), np.float32))),
    "nan": npy_bytes(np.where(np.arange(WIDTH) == 2, np.nan, GOOD)),
    "infinity": npy_bytes(np.where(np.arange(WIDTH) == 2, np.inf, GOOD)),
    "too large for float32": npy_bytes(np.full((1, 3, WIDTH), 1e300)),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_a_user_error_naming_it(tmp_path, case):
    path = tmp_path / "caption.npy"
    path.write_bytes(BAD_FILES[case])
    tracemalloc.start()
    with pytest.raises(UserError, match="caption.npy"):
        load_text_features(path, WIDTH)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22, "a header made the reader allocate memory"


def test_missing_file_and_folder_are_user_errors(tmp_path):
    for path, message in ((tmp_path / "absent.npy", "cannot read"), (tmp_path, "is no file but a folder")):
        with pytest.raises(UserError, match=message):
            load_text_features(path, WIDTH)


def test_wrong_width_says_both(tmp_path):
    path = tmp_path / "caption.npy"
    path.write_bytes(BAD_FILES["wrong width"])
    with pytest.raises(UserError, match=f"width {WIDTH + 1}.*expects {WIDTH}"):
        load_text_features(path, WIDTH)


def test_saved_file_is_the_published_layout(tmp_path):
    padded = TextFeatures(features(4).embeddings, torch.tensor([False, True, True, False]))
    save_text_features(tmp_path / "a.npy", padded)
    stored = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert stored.shape == (1, 2, WIDTH) and stored.dtype == np.float32
    loaded = load_text_features(tmp_path / "a.npy", WIDTH)
    assert torch.equal(loaded.embeddings, padded.embeddings[1:3]) and loaded.valid.all()
    assert count_stored_tokens(tmp_path / "a.npy", WIDTH) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floating_types_are_converted(tmp_path, dtype):
    np.save(tmp_path / "a.npy", (GOOD * 1.5).astype(dtype))
    loaded = load_text_features(tmp_path / "a.npy", WIDTH).embeddings
    assert loaded.dtype == torch.float32 and torch.equal(loaded, torch.full((3, WIDTH), 1.5))


def test_long_file_keeps_its_first_rows(tmp_path):
    save_text_features(tmp_path / "a.npy", features(9))
    loaded = load_text_features(tmp_path / "a.npy", WIDTH, max_tokens=4)
    assert torch.equal(loaded.embeddings, features(9).embeddings[:4]) and len(loaded.valid) == 4


def test_stack_pads_at_the_left_and_drops_old_padding():
    short = TextFeatures(features(3).embeddings, torch.tensor([True, False, True]))
    embeddings, valid = stack_text_features([short, features(3)])
    assert valid.tolist() == [[False, True, True], [True, True, True]]
    assert torch.equal(embeddings[0, 1:], features(3).embeddings[[0, 2]])
    assert not embeddings[0, 0].any()


def test_stack_to_a_length():
    embeddings, valid = stack_text_features([features(2)], length=5)
    assert embeddings.shape == (1, 5, WIDTH) and valid.tolist() == [[False] * 3 + [True] * 2]
    with pytest.raises(ValueError, match="2 valid tokens.*1 text slots"):
        stack_text_features([features(2)], length=1)


def test_stack_refuses_mixed_widths():
    other = TextFeatures(torch.ones(1, WIDTH + 1), torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match="widths"):
        stack_text_features([features(1), other])
