"""What a rank holds of R-GPT-B in a training step, with whole weights and with a part of them.

    python -m tests.battery.sharded_memory

Two ranks, and four that share; AdamW, float32, two edits of 16 cells each. Held: this rank's weights,
gradients and averages of the optimizer, summed over its tensors; computed: 16 bytes a parameter, over the
ranks that share it. The peak is the process's, above what it had before the model, activations and all.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed.fsdp  # before the ranks are forked
from torch import Tensor

from autoregressive.models.gpt import build_gpt
from autoregressive.models.loss import SupervisedLoss
from autoregressive.sequence.builders import t2i_layout
from autoregressive.sequence.orders import random_orders
from autoregressive.train.config import T2IConfig
from autoregressive.train.steps import share
from runtime.config import parse
from runtime.distributed import Distributed
from runtime.errors import run_command
from runtime.optim import build_optimizer
from runtime.sharding.tensors import own_part
from runtime.training.dry_run import measure

MODEL, CELLS, SAMPLES, TEXT = "R-GPT-B", 16, 2, 32
RUNS = (("ddp", 2), ("fsdp", 2), ("fsdp", 4))
"""`--parallel` and the number of ranks; with ddp a rank holds as much on four."""
TOLERANCE = 0.15
_RETURNS_MEMORY = "MALLOC_MMAP_THRESHOLD_"  # of glibc: bytes from which memory goes back when it is freed
GB = 1e9


def bytes_of(tensors: list[Tensor]) -> int:
    """What this rank keeps of them."""
    return sum(part.numel() * part.element_size() for part in map(own_part, tensors))


def resident() -> int:
    """Bytes of memory that this process has now."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024


def hold(kind: str, ranks: Distributed) -> dict[str, float]:
    """Takes two steps; returns gigabytes by what they are for."""
    before = resident()
    torch.manual_seed(0)
    model = build_gpt(MODEL, block_size=CELLS, cls_token_num=TEXT)
    flags = ["--data-path", "x", "--vq-ckpt", "x", "--mixed-precision", "none", "--parallel", kind]
    network = share(SupervisedLoss(model), parse(T2IConfig, flags), ranks)
    optimizers = build_optimizer(model, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))
    codes = torch.randint(model.config.vocab_size, (SAMPLES, CELLS))
    orders = random_orders(list(range(SAMPLES)), CELLS)
    layout = t2i_layout(codes, orders, torch.ones(SAMPLES, TEXT, dtype=torch.bool))
    text = torch.randn(SAMPLES, TEXT, model.config.caption_dim)
    held: dict[str, float] = {"parameters": sum(p.numel() for p in model.parameters())}

    def step() -> None:
        network(layout, text).backward()
        weights = list(model.parameters())
        held["weights"] = bytes_of(weights)
        held["gradients"] = bytes_of([weight.grad for weight in weights])
        optimizers.clip(model, 1.0, torch.amp.GradScaler("cpu", enabled=False))
        optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
        optimizers.zero_grad()
        states = [entry for member in optimizers.members for entry in member.state.values()]
        held["averages"] = bytes_of([t for entry in states for t in entry.values() if t.dim() > 0])

    held["peak"] = measure(step, ranks, "a smaller model").memory - before
    return held


def run_rank(kind: str, rank: int, num_ranks: int, folder: Path) -> None:
    """A rank of its own: it writes what it held."""
    store = torch.distributed.FileStore(str(folder / f"store-{kind}-{num_ranks}"), num_ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks)
    held = hold(kind, Distributed(rank, num_ranks, rank, torch.device("cpu")))
    (folder / f"{kind}-{rank}.json").write_text(json.dumps(held))
    torch.distributed.destroy_process_group()


def main() -> None:
    if _RETURNS_MEMORY not in os.environ:  # else what is freed counts on: the allocator keeps it for later
        command = [sys.executable, "-m", "tests.battery.sharded_memory"]
        os.execve(sys.executable, command, {**os.environ, _RETURNS_MEMORY: str(2**20)})
    torch.set_num_threads(1)
    print(
        f"{'':<5}{'rank':>7}{'weights':>9}{'gradients':>11}{'averages':>10}{'sum':>7}{'computed':>10}{'peak':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind, num_ranks in RUNS:
            children = []
            for rank in range(num_ranks):
                child = os.fork()
                if child == 0:
                    status = 1
                    try:
                        run_rank(kind, rank, num_ranks, Path(folder))
                        status = 0
                    finally:
                        os._exit(status)
                children.append(child)
            assert not any(os.waitpid(child, 0)[1] for child in children), f"a rank with {kind} failed"
            for rank in range(num_ranks):
                report(kind, rank, num_ranks, json.loads((Path(folder) / f"{kind}-{rank}.json").read_text()))


def report(kind: str, rank: int, num_ranks: int, held: dict[str, float]) -> None:
    """Prints a row.

    Raises:
      AssertionError: the rank held more, or less, than what is computed.
    """
    parts = [held[name] for name in ("weights", "gradients", "averages")]
    computed = 16 * held["parameters"] / (1 if kind == "ddp" else num_ranks)
    columns = [f"{value / GB:.3f}" for value in (*parts, sum(parts), computed, held["peak"])]
    widths = (9, 11, 10, 7, 10, 7)
    print(
        f"{kind:<5}{f'{rank} of {num_ranks}':>7}"
        + "".join(c.rjust(w) for c, w in zip(columns, widths, strict=True))
    )
    assert abs(sum(parts) / computed - 1) < TOLERANCE, f"{kind}, rank {rank}: not as computed"


if __name__ == "__main__":
    run_command(main)
