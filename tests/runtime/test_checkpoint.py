"""Checkpoints: whole or absent, nothing executed, differences by name; published files become our models."""

from __future__ import annotations

import argparse
import os
import pickle
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import initialise_from, load_transformer, model_args
from runtime.checkpoint import load_checkpoint, manifest_path, save_checkpoint, save_safetensors
from runtime.errors import UserError
from runtime.files import write_atomic
from runtime.training.checkpoints import list_checkpoints, prune_checkpoints

TINY = {"vocab_size": 8, "block_size": 16, "caption_dim": 4, "cls_token_num": 6}


def tiny(name: str = "R-GPT-tiny", **overrides) -> Transformer:
    torch.manual_seed(0)
    return Transformer(replace(GPT_MODELS[name], **{**TINY, **overrides}))


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"model": Bomb()}))
    torch.save({"model": {}, "args": Bomb()}, tmp_path / "zip.pt")
    for name in ("plain.pt", "zip.pt"):
        with pytest.raises(UserError, match=f"{name} is not a checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_garbage_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "code.py").write_text("print('hello')\n")
    save_checkpoint(tmp_path / "whole.pt", {"model": {"a": torch.zeros(1000)}})
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:1500])
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("x", "y")
    for name in ("code.py", "half.pt", "other.pt"):
        with pytest.raises(UserError, match=f"{name} is not a checkpoint"):
            load_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pt")
    torch.save({"weights": 1}, tmp_path / "keys.pt")
    with pytest.raises(UserError, match=r"has the keys \['weights'\]"):
        load_checkpoint(tmp_path / "keys.pt")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot write .*No space left"):
        write_atomic(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path, both = tmp_path / "file", threading.Barrier(2, timeout=20)

    def write(letter: str) -> None:
        def in_halves(temporary: Path) -> None:
            temporary.write_text(letter)
            both.wait()
            with temporary.open("a") as file:
                file.write(letter)
            both.wait()

        write_atomic(path, in_halves)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, "ab"))
    assert path.read_text() in ("aa", "bb") and [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_old_checkpoint_stays_whole_until_the_new_one_has_its_place(tmp_path, monkeypatch):
    path = tmp_path / "0000001.pt"
    old, new = ({"model": {"a": torch.full((9,), value)}} for value in (1.0, 2.0))
    save_checkpoint(path, old)
    replace_file = os.replace

    def killed_before_the_last_rename(source, target):
        if str(target) == str(path):
            raise KeyboardInterrupt
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", killed_before_the_last_rename)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, new)
    assert load_checkpoint(path)["model"]["a"][0] == 1
    monkeypatch.undo()
    save_checkpoint(path, new)
    assert load_checkpoint(path)["model"]["a"][0] == 2
    assert len(manifest_path(path).read_text().splitlines()) == 1


def test_pruning_never_takes_the_file_just_written(tmp_path):
    for step in (100, 150, 200, 300):
        save_checkpoint(tmp_path / f"{step:07d}.pt", {"model": {}})
    prune_checkpoints(tmp_path / "0000150.pt", 1)
    assert [path.stem for path in list_checkpoints(tmp_path)] == ["0000150", "0000200", "0000300"]


def test_step_checkpoints_are_listed_in_order(tmp_path):
    for name in ("0000020.pt", "0000003.pt", "other.pt", ".0000100.pt.1.tmp"):
        (tmp_path / name).touch()
    assert [p.name for p in list_checkpoints(tmp_path)] == ["0000003.pt", "0000020.pt"]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_llamagen_to_rllamagen_to_nep(suffix, tmp_path):
    """The files of one stage start the next; what it adds is all that may be absent."""

    def save(model, name):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "pt":
            args = argparse.Namespace(gpt_model="GPT-tiny", epochs=1)
            torch.save({"model": model.state_dict(), "optimizer": {}, "steps": 7, "args": args}, path)
        else:
            save_file(model.state_dict(), path)
        return path

    llamagen, stage1, stage2 = tiny("GPT-tiny"), tiny(), tiny(mask_in_context=True)
    before = stage1.target_aware_pos_embed_postfix.clone()
    initialise_from(stage1, save(llamagen, "llamagen"))
    assert torch.equal(stage1.tok_embeddings.weight, llamagen.tok_embeddings.weight)
    assert torch.equal(stage1.target_aware_pos_embed_postfix, before)
    initialise_from(stage2, save(stage1, "stage1"))
    larger = tiny(mask_in_context=True, block_size=64)
    initialise_from(larger, save(stage2, "stage2"))
    assert torch.equal(larger.mask_embedding, stage2.mask_embedding)
    with pytest.raises(UserError, match="2 unexpected: .*unmask_embedding"):
        initialise_from(tiny(), tmp_path / f"stage2.{suffix}")
    with pytest.raises(UserError, match="misshapen: tok_embeddings.weight .file .8, 64., model .9, 64.."):
        initialise_from(tiny(vocab_size=9), tmp_path / f"stage1.{suffix}")
    half = {n: t for n, t in stage2.state_dict().items() if n != "mask_embedding"}
    save_checkpoint(tmp_path / "half.pt", {"model": half})
    with pytest.raises(UserError, match="1 missing: mask_embedding"):
        initialise_from(tiny(mask_in_context=True), tmp_path / "half.pt")


def test_a_published_file_is_rebuilt_from_its_shapes(tmp_path):
    model = tiny(mask_in_context=True)
    args = argparse.Namespace(gpt_model="R-GPT-tiny")
    torch.save({"model": model.state_dict(), "args": args}, tmp_path / "nep.pt")
    assert load_transformer(tmp_path / "nep.pt").config == model.config
    raster = tiny("GPT-tiny")
    torch.save({"model": raster.state_dict()}, tmp_path / "gpt.pt")
    with pytest.raises(UserError, match="pass --gpt-model"):
        load_transformer(tmp_path / "gpt.pt")
    with pytest.raises(UserError, match="pass --image-size"):
        load_transformer(tmp_path / "gpt.pt", gpt_model="GPT-tiny")
    loaded = load_transformer(tmp_path / "gpt.pt", gpt_model="GPT-tiny", image_size=64)
    assert loaded.config.block_size == 16 and not loaded.training


def test_the_table_of_own_cells_is_taken_to_another_grid(tmp_path):
    model, larger = tiny(own_cell=True), tiny(own_cell=True, block_size=64)
    torch.nn.init.ones_(model.own_cell_embedding)
    args = model_args("R-GPT-tiny", model.config)
    save_checkpoint(tmp_path / "a.pt", {"model": model.state_dict(), "args": args})
    initialise_from(larger, tmp_path / "a.pt")
    torch.testing.assert_close(larger.own_cell_embedding, torch.ones(1, 64, 64))
    torch.save({"model": model.state_dict()}, tmp_path / "bare.pt")
    assert load_transformer(tmp_path / "bare.pt", gpt_model="R-GPT-tiny").config == model.config


def test_our_own_file_carries_its_configuration_and_averaged_weights(tmp_path):
    model, average = tiny(), tiny()
    average.output.weight.data.fill_(5)
    content = {"model": model.state_dict(), "ema": average.state_dict()}
    save_checkpoint(tmp_path / "a.pt", {**content, "args": model_args("R-GPT-tiny", model.config)})
    loaded = load_transformer(tmp_path / "a.pt")
    assert loaded.config == model.config and loaded.output.weight.eq(5).all()


@pytest.mark.parametrize("name", ["Größe".encode(), b"gr\xf6\xdfe", b"-\xff", b"plain"])
def test_checkpoints_in_folders_of_any_name(name, tmp_path):
    """PyTorch and safetensors map only files whose names are UTF-8; a folder's name may be any bytes."""
    path = tmp_path / os.fsdecode(name) / "0000001.pt"
    path.parent.mkdir()
    weights = {"weight": torch.arange(3)}
    save_checkpoint(path, {"model": weights})
    assert torch.equal(load_checkpoint(path)["model"]["weight"], torch.arange(3))
    save_safetensors(path.with_suffix(".safetensors"), weights, {"a": 1})
    loaded = load_checkpoint(path.with_suffix(".safetensors"))
    assert torch.equal(loaded["model"]["weight"], torch.arange(3)) and loaded["args"] == {"a": 1}


def test_a_model_without_own_cells_grows_a_table_that_changes_nothing(tmp_path):
    """Published weights can be trained on with --own-cell: the table begins as zeros."""
    model, grown = tiny(), tiny(own_cell=True)
    save_checkpoint(tmp_path / "a.pt", {"model": model.state_dict(), "args": {}})
    initialise_from(grown, tmp_path / "a.pt")
    assert not grown.own_cell_embedding.any()
    torch.testing.assert_close(grown.output.weight, model.output.weight)
