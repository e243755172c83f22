"""Rewards: what they say of images whose answer is known, and slow twins of what they compute."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import TINY_CLIP, PlainFeatures, plain_cosine, write_networks

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.scaling.clip_reward import ClipReward
from autoregressive.scaling.likelihood import LikelihoodReward
from autoregressive.scaling.rewards import build_reward
from autoregressive.scaling.shapes_reward import ShapesReward
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.sequence.builders import editing_layout, t2i_layout
from autoregressive.sequence.orders import random_orders
from dataset.shapes.captions import parse_caption
from dataset.shapes.edits import SETTINGS, random_scene
from dataset.shapes.scenes import PLACES, Background, Scene, SceneObject, render
from dataset.shapes.verifier import verify_scene
from runtime.errors import UserError

SCENE = Scene(
    (SceneObject("circle", "red", "regular", "top left"), SceneObject("star", "blue", "regular", "right")),
    Background("gray"),
)


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> ClipReward:
    path, _ = write_networks(tmp_path_factory.mktemp("clip"))
    return ClipReward.load(TINY_CLIP, path)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def picture(scene: Scene, size: int = 72) -> Image.Image:
    return Image.fromarray(render(scene, size))


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_captions_are_read_back(setting):
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = random_scene(rng, SETTINGS[setting])
        read = parse_caption(scene.caption())
        assert read.caption() == scene.caption()
        assert read.objects == tuple(replace(thing, dx=0.0, dy=0.0) for thing in scene.objects)


@pytest.mark.parametrize(
    "text", ["", "a cat", "a red circle at the top", "a red cat at the top, gray background"]
)
def test_other_captions_are_refused(text):
    with pytest.raises(UserError, match="is no caption of the shapes set"):
        parse_caption(text)


def test_two_objects_in_one_place_are_refused():
    with pytest.raises(UserError, match="two objects in one place"):
        parse_caption("a red circle at the top, a blue star at the top, gray background")
    everywhere = ", ".join(f"a red circle at the {place}" for place in PLACES)
    with pytest.raises(UserError, match="leaves no place empty"):
        ShapesReward().check([f"{everywhere}, gray background"])


def test_shapes_reward_counts_the_right_answers():
    """8 answers: three an object, the empty places, the background."""
    circle, star = SCENE.objects
    wrong = {
        "nothing": (SCENE, 1.0),
        "color": (replace(SCENE, objects=(replace(circle, color="green"), star)), 7 / 8),
        "shape": (replace(SCENE, objects=(replace(circle, shape="square"), star)), 7 / 8),
        "size": (replace(SCENE, objects=(replace(circle, size="small"), star)), 7 / 8),
        "missing": (replace(SCENE, objects=(star,)), 5 / 8),
        "extra": (replace(SCENE, objects=(circle, star, replace(star, place="bottom"))), 1 - 1 / 7 / 8),
    }
    images = [picture(scene) for scene, _ in wrong.values()]
    scores = ShapesReward().score(images, [SCENE.caption()] * len(images))
    torch.testing.assert_close(scores, torch.tensor([expected for _, expected in wrong.values()]))


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_the_highest_shapes_reward_is_what_the_verifier_passes(setting):
    rng, passed = np.random.default_rng(1), []
    for number in range(60):
        scene = random_scene(rng, SETTINGS[setting])
        other = scene if number % 2 else random_scene(rng, SETTINGS[setting])
        score = ShapesReward().score([picture(other)], [scene.caption()])[0]
        passed.append(verify_scene(render(other, 72), scene).passed)
        assert (score == ShapesReward.highest) == passed[-1]
    assert 25 < sum(passed) < 35


@pytest.mark.parametrize("grid", [3, 9, 18])
def test_shapes_token_scores_are_lowest_where_the_image_is_wrong(grid):
    circle, star = SCENE.objects
    image = picture(replace(SCENE, objects=(circle, replace(star, color="red", shape="square"))))
    scores = ShapesReward().token_scores([image], [SCENE.caption()], grid)[0].view(grid, grid)
    third = grid // 3
    expected = torch.ones(grid, grid)
    expected[third : 2 * third, 2 * third :] = 1 / 3  # the size alone is right
    torch.testing.assert_close(scores, expected)
    assert PLACES.index("right") == 5


def test_clip_score_is_the_cosine(clip, tmp_path):
    texts, plain = ["a red circle", "a blue star", "a red circle"], PlainFeatures()
    images = [noise(48, 48, seed) for seed in range(3)]
    scores = clip.score(images, texts)
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        image.save(tmp_path / "image.png")
        expected = plain_cosine(plain.clip_image(tmp_path / "image.png"), plain.clip_text(text))
        assert abs(scores[number].item() - expected) < 1e-5


def test_grad_cam_is_that_of_the_whole_graph(clip):
    """The reward cuts the graph before the last block; here all of it is kept."""
    network, texts = clip._encoder._network, ["a red circle", "a blue star"]
    images = torch.stack([clip._encoder.prepare(np.asarray(noise(64, 64, seed))) for seed in range(2)])
    seen = []

    def remember(module, inputs, output):
        output.retain_grad()
        seen.append(output)

    with network.visual.transformer.resblocks[-1].ln_1.register_forward_hook(remember):
        features = network.encode_image(images.requires_grad_())
    torch.cosine_similarity(features, clip._embed_texts(texts).clone()).sum().backward()
    patches, gradient = seen[0].detach()[:, 1:], seen[0].grad[:, 1:]
    expected = torch.einsum("bpc,bqc->bp", patches, gradient / patches.shape[1])
    with torch.inference_mode():  # as a search calls it
        found = clip._encoder.relevance(images.detach(), clip._embed_texts(texts))
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-7)
    assert expected.std() > 0 and (expected < 0).any()
    # On the patches' own grid the cells' scores are these; other grids interpolate.
    same = clip.token_scores([noise(64, 64, 0), noise(64, 64, 1)], texts, 4)
    torch.testing.assert_close(same, found.flatten(1), rtol=1e-4, atol=1e-6)
    assert clip.token_scores([noise(64, 40)], texts[:1], 9).shape == (1, 81)


def test_likelihood_is_the_mean_over_orders_by_cell(pipelines):
    pipeline, images, texts = pipelines["t2i"], [noise(24, 24), noise(30, 24)], ["a red circle", "a star"]
    codes, (text, valid) = pipeline.encode(images), pipeline.encode_texts(texts)
    num_orders, expected = 3, torch.zeros(2, 9)
    for order in random_orders(list(range(num_orders)), 9).tolist():
        with torch.no_grad():
            logits = pipeline.transformer(t2i_layout(codes, torch.tensor([order, order]), valid), text)
        for row in range(2):
            for step, cell in enumerate(order):
                chances = logits[row, step].softmax(0)
                expected[row, cell] += chances[codes[row, cell]].log() / num_orders
    reward = LikelihoodReward(pipeline, num_orders)
    scores = reward.token_scores(images, texts, 3)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reward.score(images, texts), expected.mean(1), rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", ["t2i", "edit"])
def test_an_edits_likelihood_is_that_of_its_cells_given_all_else(pipelines, name):
    """The text-to-image model reads the kept cells first; the editor draws the free cells alone."""
    pipeline, mask = pipelines[name], np.zeros((24, 24), bool)
    mask[:16, 8:] = True  # 4 of 3x3 cells
    task = Task("make it red", "a red square", image=noise(24, 24), mask=mask)
    batch = TaskBatch(pipeline, [task], mask_rule="exact")
    codes = batch.draw([3])
    found = batch.log_likelihood(codes, [5])
    (free,) = batch.free
    assert free.sum() == 4 and (found[0, ~free] == 0).all() and (found[0, free] < 0).all()
    order = random_orders([5], 9, batch.free if name == "edit" else ~batch.free)
    if name == "edit":
        layout = editing_layout(
            batch.source, codes, batch.free, batch.text_valid, 16, marks=True, orders=order
        )
        cells = order[0, :4]
    else:
        layout, cells = t2i_layout(codes, order, batch.text_valid), order[0, 5:]
    with torch.no_grad():
        chances = pipeline.transformer(layout, batch.text)[0, -4:].softmax(-1)
    expected = torch.stack([chances[i, codes[0, cell]].log() for i, cell in enumerate(cells)])
    torch.testing.assert_close(found[0, cells], expected, rtol=1e-4, atol=1e-4)


def test_likelihood_needs_a_text_to_image_model(pipelines):
    with pytest.raises(UserError, match="needs a text-to-image model"):
        build_reward("likelihood", pipelines["edit"])


def test_packages_that_are_missing_are_named(pipelines, monkeypatch):
    for name, module, package in (
        ("image_reward", "ImageReward", "image-reward"),
        ("clip_iqa", "piq", "piq"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=f"pip install {package}"):
            build_reward(name, pipelines["t2i"])
    with pytest.raises(UserError, match="reward 'taste' is not known; use one of clip, image_reward"):
        build_reward("taste", pipelines["t2i"])


def test_packages_that_are_there_get_texts_and_pixels(pipelines, monkeypatch):
    model = types.SimpleNamespace(score=lambda text, image: len(text) + image.width)
    package = types.SimpleNamespace(load=lambda name, device: model)
    monkeypatch.setitem(sys.modules, "ImageReward", package)
    reward = build_reward("image_reward", pipelines["t2i"])
    assert reward.score([noise(24, 24), noise(30, 24)], ["abc", "a"]).tolist() == [27, 31]
    with pytest.raises(UserError, match="'image_reward' scores whole images only"):
        reward.token_scores([noise(24, 24)], ["a"], 3)

    class Brightness(torch.nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3))

    monkeypatch.setitem(sys.modules, "piq", types.SimpleNamespace(CLIPIQA=lambda data_range: Brightness()))
    white, black = (Image.new("RGB", (20, 24), color) for color in ("white", "black"))
    assert build_reward("clip_iqa", pipelines["t2i"]).score([white, black], ["", ""]).tolist() == [1, 0]
