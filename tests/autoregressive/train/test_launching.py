"""The examples for clusters: torchrun takes their flags, and the trainings take those of theirs."""

from __future__ import annotations

import os
import subprocess
from argparse import Namespace

import pytest
import yaml
from conftest import ROOT
from torch.distributed.run import get_args_parser

from autoregressive.train.config import EditingConfig, T2IConfig
from runtime.config import parse

CONFIGS = {
    "autoregressive/train/train_t2i.py": T2IConfig,
    "autoregressive/train/train_editing.py": EditingConfig,
}
SHARE_NO_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def launched(words: list[str]) -> tuple[Namespace, T2IConfig | EditingConfig]:
    """What `torchrun` and the training that it starts read of a command line."""
    assert words[0] == "torchrun"
    torchrun = get_args_parser().parse_args(words[1:])
    assert (ROOT / torchrun.training_script).is_file()
    return torchrun, parse(CONFIGS[torchrun.training_script], torchrun.training_script_args)


@pytest.mark.parametrize("checkpoint", ["file", "dcp"])
def test_slurm_starts_one_torchrun_a_node(checkpoint, tmp_path):
    """The batch script itself, with the two programs of SLURM that it calls in the place of SLURM's."""
    for name, line in {
        "scontrol": '[ "$1 $2 $3" = "show hostnames n[7-8]" ] && printf "n7\\nn8\\n"',
        "srun": f'printf "%s\\0" "${SHARE_NO_STORE}" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "n[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "4711",
           "SLURM_GPUS_ON_NODE": "4"}  # fmt: skip
    flags = ["--vq-ckpt", "v.pt", "--data-path", "d.jsonl", "--parallel", "fsdp", "--checkpoint", checkpoint]
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "slurm_train.sh", next(iter(CONFIGS)), *flags, "--auto-resume"],
        env={**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    shares_no_store, *words = done.stdout.rstrip("\0").split("\0")
    torchrun, config = launched(words)
    assert shares_no_store == "1"
    assert (torchrun.nnodes, torchrun.nproc_per_node, torchrun.max_restarts) == ("2", "4", 3)
    assert (torchrun.rdzv_backend, torchrun.rdzv_endpoint) == ("c10d", "n7:24711")
    assert config.auto_resume and config.checkpoint == checkpoint


def test_the_kubernetes_job_is_one_of_two_machines(tmp_path):
    service, job = yaml.safe_load_all((ROOT / "scripts" / "kubernetes_train.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name} and spec["completionMode"] == "Indexed"
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert {"name": SHARE_NO_STORE, "value": "1"} in container["env"]
    (tmp_path / "run.yaml").write_text("vq_ckpt: v.pt\ndata_path: [d.jsonl]\nmask_in_context: true\n")
    words = [word.replace("/disk/RUN.yaml", str(tmp_path / "run.yaml")) for word in container["command"]]
    torchrun, config = launched(words)
    assert torchrun.nnodes == str(spec["completions"]) == str(spec["parallelism"])
    assert torchrun.nproc_per_node == str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert torchrun.rdzv_endpoint.startswith(f"{name}-0.{pod['subdomain']}:") and torchrun.max_restarts > 0
    assert config.auto_resume and config.mask_in_context and config.results_dir.startswith("/disk/")


def test_the_documentation_names_both():
    text = (ROOT / "docs" / "training.md").read_text()
    assert "scripts/slurm_train.sh" in text and "scripts/kubernetes_train.yaml" in text
