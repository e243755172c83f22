"""Reconstructions against originals: closed-form numbers, pairing, ranks, the program that makes them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import run_program
from PIL import Image
from test_fid import write_images, write_inception
from test_lpips import NARROW, write_lpips_weights

from evaluations.tokenizer.flags import TokenizerEvalConfig
from evaluations.tokenizer.scores import evaluate_run, find_image_pairs
from runtime.distributed import ONE_RANK
from runtime.errors import UserError
from tokenizer.tokenizer_image import reconstruction_eval
from tokenizer.tokenizer_image.lpips import LPIPS

PROGRAM = "evaluations/tokenizer/evaluation.py"
# Scripting is the only way to make such a file.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


def write_flat(folder, grey: int, names=("a.png", "b.png"), size=(24, 20)):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (grey, grey, grey)).save(folder / name)
    return folder


def run(generated, originals, save, **changes) -> dict:
    paths = {"generated_path": str(generated), "gt_path": str(originals), "save_path": str(save)}
    return evaluate_run(TokenizerEvalConfig(**paths, **changes), ONE_RANK)


def test_equal_folders_are_perfect(tmp_path, monkeypatch):
    monkeypatch.setattr(LPIPS, "STAGES", NARROW)
    vgg, linear = write_lpips_weights(tmp_path)
    originals, copies = (write_images(tmp_path / name, 5, size=24) for name in "ab")
    weights = {"vgg_ckpt": str(vgg), "lpips_ckpt": str(linear)}
    weights["inception_ckpt"] = write_inception(tmp_path / "inception.pt")
    result = run(copies, originals, tmp_path / "scores", batch_size=2, **weights)
    assert result["psnr"] == 100 and result["ssim"] == pytest.approx(1) and result["lpips"] == 0
    assert result["fid"] == pytest.approx(0, abs=1e-6)
    assert set(result["info"]["weights"]) == {"lpips", "inception"} and result["info"]["num_images"] == 5
    other = write_images(tmp_path / "c", 5, seed=1, size=24)
    result = run(other, originals, tmp_path / "scores", **weights)
    assert result["psnr"] < 20 and result["ssim"] < 0.9 and result["lpips"] > 0.01 and result["fid"] > 1e-4


def test_a_known_difference_has_its_known_psnr_and_the_files_hold_it(tmp_path):
    originals, generated = write_flat(tmp_path / "a", 100), write_flat(tmp_path / "b", 151)
    result = run(generated, originals, tmp_path / "scores")
    assert result["psnr"] == pytest.approx(-20 * math.log10(51 / 255), abs=1e-5)
    mean, other = 100 / 255, 151 / 255  # without variance SSIM is its luminance term
    assert result["ssim"] == pytest.approx((2 * mean * other + 1e-4) / (mean**2 + other**2 + 1e-4), abs=1e-6)
    assert json.loads((tmp_path / "scores" / "evaluation_metrics.json").read_text()) == result
    items = json.loads((tmp_path / "scores" / "evaluation_items.json").read_text())
    assert [item["instruction"] for item in items] == ["a", "b"]
    assert items[1]["generated"].endswith("b/b.png") and items[1]["metrics"]["psnr"] == result["psnr"]
    assert "reconstruction" in (tmp_path / "scores" / "evaluation_items.html").read_text()


def test_numbers_stay_with_their_files_whatever_their_names_sort_like(tmp_path):
    """By its path "cat 2.png" comes before "cat.png", by its name after it; 1 and 01 are equal numbers."""
    originals, generated = tmp_path / "a", tmp_path / "b"
    for grey, name in enumerate(("cat.png", "cat 2.png", "1.png", "01.png"), start=1):
        write_flat(originals, 0, (name,))
        write_flat(generated, grey, (name,))
    run(generated, originals, tmp_path / "scores", batch_size=3)
    items = json.loads((tmp_path / "scores" / "evaluation_items.json").read_text())
    found = {item["instruction"]: round(255 * 10 ** (-item["metrics"]["psnr"] / 20)) for item in items}
    assert found == {"cat": 1, "cat 2": 2, "1": 3, "01": 4}


def test_pairs_come_from_relative_paths(tmp_path):
    originals = write_flat(tmp_path / "a", 1, ("10.png", "9.png", "sub/9.jpg"))
    generated = write_flat(tmp_path / "b", 1, ("sub/9.png", "9.png", "10.bmp"))
    pairs = find_image_pairs(generated, originals)
    assert [pair.name for pair in pairs] == ["9", "10", "sub/9"]
    assert (
        pairs[2].original == originals / "sub" / "9.jpg"
        and pairs[2].reconstruction == generated / "sub" / "9.png"
    )
    Image.new("RGB", (8, 8)).save(originals / "still.gif")
    with pytest.raises(UserError, match="lacks 1 images that the other folder has: still"):
        find_image_pairs(generated, originals)
    (originals / "still.gif").unlink()
    (generated / "9.png").unlink()
    with pytest.raises(UserError, match="b lacks 1 images that the other folder has: 9"):
        find_image_pairs(generated, originals)
    with pytest.raises(UserError, match="b lacks 1 images that the other folder has: 9"):
        find_image_pairs(originals, generated)
    write_flat(originals, 1, ("10.jpg",))
    with pytest.raises(UserError, match="share a name"):
        find_image_pairs(generated, originals)


def test_other_sizes_damaged_images_and_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    originals, generated = write_flat(tmp_path / "a", 1), write_flat(tmp_path / "b", 1)
    write_flat(generated, 1, ("b.png",), size=(24, 24))
    with pytest.raises(UserError, match="b: the original is 24x20, its reconstruction 24x24"):
        run(generated, originals, "scores")
    (generated / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="a.png"):
        run(generated, originals, "scores")
    with pytest.raises(UserError, match="inception-2015-12-05.pt.*PSNR and SSIM run without --fid"):
        run(generated, originals, "scores", fid=True)
    with pytest.raises(UserError, match="lost.pth.*PSNR and SSIM run without --lpips"):
        run(generated, originals, "scores", vgg_ckpt="lost.pth", lpips_ckpt="lost.pth")


def test_ranks_share_the_work_with_the_same_result(tmp_path):
    originals, generated = (write_images(tmp_path / name, 5, seed, size=24) for seed, name in enumerate("ab"))
    inception = write_inception(tmp_path / "inception.pt")
    alone = run(generated, originals, tmp_path / "one", inception_ckpt=inception)
    flags = ["--generated_path", generated, "--gt_path", originals, "--save_path", tmp_path / "two"]
    done = run_program(PROGRAM, *flags, "--inception_ckpt", inception, "--device", "cpu", ranks=2)
    shared = json.loads((tmp_path / "two" / "evaluation_metrics.json").read_text())
    assert shared["psnr"] == alone["psnr"] and shared["ssim"] == alone["ssim"]
    assert shared["fid"] == pytest.approx(alone["fid"], rel=1e-6)
    assert f"psnr {alone['psnr']:.4f}" in done.stdout
    both = [(tmp_path / folder / "evaluation_items.json").read_text() for folder in ("one", "two")]
    assert both[0] == both[1]


def test_saved_reconstructions_score_as_the_tokenizer_did(tmp_path, vq_ckpt):
    folder, out = tmp_path / "images", tmp_path / "out"
    write_images(folder, 5, size=24)
    inception = write_inception(tmp_path / "inception.pt")
    flags = ["--vq-ckpt", str(vq_ckpt), "--data-path", str(folder), "--image-size", "24", "--device", "cpu"]
    flags += ["--output-dir", str(out), "--batch-size", "2", "--inception-ckpt", inception, "--save-images"]
    reconstruction_eval.main(flags)
    report = json.loads((out / "reconstruction.json").read_text())
    result = run(out / "reconstructions", out / "originals", out / "scores", inception_ckpt=inception)
    for name in ("psnr", "ssim", "fid"):
        assert report[name] == pytest.approx(result[name], abs=6e-5)
    saved = np.asarray(Image.open(out / "originals" / "000001_1.png"))
    np.testing.assert_array_equal(saved, np.asarray(Image.open(folder / "1.png")))
    assert report["lpips"] is None and report["weights"]["inception"]["sha256"]
