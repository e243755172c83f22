"""`--crop` of the editing programs: photographs at their own resolution, whatever is in their pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample import file_edits, sample_editing, sample_test_time_scaling
from autoregressive.sample.edit_run import EditFolders, EditRun, KeyedEdit
from autoregressive.sample.file_edits import read_jobs, require_usable
from autoregressive.sample.flags import SampleEditing, SampleEmuEdit, SampleMagicBrush, SampleScaled
from dataset.records.images import load_image, load_native
from runtime.distributed import ONE_RANK
from runtime.errors import UserError

WIDTH, HEIGHT = 200, 150


@pytest.fixture(scope="module")
def pipeline(gpt_ckpts, vq_ckpt, t5_dir) -> EditingPipeline:
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


@pytest.fixture
def photo(tmp_path):
    """A picture with transparency, and a mask of two far places, or of one."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[100:104, 150:156] = 255
    Image.fromarray(mask).save(tmp_path / "one.png")
    mask[:5, :5] = 255
    Image.fromarray(mask).save(tmp_path / "two.png")
    return tmp_path


def edit(pipeline, monkeypatch, folder, **flags) -> None:
    paths = {name: str(folder / value) for name, value in flags.items() if str(value).endswith("g")}
    config = SampleEditing(**{"prompt": "make it red", "device": "cpu", "cfg_scale": 1.0, **flags, **paths})
    monkeypatch.setattr(sample_editing, "parse", lambda kind: config)
    monkeypatch.setattr(file_edits, "load_pipeline", lambda *args: pipeline)
    sample_editing.main()


def test_the_program_edits_at_native_resolution(pipeline, photo, monkeypatch):
    files = {"image": "in.png", "mask": "two.png", "output": "out.png"}
    edit(pipeline, monkeypatch, photo, **files, crop="auto", save_crop="seen.png", comparison="side.png")
    before, after = np.asarray(Image.open(photo / "in.png")), np.asarray(Image.open(photo / "out.png"))
    changed = (before != after).any(axis=2)
    assert after.shape == before.shape and (before[..., 3] == after[..., 3]).all()
    assert changed[:5, :5].any() and changed[100:104, 150:156].any()
    changed[:24, :24] = changed[90:115, 140:166] = False
    assert not changed.any()
    assert Image.open(photo / "seen.png").size == (2 * 528, 528)  # two crops of 24, 22 times as large
    assert Image.open(photo / "side.png").size == (3 * WIDTH, HEIGHT)


def test_the_comparison_of_an_edit_in_place_shows_what_was_there(pipeline, photo, monkeypatch):
    before = np.asarray(load_image(photo / "in.png"))
    files = {"image": "in.png", "mask": "one.png", "output": "in.png", "comparison": "side.png"}
    edit(pipeline, monkeypatch, photo, **files, crop="auto")
    side = np.asarray(Image.open(photo / "side.png"))
    assert (side[:, :WIDTH] == before).all() and (side[:, 2 * WIDTH :] != before).any()


def test_the_published_way_is_the_default(pipeline, photo, monkeypatch):
    files = {"image": "in.png", "mask": "two.png"}
    edit(pipeline, monkeypatch, photo, **files, output="out.png")
    edit(pipeline, monkeypatch, photo, **files, output="none.png", crop="none", save_crop="seen.png")
    assert (photo / "out.png").read_bytes() == (photo / "none.png").read_bytes()
    assert Image.open(photo / "out.png").mode == "RGB" and Image.open(photo / "seen.png").size == (528, 528)
    for kind in (SampleEditing, SampleMagicBrush, SampleEmuEdit):
        options = kind().edit_options()
        assert (options["crop"], options["crop_padding"]) == ("none", None)
        assert kind(crop="auto", crop_padding=7).edit_options()["crop_padding"] == 7
    assert SampleScaled().crop == "none"
    for kind in (SampleEditing, SampleMagicBrush, SampleScaled):
        with pytest.raises(
            UserError, match="--crop-padding 3 without a crop: give --crop auto or region too"
        ):
            kind(crop_padding=3)


def test_results_of_before_there_were_crops_stay_good(vq_ckpt, gpt_ckpts):
    paths = {"vq_ckpt": str(vq_ckpt), "gpt_ckpt": str(gpt_ckpts["edit"])}
    whole, cropped = (SampleMagicBrush(**paths, crop=crop).settings(None) for crop in ("none", "region"))
    assert "crop" not in whole and "crop_padding" not in whole
    assert cropped == whole | {"crop": "region", "crop_padding": None}


@pytest.mark.parametrize("name", ["out.jpg", "out.bmp"])
def test_a_format_without_transparency_is_refused_before_the_edit(photo, name):
    flags = {"image": str(photo / "in.png"), "prompt": "x", "output": str(photo / name)}
    config = SampleEditing(**flags, crop="auto")
    with pytest.raises(
        UserError, match=f"{name}: a .* file has no place for the picture's transparency; write"
    ):
        require_usable(read_jobs(config), config)
    config = SampleEditing(**flags)
    require_usable(read_jobs(config), config)  # over white, as ever
    deep = Image.fromarray(np.zeros((9, 9), np.uint16))
    deep.save(photo / "in.png")
    config = SampleEditing(**{**flags, "output": str(photo / "out.webp")}, crop="auto")
    with pytest.raises(UserError, match=r"out.webp: a WEBP file has no place for the picture's 16-bit grey"):
        require_usable(read_jobs(config), config)


def test_a_test_set_is_edited_in_crops(pipeline, photo, tmp_path):
    """A MagicBrush mask: transparent where to edit."""
    mask = Image.fromarray(np.full((HEIGHT, WIDTH, 4), 255, np.uint8))
    mask.paste((0, 0, 0, 0), (150, 100, 156, 104))
    mask.save(tmp_path / "mask.png")
    job = KeyedEdit("a/a_1.png", photo / "in.png", lambda: "make it red", tmp_path / "mask.png")
    hashes, results = set(), {}
    for crop in ("none", "auto"):
        folders = EditFolders(tmp_path / crop / "images", tmp_path / crop)
        options = {"sampling": Sampling(cfg_scale=1.0), "crop": crop}
        run = EditRun(pipeline, folders, {"crop": crop}, options, 0, Image.Resampling.BICUBIC)
        run.make([[job]], {job.key}, 4, ONE_RANK)
        hashes.add(run.hash)
        samples = json.loads(folders.samples_json.read_text())
        results[crop] = load_native(folders.images / job.key)
        region = np.asarray(Image.open(folders.regions / job.key)) > 0
        kept = np.asarray(results[crop])[~region]
        source = Image.open(photo / "in.png") if crop == "auto" else results["none"]
        assert (kept == np.asarray(source)[~region]).all()
        assert samples["settings"]["source_resampling"] == ("bicubic" if crop == "none" else "bilinear")
        assert region.mean() > 0.1 if crop == "none" else region.mean() < 0.03
        assert samples["edits"][job.key]["tokens"] > 0
    assert len(hashes) == 2 and (results["none"].mode, results["auto"].mode) == ("RGB", "RGBA")


def test_test_time_scaling_of_a_crop(gpt_ckpts, vq_ckpt, t5_dir, photo, monkeypatch):
    flags = ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", gpt_ckpts["t2i"], "--t5-path", t5_dir, "--device", "cpu"]
    flags += ["--cfg-scale", "1", "--reward", "likelihood", "--mask-rule", "exact", "--rounds", "1"]
    flags += ["--list", photo / "edits.jsonl", "--output-dir", photo / "scaled", "--crop", "auto"]
    caption = "a red circle at the top left, gray background"

    def scale(mask: str | None) -> tuple[np.ndarray, np.ndarray]:
        line = {"prompt": "make it red", "image": "in.png", "mask": mask, "caption": caption}
        line = {key: value for key, value in line.items() if value is not None}
        (photo / "edits.jsonl").write_text(json.dumps(line) + "\n")
        monkeypatch.setattr("sys.argv", ["sample_test_time_scaling.py", *map(str, flags)])
        sample_test_time_scaling.main()
        return tuple(np.asarray(Image.open(photo / name)) for name in ("in.png", "scaled/0000.png"))

    before, after = scale("one.png")
    changed = (before != after).any(axis=2)
    assert before.shape == after.shape and changed[100:104, 150:156].any()
    changed[90:115, 140:166] = False
    assert not changed.any()
    before, after = scale(None)
    assert (before[..., 3] == after[..., 3]).all() and (before != after).any()
    with pytest.raises(UserError, match="its region has 2 parts far from each other"):
        scale("two.png")
