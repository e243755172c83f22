"""Packed data from object stores: what a disk gives, through a cache that is bounded and never half."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

import fsspec
import pytest
import torch
from conftest import read_metrics
from filelock import Timeout
from fsspec.implementations.local import LocalFileSystem
from moto.server import ThreadedMotoServer
from packed_files import synthetic
from torch.utils.data import DataLoader

from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.packing.codes import extract as pack_t2i
from autoregressive.train.packing.config import ExtractCodesConfig, PackEditsConfig
from autoregressive.train.packing.edits import extract as pack_edits
from autoregressive.train.stages import train_editing, train_t2i
from dataset.batches import collate_samples
from dataset.packed.dataset import PackedEdits
from dataset.packed.format import shard_path
from dataset.packed.remote import DataCache
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

ROWS, A_SHARD = 30, 7
STAGES = {
    "t2i": (T2IConfig, train_t2i, ExtractCodesConfig, pack_t2i),
    "editing": (EditingConfig, train_editing, PackEditsConfig, pack_edits),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """Five shards on a disk."""
    folder = tmp_path_factory.mktemp("packed")
    synthetic(folder, ROWS, A_SHARD)
    return folder


@pytest.fixture(scope="module")
def endpoint():
    """The address of an S3 server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch):
    """An S3 with an empty bucket."""
    for name, value in {
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    if not system.exists("bucket"):
        system.mkdir("bucket")
    yield system
    system.rm("bucket", recursive=True)
    system.invalidate_cache()


def cache_of(folder: Path, packed: Path, shards: float) -> DataCache:
    return DataCache(folder, int(shards * shard_path(packed, 0).stat().st_size))


def arrows(folder: Path) -> list[str]:
    """Whole shards in a cache; nothing may be on its way."""
    assert not list(folder.rglob("*.arrow.*.tmp"))
    return sorted(path.name for path in folder.rglob("*.arrow"))


def test_loader_processes_read_from_s3_what_lies_on_a_disk(packed, s3, tmp_path):
    s3.put(str(packed), "bucket/sets/edits", recursive=True)
    local = PackedEdits(packed)
    remote = PackedEdits("s3://bucket/sets/edits/", cache=cache_of(tmp_path, packed, 2.5))
    keys = [[(row, row + 5) for row in range(start, ROWS, 5)] for start in range(5)]  # of all shards
    expected = [collate_samples([local[key] for key in batch]) for batch in keys]
    assert remote[0, 0].origin == local[0, 0].origin  # connections do not outlive the fork
    loader = DataLoader(remote, batch_sampler=keys, collate_fn=collate_samples, num_workers=2)
    for batch, other in zip(loader, expected, strict=True):
        assert torch.equal(batch.source, other.source) and torch.equal(batch.edit_mask, other.edit_mask)
        for text, same in zip(batch.texts, other.texts, strict=True):
            assert torch.equal(text.embeddings, same.embeddings)
    assert len(arrows(tmp_path)) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_both_stages_train_from_s3(stage, shapes, train_flags, vq_ckpt, t5_dir, s3, tmp_path):
    config_class, train, pack_class, pack = STAGES[stage]

    def run(kind, work, *words: object) -> None:
        with distributed("cpu") as ranks:
            work(parse(kind, list(map(str, words))), ranks)

    folder = tmp_path / "packed"
    flags = ["--vq-ckpt", vq_ckpt, "--t5-path", t5_dir, "--image-size", 24, "--num-workers", 0]
    source = ["--data-path", shapes / "train" / f"{stage}.jsonl", "--bad-sample-budget", 0.5]
    run(pack_class, pack, *flags, *source, "--packed-path", folder, "--rows-per-shard", 5, "--device", "cpu")
    s3.put(str(folder), "bucket/set", recursive=True)
    for name, data in {"disk": folder, "store": "s3://bucket/set"}.items():
        more = ["--packed-data", data, "--data-cache-dir", tmp_path / "cache", "--bad-sample-budget", 0.9]
        run(config_class, train, *train_flags, *more, "--max-steps", 3, "--results-dir", tmp_path / name)
    disk, store = ([line["loss"] for line in read_metrics(tmp_path / name)] for name in ("disk", "store"))
    assert disk == store and len(set(disk)) == 3
    assert 1 < len(arrows(tmp_path / "cache")) <= len(list(folder.glob("shards/*.arrow")))


def test_what_was_used_least_lately_goes(packed, tmp_path):
    cache = cache_of(tmp_path, packed, 2.5)
    remote = PackedEdits(packed.as_uri(), cache=cache)
    for shard in (0, 1, 0, 2):
        assert remote[shard * A_SHARD, 0].source[0] == shard * A_SHARD
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.arrow*")) <= cache.max_bytes
    assert arrows(tmp_path) == ["000000.arrow", "000002.arrow"]
    assert set(remote._shards) == {0, 2}, "a map keeps the space of a file that has gone"
    again = PackedEdits(packed.as_uri(), cache=cache)
    before = arrows(tmp_path)
    assert again[0, 0].source[0] == 0 and arrows(tmp_path) == before
    other = tmp_path.parent / f"{tmp_path.name}-other"  # another set shares the bound
    synthetic(other, 6, 6)
    assert PackedEdits(other.as_uri(), cache=cache)[0, 0].problem is None
    assert len(arrows(tmp_path)) == 2


def test_a_shard_gets_its_name_while_nobody_counts(packed, tmp_path, monkeypatch):
    """Else another process may see the unfinished file go and not the finished one: too many stay."""
    cache = cache_of(tmp_path, packed, 2.5)
    named, replace = [], os.replace

    def watched(source, target):
        if str(target).endswith(".arrow"):
            with pytest.raises(Timeout):
                cache.locked().acquire(timeout=0)
            named.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    assert PackedEdits(packed.as_uri(), cache=cache)[0, 0].problem is None
    assert len(named) == 1


class _Slow(LocalFileSystem):
    """Notes each copy, and takes its time half-way."""

    protocol = "slow"
    notes: Path

    def get_file(self, rpath, lpath, **_):
        with open(self.notes, "a") as file:
            file.write(f"{Path(rpath).name}\n")
        content = Path(rpath).read_bytes()
        with open(lpath, "wb") as file:
            file.write(content[:100])
            file.flush()
            time.sleep(0.05 if not (self.notes.parent / "stuck").exists() else 600)
            file.write(content[100:])


@pytest.fixture
def slow(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(_Slow, "notes", tmp_path / "notes", raising=False)
    fsspec.register_implementation("slow", _Slow, clobber=True)
    return f"slow://{packed}"


def read_all(url: str, cache: DataCache) -> None:
    """In a process of its own: each row, in an order of its own."""
    remote = PackedEdits(url, cache=cache)
    for row in torch.randperm(ROWS).tolist():
        assert remote[row, 0].source.tolist() == [row] * 9


def forked(work, *arguments) -> int:
    child = os.fork()
    if child == 0:
        try:
            torch.manual_seed(os.getpid())
            work(*arguments)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    return child


@pytest.mark.parametrize("room", [6, 2.5])
def test_processes_share_a_cache(room, slow, packed, tmp_path):
    """One copy a shard where all fit; where they do not, no row is wrong."""
    cache = cache_of(tmp_path / "cache", packed, room)
    children = [forked(read_all, slow, cache) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    copies = (tmp_path / "notes").read_text().split()
    assert len(copies) == len(set(copies)) == 5 if room == 6 else len(copies) > 5
    assert len(arrows(cache.folder)) == min(int(room), 5)


def test_a_killed_copy_is_no_file_and_takes_no_room(slow, packed, tmp_path):
    cache = cache_of(tmp_path / "cache", packed, 1.5)
    (tmp_path / "stuck").touch()
    child = forked(read_all, slow, cache)
    while not any(path.stat().st_size for path in cache.folder.rglob("*.arrow.*.tmp")):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (tmp_path / "stuck").unlink()
    assert not list(cache.folder.rglob("*.arrow"))
    read_all(slow, cache)
    assert len(arrows(cache.folder)) == 1


def test_a_shard_that_is_not_the_manifests_is_refused(packed, tmp_path):
    system = fsspec.filesystem("memory")
    system.put(str(packed), "/damaged", recursive=True)
    name = "/damaged/shards/000001.arrow"
    content = bytearray(system.cat_file(name))
    content[-300] ^= 1
    system.pipe_file(name, bytes(content))
    remote = PackedEdits("memory://damaged", cache=cache_of(tmp_path, packed, 9))
    assert remote[0, 0].problem is None
    with pytest.raises(UserError, match="memory://damaged/shards/000001.arrow is damaged: its SHA-256"):
        remote[A_SHARD, 0]
    assert arrows(tmp_path) == ["000000.arrow"]
    system.pipe_file(name, bytes(content[:-1]))
    with pytest.raises(UserError, match="000001.arrow is damaged: .* bytes, the manifest says"):
        PackedEdits("memory://damaged", cache=cache_of(tmp_path, packed, 9))
    system.rm(name)
    with pytest.raises(UserError, match="000001.arrow is damaged: it is not there"):
        PackedEdits("memory://damaged", cache=cache_of(tmp_path, packed, 9))
    with pytest.raises(UserError, match="--data-cache-gb .* holds no shard of memory://damaged"):
        PackedEdits("memory://damaged", cache=cache_of(tmp_path, packed, 0.5))


def test_what_cannot_be_reached_is_named_with_the_fix(packed, s3, tmp_path, monkeypatch):
    cache = cache_of(tmp_path, packed, 9)

    def refused(url: str, *words: str) -> None:
        with pytest.raises(UserError) as error:
            PackedEdits(url, cache=cache)
        for word in (url, *words):
            assert word in str(error.value), error.value

    refused("s3://no-such-bucket/set", "manifest.json: not there", "AWS_ENDPOINT_URL")
    refused("s3://bucket/no-such-set", "manifest.json: not there", "folder of a packed set")
    refused("nonsense://bucket/set", "Protocol not known", "look at the address")
    system = type(s3)
    monkeypatch.setattr(system, "_call_s3", _denied)
    refused("s3://bucket/set", "no access", "AWS_ACCESS_KEY_ID")
    monkeypatch.undo()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    system.clear_instance_cache()
    refused("s3://bucket/set", "no access", "AWS_ACCESS_KEY_ID")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    refused("s3://bucket/set", "pip install -e '.[object-store]'")
    system.clear_instance_cache()


async def _denied(*_, **__):
    raise PermissionError("Access Denied")
