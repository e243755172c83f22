"""Packing of training data: equal to the images it is made of, resumable to the byte, never mixed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest
import torch
from conftest import IMAGE_SIZE, ROOT, read_metrics, run_program

from autoregressive.train.components import load_encoders
from autoregressive.train.config import EditingConfig
from autoregressive.train.packing.codes import extract as pack_t2i
from autoregressive.train.packing.config import ExtractCodesConfig, PackEditsConfig
from autoregressive.train.packing.edits import extract as pack_edits
from autoregressive.train.stages import train_editing
from dataset.build import build_dataset
from dataset.data_order import sample_seed
from dataset.packed.dataset import PackedEdits, open_packed
from dataset.packed.format import require_same, shard_path
from dataset.packed.writer import PackedWriter
from language.t5 import T5Encoder
from language.text_features import TextFeatures, save_text_features
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

EDITING = "autoregressive/train/extract_codes_editing.py"
CROP = 16  # of the 24 pixels of the shapes: 2x2 cells, random crops differ


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the shapes training set, for tests that spoil it."""
    return shutil.copytree(shapes / "train", tmp_path / "train")


@pytest.fixture
def flags(vq_ckpt, t5_dir, tmp_path):
    return ["--packed-path", tmp_path / "packed", "--vq-ckpt", vq_ckpt, "--t5-path", t5_dir,
            "--device", "cpu", "--num-workers", 0, "--rows-per-shard", 5, "--batch-size", 4]  # fmt: skip


def edit_flags(folder, flags, *more: object) -> list:
    return ["--data-path", folder / "editing.jsonl", "--image-size", IMAGE_SIZE, *flags, *more]


def run(config_class, extract, flags, *more: object) -> None:
    with distributed("cpu") as ranks:
        extract(parse(config_class, [str(word) for word in (*flags, *more)]), ranks)


def files(folder) -> dict[str, bytes]:
    """Names and contents, but for the lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != "lock"}  # fmt: skip


def assert_same_text(text: TextFeatures, expected: TextFeatures) -> None:
    """Batches of another length round elsewhere: one unit of bfloat16 at most."""
    assert text.embeddings.dtype == torch.float32 and text.valid.all()
    torch.testing.assert_close(text.embeddings, expected.embeddings, rtol=2**-7, atol=1e-6)
    assert torch.equal(text.embeddings, text.embeddings.bfloat16().float())


def test_edits_are_those_of_the_images_in_every_view(shapes, flags, tmp_path):
    words = edit_flags(shapes / "train", flags, "--image-size", CROP, "--views", 3, "--random-flip",
                       "--global-seed", 7, "--bad-sample-budget", 0.5, "--mask-jitter", 3)  # fmt: skip
    run(PackEditsConfig, pack_edits, words)
    config = parse(PackEditsConfig, list(map(str, words)))
    encoders = load_encoders(config, torch.device("cpu"))
    options = {"grid": 2, "random_flip": True, "mask_jitter": 3}
    images = build_dataset("editing_ultraedit", config.data_path, CROP, 16, **options)
    packed = PackedEdits(tmp_path / "packed")
    assert len(packed) == len(images) == 24 and len(packed.manifest.shards) == 5
    assert packed.settings.mask_jitter == 3
    lines = [json.loads(line) for line in (shapes / "train" / "editing.jsonl").read_text().splitlines()]
    num_problems = 0
    for i in range(24):
        for view in range(3):
            expected, sample = images[i, sample_seed(7, view, i)], packed[i, 30 + view]
            assert (sample.seed, sample.origin) == (30 + view, expected.origin)
            assert sample.problem == expected.problem and torch.equal(sample.edit_mask, expected.edit_mask)
            num_problems += sample.problem is not None
            if sample.problem is not None:  # the crop lost the region
                assert not sample.source.any() and not sample.edited.any()
                continue
            both = encoders.codes(torch.stack([expected.source, expected.edited])).int()
            assert torch.equal(sample.source, both[0]) and torch.equal(sample.edited, both[1])
            assert sample.source.dtype == torch.int32 and sample.edit_mask.dtype == torch.bool
            assert_same_text(sample.text, encoders.features([expected.text])[0])
        assert packed.strings(i) == {
            "caption": lines[i]["output_caption"], "instruction": lines[i]["edit_prompt"],
            "origin": expected.origin,
        }  # fmt: skip
    views = [{tuple(packed[i, seed].source.tolist()) for seed in range(3)} for i in range(24)]
    assert max(map(len, views)) > 1, "the views are all alike"
    assert num_problems == sum(shard.problems for shard in packed.manifest.shards)
    everything = PackedEdits(tmp_path / "packed", torch.bfloat16, full_mask=True)[0, 0]
    assert everything.edit_mask.all() and everything.text.embeddings.dtype == torch.bfloat16


def test_captioned_images_with_ready_made_features_are_the_same_to_the_bit(
    shapes, data, flags, t5_dir, tmp_path
):
    lines = [json.loads(line) for line in (data / "t2i.jsonl").read_text().splitlines()]
    encoder = T5Encoder(t5_dir)
    for i, line in enumerate(lines):
        features = encoder.encode([line["text"]])[0]
        rounded = TextFeatures(features.embeddings.bfloat16().float(), features.valid)
        save_text_features(data / f"{i}.npy", rounded)
        line["embedding_path"] = f"{i}.npy"
    del lines[0]["text"]
    (data / "t2i.jsonl").write_text("\n".join(map(json.dumps, lines)))
    at = flags.index("--t5-path")
    words = [*flags[:at], *flags[at + 2 :], "--t5-feature-dim", 16, "--data-path", data / "t2i.jsonl"]
    words += ["--image-size", IMAGE_SIZE]
    run(ExtractCodesConfig, pack_t2i, words)
    encoders = load_encoders(parse(ExtractCodesConfig, list(map(str, words))), torch.device("cpu"))
    images = build_dataset("t2i_cc12m", [data / "t2i.jsonl"], IMAGE_SIZE, 16)
    packed = open_packed("t2i", tmp_path / "packed")
    assert packed.settings.text_encoder is None and len(packed) == len(lines)
    for i in range(len(packed)):
        expected, sample = images[i, 3], packed[i, 3]
        assert torch.equal(sample.image, encoders.codes(expected.image[None])[0].int())
        assert torch.equal(sample.text.embeddings, expected.text.embeddings)
        assert (sample.origin, sample.problem, sample.seed) == (expected.origin, None, 3)
    assert packed.strings(0)["caption"] is None and packed.strings(1)["caption"] == lines[1]["text"]
    require_same(packed.manifest, packed.settings.tokenizer, "whatever encoder")


def test_training_from_packed_edits_is_training_from_the_images(data, flags, train_flags, t5_dir, tmp_path):
    """The first epoch sees the very crops and flips that were packed; the text is exact in bfloat16."""
    lines = [json.loads(line) for line in (data / "editing.jsonl").read_text().splitlines()]
    encoder = T5Encoder(t5_dir)
    for i, line in enumerate(lines):
        features = encoder.encode([line.pop("output_caption")])[0]
        save_text_features(data / f"{i}.npy", TextFeatures(features.embeddings.bfloat16(), features.valid))
        line["target_caption_t5_path"] = f"{i}.npy"
    (data / "editing.jsonl").write_text("\n".join(map(json.dumps, lines)))
    images = ["--image-size", CROP, "--random-flip", "--bad-sample-budget", 0.9]
    run(
        PackEditsConfig,
        pack_edits,
        edit_flags(data, flags, *images, "--packed-path", tmp_path / "packed_data"),
    )
    words = [*train_flags, "--image-size", CROP, "--mask_in_context", "--bad-sample-budget", 0.9]
    sources = {
        "images": ["--data-path", data / "editing.jsonl", "--random-flip"],
        "packed": ["--packed-data", tmp_path / "packed_data"],
    }
    with distributed("cpu") as ranks:
        for name, source in sources.items():
            more = [*source, "--max-steps", 6, "--results-dir", tmp_path / name]
            train_editing(parse(EditingConfig, [str(word) for word in (*words, *more)]), ranks)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("images", "packed")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and len(set(losses[0])) == 6


KILLED = """
import os, sys, time
from autoregressive.train.extract_codes_editing import main
replace, count = os.replace, 0
def slow(source, target):
    global count
    count += str(target).endswith(".arrow")
    if count == 3:
        time.sleep(600)
    replace(source, target)
os.replace = slow
main()
"""


def kill_halfway(flags, folder) -> None:
    """Starts packing, and kills it with the third shard written but not renamed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, flags)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (folder / "packed_preparation" / "000001.json").exists() or not list(
        folder.rglob(".*.arrow.*")
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_restarted_and_shared_runs_write_the_same_bytes(shapes, flags, tmp_path):
    words = edit_flags(shapes / "train", flags)
    run(PackEditsConfig, pack_edits, words)
    whole = files(tmp_path / "packed")
    assert len(whole) == 2 * 5 + 2 and "shards/000004.arrow" in whole
    words += ["--packed-path", tmp_path / "killed"]
    kill_halfway(words, tmp_path / "killed")
    with pytest.raises(UserError, match="killed: packing has not come to its end"):
        PackedEdits(tmp_path / "killed")
    first = shard_path(tmp_path / "killed", 0)
    stamp = first.stat().st_mtime_ns
    run_program(EDITING, *words, "--num-workers", 1, ranks=2)
    assert files(tmp_path / "killed") == whole and first.stat().st_mtime_ns == stamp


def test_equal_texts_of_a_shard_are_encoded_once(data, flags, tmp_path, monkeypatch):
    lines = [json.loads(line) for line in (data / "editing.jsonl").read_text().splitlines()[:7]]
    for i, line in enumerate(lines):
        line["output_caption"] = f"a {'red' if i % 2 else 'blue'} square"
    (data / "editing.jsonl").write_text("\n".join(map(json.dumps, lines)))
    encoded, encode = [], T5Encoder.encode
    monkeypatch.setattr(T5Encoder, "encode", lambda self, texts: encoded.append(texts) or encode(self, texts))
    run(PackEditsConfig, pack_edits, edit_flags(data, flags))
    assert encoded == [["a blue square", "a red square"], ["a red square", "a blue square"]]
    packed = PackedEdits(tmp_path / "packed")
    assert torch.equal(packed[1, 0].text.embeddings, packed[5, 0].text.embeddings)


def test_unusable_records_stay_in_place_named_and_counted_and_can_be_repaired(data, flags, tmp_path):
    lines = [json.loads(line) for line in (data / "editing.jsonl").read_text().splitlines()]
    broken = data / lines[6]["edited_image"]
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    lines[2]["mask_image"] = "NONE"
    del lines[12]["file_name"]
    (data / "editing.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = edit_flags(data, flags)
    with pytest.raises(UserError, match="2 of 24 items cannot be used.*unusable.txt"):
        run(PackEditsConfig, pack_edits, words)
    listing = (tmp_path / "packed" / "unusable.txt").read_text()
    assert broken.name in listing and "line 13: lacks the key 'file_name'" in listing
    with pytest.raises(UserError, match="not come to its end"):
        PackedEdits(tmp_path / "packed")
    run(PackEditsConfig, pack_edits, words, "--bad-sample-budget", 0.1)
    packed = PackedEdits(tmp_path / "packed")
    assert packed[2, 0].edit_mask.all() and not packed[3, 0].edit_mask.all()
    for row in (6, 12):
        sample = packed[row, 1]
        assert sample.problem in listing.split("\n") and not sample.edit_mask.any()
        assert sample.origin.endswith(f"line {row + 1}") and sample.text.embeddings.shape == (1, 16)
    assert [shard.problems for shard in packed.manifest.shards] == [0, 1, 1, 0, 0]
    stamps = [shard_path(tmp_path / "packed", k).stat().st_mtime_ns for k in range(5)]
    broken.write_bytes(whole)
    run(PackEditsConfig, pack_edits, words, "--bad-sample-budget", 0.1)
    after = [shard_path(tmp_path / "packed", k).stat().st_mtime_ns for k in range(5)]
    assert [a == b for a, b in zip(stamps, after, strict=True)] == [True, False, True, True, True]
    assert PackedEdits(tmp_path / "packed")[6, 0].problem is None


def test_other_settings_are_not_mixed_in_and_damage_is_mended(shapes, flags, tmp_path, monkeypatch):
    words = edit_flags(shapes / "train", flags)
    run(PackEditsConfig, pack_edits, words)
    whole = files(tmp_path / "packed")
    with pytest.raises(UserError, match="text_field 'target_caption' instead of 'instruction'"):
        run(PackEditsConfig, pack_edits, words, "--text-field", "instruction")
    assert files(tmp_path / "packed") == whole
    path = shard_path(tmp_path / "packed", 1)
    words_of_a_row = PackedEdits(tmp_path / "packed").strings(6)["caption"].encode()
    path.write_bytes(path.read_bytes().replace(words_of_a_row, words_of_a_row.upper()))
    assert path.read_bytes() != whole["shards/000001.arrow"]
    shard_path(tmp_path / "packed", 3).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PackedWriter, "write", Mock(side_effect=KeyboardInterrupt))
        run(PackEditsConfig, pack_edits, words)
    with pytest.raises(UserError, match="packing has not come to its end"):
        PackedEdits(tmp_path / "packed")
    run(PackEditsConfig, pack_edits, words)
    assert files(tmp_path / "packed") == whole


def test_a_full_disk_and_bad_flags_stop_before_the_work(shapes, flags, tmp_path, monkeypatch):
    words = edit_flags(shapes / "train", flags)
    with monkeypatch.context() as patch:
        patch.setattr("dataset.prepare.output.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
        with pytest.raises(UserError, match="are needed"):
            run(PackEditsConfig, pack_edits, words)
    assert not (tmp_path / "packed" / "shards").exists()
    at = words.index("--t5-path")
    with pytest.raises(UserError, match="no text encoder is loaded"):
        run(PackEditsConfig, pack_edits, [*words[:at], *words[at + 2 :]])
    for more, message in (
        (["--views", 2, "--center-crop"], "all the same"), (["--rows-per-shard", 0], "at least 1"),
        (["--image-size", 20], "multiple of 8"), (["--codebook-size", 99], "contradicts the tokenizer"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            run(PackEditsConfig, pack_edits, words, *more)
    words = ["--data-path", shapes / "train" / "t2i.jsonl", *flags, "--image-size", IMAGE_SIZE]
    for more, message in (
        (["--code-path", tmp_path / "codes"], "one of --code-path"), (["--data-start", 1], "--data-start"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            run(ExtractCodesConfig, pack_t2i, words, *more)
