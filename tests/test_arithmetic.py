"""Checkpoints that fit by name and shape, but not by what is computed with them, or not by their numbers."""

from __future__ import annotations

import argparse

import pytest
import torch
from tiny_gpt import tiny

from autoregressive.models.weights import initialise_from, model_args, require_same_arithmetic
from runtime.checkpoint import require_finite, save_checkpoint
from runtime.errors import UserError

UNPUBLISHED = {
    "query_turn": "next_cells",
    "rotary_base": 20.0,
    "norm_eps": 1e-6,
    "n_head": 2,
    "own_cell": True,
}


@pytest.mark.parametrize(("name", "value"), UNPUBLISHED.items())
@pytest.mark.parametrize("ours_is_published", [True, False])
def test_other_arithmetic_is_refused_by_name(tmp_path, name, value, ours_is_published):
    published, other = tiny(), tiny(**{name: value})
    model, trained = (published, other) if ours_is_published else (other, published)
    path = tmp_path / "trained.pt"
    save_checkpoint(path, {"model": trained.state_dict(), "args": model_args("R-GPT-tiny", trained.config)})
    before = model.tok_embeddings.weight.clone()
    with pytest.raises(UserError, match=f"trained.pt .*another arithmetic: {name} is "):
        initialise_from(model, path)
    assert torch.equal(model.tok_embeddings.weight, before)
    initialise_from(trained, path)


@pytest.mark.parametrize(
    "args", [None, argparse.Namespace(epochs=1), argparse.Namespace(gpt_model="R-GPT-tiny")]
)
def test_published_files_are_of_the_published_arithmetic(args):
    content = {"args": args}
    require_same_arithmetic(tiny().config, content, "published.pt")
    for name in ("query_turn", "rotary_base", "norm_eps", "own_cell"):
        with pytest.raises(UserError, match=name):
            require_same_arithmetic(tiny(**{name: UNPUBLISHED[name]}).config, content, "published.pt")


def test_the_registry_tells_the_heads_of_a_file_that_names_its_model():
    content = {"args": argparse.Namespace(gpt_model="R-GPT-tiny")}
    with pytest.raises(UserError, match="n_head is 4 there and 2 here"):
        require_same_arithmetic(tiny(n_head=2).config, content, "published.pt")


@pytest.mark.parametrize("part", ["model", "ema", "discriminator"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_never_saved(part, value):
    content = {"model": {"a": torch.ones(2)}, "steps": 3, part: {"count": torch.ones(1, dtype=torch.long)}}
    require_finite(content, "0000003.pt")
    content[part] = {"w": torch.tensor([0.0, value])}
    with pytest.raises(UserError, match=f"0000003.pt is not written: the {part}'s w holds NaN"):
        require_finite(content, "0000003.pt")
