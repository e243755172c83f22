"""The pipeline and the sampling programs: pixels outside the cells, sizes, errors, formats."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_program
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.gpt import Transformer
from autoregressive.sample.edit_run import EditFolders, EditRun, KeyedEdit
from autoregressive.sample.edit_test_sets import settings_of
from autoregressive.sample.flags import SampleMagicBrush
from autoregressive.sequence.order_kinds import ORDER_KINDS
from autoregressive.sequence.orders import drawing_orders
from dataset.edit_masks import EmptyMaskError
from dataset.records.images import load_image
from dataset.testsets.magicbrush import read_sessions
from runtime.errors import UserError

PLAIN = Sampling(cfg_scale=1.0)


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def box(width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 3 : height // 2, width // 5 : width // 3] = True
    return mask


@pytest.mark.parametrize("size", [(24, 24), (61, 47), (100, 30), (17, 90)])
@pytest.mark.parametrize(("name", "composite"), [("edit", "cells"), ("edit", "mask"), ("t2i", "cells")])
def test_pixels_outside_the_region_are_the_sources_bit_for_bit(pipelines, name, composite, size):
    source, mask = noise(*size), box(*size)
    result = pipelines[name].edit(source, "x", mask, sampling=PLAIN, composite=composite, mask_rule="exact")[
        0
    ]
    before, after, region = np.asarray(source), np.asarray(result.image), result.region.numpy()
    assert after.shape == before.shape
    assert (after[~region] == before[~region]).all()
    assert (after[region] != before[region]).any()
    assert region[mask].all()  # nothing that was asked for is left out
    if composite == "mask":
        assert (region == mask).all()
    assert set(result.timings) == {"encode", "generate", "decode"}


def test_all_of_an_edits_time_is_counted(pipelines, tmp_path, monkeypatch):
    """A clock that only encoding moves: words 1 s, pictures 2 s; the sampler encodes both itself."""
    pipeline, now = copy.copy(pipelines["edit"]), [0.0]
    monkeypatch.setattr("runtime.devices._now", lambda device: now[0])

    def taking(seconds, work):
        def slow(*given):
            now[0] += seconds
            return work(*given)

        return slow

    monkeypatch.setattr(pipeline, "encode_texts", taking(1, pipeline.encode_texts), raising=False)
    monkeypatch.setattr(pipeline, "encode", taking(2, pipeline.encode), raising=False)
    source, mask = noise(24, 24), box(24, 24)
    assert pipeline.edit(source, "x", mask, sampling=PLAIN)[0].timings["encode"] == 3
    source.save(tmp_path / "a.png")
    folders = EditFolders(tmp_path / "images", tmp_path)
    run = EditRun(pipeline, folders, {}, {"sampling": PLAIN}, seed=0)
    jobs = [KeyedEdit(f"{i}.png", tmp_path / "a.png", lambda: "x", None) for i in range(2)]
    assert [entry["seconds"] for entry in run._edit(jobs).values()] == [1.5, 1.5]


def test_composite_none_decodes_everything_and_published_leaves_a_ring(pipelines):
    source, mask = noise(24, 24), box(24, 24)
    edit = pipelines["edit"].edit
    everything = edit(source, "x", mask, sampling=PLAIN, composite="none")[0]
    assert everything.region.all()
    cells = edit(source, "x", mask, sampling=PLAIN, composite="cells", mask_rule="exact")[0]
    published = edit(source, "x", mask, sampling=PLAIN, composite="published", mask_rule="exact")[0]
    assert (published.region | ~cells.region).all() and published.region.sum() > cells.region.sum()


def test_kept_codes_are_the_sources(pipelines):
    source, mask = noise(24, 24), box(24, 24)
    for pipeline in pipelines.values():
        result = pipeline.edit(source, "x", mask, sampling=PLAIN, mask_rule="exact")[0]
        kept = ~result.edit_mask
        assert torch.equal(result.codes[kept], pipeline.encode([source])[0][kept])


def test_a_batch_gives_what_single_calls_give(pipelines):
    sources = [noise(24, 24, seed) for seed in range(4)]
    masks = [box(24, 24), None, np.eye(24) > 0, box(24, 24).T]
    prompts = ["a red circle", "make the blue square green at the top left", "x", "remove it"]
    for pipeline in pipelines.values():
        for order in (False, True):
            settings = {"sampling": PLAIN, "mask_rule": "exact", "random_order": order}
            together = pipeline.edit(sources, prompts, masks, seeds=[5, 6, 7, 8], **settings)
            for i, result in enumerate(together):
                alone = pipeline.edit(sources[i], prompts[i], masks[i], seeds=[5 + i], **settings)[0]
                assert torch.equal(result.codes, alone.codes)


def test_errors_name_the_value(pipelines):
    edit = pipelines["edit"].edit
    with pytest.raises(UserError, match=r"the mask has the shape \(10, 10\), the image is 24x24"):
        edit(noise(24, 24), "x", np.ones((10, 10)))
    with pytest.raises(EmptyMaskError, match="marks no pixel"):
        edit(noise(24, 24), "x", np.zeros((24, 24)))
    with pytest.raises(UserError, match="1 images, 2 prompts"):
        edit([noise(24, 24)], ["x", "y"])
    with pytest.raises(UserError, match="has edit/keep marks"):
        edit(noise(24, 24), "x", mode="zero_shot")
    with pytest.raises(UserError, match="composite 'best' is not known"):
        edit(noise(24, 24), "x", composite="best")


def test_samples_of_one_edit_share_its_prompt_and_stay_the_same(pipelines):
    """Also where a row of the batch keeps nothing, and where every sample has an order of its own."""
    sources, masks = [noise(24, 24, 1), noise(30, 24, 2)], [None, box(30, 24)]
    for pipeline in pipelines.values():
        for order in (False, True):
            settings = {"random_order": order, "sampling": Sampling(cfg_scale=2.0, temperature=2.0)}
            together = pipeline.edit(sources, ["red", "a blue square"], masks, num_samples=3, **settings)
            assert len(together) == 6
            assert len({tuple(result.codes.tolist()) for result in together[3:]}) > 1
            for i, result in enumerate(together):
                alone = pipeline.edit(
                    sources[i // 3], ["red", "a blue square"][i // 3], masks[i // 3], seeds=[i], **settings
                )[0]
                assert torch.equal(result.codes, alone.codes)
    drawn = pipelines["t2i"].draw("red", num_samples=2, seeds=4, sampling=PLAIN)
    again = pipelines["t2i"].draw(["red"] * 2, seeds=[4, 5], sampling=PLAIN)
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(drawn, again, strict=True))
    with pytest.raises(UserError, match="1 seeds for 2 results of each of 1 inputs"):
        pipelines["t2i"].draw("red", num_samples=2, seeds=[1])


def test_a_prompt_of_a_thousand_words_is_truncated_with_a_notice(pipelines, capfd):
    pipelines["edit"].edit(noise(24, 24), "red circle " * 500, box(24, 24), sampling=PLAIN)
    assert "the end was cut, 120 tokens are kept" in capfd.readouterr().err


def test_text_to_image_in_any_order(pipelines):
    orders = torch.randperm(9, generator=torch.Generator().manual_seed(1))[None].expand(2, -1)
    images = pipelines["t2i"].draw(["a red circle"] * 2, seeds=[1, 1], sampling=PLAIN, orders=orders)
    assert images[0].size == (24, 24) and (np.asarray(images[0]) == np.asarray(images[1])).all()


def test_orders_by_name_of_edits_and_drawings(pipelines):
    mask = np.ones((24, 24), bool)
    everything = torch.ones(1, 9, dtype=torch.bool)
    for kind in ORDER_KINDS:
        (order,) = drawing_orders(kind, [3], everything)
        steps = []
        pipelines["edit"].edit(
            noise(24, 24), "x", mask, seeds=3, order=kind, sampling=dataclasses.replace(PLAIN, window=1),
            progress=lambda drawing, steps=steps: steps.append(drawing.drawn[0].clone()),
        )  # fmt: skip
        assert [
            int((b ^ a).nonzero()) for a, b in itertools.pairwise([~everything[0], *steps])
        ] == order.tolist()
        drawn = [pipelines["t2i"].draw("x", seeds=3, orders=orders)[0] for orders in (kind, order[None])]
        assert (np.asarray(drawn[0]) == np.asarray(drawn[1])).all()


def test_the_earlier_name_of_the_random_order(pipelines):
    settings = {"masks": box(24, 24), "seeds": 1, "sampling": Sampling(1.0, temperature=2.0)}
    for pipeline in pipelines.values():
        found = [
            pipeline.edit(noise(24, 24), "x", **settings, **order)[0].codes
            for order in (
                {"order": "random"},
                {"random_order": True},
                {"order": "random", "random_order": True},
            )
        ]
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    with pytest.raises(UserError, match="order 'spiral' and random_order contradict"):
        pipelines["edit"].edit(noise(24, 24), "x", order="spiral", random_order=True)
    with pytest.raises(UserError, match="order 'up' is not known"):
        pipelines["edit"].edit(noise(24, 24), "x", order="up")


def test_models_that_cannot_do_it_are_refused(pipelines):
    painter = pipelines["t2i"]
    config = dataclasses.replace(painter.transformer.config, any_order=False)
    raster = EditingPipeline(painter.tokenizer, Transformer(config), painter.text_encoder)
    for mode in (None, "zero_shot", "no_marks"):
        with pytest.raises(UserError, match="raster-order GPT model.*needs an any-order model"):
            raster.edit(noise(24, 24), "x", box(24, 24), mode=mode)
    cells = torch.arange(9)[None]
    drawn = [raster.draw("x", orders=orders)[0] for orders in (None, cells)]
    assert (np.asarray(drawn[0]) == np.asarray(drawn[1])).all()
    with pytest.raises(UserError, match="raster-order GPT model: leave out the orders"):
        raster.draw("x", orders=cells.flip(1))
    with pytest.raises(UserError, match="cannot draw from text alone"):
        pipelines["edit"].draw("x")


def test_orders_may_lie_on_another_device(pipelines):
    cells = torch.arange(9).flip(0)[None]
    there = SimpleNamespace(cpu=lambda: cells)
    drawn = [pipelines["t2i"].draw("x", orders=orders)[0] for orders in (cells, there)]
    assert (np.asarray(drawn[0]) == np.asarray(drawn[1])).all()


def test_a_model_that_gives_no_numbers_is_no_picture(pipelines):
    broken = {}
    for name, whole in pipelines.items():
        transformer = Transformer(whole.transformer.config)
        torch.nn.init.constant_(transformer.output.weight, torch.inf)
        broken[name] = EditingPipeline(whole.tokenizer, transformer, whole.text_encoder)
    for make in (
        lambda: broken["t2i"].draw("x"),
        lambda: broken["t2i"].edit(noise(24, 24), "x", box(24, 24)),
        lambda: broken["edit"].edit(noise(24, 24), "x", "auto"),
    ):
        with pytest.raises(UserError, match="NaN or infinity in torch.float32: take --precision none"):
            make()


def test_a_picture_is_edited_as_it_is_seen(pipelines, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    noise(61, 47).save(tmp_path / "phone.png", exif=exif)
    photo, upright = Image.open(tmp_path / "phone.png"), load_image(tmp_path / "phone.png")
    mask = box(47, 61)
    result, expected = (
        pipelines["edit"].edit(image, "x", mask, sampling=PLAIN, mask_rule="exact")[0]
        for image in (photo, upright)
    )
    assert torch.equal(result.codes, expected.codes) and result.image.size == (47, 61)
    kept = ~result.region.numpy()
    assert (np.asarray(result.image)[kept] == np.asarray(upright)[kept]).all()
    assert torch.equal(pipelines["edit"].encode([photo]), pipelines["edit"].encode([upright]))


def test_mismatched_parts_are_refused(pipelines, vq_ckpt, gpt_ckpts, tmp_path):
    from language.small_encoder import make_small_t5

    make_small_t5(["a b"], tmp_path / "wide", 32)
    with pytest.raises(UserError, match="width 16, the text encoder gives 32"):
        EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], tmp_path / "wide")


def test_programs_edit_one_image_a_list_and_a_test_set(shapes, vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    common = ["--vq-ckpt", vq_ckpt, "--t5-path", t5_dir, "--device", "cpu", "--cfg-scale", "1"]
    edit = [*common, "--gpt-ckpt", gpt_ckpts["edit"]]
    noise(40, 30).save(tmp_path / "in.png")
    Image.fromarray(box(40, 30)).save(tmp_path / "mask.png")
    program = "autoregressive/sample/sample_editing.py"
    one = ["--image", tmp_path / "in.png", "--mask", tmp_path / "mask.png", "--prompt", "make it red"]
    one += ["--output", tmp_path / "out.png", "--comparison", tmp_path / "both.png"]
    done = run_program(program, *edit, *one)
    assert "cells" in done.stderr
    assert Image.open(tmp_path / "out.png").size == (40, 30)
    assert Image.open(tmp_path / "both.png").size == (120, 30)

    line = {"image": "in.png", "mask": "mask.png", "prompt": "make it red", "output": "listed.png"}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    run_program(program, *edit, "--list", tmp_path / "list.jsonl")
    assert (tmp_path / "listed.png").read_bytes() == (tmp_path / "out.png").read_bytes()

    (tmp_path / "bad.jsonl").write_text(json.dumps(line) + "\n{oops")
    failed = run_program(program, *edit, "--list", tmp_path / "bad.jsonl", check=False)
    assert failed.returncode == 2 and "bad.jsonl line 2" in failed.stderr

    program = "autoregressive/sample/sample_magicbrush.py"
    for ranks in (1, 2):
        flags = ["--magicbrush-path", shapes / "test", "--output-dir", tmp_path / f"ranks{ranks}"]
        run_program(program, *edit, *flags, "--write-ceiling", ranks=ranks)
    samples = json.loads((tmp_path / "ranks1" / "samples.json").read_text())["edits"]
    two = json.loads((tmp_path / "ranks2" / "samples.json").read_text())["edits"]
    assert samples.keys() == two.keys()
    for key in samples:
        images = [(tmp_path / f"ranks{ranks}" / "images" / key).read_bytes() for ranks in (1, 2)]
        assert images[0] == images[1]
    flags = ["--magicbrush-path", shapes / "test", "--output-dir", tmp_path / "ranks1", "--write-ceiling"]
    again = run_program(program, *edit, *flags)
    assert "already" in again.stderr

    draw = [*common, "--gpt-ckpt", gpt_ckpts["t2i"], "--output-dir", tmp_path / "drawn", "--order", "random"]
    run_program("autoregressive/sample/sample_t2i.py", *draw, "--prompts", "a red circle", "a blue star")
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["0000.png", "0001.png", "config.yaml"]


def test_other_weights_or_another_test_set_are_other_settings(
    shapes, vq_ckpt, gpt_ckpts, pipelines, tmp_path
):
    """What decides whether earlier outputs are reused."""
    folder = tmp_path / "test"
    shutil.copytree(shapes / "test", folder)
    paths = {"vq_ckpt": str(vq_ckpt), "magicbrush_path": str(folder), "output_dir": str(tmp_path)}
    encoder = pipelines["edit"].text_encoder

    def settings_hash(name: str = "edit", **flags) -> str:
        config = SampleMagicBrush(gpt_ckpt=str(gpt_ckpts[name]), **paths, **flags)
        settings = settings_of(config, read_sessions(folder), encoder)
        return EditRun(pipelines["edit"], EditFolders(tmp_path, tmp_path), settings, {}, 0).hash

    before = settings_hash()
    assert settings_hash() == settings_hash(batch_size=3) == before
    assert len({before, settings_hash("t2i"), settings_hash(seed=1), settings_hash(top_k=5)}) == 4
    mask = next(folder.glob("images/*/*-mask1.png"))
    Image.open(mask).transpose(Image.Transpose.ROTATE_180).save(mask)
    assert settings_hash() != before


def test_what_comes_again_is_encoded_once_and_gives_the_same(gpt_ckpts, vq_ckpt, t5_dir, monkeypatch):
    pipeline, mask = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir), box(24, 24)
    image, other = noise(24, 24), noise(24, 24, seed=1)
    pictures, words = [], []
    encode_ids, encode = pipeline.tokenizer.encode_ids, pipeline.text_encoder.encode
    monkeypatch.setattr(pipeline.tokenizer, "encode_ids", lambda x: pictures.append(len(x)) or encode_ids(x))
    monkeypatch.setattr(pipeline.text_encoder, "encode", lambda x: words.extend(x) or encode(x))
    first = pipeline.edit(image, "a red star", mask, seeds=3, sampling=PLAIN)[0]
    again = pipeline.edit(
        [other, image, image], ["a star", "a red star", "a star"], [mask] * 3, seeds=[1, 3, 3], sampling=PLAIN
    )
    assert (pictures, words) == ([1, 1], ["a red star", "a star"])
    assert torch.equal(again[1].codes, first.codes)
    copied = copy.deepcopy(pipeline).edit(image, "a red star", mask, seeds=3, sampling=PLAIN)[0]
    assert torch.equal(copied.codes, first.codes)
