"""What the Dockerfile names is there; that it builds is tried where there is Docker."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex

from conftest import ROOT

from integrations.server.config import Serve
from runtime.config import parse

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#!"]


def lines(word: str) -> list[str]:
    return re.findall(rf"^{word} (.*)$", DOCKERFILE, re.MULTILINE)


def ignored(name: str) -> bool:
    return any(fnmatch.fnmatch(part, pattern) for part in name.split("/")[:1] for pattern in IGNORED)


def test_files_that_are_copied_exist_and_are_sent():
    names = [name for line in lines("COPY") for name in shlex.split(line)[:-1] if name != "."]
    (entry,) = map(json.loads, lines("ENTRYPOINT"))
    for name in [*names, entry[1]]:
        assert (ROOT / name).is_file() and not ignored(name), name
    for package in ("autoregressive", "dataset", "integrations", "language", "runtime", "tokenizer"):
        assert not ignored(package)
    assert "!pretrained_models/shapes" in (ROOT / ".dockerignore").read_text() and ignored("tests")


def test_the_entry_is_a_program_with_these_flags_on_the_port_that_is_open():
    (entry,) = map(json.loads, lines("ENTRYPOINT"))
    config = parse(Serve, entry[2:])
    assert config.host == "0.0.0.0" and [str(config.port)] == lines("EXPOSE")
    assert f"127.0.0.1:{config.port}/health" in DOCKERFILE


def test_groups_and_the_license_are_the_projects():
    project = (ROOT / "pyproject.toml").read_text()
    for group in re.findall(r"--extra (\w+)", DOCKERFILE):
        assert re.search(rf"^{group} = \[", project, re.MULTILINE)
    (default,) = [line for line in lines("ARG") if line.startswith("TORCH_BACKEND")]
    assert default == "TORCH_BACKEND=cpu" and DOCKERFILE.count('"${TORCH_BACKEND}"') == 1
