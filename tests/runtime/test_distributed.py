"""What a program says before its ranks meet, and of interpreters that it cannot run in."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from runtime.devices import num_cpu_ranks
from runtime.distributed import _warn_of_unknown_hosts, end_with_parent

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def hosts(monkeypatch):
    """Only localhost resolves; the machine calls itself nowhere.invalid."""

    def resolve(name, *_):
        if name != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "gethostname", lambda: "nowhere.invalid")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)


@pytest.mark.parametrize(
    ("master", "device", "interface", "named"),
    [
        ("localhost", CPU, None, ["nowhere.invalid"]),
        ("localhost", CPU, "lo", []),
        ("localhost", GPU, None, []),
        ("main.invalid", GPU, None, ["main.invalid"]),
        ("main.invalid", CPU, None, ["main.invalid", "nowhere.invalid"]),
    ],
)
def test_hosts_that_do_not_resolve_are_named_at_once(
    hosts, monkeypatch, caplog, master, device, interface, named
):
    monkeypatch.setenv("MASTER_ADDR", master)
    if interface:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", interface)
    with caplog.at_level(logging.WARNING):
        _warn_of_unknown_hosts(device)
    assert [record.args[0] for record in caplog.records] == named
    assert all("GLOO_SOCKET_IFNAME=lo" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("flag", "status"), [("-OO", 2), ("-O", 0)])
def test_docstrings_that_libraries_read_are_not_stripped(flag, status):
    code = "from runtime.errors import run_command; run_command(lambda: None)"
    done = subprocess.run([sys.executable, flag, "-c", code], capture_output=True, text=True)
    assert done.returncode == status
    assert ("python -OO" in done.stderr) == (status == 2)


def test_subnormal_numbers_count_as_zero_on_cpus_inside():
    """In all threads that compute, and afterwards as before."""
    code = (
        "import torch; from runtime.distributed import distributed; torch.set_num_threads(2)\n"
        "count = lambda: torch.full((1 << 20,), 1e-40).mul(1).count_nonzero().item()\n"
        "with distributed('cpu'):\n"
        "    inside = count()\n"
        "    with distributed('cpu'):\n"
        "        pass\n"
        "    again = count()\n"
        "single = lambda: torch.tensor(1e-40).mul(1).item() > 0\n"
        "print(inside, again, single())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["0", "0", "True"], done.stderr


AGENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)  # as torchrun does
child.wait()
"""
RANK = """
import os, time
from runtime.distributed import distributed
with distributed("cpu"):
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it")
@pytest.mark.parametrize("torchrun", [True, False])
def test_a_rank_ends_with_its_torchrun_and_another_process_lives_on(torchrun):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **({"TORCHELASTIC_RUN_ID": "none"} if torchrun else {})}
    command = [sys.executable, "-c", AGENT, RANK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as agent:
        rank = int(agent.stdout.readline())
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        deadline = time.monotonic() + (30 if torchrun else 1)
        while (there := _runs(rank)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if there:
            os.kill(rank, signal.SIGKILL)
    assert there != torchrun


def _runs(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it")
@pytest.mark.parametrize(("method", "ends"), [("fork", True), ("spawn", True), ("forkserver", False)])
def test_a_process_whose_parent_has_died_before_it_could_ask_ends(method, ends, monkeypatch):
    asked = SimpleNamespace(prctl=lambda *words: asked.words.append(words), words=[])
    monkeypatch.setattr("runtime.distributed.ctypes.CDLL", lambda name: asked)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda **_: method)
    monkeypatch.setattr(os, "_exit", sys.exit)
    end_with_parent()  # this process is no one's child
    for pid in (os.getppid(), os.getppid() + 1):
        monkeypatch.setattr(multiprocessing, "parent_process", lambda pid=pid: SimpleNamespace(pid=pid))
        if ends and pid != os.getppid():
            with pytest.raises(SystemExit):
                end_with_parent()
        else:
            end_with_parent()
    assert asked.words == [(1, signal.SIGKILL)] * 3


@pytest.mark.parametrize("cores, ranks", [(1, 1), (2, 2), (3, 2), (4, 4), (64, 4)])
def test_small_trainings_take_a_rank_a_core_in_a_number_that_divides_batches(monkeypatch, cores, ranks):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert num_cpu_ranks() == ranks
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert num_cpu_ranks() == 1
