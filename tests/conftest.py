"""What many tests need: a tiny shapes set, a tiny tokenizer, a tiny T5. No network, no pretrained weights."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from autoregressive.models.gpt import GPT_MODELS, Transformer
from autoregressive.models.weights import model_args
from dataset.prepare_shapes import PrepareShapesConfig, prepare_shapes
from language.small_t5 import make_small_t5, read_captions
from runtime.checkpoint import save_checkpoint
from runtime.distributed import Distributed
from tokenizer.tokenizer_image.vq_model import build_vq_model

ROOT = Path(__file__).resolve().parent.parent
IMAGE_SIZE = 24  # 3x3 cells of 8 pixels
TINY_VQ = {"codebook_size": 16, "width": 8, "z_channels": 8, "norm_groups": 2, "num_res_blocks": 1}


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="also the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: --run-slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A shapes set: 24 training pairs, 7 held-out edits."""
    folder = tmp_path_factory.mktemp("shapes")
    config = PrepareShapesConfig(
        output_dir=str(folder), num_train=24, num_test=7, num_emu=2, image_size=IMAGE_SIZE, num_workers=1
    )
    prepare_shapes(config)
    return folder


@pytest.fixture(scope="session")
def vq_ckpt(tmp_path_factory) -> Path:
    """An untrained tokenizer of 16 codes, 8 pixels a cell."""
    torch.manual_seed(0)
    model = build_vq_model("VQ-8-small", **TINY_VQ)
    path = tmp_path_factory.mktemp("vq") / "vq.pt"
    args = {"vq_model": "VQ-8-small", "vq_config": dataclasses.asdict(model.config)}
    save_checkpoint(path, {"model": model.state_dict(), "args": args})
    return path


@pytest.fixture(scope="session")
def t5_dir(shapes, tmp_path_factory) -> Path:
    """A small T5 of width 16 that knows the shapes captions."""
    folder = tmp_path_factory.mktemp("t5")
    make_small_t5(read_captions([shapes / "train" / "t2i.jsonl"]), folder, 16)
    return folder


@pytest.fixture(scope="session")
def gpt_ckpts(tmp_path_factory) -> dict[str, Path]:
    """An untrained text-to-image model and an untrained editor."""
    folder, paths = tmp_path_factory.mktemp("gpt"), {}
    for name, marks in (("t2i", False), ("edit", True)):
        torch.manual_seed(0)
        config = dataclasses.replace(
            GPT_MODELS["R-GPT-tiny"], vocab_size=16, block_size=9, caption_dim=16, mask_in_context=marks
        )
        model = Transformer(config)
        torch.nn.init.normal_(model.output.weight)
        paths[name] = folder / f"{name}.pt"
        save_checkpoint(paths[name], {"model": model.state_dict(), "args": model_args("R-GPT-tiny", config)})
    return paths


@pytest.fixture(scope="session")
def train_flags(vq_ckpt, t5_dir) -> list[str]:
    """Flags of a tiny deterministic training; the data list and the results folder are the caller's."""
    return [
        "--vq-ckpt", str(vq_ckpt), "--t5-path", str(t5_dir), "--gpt-model", "R-GPT-tiny",
        "--image-size", str(IMAGE_SIZE), "--global-batch-size", "4", "--num-workers", "0",
        "--mixed-precision", "none", "--dropout-p", "0", "--token-dropout-p", "0", "--epochs", "100",
        "--no-epoch-save", "--device", "cpu", "--log-every", "1", "--lr", "1e-3",
    ]  # fmt: skip


def run_program(*words: object, ranks: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    """Runs a program of the project from its root, under torchrun for several ranks."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run(
        [*launcher, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if check and done.returncode:
        raise AssertionError(f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def read_metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class _Threads(Distributed):
    """One of several ranks that are threads of this process."""

    shared: dict = {}

    def gather_objects(self, value):
        self.shared[self.rank] = value
        self.shared["barrier"].wait()
        values = [self.shared[rank] for rank in range(self.world_size)]
        self.shared["barrier"].wait()
        return values

    def all_reduce_sum(self, tensor):
        return torch.stack(self.gather_objects(tensor)).sum(dim=0)


def run_threads(num_ranks: int, work: Callable[[Distributed], Any]) -> list:
    """What `work` returns on each of several ranks, which are threads of this process."""
    _Threads.shared["barrier"] = threading.Barrier(num_ranks, timeout=60)
    with ThreadPoolExecutor(num_ranks) as pool:
        ranks = [_Threads(rank, num_ranks, rank, torch.device("cpu")) for rank in range(num_ranks)]
        return list(pool.map(work, ranks))
