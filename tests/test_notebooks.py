"""The notebooks run from top to bottom: with the shipped models where these are, else with untrained ones."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_VQ

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.model_folders import Defaults
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from dataset.shapes.flags import PrepareShapesConfig
from dataset.shapes.prepare import prepare_shapes
from language.small_encoder import make_small_t5, read_captions
from language.t5 import T5Encoder
from tokenizer.tokenizer_image.vq_model import build_vq_model

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHIPPED = ROOT / "pretrained_models" / "shapes"


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with an editor and a text-to-image model."""
    if (SHIPPED / "config.json").exists():
        return SHIPPED
    folder = tmp_path_factory.mktemp("models")
    data = folder / "data"
    prepare_shapes(
        PrepareShapesConfig(str(data), num_train=60, num_test=1, image_size=24, setting="hard", num_workers=1)
    )
    make_small_t5(read_captions((data / "train").glob("*.jsonl")), folder / "words", 16)
    torch.manual_seed(0)
    tokenizer, encoder = build_vq_model("VQ-8-small", **TINY_VQ), T5Encoder(folder / "words")
    for name, marks in (("editing", True), ("t2i", False)):
        config = dataclasses.replace(
            GPT_MODELS["R-GPT-mini"], vocab_size=16, block_size=9, caption_dim=16, mask_in_context=marks
        )
        pipeline = EditingPipeline(tokenizer.eval(), Transformer(config).eval(), encoder)
        pipeline.defaults = Defaults(Sampling(cfg_scale=1), "exact")
        pipeline.save_pretrained(folder, name)
    return folder


def test_there_are_notebooks():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "path",
    # The last one trains, for minutes.
    [pytest.param(path, marks=[pytest.mark.slow] * path.name.startswith("4")) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_and_shows_pictures(path, models, monkeypatch, tmp_path):
    monkeypatch.setenv("SHAPES_MODELS", str(models))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    if path.stem.startswith("4"):
        shorten_training(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()  # a cell that fails raises an error with its traceback
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not complaints, complaints
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    if path.stem == "1_tour":
        printed = "".join(output.get("text", "") for output in outputs)
        assert printed.count(", 0 pixels changed outside") == 4
        assert "after 4 turns 0 untouched pixels differ" in printed


def shorten_training(notebook) -> None:
    """Trains for 6 steps in the place of 60."""
    (cell,) = (cell for cell in notebook.cells if "STEPS = 60 " in cell.source)
    cell.source = cell.source.replace("STEPS = 60 ", "STEPS = 6 ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert str(ROOT) not in text and "/tmp/" not in text and str(Path.home()) + "/" not in text
