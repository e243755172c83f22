"""Sources come to the model's size as stage 2 brings them there; Emu Edit's, as published, bicubic."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from autoregressive.sample.edit_run import EditFolders, EditRun, KeyedEdit, write_ceiling
from autoregressive.train.config import EditingConfig
from autoregressive.train.validation import EmuValidation, MagicBrushValidation, Validation
from dataset.records.images import image_to_tensor
from dataset.transforms import joint_transform
from runtime.config import parse
from runtime.distributed import ONE_RANK

BICUBIC = Image.Resampling.BICUBIC


@pytest.fixture(scope="module")
def loaded(gpt_ckpts, vq_ckpt, t5_dir):
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


@pytest.fixture
def pipeline(loaded):
    """A copy, which has encoded nothing yet."""
    return copy.deepcopy(loaded)


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (95, 95, 3), dtype=np.uint8))


@pytest.fixture
def encoded(pipeline, monkeypatch):
    """The pixels that the tokenizer is given."""
    seen, encode_ids = [], pipeline.tokenizer.encode_ids
    monkeypatch.setattr(pipeline.tokenizer, "encode_ids", lambda x: (seen.append(x), encode_ids(x))[1])
    return seen


def _as_stage2(image: Image.Image, size: int) -> torch.Tensor:
    return joint_transform(image, image, None, size, np.random.default_rng(0), center_crop=True)[0]


def _as_published_emu(image: Image.Image, size: int) -> torch.Tensor:
    return image_to_tensor(image.resize((size, size), BICUBIC))


def test_the_two_rules_differ(pipeline, image):
    size = pipeline.image_size
    assert not torch.equal(_as_stage2(image, size), _as_published_emu(image, size))


@pytest.mark.parametrize("way", ["encode", "edit", "session"])
def test_the_pipeline_resizes_as_stage_2(pipeline, image, encoded, way):
    if way == "encode":
        pipeline.encode([image])
    elif way == "edit":
        pipeline.edit(image, "a circle")
    else:
        EditSession(pipeline, image)
    assert torch.equal(encoded[0][0], _as_stage2(image, pipeline.image_size))


@pytest.mark.parametrize(
    ("resampling", "rule"), [(Image.Resampling.BILINEAR, _as_stage2), (BICUBIC, _as_published_emu)]
)
def test_test_sets_and_their_ceilings_are_resized_by_one_rule(
    pipeline, image, encoded, tmp_path, resampling, rule
):
    image.save(tmp_path / "source.png")
    run = EditRun(pipeline, EditFolders(tmp_path / "out", tmp_path), {}, {}, 0, resampling)
    job = KeyedEdit("a.png", tmp_path / "source.png", lambda: "a circle", None)
    run.make([[job]], {"a.png"}, 1, ONE_RANK)
    ceiling = [(tmp_path / "source.png", tmp_path / "ceiling.png")]
    write_ceiling(copy.deepcopy(pipeline), ceiling, 1, ONE_RANK, resampling=resampling)
    expected = rule(image, pipeline.image_size)
    assert len(encoded) == 2 and all(torch.equal(pixels[0], expected) for pixels in encoded)
    assert run.settings["source_resampling"] == resampling.name.lower()


@pytest.mark.parametrize(
    ("kind", "rule"), [(MagicBrushValidation, _as_stage2), (EmuValidation, _as_published_emu)]
)
def test_validation_resizes_as_the_samplers_do(pipeline, image, encoded, vq_ckpt, tmp_path, kind, rule):
    source = tmp_path / "source.png"
    image.save(source)

    class OneEdit(kind):
        sha256 = ""

        def __init__(self):
            pass

        def ids(self):
            return ["a"]

        def rounds(self, images, width, ids):
            return [[KeyedEdit("a.png", source, lambda: "a circle", None)]]

        def originals(self):
            return [(source, Path("a.png"))]

        def evaluate(self, folders, ceiling, scores, ranks):
            return {}

    words = [
        "--data-path",
        "d.jsonl",
        "--vq-ckpt",
        str(vq_ckpt),
        "--results-dir",
        str(tmp_path),
        "--mask_in_context",
    ]
    config = parse(EditingConfig, [*words, "--cfg-scale", "1"])
    Validation([OneEdit()], pipeline, config, ONE_RANK)(2)
    ceiling = np.asarray(Image.open(tmp_path / "validation" / f"{kind.prefix}ceiling" / "a.png"))
    expected = rule(image, pipeline.image_size)
    through = pipeline.decode(pipeline.encode([image], kind.resampling))[0].resize(image.size, BICUBIC)
    assert torch.equal(encoded[0][0], expected) and np.array_equal(ceiling, np.asarray(through))
