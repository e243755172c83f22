"""The nodes against ComfyUI's interface, without ComfyUI."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import Tensor

from integrations.comfyui.nodes import (
    NODE_CLASS_MAPPINGS,
    NODE_DISPLAY_NAME_MAPPINGS,
    NEPDraw,
    NEPEdit,
    NEPLoadModel,
    NEPOpenSession,
    NEPSessionEdit,
)
from runtime.errors import UserError

FOLDER = ROOT / "integrations" / "comfyui"
WORDS = "turn the large blue star into a circle"
DRAWS = (0.0, -1.0)


def loaded(picture: Image.Image) -> tuple[Tensor, Tensor]:
    """What Load Image gives."""
    image = torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]
    if "A" not in picture.getbands():
        return image, torch.zeros((1, 64, 64))
    return image, 1.0 - torch.from_numpy(np.array(picture.getchannel("A"), dtype=np.float32) / 255.0)[None]


SCENE = Image.open(ROOT / "assets" / "scene.png")


@pytest.fixture(scope="module")
def model():
    return NEPLoadModel().load("shapes", "", "cpu")[0]


def box(left: int, top: int, right: int, bottom: int, size: int = 72) -> Tensor:
    mask = torch.zeros(1, size, size)
    mask[:, top:bottom, left:right] = 1
    return mask


def test_the_folder_loads_as_comfyui_loads_it(tmp_path):
    link = tmp_path / "nep-editing"
    link.symlink_to(FOLDER)
    spec = importlib.util.spec_from_file_location("custom_nodes_nep", link / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (
        set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(NODE_CLASS_MAPPINGS)
    )


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_each_node_says_what_it_takes_and_gives(name):
    node = NODE_CLASS_MAPPINGS[name]
    inputs = node.INPUT_TYPES()
    given = {**inputs["required"], **inputs.get("optional", {})}
    names = getattr(node, node.FUNCTION).__code__.co_varnames[1 : 1 + len(given)]
    assert set(names) == set(given) and node.CATEGORY == "NEP" and node.DESCRIPTION
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) and NODE_DISPLAY_NAME_MAPPINGS[name]
    for kind, *options in given.values():
        assert isinstance(kind, str | list) and kind
        assert not options or isinstance(options[0], dict)


def test_an_edit_changes_the_region_alone_bit_for_bit(model):
    image = torch.rand(1, 72, 72, 3, generator=torch.Generator().manual_seed(0))  # no whole 255ths
    edited, changed = NEPEdit().edit(model, image, WORDS, 1, *DRAWS, "auto", box(0, 0, 40, 40))
    assert edited.shape == image.shape and edited.dtype == torch.float32 and changed.shape == (1, 72, 72)
    assert torch.equal(edited[changed == 0], image[changed == 0])
    assert (edited != image).any() and 0 <= edited.min() and edited.max() <= 1
    assert changed[0, :40, :40].all() and not changed[0, 48:].any() and not changed[0, :, 48:].any()
    (alone,) = model.edit(
        Image.fromarray((image[0] * 255).round().byte().numpy()),
        WORDS,
        box(0, 0, 40, 40)[0],
        seeds=1,
        crop="auto",
    )
    shown = torch.from_numpy(np.array(alone.image, dtype=np.float32) / 255)
    assert torch.equal(edited[0][alone.region], shown[alone.region])


def test_pictures_of_load_image(model):
    """Without transparency the region is found; with it, what is transparent is edited."""
    image, none = loaded(SCENE)
    edited, changed = NEPEdit().edit(model, image, WORDS, 0, *DRAWS, "auto", none)
    unconnected, _ = NEPEdit().edit(model, image, WORDS, 0, *DRAWS, "auto")
    assert torch.equal(edited, unconnected) and 0 < changed.mean() < 0.5
    clear = SCENE.convert("RGBA")
    clear.putalpha(Image.fromarray(((1 - box(0, 0, 40, 40)[0]) * 255).byte().numpy()))
    image, mask = loaded(clear)
    _, changed = NEPEdit().edit(model, image, WORDS, 0, *DRAWS, "auto", mask)
    assert changed[0, :40, :40].all() and not changed[0, 48:].any()


def test_a_batch_with_one_mask_or_one_each_and_another_size(model):
    images = torch.rand(2, 100, 150, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 100, 150)
    mask[0, :20, :20] = mask[1, 60:90, 100:140] = 1
    edited, changed = NEPEdit().edit(model, images, WORDS, 5, *DRAWS, "region", mask)
    assert edited.shape == images.shape and torch.equal(edited[changed == 0], images[changed == 0])
    assert (changed[mask == 1] == 1).all() and changed.mean() < 0.3
    second, _ = NEPEdit().edit(model, images[1:], WORDS, 6, *DRAWS, "region", mask[1:])
    assert torch.equal(second[0], edited[1])
    _, shared = NEPEdit().edit(model, images, WORDS, 5, *DRAWS, "region", mask[:1])
    assert torch.equal(shared[0], shared[1])


def test_drawings():
    (painter,) = NEPLoadModel().load("shapes", "t2i", "cpu")
    (drawn,) = NEPDraw().draw(painter, "a large red circle at the center", 3, 2, 0.0, 0.0)
    assert drawn.shape == (2, 72, 72, 3) and drawn.dtype == torch.float32
    assert torch.equal(drawn[0], drawn[1])  # temperature 0
    (other,) = NEPDraw().draw(painter, "a large red circle at the center", 3, 2, 1.5, 1.0)
    assert not torch.equal(other[0], other[1])


def test_a_session_keeps_earlier_turns_and_branches(model):
    image, _ = loaded(SCENE)
    (start,) = NEPOpenSession().open(model, image, "none")
    one, first, changed = NEPSessionEdit().edit(start, WORDS, 0, *DRAWS, box(0, 0, 40, 40))
    two, second, also = NEPSessionEdit().edit(one, "remove the large green square", 0, *DRAWS)
    assert (len(start.history), len(one.history), len(two.history)) == (0, 1, 2)
    assert torch.equal(first[changed == 0], image[changed == 0])
    assert torch.equal(second[also == 0], first[also == 0])
    again, same, _ = NEPSessionEdit().edit(start, WORDS, 0, *DRAWS, box(0, 0, 40, 40))
    assert torch.equal(same, first) and len(start.history) == 0
    two.undo()
    assert len(one.history) == 1 and np.array_equal(two.image, one.image)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(1, 72, 72), "marks nothing.*connect none"),
        (torch.ones(1, 64, 64), "of shape .1, 64, 64. for 1 images of 72x72"),
        (torch.ones(3, 72, 72), "must be .1 or 1, 72, 72."),
    ],
)
def test_wrong_masks_are_named(model, mask, words):
    with pytest.raises(UserError, match=words):
        NEPEdit().edit(model, loaded(SCENE)[0], WORDS, 0, *DRAWS, "auto", mask)


def test_other_mistakes_are_named(model):
    (painter,) = NEPLoadModel().load("shapes", "t2i", "cpu")
    with pytest.raises(UserError, match="give a mask"):
        NEPEdit().edit(painter, loaded(SCENE)[0], WORDS, 0, *DRAWS, "auto")
    with pytest.raises(UserError, match="must be .pictures, height, width, 3."):
        NEPEdit().edit(model, torch.zeros(1, 72, 72, 4), WORDS, 0, *DRAWS, "auto")
    with pytest.raises(UserError, match="the batch has 2"):
        NEPOpenSession().open(model, torch.zeros(2, 72, 72, 3), "auto")
    with pytest.raises(UserError, match="no model 'other'"):
        NEPLoadModel().load("shapes", "other", "cpu")


def test_the_progress_bar_moves_and_cancel_ends_an_edit(model, monkeypatch):
    seen, utils, management = [], types.ModuleType("comfy.utils"), types.ModuleType("comfy.model_management")

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int) -> None:
            seen.append((value, total))

    utils.ProgressBar = ProgressBar
    management.throw_exception_if_processing_interrupted = lambda: None
    for name, module in [("comfy.utils", utils), ("comfy.model_management", management)]:
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    image = loaded(SCENE)[0]
    NEPEdit().edit(model, image, WORDS, 0, *DRAWS, "auto", box(0, 0, 40, 40))
    assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)

    def stop() -> None:
        raise KeyboardInterrupt("cancelled")

    management.throw_exception_if_processing_interrupted = stop
    with pytest.raises(KeyboardInterrupt, match="cancelled"):
        NEPEdit().edit(model, image, WORDS, 0, *DRAWS, "auto", box(0, 0, 40, 40))


def test_the_example_workflow_runs():
    """Its nodes, links and widgets are those of the nodes, and it ends with pictures."""
    workflow = json.loads((FOLDER / "example_workflow.json").read_text())
    links = {link[0]: link[1:] for link in workflow["links"]}
    results, pictures = {}, []
    for one in sorted(workflow["nodes"], key=lambda node: node["order"]):
        given = {}
        for slot, entry in enumerate(one["inputs"]):
            if entry["link"] is not None:
                source, output, target, target_slot, kind = links[entry["link"]]
                assert (target, target_slot, kind) == (one["id"], slot, entry["type"])
                given[entry["name"]] = results[source][output]
        if one["type"] == "LoadImage":
            assert one["widgets_values"][0] == "scene.png"
            results[one["id"]] = loaded(SCENE)
        elif one["type"] in ("SaveImage", "PreviewImage"):
            pictures.append(given["images"])
        else:
            node = NODE_CLASS_MAPPINGS[one["type"]]
            values, inputs = iter(one["widgets_values"]), node.INPUT_TYPES()
            for name, (kind, *options) in inputs["required"].items():
                if name not in given:
                    given[name] = next(values)
                    if options and options[0].get("control_after_generate"):
                        assert next(values) == "fixed"
                    assert not isinstance(kind, list) or given[name] in kind
            assert next(values, None) is None
            assert [entry["type"] for entry in one["outputs"]] == list(node.RETURN_TYPES)
            results[one["id"]] = getattr(node(), node.FUNCTION)(**given)
    assert [picture.shape for picture in pictures] == [(1, 72, 72, 3)] * 2
    assert not torch.equal(*pictures)
