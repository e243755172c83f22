"""Flags of the sampling programs: which change the results, which contradict each other or the files."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, ROOT
from pictures import picture
from PIL import Image

from autoregressive.sample.drawing import draw_jobs
from autoregressive.sample.drawing_captions import folder_of
from autoregressive.sample.file_edits import edit_files, read_jobs
from autoregressive.sample.flags import (
    NOT_SETTINGS,
    EditSampleConfig,
    SampleConfig,
    SampleEditing,
    SampleEmuEdit,
    SampleJudged,
    SampleMagicBrush,
    SampleScaled,
    SampleT2I,
    SampleT2IDDP,
)
from autoregressive.sample.loading import load_pipeline
from autoregressive.sample.scaling_run import read_lines
from autoregressive.sequence.order_kinds import ORDER_KINDS
from runtime.errors import UserError

PROGRAMS = [
    SampleEditing,
    SampleMagicBrush,
    SampleEmuEdit,
    SampleJudged,
    SampleT2I,
    SampleT2IDDP,
    SampleScaled,
]


@pytest.fixture
def models(vq_ckpt, gpt_ckpts, t5_dir) -> dict[str, str]:
    return {"vq_ckpt": str(vq_ckpt), "gpt_ckpt": str(gpt_ckpts["edit"]), "t5_path": str(t5_dir)}


@pytest.mark.parametrize(
    ("program", "changes"),
    [
        (SampleMagicBrush, {"write_ceiling": True, "turns": "single", "allow_outside_root": True}),
        (SampleMagicBrush, {"magicbrush_path": "elsewhere", "output_dir": "o", "device": "cpu"}),
        (SampleEmuEdit, {"write_ceiling": True, "emu_path": "elsewhere", "valid_list": "list.json"}),
        (SampleT2IDDP, {"num_fid_samples": 5, "sample_dir": "s", "batch_size": 3, "codebook_size": 16}),
    ],
)
def test_what_changes_no_result_is_no_setting(models, program, changes, monkeypatch):
    before = program(**models).settings(None)
    monkeypatch.chdir("/")
    relative = {name: os.path.relpath(path) for name, path in models.items()}
    assert program(**{**relative, **changes}).settings(None) == before
    for name, value in {"seed": 1, "precision": "bf16", "top_k": 5, "cfg_scale": 2.0}.items():
        if before[name] != value:
            assert program(**{**models, name: value}).settings(None) != before, name


def test_both_names_of_the_random_order_are_one_setting(models):
    plain, named, published = (
        SampleMagicBrush(**models, **order) for order in ({}, {"order": "random"}, {"random_order": True})
    )
    assert named.settings(None) == published.settings(None) != plain.settings(None)
    assert named.edit_options() == published.edit_options()
    assert {SampleMagicBrush(order=kind).edit_options()["order"] for kind in ORDER_KINDS} == set(ORDER_KINDS)
    with pytest.raises(UserError, match="order 'columns' and random_order contradict"):
        SampleMagicBrush(order="columns", random_order=True)


def test_drawings_of_each_order_lie_in_a_folder_of_their_own(models):
    folders = {
        folder_of(SampleT2IDDP(**models, prompt_csv="list.csv", order=kind), "R-GPT-tiny", 24)
        for kind in ORDER_KINDS
    }
    assert len(folders) == len(ORDER_KINDS)


def test_a_raster_model_draws_in_raster_order_only(models):
    raster = SimpleNamespace(transformer=SimpleNamespace(config=SimpleNamespace(any_order=False)))
    for kind in set(ORDER_KINDS) - {"raster"}:
        with pytest.raises(UserError, match=f"--order {kind}: .* holds a raster-order GPT model"):
            draw_jobs(raster, [], SampleT2I(**models, order=kind), None)


def test_no_setting_is_a_flag_of_some_program():
    known = {field.name for program in PROGRAMS for field in dataclasses.fields(program)}
    assert set(NOT_SETTINGS) <= known and len(set(NOT_SETTINGS)) == len(NOT_SETTINGS)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_an_image(program, batch_size):
    with pytest.raises(UserError, match=f"--batch-size {batch_size}: must be at least 1"):
        program(batch_size=batch_size)


@pytest.mark.parametrize("kind", [SampleConfig, EditSampleConfig, SampleT2I])
def test_another_image_size_than_the_files_is_refused(models, kind):
    with pytest.raises(UserError, match=r"--image-size 512 contradicts .*edit.*, which has 24"):
        load_pipeline(kind(**models, image_size=512), torch.device("cpu"))
    assert load_pipeline(kind(**models, image_size=24), torch.device("cpu")).image_size == IMAGE_SIZE


@pytest.mark.parametrize("flag", ["image", "mask", "prompt", "output", "comparison", "save_crop"])
def test_a_list_stands_alone(flag):
    with pytest.raises(UserError, match=f"--list edits.jsonl says .*leave out --{flag.replace('_', '-')}$"):
        SampleEditing(list="edits.jsonl", **{flag: "auto"})
    SampleEditing(list="edits.jsonl", auto_mask=True, seed=3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output": "m.png"}, "--output m.png would be written over --mask"),
        ({"output": "o.png", "comparison": "./o.png"}, "--comparison ./o.png would be .* over --output"),
        (
            {"output": "o.png", "comparison": "c.png", "save_crop": "c.png"},
            "--save-crop c.png .*--comparison",
        ),
        ({"output": "in.png", "save_crop": "in.png"}, "--save-crop in.png would be written over --output"),
        ({"save_crop": "in.png"}, "--save-crop in.png would be written over the picture"),
    ],
)
def test_no_picture_is_written_over_another(flags, message):
    with pytest.raises(UserError, match=message):
        SampleEditing(image="in.png", mask="m.png", prompt="red", **flags)
    SampleEditing(image="in.png", mask="m.png", prompt="red", output="in.png", comparison="c.png")


@pytest.mark.parametrize("role", ["image", "mask"])
def test_no_line_of_a_list_writes_what_another_reads(tmp_path, role):
    """Which of the two came first would hang on the batch."""
    for name in ("a.png", "b.png"):
        picture().save(tmp_path / name)
    lines = [
        {"image": "a.png", "prompt": "red", "output": "b.png"},
        {"image": "a.png", "mask": "a.png", "prompt": "red", "output": "c.png", role: "b.png"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = SampleEditing(list=str(tmp_path / "list.jsonl"))
    with pytest.raises(UserError, match="line 2: reads .*b.png, which is the output of .*line 1"):
        read_jobs(config)
    (tmp_path / "list.jsonl").write_text(json.dumps(lines[0] | {"image": "b.png"}))
    assert len(read_jobs(config)) == 1


@pytest.mark.parametrize("folder", ["source", "edited"])
def test_results_of_own_pairs_replace_none_of_them(tmp_path, folder):
    for role in ("source", "edited"):
        (tmp_path / role).mkdir()
        picture().save(tmp_path / role / "cat.png")
    (tmp_path / "prompts.csv").write_text("name,prompt\ncat,make it red\n")
    config = SampleEditing(data=str(tmp_path), output_dir=str(tmp_path / folder))
    with pytest.raises(UserError, match="--output-dir: .*cat.png is a picture of --data"):
        read_jobs(config)


def test_an_empty_mask_of_a_list_is_named(tmp_path):
    picture().save(tmp_path / "in.png")
    Image.fromarray(np.zeros(picture().size[::-1], np.uint8)).save(tmp_path / "empty.png")
    lines = [
        {"image": "in.png", "prompt": "red", "output": f"{i}.png", "mask": mask}
        for i, mask in enumerate((None, "empty.png"))
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = SampleEditing(list=str(tmp_path / "list.jsonl"))
    with pytest.raises(UserError, match="empty.png: marks no pixel to edit"):
        edit_files(None, read_jobs(config), config, [0, 1])
    (_, line) = read_lines(SampleScaled(task_list=config.list))
    with pytest.raises(UserError, match="empty.png: marks no pixel to edit"):
        line.load(0)


def test_the_coco_script_scores_what_it_drew(tmp_path):
    """With programs that only note their words: the sampler says which folder it wrote."""
    for name in ("a drawn", "z of another model"):
        (tmp_path / "results" / name / "images").mkdir(parents=True)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    torchrun = f"""#!/usr/bin/env bash
printf '%s\\n' "$@" > "{tmp_path}/$(basename "$2").words"
case "$2" in *sample_t2i_ddp.py) echo NCCL version; echo "{tmp_path}/results/a drawn";; esac
"""
    for name, text in (("torchrun", torchrun), ("python", "#!/bin/sh\n")):
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    env = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "CKPT": "t2i.pt"}
    script = ["bash", ROOT / "scripts" / "evaluate_coco.sh", "--seed", "3"]
    subprocess.run(script, env=env | {"RESULTS": str(tmp_path / "results")}, check=True)
    words = (tmp_path / "evaluation.py.words").read_text().splitlines()
    assert words[words.index("--fake_dir") + 1] == f"{tmp_path}/results/a drawn"
    drawn_with = (tmp_path / "sample_t2i_ddp.py.words").read_text()
    assert drawn_with.endswith("--seed\n3\n")
    assert "--gpt-model" not in drawn_with  # a name that nobody gave would contradict files that hold theirs
    named = env | {"RESULTS": str(tmp_path / "results"), "MODEL": "GPT-L"}
    subprocess.run(script, env=named, check=True)
    assert "--gpt-model\nGPT-L\n" in (tmp_path / "sample_t2i_ddp.py.words").read_text()
    del env["CKPT"]
    failed = subprocess.run(script, env=env, capture_output=True, text=True)
    assert failed.returncode and "name the text-to-image model" in failed.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_checkpoint_that_is_a_folder_is_known_by_its_content(models, program, tmp_path):
    folder = tmp_path / "0000001.dcp"
    folder.mkdir()
    digests = set()
    for content in ("weights", "other weights", "weights"):
        (folder / "__0_0.distcp").write_text(content)
        digests.add(program(**models | {"gpt_ckpt": str(folder)}).settings(None)["gpt_ckpt_sha256"])
    assert len(digests) == 2
