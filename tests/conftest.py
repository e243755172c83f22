"""What many tests need: a tiny shapes set, a tiny tokenizer, a tiny T5. No network, no pretrained weights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import (
    IMAGE_SIZE,
    TINY_VQ,
    tiny_train_flags,
    write_shapes,
    write_t5,
    write_tokenizer,
    write_transformers,
)

from runtime.distributed import Distributed

__all__ = ["IMAGE_SIZE", "TINY_VQ"]
ROOT = Path(__file__).resolve().parent.parent
PROGRAM_SECONDS = 1500
"""What a program may take on a slow machine: less than a test, so that its words are shown."""


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="also the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: --run-slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """Reports hold valid text: a log line of a name that is not UTF-8 reaches no other process."""
    report = (yield).get_result()
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A shapes set: 24 training pairs, 7 held-out edits."""
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def vq_ckpt(tmp_path_factory) -> Path:
    """An untrained tokenizer of 16 codes, 8 pixels a cell."""
    return write_tokenizer(tmp_path_factory.mktemp("vq") / "vq.pt")


@pytest.fixture(scope="session")
def t5_dir(shapes, tmp_path_factory) -> Path:
    """A small T5 of width 16 that knows the shapes captions."""
    return write_t5(tmp_path_factory.mktemp("t5"), shapes)


@pytest.fixture(scope="session")
def gpt_ckpts(tmp_path_factory) -> dict[str, Path]:
    """An untrained text-to-image model and an untrained editor."""
    return write_transformers(tmp_path_factory.mktemp("gpt"))


@pytest.fixture(scope="session")
def train_flags(vq_ckpt, t5_dir) -> list[str]:
    """Flags of a tiny deterministic training; the data list and the results folder are the caller's."""
    return tiny_train_flags(vq_ckpt, t5_dir)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of this machine at which somebody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def run_within(seconds: float, words: Sequence[str], **options: Any) -> subprocess.CompletedProcess:
    """`subprocess.run` of text; after `seconds` the program ends with all that it started, and has failed."""
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    ) as program:
        try:
            told = program.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(program.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            told = program.communicate()
            raise AssertionError(f"still running after {seconds} s: {words}\n{told[0]}\n{told[1]}") from None
    return subprocess.CompletedProcess(words, program.returncode, *told)


def run_program(*words: object, ranks: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    """Runs a program of the project from its root, under torchrun for several ranks."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = run_within(
        PROGRAM_SECONDS,
        [*launcher, *map(str, words)],
        cwd=ROOT,
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
