"""Test sets from their published form to scores, and edits that go on where they stopped."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, run_program
from pictures import picture
from PIL import Image, ImageDraw
from preparation_data import cell, encoded, write_parquet

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.arguments import OwnSizeMask
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.edit_run import EditFolders, EditRun, KeyedEdit
from autoregressive.sample.edit_sets import emu_jobs, keys_of, with_output_caption
from dataset.edit_masks import cells_to_pixels, pool_edit_mask
from dataset.testsets.emu_edit import EmuItem
from runtime.distributed import ONE_RANK
from runtime.errors import UserError

SIZE = 2 * IMAGE_SIZE  # another than the model's


def emu_rows() -> list[dict]:
    captions = [("a", "b"), ("same", "same"), ("c", None), ("d", "e")]
    return [
        {
            "instruction": f"edit {idx}",
            "image": cell(encoded(picture(idx).resize((SIZE, SIZE)))),
            "task": "color",
            "split": "test",
            "idx": 3 * idx,
            "hash": f"h{idx}",
            "input_caption": before,
            "output_caption": after,
        }
        for idx, (before, after) in enumerate(captions)
    ]


def test_emu_edit_from_the_hubs_parquet_to_scores(vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", emu_rows(), ("image",))
    prepared = tmp_path / "emu"
    run_program("dataset/prepare_emu_edit.py", "--data-path", tmp_path / "data", "--output-dir", prepared)
    listing = prepared / "emu_test_valid_list.json"
    assert [entry["idx"] for entry in json.loads(listing.read_text())] == [0, 9]

    model = ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", gpt_ckpts["edit"], "--t5-path", t5_dir, "--cfg-scale", "2"]
    samples = {}
    # From the parquet files and from the prepared images, with one rank and with two: the same edits.
    for name, source, ranks in (("parquet", tmp_path, 1), ("prepared", prepared, 2)):
        flags = ["--emu-path", source, "--valid-list", listing, "--output-dir", tmp_path / name]
        program = "autoregressive/sample/sample_emu_edit.py"
        run_program(program, *model, *flags, "--write-ceiling", "--device", "cpu", ranks=ranks)
        folder = tmp_path / name / "samples"
        samples[name] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    assert set(samples["parquet"]) == {"0.png", "9.png"}
    assert samples["parquet"] == samples["prepared"]
    assert Image.open(tmp_path / "parquet" / "samples" / "9.png").size == (SIZE, SIZE)

    flags = ["--generated_path", tmp_path / "prepared" / "samples", "--gt_path", prepared / "images_valid"]
    flags += ["--ceiling-path", tmp_path / "prepared" / "ceiling", "--save_path", tmp_path / "scores"]
    run_program("evaluations/editing/emuedit_eval.py", *flags, "--caption_path", listing, "--metric", "l1,l2")
    scores = json.loads((tmp_path / "scores" / "evaluation_metrics.json").read_text())
    pairs = [
        (tmp_path / "prepared" / "samples" / f"{idx}.png", prepared / "images_valid" / f"{idx}_gt.png")
        for idx in (0, 9)
    ]
    arrays = [[np.asarray(Image.open(path).convert("RGB"), float) / 255 for path in pair] for pair in pairs]
    expected = np.mean([np.abs(a - b).mean() for a, b in arrays])
    assert scores["final_turn"]["l1"] == pytest.approx(expected, abs=1e-6)
    assert scores["copy_source"]["final_turn"]["l1"] == 0 < scores["tokenizer_ceiling"]["final_turn"]["l1"]


def test_an_emu_editor_can_be_told_what_the_result_shows():
    item = EmuItem(7, Path("7.png"), "add a hat", "a cat", "a cat in a hat")
    assert [job.text() for job in emu_jobs([item, with_output_caption(item)])] == [
        "add a hat",
        "a cat in a hat",
    ]
    with pytest.raises(UserError, match=r"7\.png: item 7 has no output_caption"):
        with_output_caption(replace(item, output_caption=None))


class StopsAfter:
    """A pipeline that dies after a number of batches, and notes how many edits it was asked for."""

    def __init__(self, pipeline: EditingPipeline, batches: int) -> None:
        self.pipeline, self.batches, self.edits = pipeline, batches, 0
        self.encode, self.device, self.text_encoder = pipeline.encode, pipeline.device, pipeline.text_encoder

    def edit(self, images, *args, **kwargs):
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        self.edits += len(images)
        return self.pipeline.edit(images, *args, **kwargs)


@pytest.fixture(scope="module")
def pipeline(vq_ckpt, gpt_ckpts, t5_dir) -> EditingPipeline:
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


@pytest.fixture
def jobs(tmp_path) -> list[KeyedEdit]:
    for i in range(5):
        picture(i).save(tmp_path / f"{i}.png")
    return [KeyedEdit(f"{i}.png", tmp_path / f"{i}.png", lambda i=i: f"edit {i}", None) for i in range(5)]


def test_a_stopped_run_goes_on_and_other_settings_start_anew(pipeline, jobs, tmp_path):
    keys = {job.key for job in jobs}

    def run(batches: int, settings: dict, folder: str = "out", keys: set[str] = keys) -> int:
        folders = EditFolders(tmp_path / folder / "images", tmp_path / folder)
        stopping = StopsAfter(pipeline, batches)
        options = {"sampling": Sampling(cfg_scale=1.0)}
        edit_run = EditRun(stopping, folders, settings, options, seed=0)
        try:
            edit_run.make([[job for job in jobs if job.key in keys]], keys, 2, ONE_RANK)
        except KeyboardInterrupt:
            assert not folders.samples_json.exists()
        return stopping.edits

    assert run(9, {"a": 1}, "whole") == 5
    assert run(1, {"a": 1}) == 2
    assert run(9, {"a": 1}) == 3
    assert run(9, {"a": 1}) == 0
    for i in range(5):
        image = tmp_path / "out" / "images" / f"{i}.png"
        assert image.read_bytes() == (tmp_path / "whole" / "images" / f"{i}.png").read_bytes()
    assert run(9, {"a": 1}, keys={"0.png", "1.png"}) == 0  # some of them
    assert run(9, {"a": 1}, keys={"0.png", "1.png", "2.png"}) == 1
    assert run(1, {"a": 2}) == 2  # stopped: the images are now of two settings, and nothing claims otherwise
    assert run(9, {"a": 1}) == 5
    assert not list((tmp_path / "out").glob("*.jsonl"))


@pytest.fixture
def edit_run(pipeline, tmp_path) -> EditRun:
    folders = EditFolders(tmp_path / "out" / "images", tmp_path / "out")
    return EditRun(pipeline, folders, {}, {"sampling": Sampling(cfg_scale=1.0)}, seed=0)


def test_a_journal_torn_by_a_kill_costs_no_later_line(edit_run, jobs):
    edit_run.pipeline = StopsAfter(edit_run.pipeline, 1)
    keys = keys_of([jobs])
    with pytest.raises(KeyboardInterrupt):
        edit_run.make([jobs], keys, 1, ONE_RANK)
    (journal,) = edit_run.folders.records.glob("*.jsonl")
    with journal.open("a") as file:
        file.write('{"1.png": {"inp')
    edit_run.pipeline = StopsAfter(edit_run.pipeline.pipeline, 9)
    assert edit_run.make([jobs], keys, 1, ONE_RANK) and edit_run.pipeline.edits == 4
    assert edit_run.is_done(keys) and not journal.exists()


def test_edits_that_no_rank_made_and_a_full_disk_are_errors_of_a_line(edit_run, jobs, monkeypatch):
    with pytest.raises(UserError, match="out/images or .*out lack 2 of 3 edits: 8.png, 9.png; .*one shared"):
        edit_run.make([jobs[:1]], {"0.png", "8.png", "9.png"}, 2, ONE_RANK)

    def full(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="cannot write .*samples-.*-rank0.jsonl: No space left"):
        edit_run._note({"0.png": {}}, 0)


def test_a_mask_that_marks_nothing_is_named(edit_run, jobs, tmp_path):
    jobs = [jobs[0], replace(jobs[1], mask=tmp_path / "mask.png")]
    Image.new("L", picture(0).size, 255).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="mask.png: marks no pixel to edit"):
        edit_run.make([jobs], keys_of([jobs]), 2, ONE_RANK)


@pytest.mark.parametrize("box", [(1, 1, 1, 1), (0, 0, 95, 27)], ids=["a speck between pixels", "an edge"])
def test_a_mask_of_another_resolution_marks_its_own_cells(edit_run, jobs, tmp_path, box):
    mask = Image.new("RGBA", (96, 96), (9, 9, 9, 255))
    ImageDraw.Draw(mask).rectangle(box, fill=(0, 0, 0, 0))
    mask.save(tmp_path / "mask.png")
    edit_run.make([[replace(jobs[0], mask=tmp_path / "mask.png")]], {"0.png"}, 1, ONE_RANK)
    region = np.asarray(Image.open(edit_run.folders.regions / "0.png")) > 0
    own = torch.from_numpy(np.asarray(mask)[..., 3] == 0)
    grid = edit_run.pipeline.grid
    cells = pool_edit_mask(own[None].float(), grid)
    assert np.array_equal(region, cells_to_pixels(cells, grid, *region.shape).numpy())
    pixels = OwnSizeMask(own).fitted(picture(0))
    assert pixels.shape == region.shape and pixels.any()
    small = mask.resize(picture(0).size, Image.Resampling.NEAREST)  # shrunk first, it marks others, or none
    shrunk = torch.from_numpy(np.asarray(small)[..., 3] == 0)
    assert not shrunk.any() or not torch.equal(pool_edit_mask(shrunk[None].float(), grid), cells)
