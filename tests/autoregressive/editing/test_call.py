"""The pipeline called as diffusers' inpainting pipelines are, on devices by name, in notebooks."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.decoding.batch import NOT_FINITE
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import PipelineOutput, tell_progress
from runtime import devices
from runtime.errors import UserError

PLAIN = Sampling(cfg_scale=1.0)


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


def noise(seed: int = 0, width: int = 120, height: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(width: int = 120, height: int = 90) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[30:36, 50:60] = 255
    return mask


def same(a, b) -> bool:
    return (np.asarray(a) == np.asarray(b)).all()


def test_a_call_is_an_edit_of_crops(pipelines):
    pipe = pipelines["edit"]
    out = pipe(
        prompt="make it red", image=Image.fromarray(noise()), mask_image=box(), seeds=7, sampling=PLAIN
    )
    edit = pipe.edit(noise(), "make it red", box(), seeds=7, sampling=PLAIN, crop="auto")[0]
    assert isinstance(out, PipelineOutput) and len(out.images) == 1 and same(out.images[0], edit.image)
    assert out.results[0].crops[0].box == edit.crops[0].box != (0, 0, 120, 90)
    whole = pipe("make it red", noise(), box(), seeds=7, sampling=PLAIN, crop="none")
    assert whole.results[0].crops[0].box == (0, 0, 120, 90)
    (images,) = pipe("make it red", noise(), box(), seeds=7, sampling=PLAIN, return_dict=False)
    assert same(images[0], edit.image)


def test_padding_mask_crop_is_the_padding_of_the_region(pipelines):
    found = [
        pipelines["edit"]("red", noise(), box(), padding_mask_crop=padding).results[0].crops[0].box
        for padding in (0, 10, 25)
    ]
    assert found == [(43, 21, 67, 45), (40, 18, 70, 48), (25, 3, 85, 63)]
    with pytest.raises(UserError, match="crop_padding is -1"):
        pipelines["edit"]("red", noise(), box(), padding_mask_crop=-1)


def test_pictures_and_masks_of_all_kinds(pipelines, tmp_path):
    pipe, image, mask = pipelines["edit"], noise(), box()
    Image.fromarray(image).save(tmp_path / "in.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    tensor = torch.from_numpy(image).movedim(-1, 0)
    images = [Image.fromarray(image), image, tensor, tensor / 255, tensor[None], image[None], [image]]
    images += [tmp_path / "in.png", str(tmp_path / "in.png"), [tmp_path / "in.png"]]
    on = mask > 0
    masks = [Image.fromarray(mask), mask, on, on[None], torch.from_numpy(on)[None, None], on[None, None]]
    masks += [[mask], tmp_path / "mask.png", str(tmp_path / "mask.png"), [str(tmp_path / "mask.png")]]
    expected = pipe("red", image, mask, seeds=3).images[0]
    for image_, mask_ in [*((i, mask) for i in images), *((image, m) for m in masks)]:
        assert same(pipe("red", image_, mask_, seeds=3).images[0], expected)
    found = pipe("a red circle", image, "auto", seeds=3, crop="none").results[0]
    assert same(found.image, pipe.edit(image, "a red circle", "auto", seeds=3)[0].image)


def test_one_stands_for_all(pipelines):
    pipe = pipelines["edit"]
    images = [noise(0), noise(1)]
    for prompt, image, mask in (
        (["red", "blue"], images, [box(), box()]),
        ("red", images, box()),
        (["red", "blue"], images[0], box()),
        (["red", "blue"], np.stack(images), None),
    ):
        out = pipe(prompt, image, mask, seeds=3, num_images_per_prompt=2)
        assert len(out.images) == len(out.results) == 4
        for i in range(4):
            one = prompt if isinstance(prompt, str) else prompt[i // 2]
            picture = image if image is images[0] else image[i // 2]
            alone = pipe(one, picture, mask[0] if isinstance(mask, list) else mask, seeds=3 + i)
            assert same(alone.images[0], out.images[i])
    with pytest.raises(UserError, match="2 images for 3 edits: give one for all, or as many"):
        pipe(["red"] * 3, images, box())
    with pytest.raises(UserError, match="2 masks for 3 edits"):
        pipe(["red"] * 3, images[0], [box(), box()])


def test_generators_draw_the_seeds(pipelines):
    def drawn(generator):
        options = {"sampling": Sampling(cfg_scale=1.0, temperature=3.0), "num_images_per_prompt": 2}
        out = pipelines["edit"]("red", noise(), generator=generator, **options)
        return [tuple(result.codes.tolist()) for result in out.results]

    def fresh(seed):
        return torch.Generator().manual_seed(seed)

    assert drawn(fresh(1)) == drawn(fresh(1)) != drawn(fresh(2))
    assert drawn([fresh(1), fresh(1)])[0] == drawn([fresh(1), fresh(1)])[1] != drawn([fresh(2), fresh(1)])[0]
    again = {"sampling": Sampling(cfg_scale=1.0, temperature=3.0), "num_images_per_prompt": 2}
    out = pipelines["edit"]("red", noise(), **again)
    same_seeds = pipelines["edit"]("red", noise(), seeds=out.seeds, **again)
    assert len(out.seeds) == 2 and all(same(a, b) for a, b in zip(out.images, same_seeds.images, strict=True))
    assert pipelines["edit"]("red", noise(), seeds=5, **again).seeds == (5, 6)
    assert drawn(None) != drawn(None)  # else a second call would show the first one's pictures
    with pytest.raises(UserError, match="3 generators for 2 results of each of 1 prompts"):
        drawn([fresh(1)] * 3)
    with pytest.raises(UserError, match="generator 3 is of type int"):
        drawn(3)


def test_arrays_and_tensors_come_out(pipelines):
    pipe = pipelines["edit"]
    images = pipe("red", [noise(0), noise(1)], box(), seeds=3).images
    arrays = pipe("red", [noise(0), noise(1)], box(), seeds=3, output_type="np").images
    tensors = pipe("red", [noise(0), noise(1)], box(), seeds=3, output_type="pt").images
    assert arrays.shape == (2, 90, 120, 3) and arrays.dtype == np.float32
    assert tensors.shape == (2, 3, 90, 120) and tensors.dtype == torch.float32
    for i, image in enumerate(images):
        assert same(np.rint(arrays[i] * 255), image) and same(tensors[i].movedim(0, -1), arrays[i])
    mixed = pipe("red", [noise(0), noise(1, 60, 40)], output_type="np").images
    assert [array.shape for array in mixed] == [(90, 120, 3), (40, 60, 3)]
    with pytest.raises(UserError, match="output_type 'latent' is not known; use one of pil, np, pt"):
        pipe("red", noise(), box(), output_type="latent")


def test_guidance_takes_the_place_of_the_models_own(pipelines, monkeypatch):
    pipe, told = pipelines["edit"], []
    edit = pipe.token_editor.edit

    def note(*args, **options):
        told.append(args[5])
        return edit(*args, **options)

    monkeypatch.setattr(pipe.token_editor, "edit", note)
    pipe("red", noise(), box(), guidance_scale=2.5)
    pipe("red", noise(), box(), guidance_scale=2, sampling=Sampling(cfg_scale=1.0, top_k=3))
    pipe("red", noise(), box())
    own = pipe.defaults.sampling
    assert [(s.cfg_scale, s.top_k) for s in told] == [(2.5, own.top_k), (2.0, 3), (own.cfg_scale, own.top_k)]


def test_the_callback_sees_each_step(pipelines):
    pipe, steps = pipelines["edit"], []

    def note(pipeline, step, timestep, values):
        steps.append((step, timestep, values["codes"].clone()))
        assert pipeline is pipe
        return values

    out = pipe("red", noise(), box(), seeds=3, callback_on_step_end=note)
    assert [step for step, _, _ in steps] == list(range(out.results[0].num_passes))
    assert torch.equal(steps[-1][2][0], out.results[0].codes)
    with pytest.raises(UserError, match="callback_on_step_end 3"):
        pipe("red", noise(), box(), callback_on_step_end=3)


def test_without_an_image_it_draws(pipelines):
    out = pipelines["t2i"]("a red circle", seeds=4, num_images_per_prompt=2, guidance_scale=1.0)
    drawn = pipelines["t2i"].draw("a red circle", seeds=4, num_samples=2, sampling=PLAIN)
    assert len(out.images) == 2 and out.results == ()
    assert all(same(a, b) for a, b in zip(out.images, drawn, strict=True))
    assert pipelines["t2i"](["a", "b"], output_type="pt").images.shape == (2, 3, 24, 24)
    with pytest.raises(UserError, match="cannot draw from text alone"):
        pipelines["edit"]("a red circle")
    with pytest.raises(UserError, match="mask_image without an image"):
        pipelines["t2i"]("a red circle", mask_image=box())
    for options in ({"padding_mask_crop": 3}, {"crop": "auto"}):
        with pytest.raises(UserError, match=f"{next(iter(options))} is for edits: give an image"):
            pipelines["t2i"]("a red circle", **options)


def test_what_is_not_known_is_named(pipelines):
    pipe = pipelines["edit"]
    for call, message in (
        (lambda: pipe("red", noise(), box(), strength=0.8), "an edit has no option 'strength'; use one of"),
        (lambda: pipe("red", noise(), "absent.png"), "absent.png: no such file"),
        (lambda: pipe("red", "absent.png", box()), "absent.png: no such file"),
        (lambda: pipe("red", noise(), np.zeros((90, 120))), "marks no pixel to edit"),
        (lambda: pipe("red", noise(), 3), "mask_image of type int: give one, or a list"),
        (lambda: pipe("red", 3), "image of type int: give one, or a list"),
        (lambda: pipe(None, noise()), "prompts of type NoneType"),
        (lambda: pipe("", noise()), "prompt 0"),
        (lambda: pipe("red", noise(), num_images_per_prompt=0), "num_samples is 0"),
        (lambda: pipe("red", noise(), guidance_scale="x"), "cfg_scale 'x'"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_short_words_for_long_objects(pipelines):
    assert repr(pipelines["edit"]) == (
        "EditingPipeline(edits with marks, 0.1 M parameters, 24 px, 3x3 cells, 16 codes, cpu)"
    )
    assert repr(pipelines["t2i"]).startswith("EditingPipeline(draws and edits, ")
    result = pipelines["edit"].edit(noise(), "red", box())[0]
    assert "tensor" not in repr(result) and len(repr(result)) < 500


def test_results_show_their_picture_in_notebooks(pipelines):
    rgba = Image.fromarray(noise()).convert("RGBA")
    for picture, size in ((noise(), (120, 90)), (rgba, (120, 90)), (noise(0, 2048, 1000), (1024, 500))):
        result = pipelines["edit"].edit(picture, "red", crop="auto")[0]
        shown = Image.open(io.BytesIO(result._repr_png_()))
        assert shown.format == "PNG" and shown.size == size
    small = pipelines["edit"].edit(noise(), "red", box())[0]
    assert same(Image.open(io.BytesIO(small._repr_png_())), small.image)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device 'cuda': torch sees no GPU.*; use one of cpu"),
        ("cuda:1", "device 'cuda:1': torch sees no GPU"),
        (torch.device("mps"), "device 'mps': torch sees no Apple GPU.*; use one of cpu"),
        ("gpu", "device 'gpu' is not known; use one of cpu"),
        (3.5, "device 3.5 is not known"),
    ],
)
def test_devices_that_are_not_here_are_named(
    pipelines, gpt_ckpts, vq_ckpt, t5_dir, device, message, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for place in (
        lambda: EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir, device=device),
        lambda: pipelines["edit"].to(device),
        lambda: pipelines["edit"].enable_model_cpu_offload(device),
    ):
        with pytest.raises(UserError, match=message):
            place()
    with pytest.raises(UserError, match="no GPU here: everything stays on the CPU"):
        pipelines["edit"].enable_model_cpu_offload()


def test_a_gpu_beyond_the_last_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.require_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"device 'cuda:2': torch sees 2 GPU\(s\), from cuda:0"):
        devices.require_device("cuda:2")


def test_offloaded_models_are_moved_only_while_they_work(gpt_ckpts, vq_ckpt, t5_dir, monkeypatch):
    """The GPU is a CPU under another name here: what counts is who is moved, when, and back."""
    pipe = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir)
    before = copy.deepcopy(pipe).edit(noise(), "red", box(), seeds=3)[0]  # a copy has encoded nothing yet
    moves = []
    for name in ("tokenizer", "text_encoder"):
        model = getattr(pipe, name)
        monkeypatch.setattr(
            model, "to", lambda device, *_, name=name: moves.append((name, str(device))), raising=False
        )
    monkeypatch.setattr(EditingPipeline, "device", torch.device("cpu:0"))
    pipe.enable_model_cpu_offload("cpu:0")
    assert "offloads" in repr(pipe) and moves[-2:] == [("tokenizer", "cpu"), ("text_encoder", "cpu")]
    moves.clear()
    after = pipe.edit(noise(), "red", box(), seeds=3)[0]
    assert same(before.image, after.image)
    turns = [moves[i : i + 2] for i in range(0, len(moves), 2)]
    assert sorted(turn[0][0] for turn in turns) == ["text_encoder", "tokenizer", "tokenizer"]
    assert all(
        there == (name, "cpu:0") and back == (name, "cpu") for (there, back) in turns for name in [there[0]]
    )
    monkeypatch.setattr(pipe.tokenizer, "encode_ids", lambda pixels: 1 / 0)
    moves.clear()
    with pytest.raises(ZeroDivisionError):
        pipe.edit(noise(seed=1), "red", box(), seeds=3)
    assert moves[-1] == ("tokenizer", "cpu")
    pipe.to("cpu")
    assert "offloads" not in repr(pipe)


@pytest.mark.gpu
def test_offloading_on_a_gpu_gives_the_same_picture(gpt_ckpts, vq_ckpt, t5_dir):
    pipe = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir, device="cuda")
    before = pipe("red", noise(), box(), seeds=3).images[0]
    pipe.enable_model_cpu_offload()
    assert next(pipe.tokenizer.parameters()).device.type == "cpu" and pipe.device.type == "cuda"
    assert same(before, pipe("red", noise(), box(), seeds=3).images[0])


def test_features_need_no_text_encoder(gpt_ckpts, vq_ckpt, pipelines):
    features = pipelines["edit"].text_encoder.encode(["red"])[0]
    pipe = EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], with_text_encoder=False)
    words = pipelines["edit"]("red", noise(), box(), seeds=3).images[0]
    assert same(pipe(features, noise(), box(), seeds=3).images[0], words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 2}, "num_samples is num_images_per_prompt"),
        ({"progress": print, "callback_on_step_end": print}, "progress and callback_on_step_end"),
        ({"seeds": 3, "generator": torch.Generator()}, "seeds and generator"),
    ],
)
def test_what_is_said_in_two_ways_is_named(pipelines, options, message):
    with pytest.raises(UserError, match=message):
        pipelines["edit"]("red", noise(), box(), **options)


def test_progress_of_rows_that_are_not_finite_holds_codes(pipelines):
    """A row that left with `NOT_FINITE` is told of until the others are done; its picture can be seen."""
    codes, orders = torch.zeros(1, 9, dtype=torch.long), torch.arange(9)[None]
    seen = []
    tell_progress(lambda drawing: seen.append(drawing.codes.clone()), codes, orders)(
        torch.full((1, 9), NOT_FINITE), [9]
    )
    assert pipelines["t2i"].decode(seen[0])
