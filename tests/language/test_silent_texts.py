"""Texts of which cleaning leaves nothing: refused before sampling, warned of in training and preparation."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from conftest import run_program
from PIL import Image
from tiny_gpt import tiny

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from autoregressive.sample.drawing import read_prompts
from autoregressive.sample.drawing_captions import read_captions
from autoregressive.sample.edit_run import EditFolders, EditRun, KeyedEdit
from autoregressive.sample.file_edits import read_jobs
from autoregressive.sample.flags import SampleEditing, SampleScaled, SampleT2I
from autoregressive.sample.scaling_run import read_lines
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.train.config import T2IConfig
from autoregressive.train.inputs import Encoders, t2i_inputs
from dataset.batches import T2IBatch
from language.text_features import TextFeatures, load_text_features, says_nothing
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

SILENT = ["", "  ", "page 3", "\u628a\u732b\u53d8\u6210\u72d7", "photo.jpg", "\n"]
PLAIN = Sampling(cfg_scale=1.0)


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


@pytest.fixture
def warned() -> list[str]:
    lines = []
    keep = logging.Handler(logging.WARNING)
    keep.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("nep").addHandler(keep)
    yield lines
    logging.getLogger("nep").removeHandler(keep)


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))


@pytest.mark.parametrize("text", SILENT)
def test_the_pipeline_refuses_them(pipelines, text):
    edit, draw = pipelines["edit"].edit, pipelines["t2i"].draw
    session = EditSession(pipelines["edit"], image())
    calls = {
        0: [lambda: edit(image(), text), lambda: draw(text), lambda: session.edit(text)],
        1: [lambda: edit([image()] * 2, ["a cat", text]), lambda: draw(["a cat", text])],
    }
    for number, some in calls.items():
        for call in some:
            with pytest.raises(UserError, match=f"prompt {number}: say what you want to see"):
                call()
    assert not session.history
    with pytest.raises(UserError, match="task .*: say what you want to see"):
        TaskBatch(pipelines["t2i"], [Task("a cat"), Task(text)])


def test_no_text_at_all_can_be_asked_for(pipelines):
    for pipeline in pipelines.values():
        (nothing,) = pipeline.text_encoder.encode([""])
        assert says_nothing(nothing)
        if pipeline is pipelines["edit"]:
            assert len(pipeline.edit(image(), nothing, sampling=PLAIN)) == 1
        else:
            assert len(pipeline.draw([nothing, "a cat"], sampling=PLAIN)) == 2
        assert pipeline.encode_texts([""])[1].sum() == 1


@pytest.mark.parametrize("text", [text for text in SILENT if text.strip()])
def test_programs_name_line_and_text(tmp_path, text):
    image().save(tmp_path / "a.png")
    listing, table, words = tmp_path / "list.jsonl", tmp_path / "list.tsv", tmp_path / "prompts.txt"
    lines = [
        {"image": "a.png", "prompt": prompt, "output": f"{i}.png"} for i, prompt in enumerate(["x", text])
    ]
    listing.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    table.write_text(f"Prompt\na cat\n{text}\n")
    words.write_text(f"a cat\n\n{text}\n")
    calls = {
        "list.jsonl line 2": [
            lambda: read_jobs(SampleEditing(list=str(listing))),
            lambda: read_lines(SampleScaled(task_list=str(listing))),
        ],
        "list.tsv line 3": [lambda: read_captions(table)],
        "prompts.txt line 3": [lambda: read_prompts(SampleT2I(prompt_file=str(words)))],
        "--prompts": [
            lambda: read_lines(SampleScaled(prompts=["x", text])),
            lambda: read_prompts(SampleT2I(prompts=["x", text])),
        ],
    }
    for place, some in calls.items():
        for call in some:
            with pytest.raises(UserError, match=f"{place}.*: say what you want .*leaves nothing of '{text}'"):
                call()


def test_a_blank_caption_of_a_table_is_named(tmp_path):
    (tmp_path / "list.tsv").write_text("id\tPrompt\n1\ta cat\n2\t\n3\t \n")
    with pytest.raises(UserError, match="list.tsv line 3: say what you want to see: the text is empty"):
        read_captions(tmp_path / "list.tsv")


def test_a_test_set_is_edited_whole(pipelines, tmp_path, warned):
    image().save(tmp_path / "a.png")
    pipelines["edit"].text_encoder.tokenizer._num_emptied = 0
    jobs = [
        KeyedEdit(f"{i}.png", tmp_path / "a.png", lambda t=t: t, None) for i, t in enumerate(["x", "page 3"])
    ]
    folders = EditFolders(tmp_path / "images", tmp_path)
    run = EditRun(pipelines["edit"], folders, {}, {"sampling": PLAIN}, seed=0)
    with distributed("cpu") as ranks:
        assert run.make([jobs], {job.key for job in jobs}, 2, ranks)
    edits = json.loads(folders.samples_json.read_text())["edits"]
    assert len(edits) == 2 and all(edit["seconds"] > 0 for edit in edits.values())
    assert any("such as 'page 3', leave no words" in line for line in warned)


def features(num_tokens: int, value: float = 1.0) -> TextFeatures:
    return TextFeatures(torch.full((num_tokens, 8), value), torch.ones(num_tokens, dtype=torch.bool))


def test_training_counts_features_that_say_nothing(warned):
    flags = ["--data-path", "x", "--vq-ckpt", "x", "--gpt-model", "R-GPT-tiny"]
    inputs = t2i_inputs(tiny(), Encoders(None, None, 8, 8), parse(T2IConfig, flags), torch.device("cpu"))

    def train_on(*texts: TextFeatures) -> None:
        num = len(texts)
        origins = [f"list line {i}" for i in range(1, num + 1)]
        valid, codes = torch.ones(num, dtype=torch.bool), torch.zeros(num, 16, dtype=torch.int32)
        inputs(T2IBatch(list(texts), list(range(num)), origins, [None] * num, valid, codes), 0)

    train_on(features(2), features(1), features(1, 0.0))  # zeros: of an unusable sample
    (line,) = warned
    assert line.startswith("list line 2: ") and "empty text, 1 such sample" in line
    train_on(features(2), features(3))
    train_on(features(1), features(1), features(1))
    assert len(warned) == 2 and "4 such sample(s)" in warned[1]


def test_extraction_warns_too(shapes, t5_dir, tmp_path):
    listing = tmp_path / "list.jsonl"
    lines = [{"image_path": "a.png", "text": text} for text in ("a red circle", "page 3", "")]
    listing.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    flags = ["--data-path", listing, "--t5-model-path", t5_dir, "--precision", "none", "--device", "cpu"]
    done = run_program("language/extract_t5_feature.py", *flags)
    assert "2 text(s) so far, such as 'page 3', leave no words once cleaned" in done.stderr
    stored = [load_text_features(tmp_path / "t5_features" / "list" / f"{i}.npy", 16) for i in range(3)]
    assert [says_nothing(one) for one in stored] == [False, True, True]
