"""Image codes on disk: extraction as published, resuming, refusing to mix, and training from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, read_metrics, run_program
from PIL import Image

from autoregressive.train.config import T2IConfig
from autoregressive.train.packing.codes import extract
from autoregressive.train.packing.config import ExtractCodesConfig
from autoregressive.train.stages import train_t2i
from dataset.build import build_dataset
from dataset.packed.codes import load_codes
from dataset.records.images import image_to_tensor
from dataset.transforms import center_crop
from language.t5 import T5Encoder
from language.text_features import save_text_features
from runtime.checkpoint import load_checkpoint, save_checkpoint, weights_fingerprint
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError
from tokenizer.tokenizer_image.vq_model import load_vq_model

CELLS, CODES = 9, 16


@pytest.fixture
def lists(tmp_path):
    """Three jsonl files; part b has a blank line, an image larger than the crop and a bad image."""
    rng = np.random.default_rng(0)
    for name, lines in {"a": (0, 1, 2), "b": (3, None, 4, 5), "c": (6,)}.items():
        rows = ["" if i is None else json.dumps({"image_path": f"{i}.png", "text": ["x"]}) for i in lines]
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    for i in range(7):
        size = (130, 61) if i == 4 else (30, 24 + i)
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "lists" / f"{i}.png")
    (tmp_path / "lists" / "5.png").write_bytes(b"no image")
    return tmp_path / "lists"


@pytest.fixture
def flags(lists, tmp_path, vq_ckpt):
    return [
        *("--data-path", lists, "--code-path", tmp_path / "codes", "--vq-ckpt", vq_ckpt, "--device", "cpu"),
        *("--image-size", IMAGE_SIZE, "--num-workers", 0, "--batch-size", 2, "--bad-sample-budget", 0.2),
    ]


def run(flags, *more: object) -> None:
    config = parse(ExtractCodesConfig, [str(word) for word in (*flags, *more)])
    with distributed("cpu") as ranks:
        extract(config, ranks)


def files(folder) -> dict[str, np.ndarray]:
    return {str(p.relative_to(folder)): np.load(p) for p in sorted(folder.rglob("*.npy"))}


def test_codes_are_those_of_the_centre_crop_in_the_published_layout(flags, lists, tmp_path, vq_ckpt):
    run(flags)
    written = files(tmp_path / "codes")
    assert list(written) == ["a/0.npy", "a/1.npy", "a/2.npy", "b/0.npy", "b/2.npy", "c/0.npy"]
    assert all(codes.dtype == np.int64 and codes.shape == (1, CELLS) for codes in written.values())
    tokenizer = load_vq_model(vq_ckpt)
    image = Image.open(lists / "4.png")  # 61x130: halved once with BOX to 30x65, then bicubic to 24x52
    half = image.resize((30, 65), Image.Resampling.BOX).resize((24, 52), Image.Resampling.BICUBIC)
    crop = half.crop((0, 14, 24, 38))
    assert np.array_equal(np.asarray(crop), np.asarray(center_crop(image, 24)))
    assert np.array_equal(written["b/2.npy"], tokenizer.encode_ids(image_to_tensor(crop)[None]).numpy())
    listing = (tmp_path / "codes" / "unusable.txt").read_text()
    assert "b.jsonl line 4" in listing and "5.png" in listing


def test_two_ranks_and_loader_processes_write_the_same_files(flags, lists, tmp_path):
    run(flags)
    one = files(tmp_path / "codes")
    program = "autoregressive/train/extract_codes_t2i.py"
    run_program(program, *flags, "--code-path", tmp_path / "two", "--num-workers", 1, ranks=2)
    two = files(tmp_path / "two")
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    failed = run_program(
        program, *flags, "--code-path", tmp_path / "three", "--bad-sample-budget", 0, check=False
    )
    assert failed.returncode == 2 and "1 of 7 items" in failed.stderr and "5.png" in failed.stderr


def test_published_flags_choose_the_files(flags, tmp_path, capsys):
    run(flags, "--data_start", 1, "--data_end", 1, "--codebook-size", 16, "--codebook_embed_dim", 8,
        "--vq-model", "VQ-16", "--global_seed", 0, "--bad-sample-budget", 0.5)  # fmt: skip
    assert {name.split("/")[0] for name in files(tmp_path / "codes")} == {"b"}
    assert "--global-seed has no effect" in capsys.readouterr().err
    with pytest.raises(UserError, match="--codebook-size 99 contradicts"):
        run(flags, "--codebook-size", 99)
    with pytest.raises(UserError, match="--image-size 30 is not a multiple of 8"):
        run(flags, "--image-size", 30)


def test_a_run_goes_on_keeps_whole_files_and_mends_the_rest(flags, lists, tmp_path):
    run(flags)
    before = files(tmp_path / "codes")
    broken, gone = tmp_path / "codes" / "a" / "0.npy", tmp_path / "codes" / "a" / "1.npy"
    kept = tmp_path / "codes" / "a" / "2.npy"
    broken.write_bytes(broken.read_bytes()[:90])
    gone.unlink()
    stamp = kept.stat().st_mtime_ns
    Image.new("RGB", (40, 40), "red").save(lists / "5.png")
    run(flags, "--bad-sample-budget", 0)
    after = files(tmp_path / "codes")
    assert kept.stat().st_mtime_ns == stamp and "b/3.npy" in after
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "codes" / "unusable.txt").exists()


def test_other_tokenizers_sizes_images_and_unknown_codes_are_not_mixed(flags, lists, tmp_path, vq_ckpt):
    run(flags)
    content = load_checkpoint(vq_ckpt)
    content["model"]["quant_conv.weight"] += 0.1
    save_checkpoint(tmp_path / "other.pt", content)
    with pytest.raises(UserError, match="codes/a.* other tokenizer"):
        run(flags, "--vq-ckpt", tmp_path / "other.pt")
    with pytest.raises(UserError, match="other image_size"):
        run(flags, "--image-size", 32)
    (tmp_path / "codes" / "c" / "extraction.json").unlink()  # as LlamaGen's own program leaves a folder
    with pytest.raises(UserError, match="codes/c.*choose another --code-path"):
        run(flags)
    line = json.dumps({"image_path": "1.png"})
    (lists / "a.jsonl").write_text(f"{line}\n" * 3)
    with pytest.raises(UserError, match="other images"):
        run(flags)


def test_bad_lines_and_too_small_a_disk_stop_before_the_work(flags, lists, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    with monkeypatch.context() as patch:
        patch.setattr("dataset.prepare.output.shutil.disk_usage", lambda _: usage)
        with pytest.raises(UserError, match="are needed"):
            run(flags)
    (lists / "c.jsonl").write_text('{"text": "no image"}\n')
    with pytest.raises(UserError, match="c.jsonl line 1: lacks the key 'image_path'"):
        run(flags)
    assert not files(tmp_path / "codes")


BAD_CODES = {
    "shape": (np.zeros((1, 4), np.int64), r"0.npy: codes of shape \(1, 4\), expected \(1, 9\)"),
    "batch": (np.zeros((2, CELLS), np.int64), r"shape \(2, 9\)"),
    "range": (np.full((1, CELLS), CODES), "codes from 16 to 16, the tokenizer has 16"),
    "negative": (np.full((1, CELLS), -1), "codes from -1 to -1"),
    "type": (np.zeros((1, CELLS)), "values of type float64"),
    "garbage": (b"\x93NUMPY nonsense", "not a .npy file of codes"),
}


@pytest.mark.parametrize("kind", BAD_CODES)
def test_bad_codes_are_problems_that_name_the_file(kind, tmp_path):
    value, message = BAD_CODES[kind]
    (tmp_path / "codes" / "a").mkdir(parents=True)
    path = tmp_path / "codes" / "a" / "0.npy"
    path.write_bytes(value) if isinstance(value, bytes) else np.save(path, value)
    with pytest.raises(UserError, match=message):
        load_codes(path, CELLS, CODES)
    sample = dataset_of(tmp_path)[0, 1]
    assert "0.npy" in sample.problem and not sample.image.any() and sample.image.shape == (CELLS,)


def dataset_of(folder, **options):
    options = {"grid": 3, "codebook_size": CODES, "t5_feat_path": folder / "features", **options}
    return build_dataset("t2i_code", [folder / "codes"], IMAGE_SIZE, 4, **options)


def test_samples_are_codes_with_the_features_of_the_same_name(tmp_path):
    for folder, name, number in (("codes", "b", 0), ("codes", "b", 10), ("codes", "a", 2)):
        path = tmp_path / folder / name / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((1, CELLS), number, np.int64))
    for kind, value in (("features", 1.0), ("short", 2.0)):
        for name, number in (("b", 0), ("a", 2)):
            path = tmp_path / kind / name / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.full((1, 3, 4), value, np.float32))
    dataset = dataset_of(tmp_path)
    samples = [dataset[i, i] for i in range(len(dataset))]
    assert [s.image.tolist() for s in samples] == [[2] * CELLS, [0] * CELLS, [0] * CELLS]
    assert samples[0].image.dtype == torch.int32 and samples[0].text.embeddings.shape == (3, 4)
    assert samples[0].problem is None and samples[1].origin.endswith("codes/b/0.npy")
    assert "features/b/10.npy" in samples[2].problem
    short = dataset_of(tmp_path, short_t5_feat_path=tmp_path / "short")
    share = np.mean([float(short[0, seed].text.embeddings[0, 0]) == 2 for seed in range(300)])
    assert 0.2 < share < 0.4
    with pytest.raises(UserError, match="--t5-feat-path"):
        dataset_of(tmp_path, t5_feat_path=None)
    (tmp_path / "codes" / "b" / "010.npy").write_bytes(b"")
    with pytest.raises(UserError, match="b/010.npy: codes are named 10.npy here; rename it"):
        dataset_of(tmp_path)
    with pytest.raises(UserError, match="holds no codes"):
        build_dataset("t2i_code", [tmp_path], IMAGE_SIZE, 4, grid=3, codebook_size=CODES, t5_feat_path="x")


def test_links_that_lead_outside_are_refused(tmp_path):
    for folder in ("codes/a", "features/a", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    np.save(tmp_path / "elsewhere" / "0.npy", np.zeros((1, CELLS), np.int64))
    np.save(tmp_path / "features" / "a" / "0.npy", np.zeros((1, 3, 4), np.float32))
    (tmp_path / "codes" / "a" / "0.npy").symlink_to(tmp_path / "elsewhere" / "0.npy")
    assert "--allow-outside-root" in dataset_of(tmp_path)[0, 0].problem
    assert dataset_of(tmp_path, allow_outside_root=True)[0, 0].problem is None


def test_codes_of_another_tokenizer_are_refused_and_unknown_ones_noted(flags, tmp_path, vq_ckpt, capfd):
    run(flags)
    (tmp_path / "codes" / "c" / "extraction.json").unlink()
    dataset = dataset_of(tmp_path)
    dataset.require_tokenizer(weights_fingerprint(load_vq_model(vq_ckpt)), vq_ckpt)
    assert "1 of 3 folders (c, …) have no extraction.json" in capfd.readouterr().err
    with pytest.raises(UserError, match="codes/a: .*not made by the tokenizer other.pt"):
        dataset.require_tokenizer("0123", "other.pt")


@pytest.mark.parametrize("cache", [[], ["--cache-codes"]])
def test_training_from_codes_is_training_from_the_images(
    cache, shapes, train_flags, vq_ckpt, t5_dir, tmp_path
):
    """LlamaGen's way: features and codes of the same lists, both extracted beforehand."""
    data = shapes / "train"
    records = [json.loads(line) for line in (data / "t2i.jsonl").read_text().splitlines()]
    encoder = T5Encoder(t5_dir)
    for i, features in enumerate(encoder.encode([record["text"] for record in records])):
        save_text_features(tmp_path / "features" / "t2i" / f"{i}.npy", features)
    run(["--data-path", data / "t2i.jsonl", "--code-path", tmp_path / "codes", "--vq-ckpt", vq_ckpt,
         "--device", "cpu", "--image-size", IMAGE_SIZE, "--num-workers", 0])  # fmt: skip
    flags = [*train_flags, "--max-steps", "3", "--gpt-model", "GPT-tiny"]
    at = flags.index("--t5-path")
    from_codes = [*flags[:at], *flags[at + 2 :], "--dataset", "t2i_code", "--t5-feature-dim", "16"]
    from_codes += ["--data-path", tmp_path / "codes", "--t5-feat-path", tmp_path / "features", *cache]
    with distributed("cpu") as ranks:
        for name, words in (("images", [*flags, "--data-path", data / "t2i.jsonl"]), ("codes", from_codes)):
            words = [*map(str, words), "--results-dir", str(tmp_path / name)]
            train_t2i(parse(T2IConfig, words), ranks)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("images", "codes")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 3

    content = load_checkpoint(vq_ckpt)
    content["model"]["quant_conv.weight"] += 0.1
    save_checkpoint(tmp_path / "other.pt", content)
    with pytest.raises(UserError, match="not made by the tokenizer"), distributed("cpu") as ranks:
        other = ["--vq-ckpt", tmp_path / "other.pt", "--results-dir", tmp_path / "other"]
        train_t2i(parse(T2IConfig, list(map(str, [*from_codes, *other]))), ranks)
