"""The paper's tables from the hub to the verdicts, each with tiny files and the real programs.

The steps run as programs of their own. So does what starts them, for one table; for the others it runs in
this process, which has PyTorch imported.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT
from hub_server import local_hub
from PIL import Image
from test_fid import write_inception
from tiny_networks import random_dino

from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from evaluations.report.leaderboard_page import read_paper
from runtime.config import parse
from scripts.paper.config import ReproducePaper
from scripts.paper.run import run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")]
TRAINING = (
    "--max-steps 2 --global-batch-size 4 --num-workers 0 --mixed-precision none --device cpu --no-epoch-save"
)
CAPTIONS = ["a red circle", "a blue star", "a green square at the top left"]


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)).save(path)


def write_coco(folder: Path) -> None:
    images = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg"} for i in range(3)]
    for number, image in enumerate(images):
        noise(folder / "val2014" / image["file_name"], number)
    captions = [{"image_id": i, "id": 10 + i, "caption": text} for i, text in enumerate(CAPTIONS)]
    (folder / "annotations").mkdir()
    content = json.dumps({"images": images, "annotations": captions})
    (folder / "annotations" / "captions_val2014.json").write_text(content)


def write_networks(put: Path) -> None:
    """What judges, with random weights: too large for the stand-in of the hub."""
    put.mkdir()
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-32-quickgelu")
    torch.save({name: tensor.half() for name, tensor in clip.state_dict().items()}, put / "ViT-B-32.pt")
    torch.save(random_dino().state_dict(), put / "dino_deitsmall16_pretrain.pth")
    write_inception(put / "inception-2015-12-05.pt")


def llamagen(path: Path) -> Path:
    """A raster-order model, as published: the file says nothing of its size."""
    config = dataclasses.replace(GPT_MODELS["GPT-tiny"], vocab_size=16, block_size=9, caption_dim=16)
    torch.manual_seed(0)
    torch.save({"model": Transformer(config).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def reproduce(shapes, vq_ckpt, t5_dir, gpt_ckpts, tmp_path_factory):
    """`reproduce(number, *flags)` makes a table, `program=True` in a process; all share their work folder."""
    root = tmp_path_factory.mktemp("paper")
    write_networks(root / "put")
    write_coco(root / "coco")
    (parquet,) = (shapes / "test_emu").rglob("*.parquet")
    files = {
        "peizesun/llamagen_t2i": {
            "vq_ds16_t2i.pt": vq_ckpt, "t2i_XL_stage1_256.pt": llamagen(root / "llamagen.pt")
        },
        "hmwhwm/NEP": {"RLlamaGen.pt": gpt_ckpts["t2i"]},
        "google/flan-t5-xl": {path.name: path for path in t5_dir.iterdir()},
        "facebook/emu_edit_test_set": {"data/test-00000-of-00001.parquet": parquet},
    }  # fmt: skip
    repos = {repo: {name: p.read_bytes() for name, p in named.items()} for repo, named in files.items()}
    flags = ["--work-dir", root / "work", "--pretrained", root / "put", "--coco", root / "coco"]
    flags += ["--magicbrush-path", shapes / "test", "--gpt-model", "R-GPT-tiny", "--image-size", "24"]
    flags += ["--sample-flags", "--cfg-scale 1 --device cpu", "--train-flags", TRAINING]
    hub = {"HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def make(number: str, *more: object, program: bool = False) -> dict:
        words = [number, *map(str, [*flags, *more])]
        if program:
            subprocess.run([sys.executable, "scripts/paper/reproduce_paper.py", *words], cwd=ROOT, check=True)
        else:
            run(parse(ReproducePaper, words))
        return json.loads((root / "work" / f"table{number}.json").read_text())

    with local_hub(repos) as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**hub, "HF_ENDPOINT": address, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        constants = "huggingface_hub.constants"  # read when it is imported
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(f"{constants}.ENDPOINT", address)
        patch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(f"{constants}.HF_HUB_CACHE", str(root / "hf" / "hub"))
        patch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        patch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
        yield make


FLAGS = {"7": ("--num-prompts", 3, "--reward", "likelihood")}


@pytest.mark.parametrize("number", ["5", "6", "4", "1", "2", "3", "7"])
def test_a_table_is_made_from_the_hub_to_its_verdicts(number, reproduce, shapes, gpt_ckpts, capfd):
    more = FLAGS.get(number, ())
    if number in "1234":
        more = ("--ultraedit", shapes / "train" / "editing.jsonl")
    if number == "4":
        more = ("--gpt-ckpt", gpt_ckpts["edit"])
    result = reproduce(number, *more, program=number == "5")
    said, log = capfd.readouterr()
    (table,) = (table for table in read_paper() if table.number == number)
    figures = result["figures"]
    unpublished = ("LlamaGen, fine-tuned", "RLlamaGen with test-time scaling")
    expected = {"1": 8, "2": 5, "3": 12, "4": 2, "5": 8, "6": 16, "7": 12}[number]
    measured = [figure for figure in figures if figure["method"] not in unpublished]
    assert len(measured) == expected and all(np.isfinite(figure["ours"]) for figure in measured)
    papers = {row.method: row.values for row in table.rows}
    for method in {figure["method"] for figure in figures}:
        assert tuple(f["paper"] for f in figures if f["method"] == method) == papers[method]
        assert method in said
    judged = ("not reproduced", "reproduced") if number == "4" else "nothing that could be judged"
    assert result["conclusion"].startswith(judged), log
    assert result["conclusion"] in said
    others = set() if number == "4" else {figure["method"] for figure in measured}  # of a few images
    assert result["measured_on_others"].keys() == others
    assert said.count("; the paper's figures are of its whole test set") == len(others)
    again = reproduce(number, *more)  # everything is there
    log = capfd.readouterr().err
    assert again == result and "done already" in log and "python " not in log and "downloading" not in log
