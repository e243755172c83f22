"""`nep`: its table, its manuals, and the commands that only it has."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from autoregressive.sample.file_edits import FileEdit, require_usable
from nep import __version__
from nep.cli import COMMANDS, find_command, overview, run
from nep.draw import DrawPicture
from nep.edit import EditPicture, free_name
from nep.models import rows_of
from runtime.config import command_line, parse
from runtime.errors import UserError


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "scene.png"
    path.write_bytes((ROOT / "assets" / "scene.png").read_bytes())
    return path


def test_every_command_is_a_program_and_is_listed():
    assert len(COMMANDS) > 25
    for name, command in COMMANDS.items():
        path = ROOT / f"{command.module.replace('.', '/')}.py"
        assert path.is_file(), name
        assert re.search(r"^def main\(", path.read_text(), re.MULTILINE), name
        assert f"nep {name} " in overview() and command.does in overview()
    assert [line for line in overview().splitlines() if len(line) > 110] == []


def test_nep_answers_at_once_and_imports_only_what_is_asked_for():
    """PyTorch stays out, and so does every program but the one that is named."""
    code = "import sys; from nep.cli import run; run(sys.argv[1:])"
    code += "; print([n for n in ('torch', 'PIL', 'autoregressive', 'scripts') if n in sys.modules])"
    start = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.endswith("[]\n") and "nep train editing" in said.stdout, said.stderr
    assert time.perf_counter() - start < 5  # a fraction of a second where nothing else runs


def test_a_reader_that_has_enough_ends_it_quietly():
    command = f"{sys.executable} -m nep --help | true"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.stderr == "" and ended.returncode in (0, 141)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_manual_of_its_own_name(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nep"])
    with pytest.raises(SystemExit) as end:
        run([*name.split(), "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith(f"usage: nep {name} ")


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["xyz"], "no command 'xyz'; there are edit, draw"),
        (["train", "edits"], "nep train edits: say which of editing, t2i, tokenizer"),
    ],
)
def test_commands_that_are_none_are_told_the_near_one(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        find_command(words)


def test_groups_and_version(capsys):
    for words in (["train"], ["train", "--help"]):
        run(words)
        said = capsys.readouterr().out
        assert "nep train t2i" in said and "nep edit" not in said
    run(["--version"])
    assert capsys.readouterr().out == f"nep {__version__}\n"


def test_what_a_run_notes_is_the_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["nep train editing", "--data", "my pairs"])
    assert command_line() == "nep train editing --data 'my pairs'"


def test_an_edit_goes_beside_its_picture_and_replaces_nothing(scene, monkeypatch, capsys):
    """With the shipped models: found region, all else bit for bit; a second edit takes a free name."""
    monkeypatch.setattr("sys.argv", ["nep"])
    before = scene.read_bytes()
    for name in ("scene.edited.png", "scene.edited-2.png"):
        run(["edit", str(scene), "turn the large blue star into a circle", "--device", "cpu"])
        assert capsys.readouterr().out == f"{scene.with_name(name)}\n"
    assert scene.read_bytes() == before
    source, result = (
        Image.open(path).convert("RGB") for path in (scene, scene.with_name("scene.edited.png"))
    )
    changed = (np.asarray(source) != np.asarray(result)).any(axis=2).mean()
    assert 0 < changed < 0.2


def test_words_that_the_model_does_not_know_are_named(scene, monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["nep"])
    run(["edit", str(scene), "make the furry cat blue", "--device", "cpu"])
    run(["draw", "a dog", "--device", "cpu", "--output", str(scene.with_name("drawn.png"))])
    said = [record.message for record in caplog.records if "does not know" in record.message]
    assert "“furry”, “cat”: it is told nothing there" in said[0] and "“dog”" in said[1]
    caplog.clear()
    run(["edit", str(scene), "turn the large blue star into a circle", "--device", "cpu"])
    assert "does not know" not in caplog.text


def test_an_output_that_is_there_is_not_replaced_unless_asked_for(scene):
    words = [str(scene), "make it red", "--output", str(scene)]
    with pytest.raises(UserError, match="scene.png is there already: give another name, or --overwrite"):
        parse(EditPicture, words)
    assert parse(EditPicture, [*words, "--overwrite"]).output == str(scene)
    (scene.parent / "drawn-2.png").touch()
    with pytest.raises(UserError, match="drawn-2.png is there already"):
        parse(DrawPicture, ["a circle", "--output", str(scene.parent / "drawn.png"), "--num-samples", "3"])
    assert free_name(scene.with_suffix(".jpg")).name == "scene.edited.png"


@pytest.mark.parametrize("flag", ["comparison", "save-crop"])
def test_pictures_beside_the_result_replace_nothing_either(scene, flag):
    words = [str(scene), "make it red", f"--{flag}"]
    there = scene.with_name("there.png")
    there.touch()
    with pytest.raises(UserError, match=f"--{flag} .*there.png is there already"):
        parse(EditPicture, [*words, str(there)])
    assert parse(EditPicture, [*words, str(there), "--overwrite"])
    with pytest.raises(UserError, match=f"--{flag} .*scene.png would be written over the picture"):
        parse(EditPicture, [*words, str(scene), "--overwrite"])


def test_an_output_that_cannot_be_made_is_refused_before_the_work(scene):
    below = scene / "edited.png"  # of a file
    for words in (["--output", str(below)], ["--comparison", str(below)]):
        with pytest.raises(UserError, match="cannot write .*edited.png: .*scene.png is no folder"):
            parse(EditPicture, [str(scene), "make it red", *words])
    with pytest.raises(UserError, match="is no folder"):
        parse(DrawPicture, ["a circle", "--output", str(below)])
    folder = scene.with_name("folder.png")
    folder.mkdir()
    with pytest.raises(UserError, match="folder.png: it is a folder; name a file in it"):
        parse(EditPicture, [str(scene), "make it red", "--output", str(folder), "--overwrite"])
    flags = parse(EditPicture, [str(scene), "make it red", "--output", str(scene.parent / "new" / "a.png")])
    with pytest.raises(UserError, match="line 2: cannot write .*edited.png"):
        require_usable([FileEdit(scene, None, "make it red", below, "line 2")], flags)


def test_edit_and_draw_take_the_model_that_can(scene):
    edit, draw = parse(EditPicture, [str(scene), "make it red"]), parse(DrawPicture, ["a circle"])
    assert edit.gpt_ckpt.endswith("editing.safetensors") and draw.gpt_ckpt.endswith("t2i.safetensors")
    assert (edit.mask, edit.crop, edit.mask_rule) == ("auto", "auto", "exact")
    files = ["--vq-ckpt", "v.pt", "--gpt-ckpt", "g.pt"]
    assert parse(EditPicture, [str(scene), "make it red", *files]).gpt_ckpt == "g.pt"


def test_models_are_listed_with_what_they_can_do(capsys, monkeypatch):
    editing, t2i = rows_of("shapes")
    assert "edits" in editing.can and "draws" in t2i.can and "72 px" in t2i.can
    assert t2i.name == "--model shapes --model-name t2i"
    monkeypatch.setattr("sys.argv", ["nep"])
    run(["models"])
    said = capsys.readouterr().out
    assert "--model shapes " in said and "RLlamaGen.pt" in said
    with pytest.raises(UserError, match="config.json: cannot be read"):
        next(rows_of(str(ROOT / "docs")))


def test_modules_of_the_table_are_importable():
    for module in ("nep.edit", "nep.draw", "nep.models", "nep.__main__"):
        importlib.import_module(module)
