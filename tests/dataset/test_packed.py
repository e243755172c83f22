"""Reading packed training data: the same in every process, refused where it differs or is damaged, mixed."""

from __future__ import annotations

import json
import os
import pickle
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from packed_files import rewrite, synthetic
from torch.utils.data import DataLoader

from autoregressive.models.gpt import build_gpt
from autoregressive.train.config import EditingConfig
from autoregressive.train.inputs import EditingPreparation, Encoders, Inputs, editing_inputs
from autoregressive.train.loop import fit
from dataset.batches import collate_samples
from dataset.packed.dataset import PackedEdits, PackedT2I
from dataset.packed.flags import require_no_pixel_flags
from dataset.packed.format import MANIFEST, read_manifest, require_same, shard_path
from dataset.packed.mixed import MixedDataset
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError


def test_loader_processes_read_what_one_process_reads(tmp_path):
    synthetic(tmp_path, 30, 7)
    packed = PackedEdits(tmp_path)
    keys = [[(row, row + 5) for row in range(start, start + 6)] for start in range(0, 30, 6)]
    expected = [
        collate_samples([packed[key] for key in batch]) for batch in keys
    ]  # the maps are open: forked
    copy = pickle.loads(pickle.dumps(packed))
    assert copy[29, 0].source.tolist() == [29] * 9
    for dataset in (packed, PackedEdits(tmp_path)):
        loader = DataLoader(dataset, batch_sampler=keys, collate_fn=collate_samples, num_workers=2)
        for batch, other in zip(loader, expected, strict=True):
            assert torch.equal(batch.source, other.source) and torch.equal(batch.edit_mask, other.edit_mask)
            assert batch.seeds == other.seeds and batch.origins == other.origins
            for text, same in zip(batch.texts, other.texts, strict=True):
                assert torch.equal(text.embeddings, same.embeddings)
    with pytest.raises(IndexError):
        packed[30, 0]


def test_data_of_another_run_is_refused_naming_both(tmp_path):
    synthetic(tmp_path, 3, 2)
    manifest = PackedEdits(tmp_path).manifest
    agreed = {"image_size": 48, "text_field": "instruction", "mask_rule": "published", "text_width": 8}
    require_same(manifest, "tokenizer", "encoder", **agreed)
    require_same(manifest, "tokenizer", None, **agreed)
    with pytest.raises(UserError, match=r"tokenizer tokenizer there, 0123 here \(--vq-ckpt\)"):
        require_same(manifest, "0123", None)
    message = r"text encoder encoder there, 4567 here \(--t5-path.*; mask rule published there, exact here"
    with pytest.raises(UserError, match=message):
        require_same(manifest, "tokenizer", "4567", mask_rule="exact", image_size=48)
    with pytest.raises(UserError, match="packed for editing, not for t2i"):
        PackedT2I(tmp_path)
    with pytest.raises(UserError, match="no packed data here"):
        PackedT2I(tmp_path / "elsewhere")
    config = parse(EditingConfig, ["--mask-dilation", "2", "--data-path", "x", "--vq-ckpt", "y"])
    with pytest.raises(UserError, match="--data-path does not go with --packed-data"):
        require_no_pixel_flags(config)


def test_damaged_shards_are_named(tmp_path):
    synthetic(tmp_path, 6, 3)
    path = shard_path(tmp_path, 1)
    content = path.read_bytes()

    def spoil(new: bytes) -> None:
        path.unlink()  # a map of the old file stays whole
        path.write_bytes(new)

    path.unlink()
    with pytest.raises(UserError, match="000001.arrow is damaged: No such file"):
        PackedEdits(tmp_path)
    path.write_bytes(content[:-9])
    with pytest.raises(UserError, match="000001.arrow is damaged: .* bytes, the manifest says"):
        PackedEdits(tmp_path)
    offsets = np.arange(0, 128, 32, dtype="<i8").tobytes()
    beyond = content.replace(offsets, np.array([0, 32, 64, 1 << 40], "<i8").tobytes())
    not_utf8 = content.replace(b"originorigin", b"\xff" * 12)
    zeros, turned = bytes(len(content)), content[200:] + content[:200]
    for garbage in (content[:-200] + bytes(200), zeros, turned, beyond, not_utf8):
        spoil(garbage)
        packed = PackedEdits(tmp_path)
        assert packed[0, 0].problem is None
        with pytest.raises(UserError, match="000001.arrow is damaged"):
            packed[3, 0]
    spoil(content.replace(np.full(9, 4, "<u2").tobytes(), b"\xff" * 18))
    problem = PackedEdits(tmp_path)[4, 0].problem
    assert "000001.arrow is damaged: source of row 1 up to 65535, the codebook has 16384" in problem
    spoil(content.replace(offsets, np.array([0, 31, 64, 96], "<i8").tobytes()))
    problem = PackedEdits(tmp_path)[3, 0].problem
    assert "000001.arrow is damaged: text of row 0: 31 bytes for a width of 8" in problem


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("column", ["text", "all"])
def test_compressed_shards_are_refused(tmp_path, compression, column):
    synthetic(tmp_path, 6, 3, cells=256)
    rewrite(tmp_path, 1)
    assert PackedEdits(tmp_path)[4, 0].problem is None  # the same file, not compressed

    def zeros(arrays) -> None:
        """A long text of zeros, which compression makes small."""
        if column == "text":
            arrays["text"] = pa.array([bytes(16 * 100)] * 3, pa.large_binary())

    rewrite(tmp_path, 1, zeros, compression)
    with pytest.raises(UserError, match=r"manifest.json is damaged|000001.arrow is damaged: .* compressed"):
        PackedEdits(tmp_path)[4, 0]


def null_code(arrays, column: str) -> None:
    values = arrays[column].values.to_pylist()
    values[9 + 4] = None
    arrays[column] = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.uint16()), 9)


def change_text(arrays, text: bytes | None) -> None:
    arrays["text"] = pa.array([bytes(16), text, bytes(16)], pa.large_binary())


def null_row(arrays, column: str) -> None:
    whole = arrays[column]
    arrays[column] = pa.array([whole[0].as_py(), None, whole[2].as_py()], whole.type)


ROW_DAMAGE = {
    "a null among the codes": (lambda arrays: null_code(arrays, "source"), "source of row 1 holds nulls"),
    "a null after the edit": (lambda arrays: null_code(arrays, "edited"), "edited of row 1 holds nulls"),
    "no codes": (lambda arrays: null_row(arrays, "edited"), "edited of row 1 holds nulls"),
    "no text": (lambda arrays: change_text(arrays, None), "text of row 1: 0 bytes"),
    "an empty text": (lambda arrays: change_text(arrays, b""), "text of row 1: 0 bytes"),
    "NaN": (lambda arrays: change_text(arrays, bytes(14) + b"\xc0\x7f"), "text of row 1 holds NaN"),
    "infinity": (lambda arrays: change_text(arrays, b"\x80\xff" * 8), "text of row 1 holds NaN or inf"),
    "121 tokens": (lambda arrays: change_text(arrays, bytes(16 * 121)), "121 tokens, at most 120"),
    "an empty mask": (
        lambda arrays: arrays.update(mask=pa.array([b"\xff\x80", bytes(2), b"\xff\x80"], pa.binary(2))),
        "mask of row 1 marks no cell",
    ),
}


@pytest.mark.parametrize("damage", ROW_DAMAGE)
def test_a_damaged_row_is_a_problem_of_that_row_alone(tmp_path, damage):
    synthetic(tmp_path, 6, 3)
    change, message = ROW_DAMAGE[damage]
    rewrite(tmp_path, 1, change)
    packed = PackedEdits(tmp_path)
    assert [packed[row, 0].problem for row in (0, 3, 5)] == [None] * 3
    sample = packed[4, 0]
    assert message in sample.problem and f"{shard_path(tmp_path, 1)} is damaged" in sample.problem
    assert not sample.edit_mask.any() and torch.isfinite(sample.text.embeddings).all()
    batch = collate_samples([packed[3, 0], sample])
    assert batch.valid.tolist() == [True, False]


def test_a_folder_of_any_name_is_mapped(tmp_path):
    synthetic(tmp_path / os.fsdecode(b"gr\xf6\xdfe"), 3, 3)
    assert PackedEdits(tmp_path / os.fsdecode(b"gr\xf6\xdfe"))[2, 0].source.tolist() == [2] * 9


def test_a_lost_origin_is_replaced_by_shard_and_row(tmp_path):
    synthetic(tmp_path, 6, 3)
    rewrite(tmp_path, 1, lambda arrays: null_row(arrays, "origin"))
    assert PackedEdits(tmp_path)[4, 0].origin == f"{shard_path(tmp_path, 1)} row 1"


@pytest.mark.parametrize(
    "change",
    [{"text_width": 4}, {"codebook_size": 8192}, {"image_size": 96}, {"max_text_tokens": 60},
     {"tokenizer": "another"}, {"text_encoder": None}],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_shards_contradict_is_refused(tmp_path, change):
    synthetic(tmp_path, 6, 3)
    content = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(content | change))
    packed = PackedEdits(tmp_path)
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"written with {name} .*, the manifest says {value}"):
        packed[0, 0]


def test_shards_from_before_they_were_stamped_are_read(tmp_path):
    synthetic(tmp_path, 3, 3)
    rewrite(tmp_path, 0, keep_stamp=False)
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content.pop("text_type") == "bfloat16 bits as uint16, little-endian"
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert PackedEdits(tmp_path)[1, 0].problem is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_rows": 10**9}, "num_rows 1000000000"),
        ({"num_rows": 10**9, "rows_per_shard": 1}, "num_rows 1000000000"),
        ({"rows_per_shard": 10**9}, "rows_per_shard 1000000000"),
        ({"grid": 10**9}, "grid 1000000000"),
        ({"grid": 10**9, "image_size": 16 * 10**9}, "grid 1000000000"),
        ({"grid": 48}, "grid 48"),
        ({"views": 10**9}, "views 1000000000"),
        ({"views": 10**4}, "views 10000"),
        ({"views": True}, "views True"),
        ({"text_width": 0}, "text_width 0"),
        ({"max_text_tokens": -1}, "max_text_tokens -1"),
        ({"codebook_size": 0}, "codebook_size 0"),
        ({"codebook_size": 1 << 17}, "codebook_size 131072"),
        ({"image_size": 50}, "image_size 50"),
        ({"kind": "video"}, "kind 'video'"),
        ({"text_type": "float16"}, "text_type 'float16'"),
        ({"num_rows": None}, "num_rows None"),
    ],
    ids=str,
)
def test_manifests_are_refused_by_the_name_of_the_value(tmp_path, change, named):
    synthetic(tmp_path, 6, 3)
    content = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(content | change))
    start = time.perf_counter()
    with pytest.raises(UserError, match=f"manifest.json is damaged .*{named}"):
        PackedEdits(tmp_path)
    assert time.perf_counter() - start < 1


def test_damaged_manifests_are_named(tmp_path):
    synthetic(tmp_path, 6, 3)
    manifest = tmp_path / MANIFEST
    whole = json.loads(manifest.read_text())
    for change in ({"views": 0}, {"num_rows": 7}, {"grid": "3"}, {"shards": [1]}, {"more": 1}):
        manifest.write_text(json.dumps(whole | change))
        with pytest.raises(UserError, match="manifest.json is damaged"):
            read_manifest(tmp_path)
    manifest.write_text(json.dumps(whole | {"format": 9}))
    with pytest.raises(UserError, match="format 9, this program reads 1"):
        read_manifest(tmp_path)


def test_manifests_from_before_masks_could_be_jittered_are_read(tmp_path):
    synthetic(tmp_path, 6, 3)
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content.pop("mask_jitter") is None
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert read_manifest(tmp_path).settings.mask_jitter is None


def test_mixtures_are_concatenations_or_drawn_by_weight(tmp_path):
    for name, num_rows in (("a", 10), ("b", 30)):
        synthetic(tmp_path / name, num_rows, 16)
    a, b = (PackedEdits(tmp_path / name) for name in "ab")
    for weights in (None, [1, 3], [0.5, 1.5]):
        mixed = MixedDataset([a, b], weights)
        assert len(mixed) == 40
        assert [int(mixed[i, 3].source[0]) for i in range(40)] == [*range(10), *range(30)]
    mixed = MixedDataset([a, b], [3, 1])
    drawn = [mixed._locate(i, seed) for i in range(40) for seed in range(50)]
    assert drawn == [mixed._locate(i, seed) for i in range(40) for seed in range(50)]
    assert np.mean([which for which, _ in drawn]) == pytest.approx(0.25, abs=0.04)
    assert {pair for pair in drawn} == {(0, i) for i in range(10)} | {(1, i) for i in range(30)}
    which, row = mixed._locate(7, 11)
    assert mixed[7, 11].source[0] == row and mixed[7, 11].seed == 11
    for weights, message in (([1], "1 weights for 2"), ([1, 0], "above 0"), ([1, float("nan")], "above 0")):
        with pytest.raises(UserError, match=message):
            MixedDataset([a, b], weights)
    with pytest.raises(IndexError):
        mixed[40, 0]


@pytest.mark.slow
def test_a_million_rows_open_at_once_and_stay_out_of_memory(tmp_path):
    synthetic(tmp_path, 1_000_000, 1024, cells=256)
    start = time.perf_counter()
    packed = PackedEdits(tmp_path)
    first = packed[999_999, 0]
    assert time.perf_counter() - start < 5 and first.source[0] == 999
    before = resident()
    rows = np.random.default_rng(0).integers(0, len(packed), 100_000)
    start = time.perf_counter()
    for row in rows.tolist():
        packed[row, 0]
    rate = len(rows) / (time.perf_counter() - start)
    after = resident()
    assert rate > 2000, f"{rate:.0f} rows/s"  # on a busy machine
    assert after["RssAnon"] - before["RssAnon"] < 100e6
    assert sum(after.values()) - sum(before.values()) < 2e9

    flags = ["--packed-data", str(tmp_path), "--vq-ckpt", "unused", "--results-dir", str(tmp_path / "run")]
    flags += ["--global-batch-size", "8", "--max-steps", "10", "--num-workers", "2", "--log-every", "10"]
    config = parse(EditingConfig, [*flags, "--device", "cpu", "--mixed-precision", "none"])
    model = build_gpt("R-GPT-tiny", vocab_size=16384, block_size=256, caption_dim=8, mask_in_context=True)
    peaks, inputs = [], editing_inputs(model, Encoders(None, None, 8, 120), config, torch.device("cpu"))

    class Watched(Inputs):
        def finish(self, prepared):
            peaks.append(sum(resident().values()))
            return super().finish(prepared)

    watched = Watched(EditingPreparation, model, inputs.encoders, config, inputs.device)
    with distributed("cpu") as ranks:
        assert fit(model, packed, watched, config, ranks).step == 10
    assert max(peaks) - sum(before.values()) < 2e9
    print(f"1 M rows: {rate:.0f} rows/s, at most {(max(peaks) - sum(before.values())) / 1e6:.0f} MB more")


def resident() -> dict[str, float]:
    """Bytes of this process in memory: its own, and pages of mapped files, which the kernel takes back."""
    lines = open("/proc/self/status").read().splitlines()
    return {line.split(":")[0]: 1e3 * int(line.split()[1]) for line in lines if line.startswith("Rss")}
