"""LlamaGen's text-to-image jobs: training GPT-* models from its checkpoints, sampling, lists of captions."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, read_metrics, run_program
from PIL import Image

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.config import GPT_MODELS
from autoregressive.models.gpt import Transformer
from autoregressive.sample import sample_t2i
from autoregressive.sample.drawing import PROMPTS
from autoregressive.sample.drawing_captions import read_captions, sample
from autoregressive.sample.flags import SampleT2IDDP
from autoregressive.train.config import T2IConfig
from autoregressive.train.stages import train_t2i
from runtime.checkpoint import load_checkpoint
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

PROGRAM = "autoregressive/sample/sample_t2i_ddp.py"
# All of a published GPT-*@256 file (tests/reference holds the shapes of the whole family).
PUBLISHED_NAMES = """cls_embedding.uncond_embedding cls_embedding.cap_proj.fc1.weight
 cls_embedding.cap_proj.fc2.weight tok_embeddings.weight norm.weight output.weight
 layers.*.attention.wqkv.weight layers.*.attention.wo.weight layers.*.feed_forward.w1.weight
 layers.*.feed_forward.w2.weight layers.*.feed_forward.w3.weight layers.*.attention_norm.weight
 layers.*.ffn_norm.weight""".split()
CAPTIONS = [
    "a red circle",
    'a blue star\nwith "quotes"',
    "a white ring",
    "a green square",
    "x",
    "a red circle",
]


@pytest.fixture(scope="module")
def llamagen(tmp_path_factory):
    """A tiny file as LlamaGen's training writes it: raster model, AdamW's state, a Namespace."""
    torch.manual_seed(0)
    config = replace(GPT_MODELS["GPT-tiny"], vocab_size=16, block_size=9, caption_dim=16)
    model = Transformer(config)
    torch.nn.init.normal_(model.output.weight, std=0.5)
    assert {re.sub(r"\.\d+\.", ".*.", name) for name in model.state_dict()} == set(PUBLISHED_NAMES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    args = argparse.Namespace(
        gpt_model="GPT-tiny", gpt_type="t2i", vq_model="VQ-8", image_size=24, cloud_save_path="/cloud",
        codebook_size=16, vocab_size=16, cls_token_num=120, dataset="t2i", distributed=True, dist_url="env://",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("llamagen") / "t2i_tiny.pt"
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": 300, "args": args}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def captions_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("captions") / "COCO_captions.v2.csv"
    quoted = ['"' + caption.replace('"', '""') + '"' for caption in CAPTIONS]
    path.write_text("id\tPrompt\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(quoted)))
    return path


@pytest.fixture
def flags(llamagen, vq_ckpt, t5_dir, captions_csv, tmp_path):
    return [
        *("--prompt-csv", captions_csv, "--vq-ckpt", vq_ckpt, "--gpt-ckpt", llamagen, "--t5-path", t5_dir),
        *("--precision", "none", "--device", "cpu", "--cfg-scale", 2, "--sample-dir", tmp_path / "samples"),
    ]


def draw(flags, *more: object):
    """Runs in this process; returns the folder."""
    config = parse(SampleT2IDDP, [str(word) for word in (*flags, *more)])
    with distributed("cpu") as ranks:
        return sample(config, ranks)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def run_training(flags, results) -> dict:
    with distributed("cpu") as ranks:
        train_t2i(parse(T2IConfig, [*map(str, flags), "--results-dir", str(results)]), ranks)
    return load_checkpoint(max((results / "checkpoints").glob("*.pt")))


def test_gpt_models_train_from_llamagen_files(llamagen, shapes, train_flags, tmp_path):
    flags = [*train_flags, "--data-path", shapes / "train" / "t2i.jsonl", "--init-gpt-ckpt", llamagen]
    flags += ["--gpt-model", "GPT-tiny", "--vocab-size", 16, "--gpt-type", "t2i", "--max-steps"]
    theirs = load_checkpoint(llamagen)["model"]
    still = run_training([*flags, 1, "--lr", 0], tmp_path / "still")["model"]
    assert still.keys() == theirs.keys() and all(torch.equal(still[n], theirs[n]) for n in theirs)
    run_training([*flags, 30, "--lr", 0.01], tmp_path / "moving")
    losses = [line["loss"] for line in read_metrics(tmp_path / "moving")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    renamed = [f if f != "GPT-tiny" else "R-GPT-tiny" for f in flags]
    any_order = run_training([*renamed, 1, "--lr", 0], tmp_path / "any")["model"]
    assert any_order.keys() - theirs.keys() == {"target_aware_pos_embed_postfix"}


def test_llamagens_folder_trains_under_its_published_name(shapes, train_flags, tmp_path):
    """`--dataset t2i`: a folder of jsonl files and features beside it."""
    flags = [*train_flags, "--gpt-model", "GPT-tiny", "--dataset", "t2i", "--max-steps", "1"]
    at = flags.index("--t5-path")
    flags[at : at + 2] = ["--t5-feature-dim", "16", "--t5-feat-path", str(tmp_path / "features")]
    (tmp_path / "lists").mkdir()
    (tmp_path / "features" / "part").mkdir(parents=True)
    names = [json.loads(line)["image_path"] for line in (shapes / "train" / "t2i.jsonl").open()][:4]
    lines = [json.dumps({"image_path": str(shapes / "train" / name), "text": ["x"]}) for name in names]
    (tmp_path / "lists" / "part.jsonl").write_text("\n".join(lines))
    for i in range(4):
        np.save(tmp_path / "features" / "part" / f"{i}.npy", np.ones((1, 3, 16), np.float32))
    flags += ["--data-path", tmp_path / "lists", "--allow-outside-root"]
    assert run_training(flags, tmp_path / "run")["steps"] == 1


def test_one_image_a_prompt_from_llamagen_files(llamagen, vq_ckpt, t5_dir, tmp_path, monkeypatch):
    flags = ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", llamagen, "--t5-path", t5_dir, "--device", "cpu"]
    flags += ["--gpt-model", "GPT-tiny", "--image-size", IMAGE_SIZE, "--output-dir", tmp_path]
    monkeypatch.setattr(sys, "argv", ["sample_t2i", *map(str, flags), "--prompts", "a red circle", "a star"])
    sample_t2i.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.png", "0001.png", "config.yaml"]
    assert Image.open(tmp_path / "0000.png").size == (IMAGE_SIZE, IMAGE_SIZE)
    del sys.argv[-3:]
    sys.argv += "--gpt-type t2i --codebook-size 16 --cls-token-num 120 --no-left-padding".split()
    sample_t2i.main()
    assert len(list(tmp_path.glob("*.png"))) == len(PROMPTS)
    sys.argv += ["--order", "random"]
    with pytest.raises(UserError, match="raster-order GPT model"):
        sample_t2i.main()


def test_a_file_that_knows_its_size_needs_no_image_size(flags, gpt_ckpts):
    flags = [gpt_ckpts["t2i"] if word == flags[flags.index("--gpt-ckpt") + 1] else word for word in flags]
    assert len(contents(draw(flags, "--num-fid-samples", 1))) == 1


def test_a_list_of_captions_becomes_the_published_files(flags, tmp_path):
    folder = draw(flags, "--top-k", 5, "--global-seed", 3, "--per-proc-batch-size", 4)
    name = "GPT-tiny-t2i_tiny-coco_captions-size-24-size-24-VQ-16-topk-5-topp-1.0-temperature-1.0-cfg-2.0"
    assert folder == tmp_path / "samples" / f"{name}-seed-3"
    images = contents(folder)
    assert list(images) == [f"{i:06d}.png" for i in range(6)]
    assert images["000000.png"] != images["000005.png"]  # the same caption, another draw
    lines = (folder / "captions.txt").read_text().split("\n")
    assert lines == [
        "a red circle",
        'a blue star with "quotes"',
        "a white ring",
        "a green square",
        "x",
        "a red circle",
        "",
    ]
    items = [json.loads(line) for line in (folder / "result.jsonl").read_text().splitlines()]
    assert [item["text"] for item in items] == CAPTIONS
    assert items[4]["image_path"] == str(folder / "images" / "000004.png")


def test_ranks_and_batches_change_nothing_and_the_published_command_runs(flags, tmp_path):
    one = contents(draw(flags, "--batch-size", 4))
    published = """--t5-model-type t5 --t5-feature-max-len 120 --t5-feature-dim 16 --no-left-padding
     --gpt-model GPT-tiny --gpt-type t2i --cls-token-num 120 --compile --vq-model VQ-16 --codebook-size 16
     --codebook-embed-dim 8 --image-size 24 --downsample-size 8 --num-classes 1000 --per-proc-batch-size 2
     --num-fid-samples 30000 --global-seed 0 --top-k 1000 --temperature 1.0 --top-p 1.0""".split()
    done = run_program(PROGRAM, *flags, *published, "--sample_dir", tmp_path / "two", ranks=2)
    (folder,) = (tmp_path / "two").iterdir()
    assert contents(folder) == one and "--no-left-padding has no effect" in done.stderr
    assert done.stdout == f"{folder}\n"
    assert len((folder / "captions.txt").read_text().splitlines()) == 6


def test_a_stopped_run_goes_on_and_more_captions_can_follow(flags):
    folder = draw(flags, "--num-fid-samples", 5)
    before = contents(folder)
    stamp = (folder / "images" / "000003.png").stat().st_mtime_ns
    (folder / "images" / "000001.png").unlink()
    (folder / "images" / "000002.png").write_bytes(before["000002.png"][:60])
    assert draw(flags, "--num-fid-samples", 6, "--batch-size", 1) == folder
    after = contents(folder)
    assert len(after) == 6 and all(after[name] == before[name] for name in before)
    assert (folder / "images" / "000003.png").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="holds 6 images, more than the 5"):
        draw(flags, "--num-fid-samples", 5)
    assert len((folder / "captions.txt").read_text().splitlines()) == 6


def test_images_of_other_settings_are_not_reused(flags, llamagen, captions_csv, tmp_path, capfd):
    folder = draw(flags, "--num-fid-samples", 3)
    before = contents(folder)
    (tmp_path / "new").mkdir()
    content = load_checkpoint(llamagen)
    content["model"]["output.weight"] *= -1
    torch.save(content, tmp_path / "new" / llamagen.name)
    flags = [*flags, "--gpt-ckpt", tmp_path / "new" / llamagen.name]
    assert draw(flags, "--num-fid-samples", 2) == folder
    assert "other gpt_ckpt_sha256; images are made anew" in capfd.readouterr().err
    after = contents(folder)
    assert len(after) == 2 and all(after[name] != before[name] for name in after)
    changed = tmp_path / "new" / captions_csv.name
    changed.write_text(captions_csv.read_text().replace("blue", "red"))
    draw(flags, "--num-fid-samples", 2, "--prompt-csv", changed)
    assert "other captions_sha256; images are made anew" in capfd.readouterr().err
    (folder / "settings.json").unlink()
    with pytest.raises(UserError, match="unknown settings"):
        draw(flags)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--codebook-size", "99"], "--codebook-size 99 contradicts the tokenizer"),
        (["--downsample-size", "16"], "--downsample-size 16 contradicts"),
        (["--t5-feature-dim", "2048"], "--t5-feature-dim 2048 contradicts .*t2i_tiny.pt, which has 16"),
        (["--t5-feature-max-len", "300"], "the model has 120 slots"),
        (["--order", "random"], "raster-order GPT model"),
        (["--num-fid-samples", "0"], "--num-fid-samples 0: must be at least 1"),
    ],
)
def test_flags_that_contradict_the_files_are_named(flags, more, message):
    with pytest.raises(UserError, match=message):
        draw(flags, *more)


def test_a_file_that_knows_its_model_needs_no_name(flags, gpt_ckpts, vq_ckpt, tmp_path):
    """The published name and size are for files that do not say what they hold."""
    EditingPipeline.load(vq_ckpt, gpt_ckpts["t2i"], with_text_encoder=False).save_pretrained(tmp_path / "own")
    own = [*flags, "--num-fid-samples", "1", "--gpt-ckpt", tmp_path / "own" / "transformer.safetensors"]
    folder = draw(own)
    assert folder.name.startswith("R-GPT-tiny-transformer.safetensors-") and "-size-24-" in folder.name
    with pytest.raises(UserError, match="--gpt-model GPT-XL contradicts .*; give --gpt-model R-GPT-tiny"):
        draw(own, "--gpt-model", "GPT-XL")


def test_an_any_order_file_shows_its_size_itself(flags, gpt_ckpts, tmp_path):
    """Also where it names the raster model that it began as, and no size."""
    path = tmp_path / "nep.pt"
    weights = load_checkpoint(gpt_ckpts["t2i"])["model"]
    torch.save({"model": weights, "args": argparse.Namespace(gpt_model="GPT-tiny")}, path)
    more = ["--num-fid-samples", "1", "--gpt-ckpt", path, "--gpt-model", "R-GPT-tiny"]
    assert "-size-24-" in draw(flags, *more).name


def test_lists_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "list.csv"
    for content, message in (
        (b"text\nx\n", "no column Prompt, but text"),
        (b"", "no column Prompt, but nothing"),
        (b"Prompt\n", "no captions"),
        (b"id\tPrompt\n1\tx\n2\n", "line 3: no value"),
        (b"Prompt\n\xff\xfe\n", "not a tab-separated UTF-8 file"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_captions(path)
    with pytest.raises(UserError, match="absent.csv: cannot be read"):
        read_captions(tmp_path / "absent.csv")
    path.write_text("\ufeffPrompt\nNA\nit's, fine\n", encoding="utf-8")
    assert read_captions(path) == ["NA", "it's, fine"]


@pytest.mark.parametrize(
    ("rows", "prompts"),
    [
        (['"Open sign\tA', "a cat\tA", 'a dog" toy\tB', "a bird\tB"],
         ['"Open sign', "a cat", 'a dog" toy', "a bird"]),
        (['a 5" cake\tA', 'a 6" cake\tB'], ['a 5" cake', 'a 6" cake']),
        (["a cat\tA", '"the end\tB'], ["a cat", '"the end']),
        (['"a ""red"" cat"\tA', "a dog\tB"], ['a "red" cat', "a dog"]),  # as csv and pandas write marks
        (['"a" and "b"\t"A', 'a dog\t"B'], ['"a" and "b"', "a dog"]),
    ],
)  # fmt: skip
def test_quotation_marks_swallow_no_prompt(tmp_path, rows, prompts):
    path = tmp_path / "prompts.tsv"
    path.write_text("\n".join(["Prompt\tCategory", *rows]) + "\n")
    assert read_captions(path) == prompts


def test_marks_that_could_be_read_in_two_ways_are_refused(tmp_path):
    path = tmp_path / "prompts.tsv"
    path.write_text('Prompt\tCategory\na cat\tA\n"Open sign\tA\na cake of 5"\tB\n')
    with pytest.raises(UserError, match="prompts.tsv line 3: the quotation mark closes on a later line"):
        read_captions(path)
