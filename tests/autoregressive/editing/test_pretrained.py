"""Pipelines in folders and on the hub: what is loaded again draws the same tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hub_server import local_hub
from huggingface_hub import ModelCard
from PIL import Image

from autoregressive import EditingPipeline, Sampling
from autoregressive.editing.model_folders import About, Defaults, read_config
from autoregressive.editing.models import _Recent
from autoregressive.editing.results import Drawing
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import load_transformer, model_args
from runtime import devices
from runtime.checkpoint import load_checkpoint, require_whole, save_checkpoint
from runtime.errors import UserError

MASK = np.zeros((24, 24), np.uint8)
MASK[:16, :10] = 255


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))


@pytest.fixture
def pipeline(vq_ckpt, gpt_ckpts, t5_dir) -> EditingPipeline:
    pipeline = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)
    pipeline.defaults = Defaults(Sampling(cfg_scale=1.5, temperature=0.7), "exact", 1)
    return pipeline


def codes_of(pipeline: EditingPipeline, image: Image.Image) -> list[int]:
    return pipeline.edit(image, "make the circle blue", MASK, seeds=3)[0].codes.tolist()


def test_models_that_share_a_text_encoder_read_as_much_as_each_can(pipeline, tmp_path):
    """Whichever comes first in their folder."""
    slots = pipeline.transformer.config.cls_token_num
    for name, number in (("short", 5), ("long", slots)):
        config = dataclasses.replace(pipeline.transformer.config, cls_token_num=number)
        one = EditingPipeline(pipeline.tokenizer, Transformer(config), pipeline.text_encoder)
        one.save_pretrained(tmp_path, name)
    models = EditingPipeline.all_from_pretrained(tmp_path)
    assert models["short"].text_encoder is models["long"].text_encoder
    assert (models["short"].max_text_tokens, models["long"].max_text_tokens) == (5, slots)
    words = "make the circle blue"
    models["long"].require_short(words)
    assert models["long"].encode_texts([words])[1].sum() == 5
    models["short"].require_short(words)
    with pytest.raises(UserError, match="the text has 6 tokens, the model reads 5: shorten it"):
        models["short"].require_short(f"{words} please")


def test_what_a_folder_says_of_its_models_comes_back(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert "about" not in json.loads((tmp_path / "config.json").read_text()), "nothing is claimed"
    pipeline.about = About("noise of 24 × 24 pixels", 12.5)
    pipeline.save_pretrained(tmp_path)
    loaded = EditingPipeline.from_pretrained(tmp_path)
    assert loaded.about == pipeline.about
    loaded.about = About()
    loaded.save_pretrained(tmp_path)  # who says nothing leaves what is said
    assert read_config(tmp_path).about == pipeline.about
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8-sig")
    assert read_config(tmp_path).about == pipeline.about, "a byte-order mark changes nothing"
    for bad in ({"knows": 3}, {"usual_psnr": "high"}, {"usual_psnr": math.nan}, {"sees": "cats"}, ["cats"]):
        (tmp_path / "config.json").write_text(json.dumps(content | {"about": bad}))
        with pytest.raises(UserError, match="not the config of an editing pipeline"):
            read_config(tmp_path)


def test_a_saved_copy_draws_the_same_tokens(pipeline, image, gpt_ckpts, vq_ckpt, t5_dir, tmp_path):
    wanted = codes_of(pipeline, image)
    pipeline.save_pretrained(tmp_path / "one")
    loaded = EditingPipeline.from_pretrained(tmp_path / "one")
    assert codes_of(loaded, image) == wanted and loaded.defaults == pipeline.defaults
    loaded.save_pretrained(tmp_path / "two", "editing")
    t2i = EditingPipeline.load(vq_ckpt, gpt_ckpts["t2i"], t5_dir)
    t2i.save_pretrained(tmp_path / "two", "t2i")
    assert codes_of(EditingPipeline.from_pretrained(tmp_path / "two"), image) == wanted
    drawn = EditingPipeline.from_pretrained(tmp_path / "two", model="t2i").draw(["a red circle"], seeds=5)
    assert np.array_equal(drawn[0], t2i.draw(["a red circle"], seeds=5)[0])
    assert "make the circle blue" in (tmp_path / "two" / "README.md").read_text()
    with pytest.raises(UserError, match="no model 'inpaint'; it has editing, t2i"):
        EditingPipeline.from_pretrained(tmp_path / "two", model="inpaint")


def test_a_model_with_own_cells_comes_back_with_them(pipeline, image, t5_dir, tmp_path):
    config = dataclasses.replace(pipeline.transformer.config, own_cell=True)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_checkpoint(tmp_path / "own.pt", {"model": model.state_dict(), "args": model_args("", config)})
    export = ["--ckpt", str(tmp_path / "own.pt"), "--output", str(tmp_path / "own.safetensors")]
    command = [sys.executable, "scripts/export_weights.py", *export, "--precision", "none"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    pipeline.tokenizer.eval()
    own = EditingPipeline(
        pipeline.tokenizer, load_transformer(tmp_path / "own.safetensors"), pipeline.text_encoder
    )
    assert own.transformer.config.own_cell
    wanted = codes_of(own, image)
    own.save_pretrained(tmp_path / "saved")
    loaded = EditingPipeline.from_pretrained(tmp_path / "saved")
    assert loaded.transformer.config == config and codes_of(loaded, image) == wanted
    torch.nn.init.zeros_(loaded.transformer.own_cell_embedding)
    assert codes_of(loaded, image) != wanted


def test_a_push_and_a_pull_through_a_hub(pipeline, image, tmp_path):
    wanted = codes_of(pipeline, image)
    program = """
import sys
from autoregressive import EditingPipeline
pipeline = EditingPipeline.from_pretrained(sys.argv[1])
pipeline.push_to_hub("somebody/editor", sys.argv[2], token="hf_x")
import numpy as np
from PIL import Image
pulled = EditingPipeline.from_pretrained("somebody/editor")
mask = np.load(sys.argv[3])
print(pulled.edit(Image.open(sys.argv[4]), "make the circle blue", mask, seeds=3)[0].codes.tolist())
try:
    EditingPipeline.from_pretrained("somebody/nothing")
except ValueError as error:
    print(error)
"""
    pipeline.save_pretrained(tmp_path / "saved")
    np.save(tmp_path / "mask.npy", MASK)
    image.save(tmp_path / "image.png")
    paths = [tmp_path / name for name in ("saved", "pushed", "mask.npy", "image.png")]
    with local_hub() as address:
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, paths)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_OFFLINE": "0",
            },
        )
    assert done.returncode == 0, done.stderr[-3000:]
    codes, refused = done.stdout.strip().splitlines()[-2:]
    assert json.loads(codes) == wanted
    assert "somebody/nothing: no folder here" in refused and "no model of the hub" in refused


def test_damaged_folders_are_named(pipeline, tmp_path):
    with pytest.raises(UserError, match="config.json: cannot be read"):
        EditingPipeline.from_pretrained(tmp_path)
    pipeline.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    for change, message in (
        ({"tokenizer": "../vq.pt"}, "'../vq.pt' leads outside"),
        ({"text_encoder": "/etc"}, "'/etc' leads outside"),
        ({"text_encoder": 5}, "text_encoder must be a name, or null"),
        ({"models": {}}, "not the config of an editing pipeline"),
        ({"models": {"a": {"file": "a", "defaults": {"mask_error": "1"}}}}, "config.json: mask_error '1'"),
        ({"format": 2}, "format 2; this version reads 1"),
        (
            {"models": {"a": {"file": "a.safetensors", "defaults": {"mask_rule": "round"}}}},
            "mask rule 'round'",
        ),
        ({"models": {"a": {"file": "a.safetensors", "defaults": {"heat": 1}}}}, "heat"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "saved", copy, dirs_exist_ok=True)
        (copy / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            EditingPipeline.from_pretrained(copy)
    (tmp_path / "saved" / "transformer.safetensors").unlink()
    with pytest.raises(UserError, match="transformer.safetensors does not exist"):
        EditingPipeline.from_pretrained(tmp_path / "saved")


def test_text_encoders_are_copied_named_or_given(pipeline, image, vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    wanted = codes_of(pipeline, image)
    with pytest.raises(UserError, match="no name that others could find it by: .*--copy-text-encoder"):
        pipeline.save_pretrained(tmp_path / "refused", copy_text_encoder=False)
    assert not (tmp_path / "refused").exists()

    shutil.copytree(t5_dir, tmp_path / "t5-ckpt" / "flan-t5-small")
    named = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], tmp_path / "t5-ckpt", "flan-t5-small")
    named.defaults = pipeline.defaults
    named.save_pretrained(tmp_path / "named", copy_text_encoder=False)
    assert (
        json.loads((tmp_path / "named" / "config.json").read_text())["text_encoder"] == "google/flan-t5-small"
    )
    with pytest.raises(UserError, match="hf download google/flan-t5-small"):
        EditingPipeline.from_pretrained(tmp_path / "named")
    loaded = EditingPipeline.from_pretrained(tmp_path / "named", t5_path=t5_dir)
    assert codes_of(loaded, image) == wanted

    bare = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], with_text_encoder=False)
    bare.save_pretrained(tmp_path / "bare")
    assert EditingPipeline.from_pretrained(tmp_path / "bare").text_encoder is None
    without = EditingPipeline.from_pretrained(tmp_path / "bare", with_text_encoder=False)
    assert without.text_encoder is None
    assert EditingPipeline.from_pretrained(tmp_path / "bare", t5_path=t5_dir).text_encoder.width == 16


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("/models/t5", "leads outside the folder; give .* as t5_path"),
        ("pretrained_models/t5-ckpt/t5", "neither a folder there nor a hub id; give .* as t5_path"),
    ],
)
def test_encoders_that_are_not_there_can_be_given(entry, message, pipeline, image, t5_dir, tmp_path):
    """As folders of earlier versions name them."""
    pipeline.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "text_encoder": entry}))
    with pytest.raises(UserError, match=message):
        EditingPipeline.from_pretrained(tmp_path)
    assert EditingPipeline.from_pretrained(tmp_path, with_text_encoder=False).text_encoder is None
    loaded = EditingPipeline.from_pretrained(tmp_path, t5_path=t5_dir)
    assert codes_of(loaded, image) == codes_of(pipeline, image)


def test_a_second_model_takes_nothing_from_the_first(pipeline, image, vq_ckpt, gpt_ckpts, tmp_path):
    wanted = codes_of(pipeline, image)
    pipeline.save_pretrained(tmp_path, "editing")
    wordless = EditingPipeline.from_pretrained(tmp_path, "editing", with_text_encoder=False)
    assert wordless.text_encoder is None
    wordless.save_pretrained(tmp_path, "second")
    assert codes_of(EditingPipeline.from_pretrained(tmp_path, "editing"), image) == wanted

    content = load_checkpoint(vq_ckpt)
    content["model"]["quant_conv.weight"] += 0.1
    save_checkpoint(tmp_path / "other.pt", content)
    other = EditingPipeline.load(tmp_path / "other.pt", gpt_ckpts["t2i"], with_text_encoder=False)
    with pytest.raises(UserError, match="tokenizer.safetensors: another tokenizer .* of editing, second"):
        other.save_pretrained(tmp_path, "t2i")
    assert codes_of(EditingPipeline.from_pretrained(tmp_path, "editing"), image) == wanted
    other.save_pretrained(tmp_path / "own", "t2i")
    pipeline.save_pretrained(tmp_path / "own", "t2i")  # nobody else uses the one before


def test_pictures_and_masks_of_all_kinds_give_the_same_edit(pipeline, image):
    array = np.array(image)
    tensor = torch.from_numpy(array).movedim(-1, 0)
    mask = torch.from_numpy(MASK)
    wanted = codes_of(pipeline, image)
    for picture in (array, array.astype(np.float32) / 255, tensor, tensor.float() / 255):
        for region in (MASK, MASK > 0, MASK / 255, mask, mask > 0, Image.fromarray(MASK)):
            result = pipeline.edit(picture, "make the circle blue", region, seeds=3)[0]
            assert result.codes.tolist() == wanted
    for bad, message in (
        (array[..., :2], "shape"),
        (tensor.float() / 127.5 - 1, r"floats in \[0, 1\]"),
        (array.astype(np.int64), "int64"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.edit(bad, "x", MASK)


def test_generators_and_progress(pipeline, image):
    seen = []

    def note(drawing: Drawing) -> None:
        counts = (drawing.step, drawing.num_steps, int(drawing.drawn[0].sum()))
        seen.append((counts, drawing.codes.clone(), drawing.to_draw.clone()))

    one_by_one = dataclasses.replace(pipeline.defaults.sampling, window=1)
    result = pipeline.edit(image, "make it red", MASK, seeds=3, progress=note, sampling=one_by_one)[0]
    assert [counts for counts, *_ in seen] == [(i + 1, 6, i + 1) for i in range(6)]
    assert result.num_passes == 6
    assert torch.equal(seen[-1][1][0], result.codes) and torch.equal(seen[0][2][0], result.edit_mask)
    twice = [
        pipeline.edit([image] * 2, ["a"] * 2, [MASK] * 2, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert [r.codes.tolist() for r in twice[0]] == [r.codes.tolist() for r in twice[1]]
    seen.clear()
    pipeline.edit([image] * 2, ["a"] * 2, [MASK, None], progress=note, sampling=one_by_one)
    assert len(seen) == 9 and all(torch.equal(codes[0], seen[5][1][0]) for _, codes, _ in seen[6:])
    assert seen[0][2].sum(1).tolist() == [6, 9]


def test_moving_to_another_type_and_back(pipeline, image):
    wanted = codes_of(pipeline, image)
    assert pipeline.to(dtype=torch.bfloat16).transformer.norm.weight.dtype == torch.bfloat16
    pipeline.edit(image, "make it red", MASK)
    pipeline.to("cpu", torch.float32)
    assert len(codes_of(pipeline, image)) == len(wanted)


def test_pixels_are_decoded_in_the_type_of_the_weights_and_codes_are_not(pipeline, image, monkeypatch):
    monkeypatch.setattr(devices, "_cpu_multiplies_bfloat16", lambda: True)
    codes, types = pipeline.encode([image]), []
    pipeline.tokenizer.decoder.register_forward_hook(lambda module, given, made: types.append(made.dtype))
    whole = np.asarray(pipeline.decode(codes)[0]).astype(int)
    pipeline.to(dtype=torch.bfloat16)
    half = np.asarray(pipeline.decode(codes)[0]).astype(int)
    assert types == [torch.float32, torch.bfloat16]
    assert 0 < np.abs(half - whole).max() <= 8
    pipeline._codes = _Recent()
    assert torch.equal(pipeline.encode([image]), codes)


def metadata(card: str) -> dict:
    """The YAML at the head of a model card, which the hub's own reader finds valid."""
    head, text = card.removeprefix("---\n").split("\n---\n", 1)
    assert card.startswith("---\n") and text.startswith("\n# ")
    fields = yaml.safe_load(head)
    assert ModelCard(card).data.to_dict().items() >= fields.items()
    return fields


def check_metadata(card: str, task: str) -> None:
    fields = metadata(card)
    project = re.search(r'^name = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License") and fields["license"] == "mit"
    assert fields["library_name"] == project and fields["pipeline_tag"] == task
    assert isinstance(fields["tags"], list) and {"image-editing", "autoregressive"} <= set(fields["tags"])
    assert all(isinstance(value, str) for value in [*fields["tags"], fields["license"]])


@pytest.mark.parametrize(("kind", "task"), [("edit", "image-to-image"), ("t2i", "text-to-image")])
def test_a_saved_folder_has_a_card_that_the_hub_can_read(kind, task, vq_ckpt, gpt_ckpts, tmp_path):
    pipeline = EditingPipeline.load(vq_ckpt, gpt_ckpts[kind], with_text_encoder=False)
    pipeline.save_pretrained(tmp_path)
    check_metadata((tmp_path / "README.md").read_text(encoding="utf-8"), task)


@pytest.mark.parametrize("path", sorted((ROOT / "pretrained_models").glob("*/README.md")), ids=str)
def test_the_shipped_cards_can_be_read_by_the_hub(path):
    check_metadata(path.read_text(encoding="utf-8"), "image-to-image")
    hashes = re.findall(r"[0-9a-f]{64}", path.read_text(encoding="utf-8"))
    files = sorted(path.parent.glob("*.safetensors"))
    assert sorted(hashes) == sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    for file in files:
        require_whole(file, needs_manifest=True)
