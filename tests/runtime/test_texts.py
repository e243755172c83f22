"""Files of text and JSON: written whole or not at all, read back as they were."""

from __future__ import annotations

import os

import pytest

from runtime.errors import UserError
from runtime.texts import read_json, read_lines, read_text, write_json, write_text


def test_what_is_written_is_read(tmp_path):
    write_text(tmp_path / "new" / "words.txt", "Größe\nfin\n")
    assert (tmp_path / "new" / "words.txt").read_bytes() == "Größe\nfin\n".encode()
    content = {"words": "Größe", "numbers": [1, 0.1]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json", dict) == content
    assert read_text(tmp_path / "a.json").endswith("]\n}\n")


def test_newlines_alone_end_a_line(tmp_path):
    file = tmp_path / "captions.txt"
    for data, lines in (
        ("", []),
        ("\n", [""]),
        ("a\u2028b\x0bc\r\nd\re\n\n", ["a\u2028b\x0bc", "d", "e", ""]),
        ("a", ["a"]),
    ):
        file.write_bytes(data.encode())
        assert read_lines(file) == lines


def test_a_name_that_is_not_utf8_does_not_end_the_work(tmp_path):
    write_text(tmp_path / "list.txt", os.fsdecode(b"caf\xe9.png\n"))
    assert read_text(tmp_path / "list.txt") == "caf\\udce9.png\n"


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", [float("nan")], allow_nan=False)
    assert read_json(tmp_path / "a.json", list) == [1] and os.listdir(tmp_path) == ["a.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        write_json(tmp_path / "file" / "a.json", [1])
