"""What a program says before its ranks meet, and of interpreters that it cannot run in."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys

import pytest
import torch

from runtime.distributed import _warn_of_unknown_hosts

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
