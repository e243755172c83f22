"""Locating an edit: the scores against their definition, a trained model, regions by hand, the programs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.auto_mask import (
    edit_scores,
    locating_layout,
    region_iou,
    smooth_cells,
)
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.gpt import build_gpt
from autoregressive.models.loss import layout_loss
from autoregressive.sample import edit_test_sets
from autoregressive.sample.file_edits import edit_files, read_jobs
from autoregressive.sample.flags import SampleEditing, SampleEmuEdit, SampleMagicBrush
from autoregressive.sequence.builders import editing_layout, editing_prompt
from autoregressive.sequence.orders import random_orders
from dataset.testsets.emu_edit import EmuItem
from runtime.distributed import ONE_RANK
from runtime.errors import UserError

PLAIN = Sampling(cfg_scale=1.0)
CELLS, CODES, WIDTH = 9, 16, 16


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


def noise(seed: int = 0, side: int = IMAGE_SIZE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def corner(side: int = IMAGE_SIZE) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[: side // 3, : side // 3] = True
    return mask


# --- scores


def test_every_cell_is_predicted_as_the_first_and_after_the_source(pipelines):
    """Against the layouts of training and of generating."""
    pipeline = pipelines["edit"]
    model = pipeline.transformer
    source = torch.randint(CODES, (2, CELLS), generator=torch.Generator().manual_seed(0))
    text, valid = pipeline.encode_texts(["red", "make the blue square at the top left green"])
    everything = torch.ones_like(source, dtype=torch.bool)
    with torch.inference_mode():
        first, forced = model(locating_layout(source, valid, CODES), text).chunk(2, dim=1)
        training = model(editing_layout(source, source, everything, valid, CODES), text)
        assert torch.allclose(forced, training, atol=1e-4)
        for cell in range(CELLS):
            orders = torch.full_like(source, cell)
            prompt = editing_prompt(source, everything, orders, valid, CODES)
            assert torch.allclose(first[:, cell], model(prompt, text)[:, -1], atol=1e-4)
    assert not torch.allclose(forced[:, 1:], first[:, 1:], atol=1e-2)


def test_scores_are_their_definition_whatever_stands_beside_them_in_the_batch(pipelines):
    pipeline = pipelines["edit"]
    model = pipeline.transformer
    source = torch.randint(CODES, (3, CELLS), generator=torch.Generator().manual_seed(0))
    prompts = ["red", "make the blue square at the top left green", "remove it"]
    text, valid = pipeline.encode_texts(prompts)
    scores = pipeline.locate(source, text, valid)
    assert scores.shape == (3, CELLS) and scores.abs().max() > 1e-3
    for row in range(3):
        codes = source[row : row + 1]
        words, used = pipeline.encode_texts([prompts[row]])
        layout = locating_layout(codes, used, CODES)
        with torch.inference_mode():
            told = model(layout, words)[0].double().softmax(1)
            untold = model(layout, model.unconditional_text(words))[0].double().softmax(1)
        for cell in range(CELLS):
            sums = []
            for place in (cell, CELLS + cell):
                others = [code for code in range(CODES) if code != int(codes[0, cell])]
                pairs = [(float(told[place, code]), float(untold[place, code])) for code in others]
                sums.append(sum(p * math.log(p / q) for p, q in pairs))
            assert float(scores[row, cell]) == pytest.approx(max(sums), abs=1e-4)


def test_large_batches_are_split_and_the_model_stays_in_its_mode(pipelines, monkeypatch):
    pipeline = pipelines["edit"]
    source = torch.randint(CODES, (5, CELLS), generator=torch.Generator().manual_seed(1))
    text, valid = pipeline.encode_texts(["red", "blue", "a green star", "remove it", "x"])
    whole = pipeline.locate(source, text, valid)
    monkeypatch.setattr("autoregressive.editing.auto_mask._MOST_LOGITS", 2 * 2 * CELLS * CODES)
    pipeline.transformer.train()
    assert torch.allclose(pipeline.locate(source, text, valid), whole, atol=1e-5)
    assert pipeline.transformer.training
    pipeline.transformer.eval()


def test_a_model_without_marks_cannot_locate(pipelines):
    with pytest.raises(UserError, match="needs a model with edit/keep marks"):
        pipelines["t2i"].edit(noise(), "x", "auto")


def test_a_trained_model_finds_the_cell_that_the_text_names():
    """Each text asks for code 0 in a cell of its own; elsewhere the source is copied."""
    torch.manual_seed(0)
    dropouts = dict.fromkeys(("token_dropout_p", "resid_dropout_p", "ffn_dropout_p"), 0.0)
    sizes = {"vocab_size": CODES, "block_size": CELLS, "caption_dim": WIDTH}
    model = build_gpt("R-GPT-tiny", mask_in_context=True, **sizes, **dropouts)
    cells = torch.tensor([1, 4, 6])
    names = 5 * torch.randn(3, 1, WIDTH)
    valid = torch.ones(3, 1, dtype=torch.bool)
    source = torch.full((3, CELLS), 5)
    target = source.scatter(1, cells[:, None], 0)
    everything = torch.ones_like(source, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(300):
        text = model.unconditional_text(names) if step % 4 == 3 else names
        # In any order, so that each cell comes first now and then: as cells are when they are looked for.
        orders = random_orders([3 * step, 3 * step + 1, 3 * step + 2], CELLS)
        layout = editing_layout(source, target, everything, valid, CODES, supervise_marks=True, orders=orders)
        optimizer.zero_grad()
        layout_loss(model(layout, text), layout).div(layout.targets.numel()).backward()
        optimizer.step()
    scores = edit_scores(model, source, names, valid)
    assert torch.equal(scores.argmax(1), cells)
    assert (scores.amax(1) > 0.5).all()


# --- regions


def table(*rows: str) -> torch.Tensor:
    """(N,) numbers from rows of digits."""
    return torch.tensor([float(digit) for row in rows for digit in row])


def test_regions_by_hand():
    scores = torch.stack([table("0000", "0900", "0400", "0000"), table("0000", "0000", "0000", "0001")])

    def region(rows=scores, **settings) -> torch.Tensor:
        settings = {"threshold": 0.5, "smoothing": 0, "growth": 0} | settings
        return AutoMaskSettings(**settings).region(rows, 4).float()

    assert torch.equal(
        region(),
        torch.stack([table("0000", "0100", "0000", "0000"), table("0000", "0000", "0000", "0001")]),
    )
    assert torch.equal(
        region(threshold=0.4, growth=1),
        torch.stack([table("1110", "1110", "1110", "1110"), table("0000", "0000", "0011", "0011")]),
    )
    assert region(threshold=0.0).all()
    # Where nothing speaks for an edit, the best cell alone.
    assert torch.equal(
        region(table("5555", "5355", "5555", "5555")[None] * -1)[0], table("0000", "0100", "0000", "0000")
    )
    # Smoothing takes from the peak and gives to its neighbours.
    smooth = smooth_cells(scores.view(2, 1, 4, 4), 0.7).flatten(1)
    assert smooth[0, 5] < 9 and smooth[0, 4] > 0 and smooth[0].argmax() == 5
    assert region(smoothing=0.7)[0].sum() > region()[0].sum()
    flat = torch.ones(1, 1, 4, 4)  # the border does not darken
    assert torch.allclose(smooth_cells(flat, 1.3), flat)


def test_pieces_and_rectangles_by_hand():
    # 3 touches 9 at a corner and belongs to it; 5 stands alone and is too weak, 8 is not.
    scores = torch.stack([table("9000", "0300", "0000", "0005"), table("9000", "0300", "0000", "0008")])
    settings = AutoMaskSettings(threshold=0.3, smoothing=0, growth=0)
    assert torch.equal(
        settings.region(scores, 4).float(),
        torch.stack([table("1100", "1100", "0000", "0000"), table("1100", "1100", "0000", "0001")]),
    )
    ring = table("1111", "1001", "1001", "1111")[None]
    assert settings.region(ring, 4).all()


def test_iou():
    found = table("1100", "0000", "0000", "0000")[None] > 0
    true = table("0110", "0000", "0000", "0000")[None] > 0
    assert region_iou(found, true).tolist() == [pytest.approx(1 / 3)]
    assert region_iou(true, true).tolist() == [1.0]


def test_settings_are_checked_and_read_from_a_file(tmp_path):
    with pytest.raises(UserError, match="growth -1"):
        AutoMaskSettings(growth=-1)
    with pytest.raises(UserError, match="smoothing -0.5"):
        AutoMaskSettings(smoothing=-0.5)
    with pytest.raises(UserError, match="threshold 1.5: give a share"):
        AutoMaskSettings(threshold=1.5)
    with pytest.raises(UserError, match="threshold nan"):
        AutoMaskSettings(threshold=float("nan"))
    path = tmp_path / "auto.json"
    chosen = AutoMaskSettings(0.25, 1.0, 1)
    path.write_text(json.dumps({"settings": chosen.to_dict(), "iou": 0.7}))
    assert AutoMaskSettings.load(path) == chosen
    for content in ("{oops", "{}", '{"settings": {"threshold": 1}}', "[]"):
        path.write_text(content)
        with pytest.raises(UserError, match="calibrate_auto_mask.py writes it"):
            AutoMaskSettings.load(path)
    with pytest.raises(UserError, match="gone.json"):
        AutoMaskSettings.load(tmp_path / "gone.json")


# --- the pipeline and the programs


def test_auto_stands_beside_other_masks(pipelines):
    pipeline = pipelines["edit"]
    images, prompts = [noise(i, 30) for i in range(3)], ["red circle", "remove it", "a blue star"]
    settings = AutoMaskSettings(threshold=1, smoothing=0, growth=0)
    options = {"sampling": PLAIN, "mask_rule": "exact", "auto_mask": settings}
    results = pipeline.edit(images, prompts, [corner(30), "auto", None], seeds=[3, 4, 5], **options)
    assert "locate" in results[0].timings
    codes = pipeline.encode(images)
    expected = settings.region(pipeline.locate(codes, *pipeline.encode_texts(prompts)), pipeline.grid)
    assert torch.equal(results[1].edit_mask, expected[1]) and 0 < expected[1].sum() < CELLS
    before, after = np.asarray(images[1]), np.asarray(results[1].image)
    outside = ~results[1].region.numpy()
    assert outside.any() and (before[outside] == after[outside]).all()
    assert torch.equal(results[1].codes[~expected[1]], codes[1][~expected[1]])
    for i, mask in ((0, corner(30)), (2, None)):
        alone = pipeline.edit(images[i], prompts[i], mask, seeds=[3 + i], **options)[0]
        assert torch.equal(alone.codes, results[i].codes) and "locate" not in alone.timings
    with pytest.raises(UserError, match="mask atuo: no such file; give .*'auto'"):
        pipeline.edit(images[0], "x", "atuo")


def test_known_codes_are_not_encoded_again(pipelines, monkeypatch):
    pipeline = pipelines["edit"]
    codes = torch.arange(CELLS)[None]
    monkeypatch.setattr(pipeline, "encode", lambda images: pytest.fail("encoded"))
    result = pipeline.edit(noise(), "x", corner(), sampling=PLAIN, mask_rule="exact", source_codes=codes)[0]
    assert result.edit_mask.sum() == 1 and torch.equal(result.codes[1:], codes[0, 1:])


def flags(vq_ckpt, gpt_ckpts, t5_dir) -> dict:
    return {
        "vq_ckpt": str(vq_ckpt),
        "gpt_ckpt": str(gpt_ckpts["edit"]),
        "t5_path": str(t5_dir),
        "cfg_scale": 1.0,
        "device": "cpu",
    }


def test_one_image_and_a_list(pipelines, vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    noise().save(tmp_path / "in.png")
    Image.fromarray(corner()).save(tmp_path / "mask.png")
    lines = [
        {"image": "in.png", "prompt": "red", "output": f"of {mask}", "mask": mask}
        for mask in ("auto", "mask.png")
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    common = flags(vq_ckpt, gpt_ckpts, t5_dir) | {"mask_rule": "exact"}
    config = SampleEditing(list=str(tmp_path / "list.jsonl"), **common)
    listed = edit_files(pipelines["edit"], read_jobs(config), config, [0, 1])
    assert listed[1].edit_mask.sum() == 1 and not torch.equal(listed[0].edit_mask, listed[1].edit_mask)

    image = {"image": str(tmp_path / "in.png"), "prompt": "red"}
    for one in (
        SampleEditing(mask="auto", **image, **common),
        SampleEditing(auto_mask=True, **image, **common),
    ):
        (result,) = edit_files(pipelines["edit"], read_jobs(one), one, [0])
        assert torch.equal(result.codes, listed[0].codes)
    everywhere = tmp_path / "everywhere.json"
    settings = AutoMaskSettings(1, 0, 3)
    everywhere.write_text(json.dumps({"settings": settings.to_dict()}))
    other = SampleEditing(mask="auto", auto_mask_settings=str(everywhere), **image, **common)
    (result,) = edit_files(pipelines["edit"], read_jobs(other), other, [0])
    assert result.edit_mask.all()
    assert other.settings(None)["auto_mask_settings"] == settings.to_dict()
    with pytest.raises(UserError, match="--auto-mask finds the region, --full-mask takes every cell"):
        SampleEditing(auto_mask=True, full_mask=True, **common)
    with pytest.raises(UserError, match="--mask auto finds the region, --full-mask takes every cell"):
        SampleEditing(mask="auto", full_mask=True, **common)


def test_test_sets(shapes, vq_ckpt, gpt_ckpts, t5_dir, tmp_path, monkeypatch):
    asked = []
    edit = EditingPipeline.edit

    def noted(self, images, prompts, masks, **options):
        asked.extend(masks)
        return edit(self, images, prompts, masks, **options)

    monkeypatch.setattr(EditingPipeline, "edit", noted)
    settings = {"settings": AutoMaskSettings(0.05, 0, 0).to_dict()}
    (tmp_path / "auto.json").write_text(json.dumps(settings))
    common = flags(vq_ckpt, gpt_ckpts, t5_dir) | {"auto_mask_settings": str(tmp_path / "auto.json")}
    config = SampleMagicBrush(
        magicbrush_path=str(shapes / "test"), output_dir=str(tmp_path / "mb"), auto_mask=True, **common
    )
    edit_test_sets.sample_magicbrush(config, ONE_RANK)
    edits = json.loads((tmp_path / "mb" / "samples.json").read_text())["edits"]
    assert len(asked) == len(edits) >= 7 and set(asked) == {"auto"}
    assert len({entry["tokens"] for entry in edits.values()}) > 1

    noise().save(tmp_path / "emu.png")
    items = [EmuItem(0, tmp_path / "emu.png", "x", "a", "b")]
    monkeypatch.setattr(edit_test_sets, "read_emu", lambda *_: items)
    config = SampleEmuEdit(emu_path="x", output_dir=str(tmp_path / "emu"), auto_mask=True, **common)
    asked.clear()
    edit_test_sets.sample_emu_edit(config, ONE_RANK)
    assert asked == ["auto"]
