"""`--model`: a folder's files and defaults in the place of the flags, which win where they are given."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from conftest import ROOT

from autoregressive.editing.model_folders import PRETRAINED, Defaults, find_folder, read_args
from autoregressive.sample.flags import SampleEditing, SampleMagicBrush, SampleScaled, SampleT2I
from autoregressive.train.config import EditingConfig, T2IConfig
from runtime.config import dump_config, parse
from runtime.errors import UserError

SHAPES = PRETRAINED / "shapes"


def test_the_folder_says_what_is_not_given():
    config = parse(SampleEditing, ["--model", "shapes", "--top-k", "7", "--mask-rule", "published"])
    assert config.gpt_ckpt == str(SHAPES / "editing.safetensors")
    assert config.vq_ckpt == str(SHAPES / "tokenizer.safetensors") and config.t5_path == str(
        SHAPES / "text_encoder"
    )
    assert (config.cfg_scale, config.temperature, config.top_k) == (1.0, 0.1, 7)
    assert (config.mask_rule, config.mask_error, config.model) == ("published", 0, None)


def test_without_a_folder_all_is_as_published():
    config = SampleEditing(vq_ckpt="v", gpt_ckpt="g")
    sampling = dataclasses.asdict(config.sampling())
    assert sampling == dataclasses.asdict(Defaults().sampling)
    assert (config.mask_rule, config.mask_error, config.t5_model_type) == ("published", 0, "flan-t5-xl")


def test_the_transformer_is_one_that_can():
    names = {
        "editing": [SampleEditing(model="shapes"), SampleScaled(model="shapes", mode="marks")],
        "t2i": [
            SampleT2I(model="shapes"),
            SampleScaled(model="shapes"),
            SampleEditing(model="shapes", mode="zero_shot"),
            SampleEditing(model="shapes", model_name="t2i"),
        ],
    }
    for name, configs in names.items():
        assert {config.gpt_ckpt for config in configs} == {str(SHAPES / f"{name}.safetensors")}
    assert SampleEditing(model="shapes", mode="zero_shot").mask_error == 4
    assert SampleEditing(model="shapes", mode="zero_shot", full_mask=True).mask_error == 0


def test_a_folder_and_its_files_give_the_same_settings():
    """So results of one are reused by the other; the written config starts the same run."""
    by_folder = SampleMagicBrush(model="shapes", magicbrush_path="x", output_dir="y")
    by_files = SampleMagicBrush(
        vq_ckpt=f"{SHAPES}/tokenizer.safetensors", gpt_ckpt=f"{SHAPES}/editing.safetensors",
        cfg_scale=1.0, temperature=0.1, mask_rule="exact", magicbrush_path="x", output_dir="y",
    )  # fmt: skip
    assert by_folder.settings(None) == by_files.settings(None)


def test_the_written_config_starts_the_same_run(tmp_path):
    config = parse(SampleT2I, ["--model", "shapes", "--temperature", "0.7"])
    dump_config(config, tmp_path)
    assert parse(SampleT2I, ["--config", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize("kind", [SampleEditing, SampleT2I, SampleScaled])
def test_a_folder_and_files_contradict(kind):
    with pytest.raises(UserError, match="^--model shapes and --vq-ckpt v.pt and --gpt-model R-GPT-XL both"):
        kind(model="shapes", vq_ckpt="v.pt", gpt_model="R-GPT-XL")
    with pytest.raises(UserError, match="--model-name t2i names a transformer of a folder: give --model too"):
        kind(vq_ckpt="v", gpt_ckpt="g", model_name="t2i")
    with pytest.raises(UserError, match="holds no model 'x'; it has editing, t2i"):
        kind(model="shapes", model_name="x")


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="config.json: cannot be read"):
        SampleT2I(model=str(tmp_path))
    content = json.loads((SHAPES / "config.json").read_text())
    del content["models"]["t2i"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    shutil.copy(SHAPES / "editing.safetensors", tmp_path)
    with pytest.raises(UserError, match="editing edits with marks and cannot draw from text alone"):
        SampleT2I(model=str(tmp_path))
    (tmp_path / "editing.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match="editing.safetensors: no whole .safetensors file"):
        SampleEditing(model=str(tmp_path))


def test_what_comes_along_has_a_name():
    assert find_folder("shapes") == ROOT / "pretrained_models" / "shapes"
    assert read_args(SHAPES / "editing.safetensors")["gpt_model"] == "R-GPT-mini"


def test_a_training_goes_on_from_a_folder():
    config = EditingConfig(model="shapes", data="my_pairs")
    assert (config.gpt_model, config.image_size, config.mask_in_context) == ("R-GPT-mini", 72, True)
    assert (config.init_gpt_ckpt, config.model) == (str(SHAPES / "editing.safetensors"), None)
    assert (config.vq_ckpt, config.mask_rule) == (str(SHAPES / "tokenizer.safetensors"), "exact")
    larger = EditingConfig(
        model="shapes", model_name="t2i", data="my_pairs", image_size=144, mask_in_context=True
    )
    assert larger.image_size == 144 and larger.mask_in_context and larger.own_cell
    # A flag that is given holds, be it what it is without --model, too.
    told = EditingConfig(model="shapes", data="my_pairs", image_size=256, mask_rule="published")
    assert (told.image_size, told.mask_rule, told.gpt_model) == (256, "published", "R-GPT-mini")
    files = EditingConfig(vq_ckpt="v.pt", data_path=["a.jsonl"])
    assert (files.gpt_model, files.image_size, files.cls_token_num) == ("R-GPT-XL", 256, 120)
    assert files.mask_rule == "published"
    with pytest.raises(UserError, match="--gpt-model R-GPT-XL contradicts --model shapes .R-GPT-mini."):
        EditingConfig(model="shapes", data="my_pairs", gpt_model="R-GPT-XL")
    assert T2IConfig(model="shapes", data_path=["a.jsonl"]).init_gpt_ckpt == str(SHAPES / "t2i.safetensors")
    with pytest.raises(UserError, match="--gpt-model R-GPT-B contradicts --model shapes .R-GPT-mini."):
        EditingConfig(model="shapes", data="my_pairs", gpt_model="R-GPT-B")
    with pytest.raises(UserError, match="--device mps: trainings use 64-bit numbers"):
        EditingConfig(model="shapes", data="my_pairs", device="mps")
