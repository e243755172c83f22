"""What users hand to the pipeline from Python: right values mean what they say, wrong ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.arguments import as_seeds
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from language.text_features import TextFeatures
from runtime.errors import UserError

PLAIN = Sampling(cfg_scale=1.0)
SIDE = 24


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


def noise(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def box() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:8, :8] = True
    return mask


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**64 - 1])
@pytest.mark.parametrize("sampling", [PLAIN, Sampling(cfg_scale=1.0, draw="inverse")])
def test_seeds_of_64_bits_draw_with_a_sign_and_without(pipelines, seed, sampling):
    options = {"sampling": sampling, "order": "random"}
    (result,) = pipelines["edit"].edit(noise(), "red", box(), seeds=seed, **options)
    (same,) = pipelines["edit"].edit(noise(), "red", box(), seeds=seed, **options)
    assert torch.equal(result.codes, same.codes)


@pytest.mark.parametrize(
    ("shape", "message"), [((3, 17), "prompt 0: .* width 17, but .* expects 16"), ((0, 16), "without a row")]
)
def test_features_that_the_model_cannot_read_are_named(pipelines, shape, message):
    features = TextFeatures(torch.zeros(shape), torch.ones(shape[0], dtype=torch.bool))
    for mask in (box(), "auto"):
        with pytest.raises(UserError, match=message):
            pipelines["edit"].edit(noise(), features, mask)
    with pytest.raises(UserError, match=message):
        pipelines["t2i"].draw(features)


@pytest.mark.parametrize(
    "prompts", ["ab", "a", None, 3, ["a", None], ["a", 3], [["a"], "b"], ["a"], {"a": 1}]
)
def test_prompts_of_several_images_are_a_list_of_texts(pipelines, prompts):
    with pytest.raises(UserError, match="prompt"):
        pipelines["edit"].edit([noise(), noise(1)], prompts)


@pytest.mark.parametrize("prompts", [None, 3, ["a"], b"a"])
def test_the_prompt_of_one_image_is_a_text(pipelines, prompts):
    with pytest.raises(UserError, match="prompt 0 is .* give a string or TextFeatures"):
        pipelines["edit"].edit(noise(), prompts)
    with pytest.raises(UserError, match="prompt"):
        pipelines["t2i"].draw([prompts])
    with pytest.raises(UserError, match="prompt"):
        pipelines["t2i"].encode_texts([prompts])
    with pytest.raises(UserError, match="prompt"):
        EditSession(pipelines["edit"], noise()).edit(prompts)


def test_auto_and_none_stand_for_every_image(pipelines):
    images, edit = [noise(), noise(1)], pipelines["edit"].edit
    for mask in ("auto", None):
        together, each = (edit(images, ["a", "b"], m, sampling=PLAIN) for m in (mask, [mask, mask]))
        assert all(torch.equal(a.codes, b.codes) for a, b in zip(together, each, strict=True))
    one, same = (edit([noise()], ["a"], m, sampling=PLAIN)[0] for m in ("auto", ["auto"]))
    assert torch.equal(one.edit_mask, same.edit_mask)


@pytest.mark.parametrize("mask", [box(), torch.tensor(box()), Image.fromarray(box()), "ab", Path("ab")])
def test_one_mask_of_several_images_is_refused(pipelines, mask):
    with pytest.raises(UserError, match="one mask for a list of 2 images: give a list"):
        pipelines["edit"].edit([noise(), noise(1)], ["a", "b"], mask)


@pytest.mark.parametrize(
    "mask", [{"a": 1}, 3, np.array(["a"]), np.full((SIDE, SIDE), None), torch.ones(3) * 1j]
)
def test_masks_of_other_kinds_are_named(pipelines, mask):
    for edit in (
        pipelines["edit"].edit,
        lambda image, *rest: EditSession(pipelines["edit"], image).edit(*rest),
    ):
        with pytest.raises(UserError, match="mask .*give"):
            edit(noise(), "x", mask)


def test_masks_are_read_from_their_files(pipelines, tmp_path):
    pipeline, file, small = pipelines["edit"], tmp_path / "mask.png", tmp_path / "small.png"
    Image.fromarray(box()).save(file)
    Image.fromarray(box()[:5]).save(small)
    edits = [pipeline.edit, lambda image, *rest, **how: [EditSession(pipeline, image).edit(*rest, **how)]]
    for edit in edits:
        (expected,) = edit(noise(), "x", box(), sampling=PLAIN)
        for mask in (file, str(file)):
            (result,) = edit(noise(), "x", mask, sampling=PLAIN)
            assert torch.equal(result.edit_mask, expected.edit_mask) and not result.edit_mask.all()
            assert torch.equal(result.codes, expected.codes)
        for mask, message in ((small, "small.png has the shape"), ("Auto", "Auto: no such file")):
            with pytest.raises(UserError, match=message):
                edit(noise(), "x", mask)
    several = pipeline.edit([noise(), noise()], ["x", "x"], [str(file), box()], sampling=PLAIN)
    assert torch.equal(several[0].edit_mask, several[1].edit_mask)


def test_pictures_of_all_kinds(pipelines, tmp_path):
    grey = np.asarray(noise().convert("L"))
    colour = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    kinds = [colour, grey, torch.from_numpy(grey.copy()), grey / np.float32(255), tmp_path / "grey.png"]
    kinds += [str(tmp_path / "grey.png"), torch.from_numpy(colour.copy()).movedim(-1, 0)]
    for kind in kinds:
        for result in pipelines["edit"].edit(kind, "x", box(), sampling=PLAIN, mask_rule="exact"):
            kept = ~result.region.numpy()
            assert (np.asarray(result.image)[kept] == colour[kept]).all()
        assert (np.asarray(EditSession(pipelines["edit"], kind).image) == colour).all()
    assert len(pipelines["edit"].edit(kinds[:2], ["a", "b"], sampling=PLAIN)) == 2
    torch.testing.assert_close(*(pipelines["edit"].encode([kind])[0] for kind in kinds[:2]))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((0, 0, 3), np.uint8), "no pixels"),
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (torch.zeros(3, 0, 0), "no pixels"),
        (Image.new("RGB", (0, 0)), "no pixels"),
        (np.full((4, 4), "a"), "give bytes, or floats"),
        (np.full((4, 4, 3), np.nan), "give bytes, or floats"),
        (np.zeros((4, 4, 2), np.uint8), "it must be"),
        ("absent.png", "absent.png: no such file"),
        (None, "images of type NoneType"),
        (7, "images of type int"),
        ([None], "an image of type NoneType"),
        ({"a": 1}, "images of type dict"),
    ],
)
def test_what_is_no_picture_is_named(pipelines, picture, message):
    with pytest.raises(UserError, match=message):
        pipelines["edit"].edit(picture, ["x"] if isinstance(picture, list) else "x")
    if isinstance(picture, np.ndarray | Image.Image | str):
        with pytest.raises(UserError, match=message):
            EditSession(pipelines["edit"], picture)


@pytest.mark.parametrize(
    "seeds", [np.int64(3), np.array(3), torch.tensor(3), [3, 4], np.array([3, 4]), (3, 4)]
)
def test_seeds_of_all_kinds(seeds):
    found = as_seeds(seeds, 1, np.int64(2), None)
    assert found == [3, 4] and all(type(seed) is int for seed in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "x"}, "seeds 'x' is of type str"),
        ({"seeds": None}, "seeds None"),
        ({"seeds": 1.5}, "seeds 1.5"),
        ({"seeds": ["x"]}, "a seed 'x'"),
        ({"seeds": 2**64}, "more than 64 bits"),
        ({"num_samples": 1.5}, "num_samples 1.5"),
        ({"num_samples": "2"}, "num_samples '2'"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"generator": 0}, "generator 0 is of type int: give a torch.Generator"),
        ({"generator": np.random.default_rng(0)}, "generator .*give a torch.Generator"),
        ({"sampling": 1.0}, "sampling 1.0"),
        ({"progress": 3}, "progress 3"),
    ],
)
def test_options_of_another_type_are_named(pipelines, options, message):
    with pytest.raises(UserError, match=message):
        pipelines["edit"].edit(noise(), "x", **options)
    with pytest.raises(UserError, match=message):
        pipelines["t2i"].draw("x", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": ""}, "mode '' is not known"),
        ({"mode": "best"}, "mode 'best' is not known"),
        ({"mode": 0}, "mode 0 is not known"),
        ({"mask_rule": "best"}, "mask rule 'best' is not known"),
        ({"mask_error": 1.5}, "mask_error 1.5"),
        ({"auto_mask": True}, "auto_mask True"),
        ({"source_codes": [[0] * 9]}, "source_codes of type list"),
        ({"source_codes": torch.zeros(1, 9)}, "source_codes of torch.float32"),
        ({"source_codes": torch.zeros(9, dtype=torch.long)}, r"source_codes of shape \(9,\): .*\(1, 9\)"),
        ({"source_codes": torch.zeros(2, 9, dtype=torch.long)}, r"source_codes of shape \(2, 9\)"),
        ({"source_codes": torch.full((1, 9), 16)}, "from 16 to 16: the model knows the codes 0 to 15"),
        ({"source_codes": torch.full((1, 9), -1)}, "from -1 to -1"),
    ],
)
def test_options_of_an_edit_are_named(pipelines, options, message):
    with pytest.raises(UserError, match=message):
        pipelines["edit"].edit(noise(), "x", **options)


def test_source_codes_of_any_whole_type(pipelines):
    edit, codes = pipelines["edit"].edit, pipelines["edit"].encode([noise()])
    results = [
        edit(noise(), "x", source_codes=codes.to(kind))[0].codes for kind in (torch.int64, torch.int32)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        (torch.zeros(1, 9, dtype=torch.long), "row 0 of orders must hold each of the cells 0 to 8 once"),
        (torch.arange(1, 10)[None], "row 0 of orders"),
        (torch.arange(-1, 8)[None], "row 0 of orders"),
        (torch.arange(9), r"orders of shape \(9,\): it must be \(1, 9\)"),
        (torch.arange(8)[None], r"orders of shape \(1, 8\)"),
        (torch.arange(9).expand(2, -1), r"orders of shape \(2, 9\)"),
        (torch.arange(9.0)[None], "orders of torch.float32"),
        ([list(range(9))], "orders of type list"),
        ("inside_out", "order 'inside_out' is not known; use one of raster, random, reverse, spiral"),
    ],
)
def test_orders_hold_each_cell_once(pipelines, orders, message):
    with pytest.raises(UserError, match=message):
        pipelines["t2i"].draw("x", orders=orders)


def test_orders_of_any_whole_type(pipelines):
    cells = torch.arange(9).flip(0)[None]
    kinds = (cells, cells.int(), cells.numpy())
    drawn = [np.asarray(pipelines["t2i"].draw("x", orders=orders, sampling=PLAIN)[0]) for orders in kinds]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] == drawn[2]).all()


def test_nothing_asked_is_nothing_done(pipelines):
    assert pipelines["edit"].edit([], []) == [] and pipelines["t2i"].draw([]) == []


@pytest.mark.parametrize(
    "name", ["cfg_scale", "cfg_interval", "temperature", "top_k", "top_p", "sample_logits"]
)
@pytest.mark.parametrize("value", ["1", None, [1], torch.tensor(1.0), 1j])
def test_sampling_values_of_another_type_are_named(name, value):
    with pytest.raises(UserError, match=f"^{name} .*: give "):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 1.0), ("top_k", True), ("cfg_interval", 0.5), ("sample_logits", 1), ("temperature", True),
        ("temperature", float("nan")), ("cfg_scale", float("nan")), ("top_p", float("nan")),
    ],
)  # fmt: skip
def test_sampling_values_that_nearly_fit_are_named(name, value):
    with pytest.raises(UserError, match=f"^{name} "):
        Sampling(**{name: value})


def test_sampling_takes_numbers_of_numpy():
    sampling = Sampling(np.float32(1.5), np.int64(2), np.float64(1), np.int32(5), 1, np.bool_(True))
    assert sampling == Sampling(1.5, 2, 1.0, 5, 1, True)
    assert type(sampling.top_k) is int and type(sampling.cfg_scale) is float


@pytest.mark.parametrize("names", [{"gpt_model": "best"}, {"gpt_model": ""}, {"vq_model": "best"}])
def test_a_model_name_that_is_not_known_is_refused(pipelines, gpt_ckpts, vq_ckpt, t5_dir, names, tmp_path):
    """Also for files that say themselves which model they hold."""
    (name,) = names
    with pytest.raises(UserError, match=f"{name} .* is not known; use one of"):
        EditingPipeline.load(vq_ckpt, gpt_ckpts["edit"], t5_dir, **names)
    pipelines["edit"].save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match=f"{name} .* is not known; use one of"):
        EditingPipeline.from_pretrained(tmp_path / "saved", **names)
    for model in ("best", ""):
        with pytest.raises(UserError, match=f"holds no model '{model}'; it has transformer"):
            EditingPipeline.from_pretrained(tmp_path / "saved", model)


@pytest.mark.parametrize("value", ["x", 1.5, None])
def test_a_saved_sampling_value_of_another_type_names_its_file(pipelines, tmp_path, value):
    pipelines["edit"].save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    content = json.loads(path.read_text())
    content["models"]["transformer"]["defaults"]["sampling"]["top_k"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config.json: top_k .*: give a whole number"):
        EditingPipeline.from_pretrained(path.parent)
