"""Checkpoints that fit by name and shape, but not by what is computed with them, or not by their numbers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace

import pytest
import torch
from conftest import ROOT, run_program
from test_training import run_stage, same, stage_flags
from tiny_gpt import tiny

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.arithmetic import MARKER, configuration, marked, require_same_arithmetic
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import initialise_from, load_transformer, model_args
from runtime.checkpoint import load_checkpoint, save_checkpoint
from runtime.errors import UserError
from runtime.training.checkpoints import require_finite

SHIPPED = ROOT / "pretrained_models" / "shapes"

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
    if name == "own_cell" and not ours_is_published:  # a table of zeros, which may be grown
        initialise_from(model, path)
        assert torch.equal(model.output.weight, trained.output.weight)
        return
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
    for name in ("query_turn", "rotary_base", "norm_eps"):
        with pytest.raises(UserError, match=name):
            require_same_arithmetic(tiny(**{name: UNPUBLISHED[name]}).config, content, "published.pt")


def test_the_registry_tells_the_heads_of_a_file_that_names_its_model():
    content = {"args": argparse.Namespace(gpt_model="R-GPT-tiny")}
    with pytest.raises(UserError, match="n_head is 4 there and 2 here"):
        require_same_arithmetic(tiny(n_head=2).config, content, "published.pt")


def loads_elsewhere(state: dict[str, torch.Tensor], name: str = "R-GPT-tiny") -> None:
    """Strictly, as published programs do it, into the class whose arithmetic is the published."""
    vocab_size, dim = state["tok_embeddings.weight"].shape
    texts, width = state["cls_embedding.uncond_embedding"].shape
    cells = state["target_aware_pos_embed_postfix"].shape[1]
    sizes = {"vocab_size": vocab_size, "block_size": cells, "cls_token_num": texts, "caption_dim": width}
    published = replace(GPT_MODELS[name], query_turn="cells", rotary_base=10000.0, norm_eps=1e-5)
    marks = "mask_embedding" in state
    Transformer(replace(published, mask_in_context=marks, **sizes)).load_state_dict(state)


@pytest.fixture
def unpublished(monkeypatch):
    """R-GPT-tiny with an arithmetic of its own, as R-GPT-mini has."""
    ours = replace(GPT_MODELS["R-GPT-tiny"], query_turn="next_cells", rotary_base=20.0)
    monkeypatch.setitem(GPT_MODELS, "R-GPT-tiny", ours)
    return ours


def test_a_training_marks_its_weights_and_goes_on_from_them(unpublished, shapes, train_flags, tmp_path):
    flags = [*stage_flags("editing", shapes, train_flags), "--ema-decay", "0.9", "--ckpt-every", "1"]
    whole = run_stage("editing", [*flags, "--max-steps", "2"], tmp_path / "whole")
    for part in ("model", "ema"):
        with pytest.raises(RuntimeError, match=f'Unexpected key.*"{MARKER}"'):
            loads_elsewhere(whole[part])
    first = tmp_path / "whole" / "checkpoints" / "0000001.pt"
    resumed = run_stage("editing", [*flags, "--max-steps", "2", "--gpt-ckpt", first], tmp_path / "resumed")
    assert same(resumed["model"], whole["model"]) and same(resumed["ema"], whole["ema"])
    begun = run_stage("editing", [*flags, "--max-steps", "1", "--init-gpt-ckpt", first], tmp_path / "begun")
    assert begun["steps"] == 1
    assert load_transformer(first).config.query_turn == "next_cells"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "none"])
def test_exported_and_converted_weights_stay_marked(
    unpublished, precision, vq_ckpt, gpt_ckpts, t5_dir, tmp_path
):
    content = load_checkpoint(gpt_ckpts["edit"])
    config = replace(configuration(content, "edit.pt"), query_turn="next_cells", rotary_base=20.0)
    path = tmp_path / "earlier.pt"  # of a version that wrote no marker
    save_checkpoint(path, {"model": content["model"], "args": model_args("R-GPT-tiny", config)})
    exported = tmp_path / "exported.safetensors"
    run_program("scripts/export_weights.py", "--ckpt", path, "--output", exported, "--precision", precision)
    again = tmp_path / "again.safetensors"
    run_program("scripts/export_weights.py", "--ckpt", exported, "--output", again)
    EditingPipeline.load(vq_ckpt, path, t5_dir).save_pretrained(tmp_path / "folder")
    for file in (exported, again, tmp_path / "folder" / "transformer.safetensors"):
        state = load_checkpoint(file)["model"]
        with pytest.raises(RuntimeError, match=f'Unexpected key.*"{MARKER}"'):
            loads_elsewhere(state)
        assert load_transformer(file).config == config
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "Not the published arithmetic" in card and "query_turn next_cells" in card


def test_published_arithmetic_is_written_as_published(vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    assert marked({}, GPT_MODELS["R-GPT-XL"]) == {} != marked({}, GPT_MODELS["R-GPT-mini"])
    assert marked({}, replace(GPT_MODELS["GPT-B"], n_head=6)) != {}
    assert marked({}, replace(GPT_MODELS["GPT-B"], dim=100, n_head=5)) == {}  # a size that nobody published
    EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir).save_pretrained(tmp_path)
    loads_elsewhere(load_checkpoint(tmp_path / "transformer.safetensors")["model"])
    assert "arithmetic" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", ["t2i", "editing"])
def test_the_shipped_models_say_what_they_are_and_load_with_and_without_the_marker(name, tmp_path):
    content = load_checkpoint(SHIPPED / f"{name}.safetensors")
    assert "Not the published arithmetic" in (SHIPPED / "README.md").read_text()
    plain = {n: t for n, t in content["model"].items() if n != MARKER}
    published = {n: t for n, t in plain.items() if n != "own_cell_embedding"}
    with pytest.raises(RuntimeError, match=MARKER):
        loads_elsewhere(marked(published, configuration(content, name)), "R-GPT-mini")
    loads_elsewhere(published, "R-GPT-mini")  # which is why there is a marker
    if len(published) < len(plain):
        with pytest.raises(RuntimeError, match="own_cell_embedding"):
            loads_elsewhere(plain, "R-GPT-mini")
    save_checkpoint(tmp_path / "plain.pt", {**content, "model": plain})
    for path in (SHIPPED / f"{name}.safetensors", tmp_path / "plain.pt"):
        assert load_transformer(path, gpt_model="R-GPT-mini").config.rotary_base == 20


def test_a_marker_speaks_where_a_files_settings_were_lost(tmp_path):
    model = tiny(query_turn="next_cells", n_head=2)
    path = tmp_path / "bare.pt"
    save_checkpoint(
        path, {"model": {n: t.half() for n, t in marked(model.state_dict(), model.config).items()}}
    )
    with pytest.raises(UserError, match="bare.pt .*another arithmetic: query_turn is 'next_cells' there and"):
        initialise_from(tiny(), path)
    with pytest.raises(UserError, match="--gpt-model R-GPT-tiny contradicts .*bare.pt: query_turn is"):
        load_transformer(path, gpt_model="R-GPT-tiny")
    content = {"model": marked(model.state_dict(), model.config), "args": {"gpt_model": "R-GPT-tiny"}}
    save_checkpoint(path, content)
    assert load_transformer(path).config == model.config
    content["args"] = model_args("R-GPT-tiny", tiny().config)
    save_checkpoint(path, content)
    with pytest.raises(UserError, match="bare.pt contradicts itself: its model_config and its"):
        load_transformer(path)


@pytest.mark.parametrize(
    "note", [[], [1, 2], [float("nan")] * 3, list(b"{}"), list(b"[]"), list(b'{"n_head": true}'), 3]
)
def test_a_marker_that_says_nothing_is_refused(tmp_path, note):
    save_checkpoint(tmp_path / "a.pt", {"model": {**tiny().state_dict(), MARKER: torch.tensor(note)}})
    with pytest.raises(UserError, match=f"a.pt: its {MARKER} "):
        load_transformer(tmp_path / "a.pt", gpt_model="R-GPT-tiny")


def test_the_name_of_another_model_is_refused_with_the_right_one(tmp_path):
    path = tmp_path / "own.pt"
    for right in ("R-GPT-tiny", "GPT-tiny", "R-GPT-mini"):
        model = tiny(right)
        save_checkpoint(path, {"model": model.state_dict(), "args": model_args(right, model.config)})
        assert load_transformer(path, gpt_model=right).config == model.config
        for other in {"R-GPT-tiny", "GPT-tiny", "R-GPT-mini", "GPT-mini", "GPT-XL"} - {right}:
            with pytest.raises(
                UserError, match=f"{other} contradicts .*own.pt: .*; give --gpt-model {right}$"
            ):
                load_transformer(path, gpt_model=other)
    odd = tiny(norm_eps=1e-6)
    save_checkpoint(path, {"model": odd.state_dict(), "args": model_args("", odd.config)})
    with pytest.raises(UserError, match="norm_eps is 1e-06 there and 1e-05 in R-GPT-tiny; leave it out"):
        load_transformer(path, gpt_model="R-GPT-tiny")
    with pytest.raises(UserError, match="--gpt-model R-GPT-huge is not known"):
        load_transformer(path, gpt_model="R-GPT-huge")


def test_a_published_file_may_name_the_raster_model_that_it_began_as(tmp_path):
    path, args = tmp_path / "nep.pt", argparse.Namespace(gpt_model="GPT-tiny")
    torch.save({"model": tiny(mask_in_context=True).state_dict(), "args": args}, path)
    assert load_transformer(path, gpt_model="R-GPT-tiny").config.any_order
    for other in ("R-GPT-mini", "GPT-B"):
        with pytest.raises(UserError, match=f"{other} contradicts .*nep.pt: dim is 64 there and"):
            load_transformer(path, gpt_model=other)


def test_the_refusal_names_the_model_to_choose(tmp_path):
    path = tmp_path / "mini.pt"
    trained = tiny("R-GPT-mini")
    save_checkpoint(path, {"model": trained.state_dict(), "args": model_args("", trained.config)})
    model = tiny("R-GPT-mini", query_turn="cells", rotary_base=10000.0)
    with pytest.raises(UserError, match="give --gpt-model R-GPT-mini$"):
        initialise_from(model, path)
    odd = tiny("R-GPT-mini", norm_eps=1e-6)
    save_checkpoint(path, {"model": odd.state_dict(), "args": model_args("", odd.config)})
    with pytest.raises(UserError, match="no --gpt-model of this version has it$"):
        initialise_from(model, path)


def changed(**changes) -> dict:
    return {**asdict(tiny().config), **changes}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("R-GPT-tiny", "its model_config is a str, not settings by name"),
        ([1], "its model_config is a list"),
        (None, "its model_config is a NoneType"),
        ({"n_layer": 2, "n_head": 4}, "its model_config lacks dim"),
        ({}, "its model_config lacks dim, n_head, n_layer"),
        (changed(colour="red"), "newer version: unknown settings colour in its model_config"),
        (changed(dim="64"), "dim '64', which is no whole number"),
        (changed(n_layer=2.0), "n_layer 2.0, which is no whole number"),
        (changed(n_head=True), "n_head True, which is no whole number"),
        (changed(any_order=1), "any_order 1, which is no true or false"),
        (changed(rotary_base="20"), "rotary_base '20', which is no finite number"),
        (changed(norm_eps=float("nan")), "norm_eps nan, which is no finite number"),
        (changed(query_turn=None), "query_turn None, which is no word"),
        (changed(query_turn="sideways"), "no model can be made of its settings: .*sideways"),
        (changed(n_head=0), "no model can be made of its settings"),
        (changed(n_head=-1), "no model can be made of its settings"),
        (changed(resid_dropout_p=2.0), "no model can be made of its settings"),
        (
            changed(dim=10**9),
            "a.pt does not hold what its model_config says: misshapen: tok_emb",
        ),
        (changed(n_layer=10**9), "a.pt holds 2 layers; its model_config says 1000000000"),
        (changed(any_order=False, block_size=10**12), "a.pt does not hold what its model_config says"),
    ],
)
def test_settings_that_are_none_are_named(tmp_path, settings, message):
    content = {"model": tiny().state_dict(), "args": {"model_config": settings}}
    save_checkpoint(tmp_path / "a.pt", content)
    with pytest.raises(UserError, match=f"a.pt.*{message}|{message}"):
        load_transformer(tmp_path / "a.pt")


def test_settings_that_json_has_turned_are_read(tmp_path):
    settings = json.loads(json.dumps(changed(rotary_base=10000)))
    save_checkpoint(tmp_path / "a.pt", {"model": tiny().state_dict(), "args": {"model_config": settings}})
    assert load_transformer(tmp_path / "a.pt").config == tiny().config


@pytest.mark.parametrize("part", ["model", "ema", "discriminator"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_never_saved(part, value):
    content = {"model": {"a": torch.ones(2)}, "steps": 3, part: {"count": torch.ones(1, dtype=torch.long)}}
    require_finite(content, "0000003.pt")
    content[part] = {"w": torch.tensor([0.0, value])}
    with pytest.raises(UserError, match=f"0000003.pt is not written: the {part}'s w holds NaN"):
        require_finite(content, "0000003.pt")
