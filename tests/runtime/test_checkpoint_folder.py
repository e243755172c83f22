"""Checkpoints as folders: whole or absent, believed in nothing, read by what reads files."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import run_program
from test_checkpoint import tiny

from autoregressive.models.weights import load_transformer, model_args
from runtime.checkpoint import load_checkpoint, require_whole, save_checkpoint
from runtime.errors import UserError
from runtime.sharding import folder
from runtime.training.checkpoints import Checkpoints, list_checkpoints, newest_whole_checkpoint


def content_of(step: int) -> dict:
    weights = {f"layer{i}.weight": torch.full((40, 30), float(step + i)) for i in range(3)}
    states = {
        i: {"step": torch.tensor(1.0), "momentum": w.bfloat16()} for i, w in enumerate(weights.values())
    }
    optimizer = {"members": [{"state": states}, {"state": {0: {"exp_avg": torch.ones(2, 3, 4, 5) * step}}}]}
    rng = [{"cpu": torch.get_rng_state()}]
    return {"model": weights, "optimizer": optimizer, "rng": rng, "steps": step, "args": {"name": "a"}}


def same(a, b) -> bool:
    for (place, value), (other_place, other) in zip(
        folder.placed_values(a), folder.placed_values(b), strict=True
    ):
        alike = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        if place != other_place or not alike:
            return False
    return True


def save(results: Path, step: int, keep: int = 0) -> Path:
    with Checkpoints(str(results), keep, kind="dcp") as checkpoints:
        return checkpoints.save(step, content_of(step))


def test_a_folder_holds_what_a_file_holds_and_training_goes_on_meanwhile(tmp_path):
    content = content_of(5)
    with Checkpoints(str(tmp_path), 0, kind="dcp") as checkpoints:
        path = checkpoints.save(5, content)
        for weight in content["model"].values():
            weight.zero_()
    assert path.name == "0000005.dcp" and path.is_dir()
    assert same(load_checkpoint(path), content_of(5))
    assert sorted(p.name for p in path.iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "manifest.sha256",
        "state.pt",
    ]
    named = {line.split()[1] for line in (path / "manifest.sha256").read_text().splitlines()}
    assert named == {".metadata", "__0_0.distcp", "state.pt"}


def test_files_and_folders_of_a_run_stand_in_one_row(tmp_path):
    """Listed by step, found by the newest whole one, kept by count."""
    Checkpoints(str(tmp_path), 0).save(2, content_of(2))
    save(tmp_path, 4)
    save(tmp_path, 10)
    checkpoints = tmp_path / "checkpoints"
    assert [p.name for p in list_checkpoints(checkpoints)] == ["0000002.pt", "0000004.dcp", "0000010.dcp"]
    part = next((checkpoints / "0000010.dcp").glob("*.distcp"))
    spoil(part)
    assert newest_whole_checkpoint(checkpoints).name == "0000004.dcp"
    (checkpoints / ".0000011.dcp.tmp").mkdir()  # of a process that was killed
    save(tmp_path, 12, keep=2)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["0000010.dcp", "0000012.dcp"]
    Checkpoints(str(tmp_path), 1).save(13, content_of(13))
    assert sorted(p.name for p in checkpoints.iterdir()) == ["0000013.pt", "0000013.pt.sha256"]


def test_a_step_that_is_saved_again_takes_the_place_of_a_damaged_one(tmp_path):
    path = save(tmp_path, 3)
    spoil(path / "state.pt")
    assert save(tmp_path, 3) == path and same(load_checkpoint(path), content_of(3))
    assert [p.name for p in path.parent.iterdir()] == ["0000003.dcp"]


def spoil(file: Path) -> None:
    """Flips a bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "manifest.sha256", "state.pt"])
@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_a_damaged_folder_is_noticed_and_named(name, how, tmp_path):
    path = save(tmp_path, 3)
    if how == "missing":
        (path / name).unlink()
    elif how == "cut":
        os.truncate(path / name, (path / name).stat().st_size // 2)
    else:
        spoil(path / name)
    with pytest.raises(UserError, match="0000003.dcp"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="0000003.dcp"):
        require_whole(path, needs_manifest=True)
    assert newest_whole_checkpoint(path.parent) is None


class _Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def with_own_manifest(path: Path) -> Path:
    """Whoever can change a folder can change its manifest, too."""
    lines = folder.manifest_lines(path, "*.distcp") + folder.manifest_lines(path, ".metadata")
    (path / "manifest.sha256").write_text("".join(lines + folder.manifest_lines(path, "state.pt")))
    return path


def test_nothing_in_a_folder_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, 3)
    (path / ".metadata").write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(UserError, match="system, which describes no tensor"):
        load_checkpoint(with_own_manifest(path))
    path = save(tmp_path, 4)
    torch.save({"model": _Harm()}, path / "state.pt")
    with pytest.raises(UserError, match="not a checkpoint that can be read safely"):
        load_checkpoint(with_own_manifest(path))
    assert not (tmp_path / "harmed").exists()


def test_a_folder_takes_no_more_memory_than_its_size_and_no_file_of_others(tmp_path):
    path = save(tmp_path, 3)
    state = torch.load(path / "state.pt", weights_only=True)
    state["model"]["layer0.weight"] = torch.empty(2**40, 8, device="meta")
    torch.save(state, path / "state.pt")
    with pytest.raises(UserError, match="would take"):
        load_checkpoint(with_own_manifest(path))
    path = save(tmp_path, 4)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    for part in metadata.storage_data.values():
        part.relative_path = "../0000003.dcp/__0_0.distcp"
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="which is no file in it"):
        load_checkpoint(with_own_manifest(path))


def test_a_tensor_that_unpacks_to_more_is_refused(tmp_path):
    path = save(tmp_path, 3)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    part = next(iter(metadata.storage_data.values()))
    with zipfile.ZipFile(path / part.relative_path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**22))
    part.offset, part.length = 0, (path / part.relative_path).stat().st_size
    metadata.storage_data = {key: part for key in metadata.storage_data}
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    save_checkpoint(tmp_path / "b.pt", {"model": {"a": torch.zeros(1)}})
    (path / "__1_0.distcp").write_bytes(bytes(2**17))  # so that the sizes fit
    with pytest.raises(UserError, match="unpack to more than it takes"):
        load_checkpoint(with_own_manifest(path))


def test_a_folder_without_a_checkpoint_is_called_a_folder(tmp_path):
    with pytest.raises(UserError, match="is no file but a folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "0000001.dcp")


def test_weights_that_are_no_numbers_and_disks_that_are_gone_leave_the_others(tmp_path, monkeypatch):
    path = save(tmp_path, 3)
    content = content_of(4)
    content["model"]["layer1.weight"][0, 0] = torch.nan
    with Checkpoints(str(tmp_path), 1, kind="dcp") as checkpoints:
        with pytest.raises(
            UserError, match="0000004.dcp is not written: the model's layer1.weight holds NaN"
        ):
            checkpoints.save(4, content)
    full = OSError(28, "No space left on device")

    def fail(*args, **kwargs):
        raise full

    checkpoints = Checkpoints(str(tmp_path), 1, kind="dcp")
    monkeypatch.setattr(torch.distributed.checkpoint.FileSystemWriter, "write_data", fail)
    checkpoints.save(5, content_of(5))
    with pytest.raises(UserError, match="cannot write .*0000005.dcp: No space left on device"):
        checkpoints.wait()
    assert [p.name for p in path.parent.iterdir()] == ["0000003.dcp"] and same(
        load_checkpoint(path), content_of(3)
    )


def test_a_folder_becomes_one_file_for_others(tmp_path):
    model = tiny()
    content = {"model": model.state_dict(), "steps": 1, "args": model_args("R-GPT-tiny", model.config)}
    with Checkpoints(str(tmp_path), 1, kind="dcp") as checkpoints:
        path = checkpoints.save(1, content)
    assert load_transformer(path).config == model.config
    program = ["scripts/export_weights.py", "--ckpt", path, "--precision", "none", "--output"]
    run_program(*program, tmp_path / "a.pt")
    loaded = load_transformer(tmp_path / "a.pt").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in model.state_dict().items())
