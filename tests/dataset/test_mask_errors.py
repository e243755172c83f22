"""Inexact masks: --mask-jitter in training data of every form, --mask-error in the editing programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.edit_test_sets import sample_magicbrush
from autoregressive.sample.file_edits import FileEdit, edit_files
from autoregressive.sample.flags import SampleEditing, SampleEmuEdit, SampleMagicBrush
from autoregressive.train.config import EditingConfig
from dataset.build import build_dataset
from dataset.cached import CachedEdits
from dataset.edit_masks import pool_edit_mask, resize_mask
from dataset.t2i_editing import EditingDataset
from language.text_features import TextFeatures
from runtime.config import parse
from runtime.distributed import distributed
from runtime.errors import UserError

PLAIN = Sampling(cfg_scale=1.0)


def pixel_cells(shapes, **options) -> EditingDataset:
    """The shapes pairs with a cell for every pixel: an edit mask is the region itself."""
    options = {"grid": IMAGE_SIZE, "mask_rule": "exact", "center_crop": True, **options}
    return build_dataset(
        "editing_ultraedit", [shapes / "train" / "editing.jsonl"], IMAGE_SIZE, None, **options
    )


def test_jitter_moves_the_mask_and_nothing_else_by_the_seed_alone(shapes):
    plain, jittered = pixel_cells(shapes), pixel_cells(shapes, mask_jitter=2)
    changed = 0
    for index in range(24):
        expected = plain[index, 0]
        # Two pixels of growth and two of shift.
        bound = resize_mask(expected.edit_mask.view(1, IMAGE_SIZE, IMAGE_SIZE), 4).flatten()
        for seed in (3, 4, 5):
            sample, again = jittered[index, seed], jittered[index, seed]
            assert sample.problem is None and torch.equal(sample.source, expected.source)
            assert torch.equal(sample.edited, expected.edited) and sample.text == expected.text
            assert torch.equal(sample.edit_mask, again.edit_mask)
            assert sample.edit_mask.any() and (sample.edit_mask <= bound).all()
            changed += not torch.equal(sample.edit_mask, expected.edit_mask)
    assert changed > 36  # all but one in 125, and those that shrinking would have emptied
    assert len({tuple(jittered[0, seed].edit_mask.tolist()) for seed in range(20)}) > 5


def test_jitter_leaves_the_dice_of_dilation_alone(shapes):
    dilated, both = pixel_cells(shapes, mask_dilation=3), pixel_cells(shapes, mask_dilation=3, mask_jitter=1)
    for seed in range(12):
        region = dilated[0, seed].edit_mask.view(1, IMAGE_SIZE, IMAGE_SIZE)
        assert (both[0, seed].edit_mask <= resize_mask(region, 2).flatten()).all()


def test_cached_codes_are_jittered_as_the_images(shapes):
    dataset = pixel_cells(shapes, mask_jitter=3)
    feature = TextFeatures(torch.zeros(1, 4), torch.ones(1, dtype=torch.bool))
    cached = CachedEdits(
        dataset, lambda images: torch.zeros(len(images), 9), lambda texts: [feature] * len(texts)
    )
    for index in range(24):
        for seed in (0, 7):
            assert torch.equal(cached[index, seed].edit_mask, dataset[index, seed].edit_mask)
    assert not torch.equal(cached[0, 0].edit_mask, cached[0, 7].edit_mask)


@pytest.mark.parametrize("pixels", [-1, IMAGE_SIZE])
def test_a_jitter_that_makes_no_sense_is_refused(shapes, pixels):
    with pytest.raises(UserError, match=f"--mask-jitter {pixels}: must be 0 or more pixels and below .* 24"):
        pixel_cells(shapes, mask_jitter=pixels)


def test_packed_data_is_jittered_when_it_is_packed():
    with pytest.raises(UserError, match="--mask-jitter does not go with --packed-data: masks are"):
        parse(EditingConfig, ["--mask-jitter", "2", "--packed-data", "x", "--vq-ckpt", "y"])


@pytest.fixture(scope="module")
def pipeline(gpt_ckpts, vq_ckpt, t5_dir):
    return EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)


@pytest.fixture(scope="module")
def source() -> Image.Image:
    """Twice the model's size: the error counts the mask's own pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def middle() -> np.ndarray:
    """(48, 48) bool, 10x10 pixels inside the middle cell."""
    mask = np.zeros((48, 48), bool)
    mask[19:29, 19:29] = True
    return mask


@pytest.mark.parametrize(
    ("error", "side", "num_cells"), [(0, 10, 1), (3, 16, 1), (4, 18, 9), (-4, 2, 1), (-99, 2, 1)]
)
def test_mask_error_moves_the_outline_before_pooling(pipeline, source, error, side, num_cells):
    options = {"sampling": PLAIN, "mask_rule": "exact", "composite": "mask", "mask_error": error}
    result = pipeline.edit(source, "make it red", middle(), **options)[0]
    expected = np.zeros((48, 48), bool)
    expected[24 - side // 2 : 24 + side // 2, 24 - side // 2 : 24 + side // 2] = True
    assert (result.region.numpy() == expected).all() and result.edit_mask.sum() == num_cells
    before, after = np.asarray(source), np.asarray(result.image)
    assert (after[~expected] == before[~expected]).all()
    by_hand = pipeline.edit(source, "make it red", expected, **{**options, "mask_error": 0})[0]
    assert (np.asarray(by_hand.image) == after).all()


def test_an_edit_without_a_mask_has_no_mask_error(pipeline, source):
    results = [pipeline.edit(source, "x", sampling=PLAIN, mask_error=error)[0] for error in (0, -5)]
    assert results[1].edit_mask.all() and torch.equal(results[0].codes, results[1].codes)
    with pytest.raises(UserError, match="marks no pixel"):
        pipeline.edit(source, "x", np.zeros((48, 48)), mask_error=5)


def test_the_programs_pass_the_error_on(pipeline, source, shapes, vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    models = ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", gpt_ckpts["edit"], "--t5-path", t5_dir, "--device", "cpu"]
    common = list(map(str, [*models, "--cfg-scale", 1, "--mask-rule", "exact"]))
    source.save(tmp_path / "in.png")
    Image.fromarray(middle()).save(tmp_path / "mask.png")
    job = FileEdit(tmp_path / "in.png", tmp_path / "mask.png", "make it red", tmp_path / "out.png")
    wide, narrow = (
        edit_files(pipeline, [job], parse(SampleEditing, [*common, "--mask-error", error]), [0])[0]
        for error in ("4", "-4")
    )
    assert (wide.edit_mask.sum(), narrow.edit_mask.sum()) == (9, 1)

    areas = {}
    for error in (0, 3):
        out = tmp_path / str(error)
        flags = ["--magicbrush-path", shapes / "test", "--output-dir", out, "--turns", "single"]
        flags += ["--composite", "mask", "--mask-error", error]
        with distributed("cpu") as ranks:
            sample_magicbrush(parse(SampleMagicBrush, [*common, *map(str, flags)]), ranks)
        regions = {p.name: np.asarray(Image.open(p)) > 127 for p in sorted(out.glob("regions/*/*.png"))}
        areas[error] = regions
    assert len(areas[0]) == len(areas[3]) == 7
    for name, region in areas[0].items():
        widened = resize_mask(torch.tensor(region)[None], 3)[0].numpy()
        assert (areas[3][name] == widened).all()
    emu = parse(SampleEmuEdit, [*common, "--emu-path", "x", "--output-dir", "y", "--mask-error", "2"])
    assert emu.edit_options()["mask_error"] == 2


def test_published_pooling_follows_the_moved_outline(pipeline, source):
    result = pipeline.edit(source, "x", middle(), sampling=PLAIN, mask_error=2)[0]
    moved = resize_mask(torch.tensor(middle())[None], 2)
    assert torch.equal(result.edit_mask, pool_edit_mask(moved.float(), 3))


@pytest.mark.parametrize("other", ["--full-mask", "--auto-mask"])
def test_mask_error_without_masks_is_refused(other):
    words = ["--vq-ckpt", "v", "--gpt-ckpt", "g", "--mask-error", "2", other]
    with pytest.raises(UserError, match="--mask-error moves the outline of masks: leave out --full-mask"):
        parse(SampleEditing, words)
