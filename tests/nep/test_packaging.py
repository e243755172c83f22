"""A checkout installs in place, with the command; wheels are refused with a sentence. No network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

from nep import __version__

BACKEND = """
import json, sys
sys.path.insert(0, ".")
from nep import packaging
hook, *words = json.loads(sys.argv[1])
print("made", getattr(packaging, hook)(*words))
"""


def call(folder, *words: str) -> subprocess.CompletedProcess:
    """A hook of the build backend, as pip calls it in a checkout."""
    command = [sys.executable, "-c", BACKEND, json.dumps(words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files that say how the project is installed, and one package."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("nep", "runtime"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_an_editable_install_has_the_command_and_the_version(checkout, tmp_path):
    done = call(checkout, "build_editable", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        texts = {name.split("/")[-1]: wheel.read(name).decode() for name in wheel.namelist()}
    assert "nep = nep.cli:main" in texts["entry_points.txt"]
    assert f"\nVersion: {__version__}\n" in texts["METADATA"]
    assert "Project-URL: Paper, https://" in texts["METADATA"]


@pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "build_wheel"])
def test_a_wheel_is_refused_with_a_sentence(checkout, hook, tmp_path):
    done = call(checkout, hook, str(tmp_path))
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    (line,) = done.stderr.splitlines()
    assert "pip install -e ." in line and "wheel" in line


def test_types_are_declared_in_every_package():
    packages = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
    assert len(packages) >= 8
    assert [folder.name for folder in packages if not (folder / "py.typed").is_file()] == []
