"""The program: it starts, and stops without dropping anybody."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import openai
import pytest
from conftest import ROOT
from running_server import SCENE, WORDS, as_file

from integrations.server import run
from integrations.server.config import Serve
from runtime.errors import UserError

PROGRAM = [sys.executable, "integrations/server/serve.py"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NEP_API_KEY": "secret"}
SLOW_DRAWING = {"prompt": "a small green square", "n": 6, "extra_body": {"temperature": 50, "seed": 1}}


@pytest.fixture
def program():
    """Its process and a client, once it listens."""
    process = subprocess.Popen(
        [*PROGRAM, "--port", "0"], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (found := re.search(r"at (http://\S+/v1) ", line := process.stderr.readline())):
            assert line, "it ended"
        yield process, openai.OpenAI(base_url=found[1], api_key="secret", max_retries=0, timeout=100)
    finally:
        process.kill()
        process.communicate()


def test_sigterm_while_busy_answers_what_runs(program):
    process, client = program
    client.images.edit(image=as_file(SCENE), prompt=WORDS)
    answers, refused = [], None
    threads = [
        threading.Thread(target=lambda: answers.append(client.images.generate(**SLOW_DRAWING)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    health = str(client.base_url).replace("/v1/", "/health")
    while client.get(health, cast_to=dict)["open"] < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    while refused is None:
        try:
            client.images.generate(**SLOW_DRAWING)
        except openai.InternalServerError as error:
            refused = error
    for thread in threads:
        thread.join(100)
    assert refused.status_code == 503 and refused.code == "shutting_down"
    assert len(answers) == 3 and all(len(answer.data) == 6 for answer in answers)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and said.rstrip().endswith("stopped") and "Traceback" not in said


def test_a_taken_port_is_told_before_the_models_are_loaded(taken_port, monkeypatch):
    monkeypatch.setattr(run, "load_pipelines", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=f"^127.0.0.1:{taken_port} cannot be opened .*give another --host"):
        run.serve(Serve(port=taken_port))


def test_a_key_is_taken_from_the_environment(monkeypatch):
    monkeypatch.delenv("NEP_API_KEY", raising=False)
    assert Serve().api_key is None
    monkeypatch.setenv("NEP_API_KEY", "secret")
    assert Serve().api_key == "secret" and Serve(api_key="other").api_key == "other"
    monkeypatch.setenv("NEP_API_KEY", "secret\n")  # as mounted files end
    assert Serve().api_key == "secret"
    with pytest.raises(UserError, match=r"--api-key \(or NEP_API_KEY\) is empty"):
        Serve(api_key=" ")
