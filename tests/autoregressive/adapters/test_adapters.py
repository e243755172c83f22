"""Adapters: peft's files and peft's numbers, copies that share weights, and what does not go together."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest
import torch
from tiny_gpt import V, tiny, tiny_inputs

from autoregressive.adapters.adapted import adapted_copy
from autoregressive.adapters.export import merged_content
from autoregressive.adapters.files import CONFIG, WEIGHTS, read_adapter, write_adapter
from autoregressive.adapters.lora import TABLES, add_lora, trained_part
from autoregressive.decoding.packed_linear import pack_linears
from autoregressive.models.weights import load_transformer, model_args
from autoregressive.sequence.builders import editing_layout
from runtime.checkpoint import load_checkpoint, save_checkpoint
from runtime.errors import UserError
from scripts.export_weights import main as export_weights

KINDS = [(False, False), (True, False), (False, True), (True, True)]


def logits(model) -> torch.Tensor:
    inputs = tiny_inputs()
    layout = editing_layout(inputs["codes"], inputs["codes"], inputs["edit_mask"], inputs["text_valid"], V)
    with torch.no_grad():
        return model.eval()(layout, inputs["text"])


def trained(folder, dora: bool, tables: bool, base=None):
    """A model with an adapter whose weights are no zeros, and its checkpoint beside the base's."""
    model = tiny(mask_in_context=True)
    config = model.config
    save_checkpoint(
        folder / "base.pt", {"model": model.state_dict(), "args": model_args("R-GPT-tiny", config)}
    )
    add_lora(model, 3, 6, str(folder / "base.pt"), dora=dora, train_tables=tables)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    content = {
        "model": trained_part(model, model.state_dict()),
        "args": model_args("R-GPT-tiny", config),
        "adapter": asdict(model.lora),
    }
    save_checkpoint(folder / "adapter.pt", content)
    return model, folder / "adapter.pt"


@pytest.mark.parametrize("dora, tables", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_copy_computes_what_peft_computes_merged_or_not(dora, tables, packed, tmp_path):
    model, path = trained(tmp_path, dora, tables)
    base = tiny(mask_in_context=True)
    before = logits(base)
    if packed:
        pack_linears(base)
    wanted = logits(model)
    assert (wanted - before).abs().max() > 0.1
    for source in (path, _folder(path, tmp_path)):
        adapter = read_adapter(source)
        copies = {merged: adapted_copy(base, adapter, merged=merged) for merged in (False, True)}
        for copy in copies.values():
            torch.testing.assert_close(logits(copy), wanted, atol=2e-5, rtol=0)
        torch.testing.assert_close(logits(copies[True]), logits(copies[False]), atol=2e-5, rtol=0)
    torch.testing.assert_close(logits(base), before, atol=1e-5, rtol=0)
    assert copies[False].layers[0].attention.wqkv.base is base.layers[0].attention.wqkv
    assert copies[True].output is base.output


def _folder(path, tmp_path, precision=torch.float32):
    write_adapter(load_checkpoint(path), tmp_path / "exported", precision, path)
    return tmp_path / "exported"


@pytest.mark.parametrize("dora, tables", KINDS)
def test_peft_loads_the_folder(dora, tables, tmp_path):
    from peft import PeftModel

    model, path = trained(tmp_path, dora, tables)
    loaded = PeftModel.from_pretrained(tiny(mask_in_context=True), _folder(path, tmp_path))
    assert torch.equal(logits(loaded.base_model.model), logits(model))
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), atol=2e-5, rtol=0)


def test_a_folder_that_peft_saved_is_read(tmp_path):
    from peft import LoraConfig, get_peft_model

    theirs = LoraConfig(
        r=2, lora_alpha=3, use_rslora=True, target_modules=["wo", "w2"], init_lora_weights=False
    )
    model = get_peft_model(tiny(mask_in_context=True), theirs)
    model.save_pretrained(tmp_path)
    copy = adapted_copy(tiny(mask_in_context=True), read_adapter(tmp_path))
    torch.testing.assert_close(logits(copy), logits(model.base_model.model), atol=2e-5, rtol=0)


@pytest.mark.parametrize("dora, tables", KINDS)
def test_export_makes_one_file_of_both(dora, tables, tmp_path, monkeypatch):
    model, path = trained(tmp_path, dora, tables)
    export(monkeypatch, path, tmp_path / "whole.safetensors", "--precision", "none")
    whole = load_transformer(tmp_path / "whole.safetensors")
    torch.testing.assert_close(logits(whole), logits(model), atol=2e-5, rtol=0)
    export(monkeypatch, path, tmp_path / "mine")
    small = read_adapter(tmp_path / "mine")
    assert small.base_sample is not None and {part.down.dtype for part in small.layers.values()} == {
        torch.float16
    }
    assert small.tables.keys() == ({name for name in TABLES if "own" not in name} if tables else set())
    (tmp_path / "base.pt").rename(tmp_path / "moved.pt")
    with pytest.raises(UserError, match=r"base\.pt, which is not here: say where with --base"):
        merged_content(path)
    export(monkeypatch, path, tmp_path / "again.pt", "--base", tmp_path / "moved.pt", "--precision", "none")
    assert torch.equal(logits(load_transformer(tmp_path / "again.pt")), logits(whole))


def export(monkeypatch, path, output, *more) -> None:
    words = ["export_weights.py", "--ckpt", path, "--output", output, *more]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    export_weights()


def test_a_model_that_draws_becomes_an_editor_by_an_adapter_with_marks(tmp_path):
    base = tiny()
    editor = tiny(mask_in_context=True)
    editor.load_state_dict(base.state_dict(), strict=False)
    args = model_args("R-GPT-tiny", editor.config)
    add_lora(editor, 2, 2, "base.pt", train_tables=True)
    content = {
        "model": trained_part(editor, editor.state_dict()),
        "args": args,
        "adapter": asdict(editor.lora),
    }
    save_checkpoint(tmp_path / "a.pt", content)
    copy = adapted_copy(base, read_adapter(tmp_path / "a.pt"))
    assert copy.config.mask_in_context and not base.config.mask_in_context
    torch.testing.assert_close(logits(copy), logits(editor), atol=2e-5, rtol=0)


def test_the_same_weights_in_half_precision_are_the_base(tmp_path):
    _, path = trained(tmp_path, False, False)
    for dtype in (torch.bfloat16, torch.float16):
        adapted_copy(tiny(mask_in_context=True).to(dtype), read_adapter(path))
        adapted_copy(tiny(mask_in_context=True).half().to(dtype), read_adapter(path))


def test_what_does_not_go_together_is_refused(tmp_path):
    _, path = trained(tmp_path, False, True)
    adapter = read_adapter(path)
    other = tiny(mask_in_context=True)
    other.layers[1].feed_forward.w2.weight.data *= 1.1
    other.layers[0].attention.wqkv.weight.data *= 1.1
    with pytest.raises(UserError, match=r"adapter of other weights.*trained on .*base\.pt; load these"):
        adapted_copy(other, adapter)
    with pytest.raises(UserError, match=r"another size: layers.*there and .* in this one"):
        adapted_copy(tiny(mask_in_context=True, dim=32), adapter)
    with pytest.raises(UserError, match=r"made for another model: it adapts layers\.1"):
        adapted_copy(tiny(mask_in_context=True, n_layer=1), adapter)
    with pytest.raises(UserError, match="another size: target_aware_pos_embed_postfix"):
        adapted_copy(tiny(mask_in_context=True, block_size=9), adapter)
    with pytest.raises(UserError, match="holds a whole model, no adapter"):
        read_adapter(tmp_path / "base.pt")
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no adapter: it has no adapter_config.json"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
        ({"r": 5}, "has rank 3, and adapter_config.json says 5"),
        ({"r": None}, "its rank is None"),
        ({"r": True}, "its rank is True"),
        ({"lora_alpha": float("nan")}, "its alpha nan"),
        ({"bias": "all"}, "it has bias 'all', not known here"),
        ({"use_rslora": "false"}, "its use_rslora is 'false', neither true nor false"),
        ({"use_dora": True}, "the parts of layers.* do not go together"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(change, message, tmp_path):
    _, path = trained(tmp_path, False, False)
    folder = _folder(path, tmp_path)
    settings = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        read_adapter(folder)


def test_a_damaged_folder_is_refused(tmp_path):
    _, path = trained(tmp_path, False, False)
    folder = _folder(path, tmp_path)
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match="give an adapter that peft has saved"):
        read_adapter(folder)
    folder = _folder(path, tmp_path)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9] + b"123456789")
    with pytest.raises(UserError, match="is damaged"):
        read_adapter(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="adapter_model.safetensors does not exist"):
        read_adapter(folder)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"LoRA needs peft .* pip install -e '\.\[lora\]'"):
        add_lora(tiny(), 2, 2, "base.pt")
