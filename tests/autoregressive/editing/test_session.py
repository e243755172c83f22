"""Sessions: what a turn does not touch stays bit for bit, over ten turns and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from runtime.errors import UserError

PLAIN = Sampling(cfg_scale=1.0)
WIDTH, HEIGHT = 61, 47  # not the model's size, not a multiple of its cells


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cell_mask(cell: int) -> np.ndarray:
    """Marks one pixel in the middle of one of the 3 x 3 cells."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[int((cell // 3 + 0.5) * HEIGHT / 3), int((cell % 3 + 0.5) * WIDTH / 3)] = True
    return mask


@pytest.mark.parametrize("name", ["edit", "t2i"])
def test_ten_turns_leave_the_rest_alone_and_undo_brings_every_state_back(pipelines, name, monkeypatch):
    pipeline = pipelines[name]
    session = EditSession(pipeline, noise())
    first = torch.equal(session.codes, pipeline.encode([noise()])[0])
    assert first and (np.asarray(session.image) == np.asarray(noise())).all()
    monkeypatch.setattr(pipeline, "encode", lambda images: pytest.fail("a session encodes once"))

    states = [(session.codes.clone(), np.array(session.image))]
    touched_pixels = np.zeros((HEIGHT, WIDTH), bool)
    touched_cells = torch.zeros(9, dtype=torch.bool)
    for turn, cell in enumerate([0, 4, 4, 1, 3, 0, 4, 6, 1, 3]):  # 2, 5, 7 and 8 are never touched
        options = {"sampling": PLAIN, "mask_rule": "exact", "random_order": turn % 2 == 1}
        result = session.edit("a red circle", cell_mask(cell), seed=turn, **options)
        codes, pixels = states[-1]
        region = result.region.numpy()
        assert torch.equal(result.edit_mask, torch.arange(9) == cell)
        kept = torch.arange(9) != cell
        assert torch.equal(session.codes[kept], codes[kept])
        now = np.array(session.image)
        assert (now[~region] == pixels[~region]).all()
        touched_pixels |= region
        touched_cells |= result.edit_mask
        states.append((session.codes.clone(), now))

    codes, pixels = states[-1]
    assert touched_cells.sum() == 5 and not touched_pixels.all()
    assert torch.equal(codes[~touched_cells], states[0][0][~touched_cells])
    assert (pixels[~touched_pixels] == states[0][1][~touched_pixels]).all()
    assert (pixels[touched_pixels] != states[0][1][touched_pixels]).any()
    assert len(session.history) == 10 and session.history[3].prompt == "a red circle"

    for codes, pixels in reversed(states[:-1]):
        session.undo()
        assert torch.equal(session.codes, codes) and (np.asarray(session.image) == pixels).all()
    with pytest.raises(UserError, match="nothing to undo"):
        session.undo()


def test_a_turn_after_undo_is_the_turn_that_was_taken_back(pipelines):
    session = EditSession(pipelines["edit"], noise())
    options = {"sampling": PLAIN, "mask_rule": "exact"}
    session.edit("make it red", cell_mask(0), **options)
    once = session.edit("make it blue", cell_mask(8), seed=5, **options)
    assert session.undo().result is once
    again = session.edit("make it blue", cell_mask(8), seed=5, **options)
    assert torch.equal(once.codes, again.codes)
    assert (np.asarray(once.image) == np.asarray(again.image)).all()


def test_a_turn_sees_the_codes_of_the_turn_before(pipelines, monkeypatch):
    """Not codes encoded from the picture, which the tokenizer would change a little each time."""
    pipeline = pipelines["edit"]
    session = EditSession(pipeline, noise())
    session.edit("make it red", cell_mask(0), sampling=PLAIN, mask_rule="exact")
    held, seen = session.codes, []
    edit = pipeline.token_editor.edit

    def noted(source, *args, **kwargs):
        seen.append(source)
        return edit(source, *args, **kwargs)

    monkeypatch.setattr(pipeline.token_editor, "edit", noted)
    session.edit("make it blue", cell_mask(8), sampling=PLAIN, mask_rule="exact")
    assert torch.equal(seen[0][0], held)


def test_a_session_finds_regions_itself_and_regenerates_everything(pipelines):
    session = EditSession(pipelines["edit"], noise())
    settings = AutoMaskSettings(threshold=1, smoothing=0, growth=0)
    found = session.edit("a red circle", "auto", sampling=PLAIN, auto_mask=settings)
    assert found.edit_mask.sum() == 1  # the best cell alone
    assert session.edit("a red circle", sampling=PLAIN).edit_mask.all()
    assert len(session.history) == 2


def test_pictures_of_all_kinds_are_edited_as_they_are_seen(pipelines):
    pipeline, array = pipelines["edit"], np.asarray(noise())
    seen = Image.fromarray(array)
    clear = seen.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(cell_mask(0), 0, 255).astype(np.uint8)))
    for picture in (array, torch.tensor(array).movedim(-1, 0), seen, clear):
        session = EditSession(pipeline, picture)
        pixels = np.array(array)
        if picture is clear:
            pixels[cell_mask(0)] = 255
        assert (np.asarray(session.image) == pixels).all()
        result = session.edit("make it red", cell_mask(4), sampling=PLAIN, mask_rule="exact")
        kept = ~result.region.numpy()
        assert (np.asarray(result.image)[kept] == pixels[kept]).all()


def test_a_turn_that_fails_changes_nothing(pipelines):
    session = EditSession(pipelines["edit"], noise())
    codes = session.codes
    with pytest.raises(UserError, match="the mask has the shape"):
        session.edit("x", np.ones((3, 3)))
    with pytest.raises(UserError, match="no option 'composite'; use one of sampling"):
        session.edit("x", composite="none")
    assert not session.history and session.codes is codes


@pytest.mark.parametrize("later", ["edit", "accept", "undo"])
def test_a_proposal_of_another_image_is_refused(pipelines, later):
    session = EditSession(pipelines["edit"], noise())
    options = {"sampling": PLAIN, "mask_rule": "exact"}
    session.edit("make it red", cell_mask(0), **options)
    first, second = session.propose("make it blue", cell_mask(8), num_samples=2, **options)
    if later == "edit":
        session.edit("make it green", cell_mask(4), **options)
    elif later == "accept":
        session.accept("make it blue", second)
    else:
        session.undo()
    codes, turns = session.codes, len(session.history)
    with pytest.raises(UserError, match="image has changed since this was proposed"):
        session.accept("make it blue", first)
    assert session.codes is codes and len(session.history) == turns


def test_a_proposal_is_good_again_once_its_image_is_back(pipelines):
    session = EditSession(pipelines["edit"], noise())
    first, second = session.propose("red", cell_mask(0), num_samples=2, sampling=PLAIN, mask_rule="exact")
    session.accept("red", first)
    session.undo()
    session.accept("red", second)
    assert session.history[-1].result is second
    with pytest.raises(UserError, match="image has changed"):
        session.accept("red", second)


def test_a_result_from_elsewhere_is_no_proposal(pipelines):
    session, other = (EditSession(pipelines["edit"], noise()) for _ in range(2))
    for result in (
        *other.propose("red", cell_mask(0), sampling=PLAIN, mask_rule="exact"),
        *pipelines["edit"].edit(noise(), "red", sampling=PLAIN),
    ):
        with pytest.raises(UserError, match="no proposal of this session"):
            session.accept("red", result)
    assert not session.history
