"""Weights are found in whatever a trainer has put them into, the transformer's as the tokenizer's."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_vq_model import tiny_model
from test_vq_trainer import new_trainer
from tiny_gpt import tiny
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from autoregressive.models.weights import initialise_from, load_transformer, model_args
from runtime.checkpoint import load_checkpoint
from runtime.containers import unwrap
from runtime.errors import UserError
from tokenizer.tokenizer_image.vq_model import load_vq_model

__all__ = ["new_trainer"]
State = dict[str, Tensor]


def before_names(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: weight for name, weight in state.items()}


def around_a_part(wrapper: str) -> Callable[[State], State]:
    """As around one block: layers.0.x, encoder.conv_blocks.x."""

    def wrap(state: State) -> State:
        first = next(name for name in state if name.startswith(("layers.0.", "decoder.")))
        part = ".".join(first.split(".")[:2])
        return {name.replace(f"{part}.", f"{part}.{wrapper}."): weight for name, weight in state.items()}

    return wrap


def counted(state: State) -> State:
    """As AveragedModel's state dict."""
    return {"n_averaged": torch.tensor(7), **before_names("module.")(state)}


def under(*names: str) -> Callable[[Any], dict]:
    def wrap(state: Any) -> dict:
        for name in reversed(names):
            state = {name: state}
        return state

    return wrap


WRAPS = {
    "bare": [],
    "model": [under("model")],
    "module": [under("module")],
    "state_dict": [under("state_dict")],
    "model_state_dict": [under("model_state_dict")],
    "ema": [under("ema")],
    "state.module": [under("state", "module")],
    "module.state_dict": [under("module", "state_dict")],
    "state.ema": [under("state", "ema")],
    "ema.module": [under("ema", "module")],
    "four deep": [under("state", "module", "state_dict", "model")],
    "compiled": [before_names("_orig_mod."), under("model")],
    "ddp": [before_names("module."), under("model")],
    "ddp of compiled": [before_names("_orig_mod."), before_names("module."), under("model")],
    "compiled ddp": [before_names("module."), before_names("_orig_mod."), under("state_dict")],
    "twice compiled": [before_names("_orig_mod._orig_mod.")],
    "all": [before_names("module._orig_mod.module."), under("state", "module")],
    "averaged": [counted, under("ema")],
    "averaged of ddp": [before_names("module."), counted],
    "compiled average": [counted, before_names("_orig_mod."), under("model")],
    "a compiled part": [around_a_part("_orig_mod"), under("model")],
    "a wrapped part": [around_a_part("module")],
    "both": [around_a_part("_orig_mod"), before_names("module."), under("module")],
    "fsdp": [around_a_part("_checkpoint_wrapped_module"), before_names("_fsdp_wrapped_module.")],
    "lightning": [before_names("model."), under("state_dict")],
    "lightning, compiled": [before_names("model._orig_mod."), under("state_dict")],
}


def wrapped(state: State, name: str) -> dict:
    for wrap in WRAPS[name]:
        state = wrap(state)
    return state


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in a.state_dict().items())


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("says", [False, True])
def test_a_transformer_is_found_in_whatever_holds_it(tmp_path, name, says):
    model, path = tiny(mask_in_context=True), tmp_path / "a.pt"
    content = wrapped(model.state_dict(), name)
    if says and not all(isinstance(value, Tensor) for value in content.values()):
        content["args"] = model_args("R-GPT-tiny", model.config)
    torch.save(content, path)
    loaded = load_transformer(path, gpt_model="R-GPT-tiny")
    assert same(loaded, model) and loaded.config == model.config
    fresh = tiny(mask_in_context=True)
    nn.init.zeros_(fresh.output.weight)
    initialise_from(fresh, path)
    assert same(fresh, model)


@pytest.mark.parametrize("name", WRAPS)
def test_a_tokenizer_is_found_in_whatever_holds_it(tmp_path, name):
    model, path = tiny_model(), tmp_path / "a.pt"
    content = wrapped(model.state_dict(), name)
    if not all(isinstance(value, Tensor) for value in content.values()):
        content["args"] = {"vq_config": dataclasses.asdict(model.config)}
        torch.save(content, path)
        assert same(load_vq_model(path), model)
    torch.save(content, path)
    assert same_names(load_checkpoint(path)["model"], model.state_dict())


def same_names(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", WRAPS)
def test_a_tokenizer_training_starts_from_whatever_holds_weights(new_trainer, tmp_path, name):
    state = new_trainer(ema=True).state
    torch.save(wrapped(state.model.state_dict(), name), tmp_path / "a.pt")
    other = new_trainer(ema=True, global_seed=9).state
    assert not same(other.model, state.model)
    other.load_weights(tmp_path / "a.pt")
    assert same(other.model, state.model) and same(other.ema.module, state.model)


def test_averages_win_and_the_rest_stays_wherever_it_lies(tmp_path):
    plain, average = tiny(), tiny()
    nn.init.constant_(average.output.weight, 5)
    args = model_args("R-GPT-tiny", plain.config)
    for content in (
        {"model": plain.state_dict(), "ema": average.state_dict(), "args": args},
        {"state": {"module": plain.state_dict(), "ema": {"module": average.state_dict()}, "args": args}},
        {"state_dict": plain.state_dict(), "model_ema": counted(average.state_dict()), "args": args},
        {"model": {"model": plain.state_dict(), "ema": average.state_dict()}, "args": args},
    ):
        torch.save(content, tmp_path / "a.pt")
        assert load_transformer(tmp_path / "a.pt").output.weight.eq(5).all()
        assert not load_checkpoint(tmp_path / "a.pt")["model"]["output.weight"].eq(5).all()


@pytest.mark.parametrize("ema", [None, {}, 0.99, [torch.ones(2)], {"decay": 0.9, "shadow": [torch.ones(2)]}])
def test_averages_without_names_are_passed_over_and_said(tmp_path, ema, capfd):
    torch.save({"model": tiny().state_dict(), "ema": ema}, tmp_path / "a.pt")
    assert same(load_transformer(tmp_path / "a.pt", gpt_model="R-GPT-tiny"), tiny())
    assert ("a.pt: its ema holds no weights by name" in capfd.readouterr().err) == bool(ema)


def test_what_torchs_averaged_model_saves_is_read(tmp_path):
    model = tiny()
    torch.save({"ema": AveragedModel(model).state_dict()}, tmp_path / "a.pt")
    assert same(load_transformer(tmp_path / "a.pt", gpt_model="R-GPT-tiny"), model)


WEIGHT = torch.ones(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {},
            r"has the keys \[\]; a checkpoint needs weights: tensors by their names, or these as model",
        ),
        ({"weights": 1}, r"has the keys \['weights'\]"),
        ({"model": "R-GPT-XL", "epoch": 3}, r"has the keys \['epoch', 'model'\]"),
        ({"model": {"a": "b"}}, r"has the keys \['a'\] under model; the keys \['model'\]"),
        (
            {"state": {0: {"step": WEIGHT}}, "param_groups": []},
            r"\['0'\] under state; .*\['param_groups'",
        ),
        ({str(i): i for i in range(20)}, "the keys .*'15'.* and more; a checkpoint needs"),
        (under(*["module"] * 5)({"a": WEIGHT}), r"the keys \['module'\] under module.*at most 4 deep"),
        (under(*["state"] * 300)({"a": WEIGHT}), "at most 4 deep"),
        ({"model": {"module.a": WEIGHT, "a": WEIGHT}}, "holds two weights for a: module.a and a; keep one"),
        ({"b.a": WEIGHT, "b._orig_mod.a": WEIGHT}, "holds two weights for b.a"),
        ({"model": {3: WEIGHT}}, "a weight's name is 3; names are words"),
        ({"model": {"a": WEIGHT}, "args": [1]}, "its args are a list, not settings by name"),
        ({"model": {"a": WEIGHT}, "args": "x"}, "its args are a str"),
    ],
)
def test_what_holds_no_weights_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"a.pt:? .*{message}"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_settings_dict_is_passed_over_for_the_weights_beside_it():
    found = unwrap({"model": {"dim": 3}, "state_dict": {"a": WEIGHT}, "steps": 4}, "a.pt")
    assert found == {"model": {"a": WEIGHT}, "steps": 4}


def test_a_network_of_another_kind_shows_its_names(tmp_path):
    args = argparse.Namespace(gpt_model="R-GPT-tiny")
    torch.save({"module": {"cls.table": WEIGHT, "b": WEIGHT}, "args": args}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="a.pt is no text-conditioned transformer: .*it has cls.table, b"):
        load_transformer(tmp_path / "a.pt")
    with pytest.raises(UserError, match="a.pt: no tokenizer checkpoint, .*it has cls.table, b"):
        load_vq_model(tmp_path / "a.pt")
