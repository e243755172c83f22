"""Test-time scaling: what a search may change, what it costs, and that it improves what it is asked to."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run_program
from PIL import Image

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.model_folders import Defaults
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.gpt import Transformer
from autoregressive.sample import sample_test_time_scaling
from autoregressive.scaling.regions import lowest_cells
from autoregressive.scaling.revision import revision_prompt
from autoregressive.scaling.reward import Reward
from autoregressive.scaling.search import SearchResult, SearchSettings, best_of_n, search
from autoregressive.scaling.tasks import Task, TaskBatch
from autoregressive.scaling.trace import strip_of, trace_of
from autoregressive.sequence.builders import editing_layout
from autoregressive.sequence.orders import random_orders
from dataset.edit_masks import pool_edit_mask
from evaluations.t2i.pictures import list_generated, read_captions
from runtime.errors import UserError

PLAIN = Sampling(cfg_scale=1.0)
PROGRAM = "autoregressive/sample/sample_test_time_scaling.py"


class Brightness(Reward):
    """Mean brightness in [0, 255], by cell too."""

    name = "brightness"

    def score(self, images, texts):
        return torch.tensor([np.asarray(image).mean() for image in images])

    def token_scores(self, images, texts, grid):
        small = [image.convert("L").resize((grid, grid), Image.Resampling.BOX) for image in images]
        return torch.tensor(np.stack([np.asarray(i).flatten() for i in small]).astype(np.float32))


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def box(width: int, height: int) -> np.ndarray:
    """The left two thirds of the upper two thirds: 4 of 3x3 cells."""
    mask = np.zeros((height, width), bool)
    mask[: height * 2 // 3, : width * 2 // 3] = True
    return mask


DRAWINGS = [Task("a red circle", seed=1), Task("a blue star at the top left", seed=2), Task("x", seed=3)]
EDITS = [
    Task("make it red", "a red square", image=noise(24, 24), mask=box(24, 24), seed=4),
    Task("remove the blue star", "gray background", noise(60, 45, 1), box(60, 45), seed=5),
    Task("a star", "a star", image=noise(24, 24, 2), seed=6),
]


def batch_of(pipelines, name, tasks) -> TaskBatch:
    return TaskBatch(pipelines[name], tasks, PLAIN, mask_rule="exact")


def test_the_lowest_free_cells_are_chosen_and_ties_fall_at_random():
    scores = torch.tensor([[3.0, 1, 2, 0], [0, 0, 0, 0]]).repeat(50, 1)
    free = torch.tensor([[True, True, True, False], [True, False, True, True]]).repeat(50, 1)
    chosen = lowest_cells(scores, free, torch.tensor([2, 1]).repeat(50), list(range(100)))
    assert (chosen[::2] == torch.tensor([False, True, True, False])).all()
    assert (chosen.sum(1) == torch.tensor([2, 1]).repeat(50)).all() and not (chosen & ~free).any()
    assert (chosen[1::2].sum(0) > 5).tolist() == [True, False, True, True]


@pytest.mark.parametrize("marks", [True, False])
def test_a_revision_reads_what_training_shows(pipelines, marks):
    """Its scores are those of a teacher-forced edit that ends with the cells to draw again."""
    model, generator = pipelines["edit"].transformer, torch.Generator().manual_seed(0)
    source, codes = (torch.randint(16, (3, 9), generator=generator) for _ in range(2))
    edit_mask = torch.tensor([[1, 1, 1, 0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0], [1] * 9]).bool()
    cells = torch.tensor([[0, 1, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0], [0] * 8 + [1]]).bool()
    text, valid = pipelines["edit"].encode_texts(["make it red", "a much longer text than that", "x"])
    orders = random_orders([1, 2, 3], 9, cells)[:, : int(cells.sum(1).max())]
    common = {"marks": marks, "vocab_size": 16}
    with torch.no_grad():
        prompt = revision_prompt(source, codes, edit_mask, cells, orders, valid, **common)
        found = model(prompt, text)[:, -1]
        for row in range(3):
            one = slice(row, row + 1)
            kept = (edit_mask & ~cells)[row].nonzero().flatten()
            order = torch.cat([kept, orders[row, : int(cells[row].sum())], (~edit_mask[row]).nonzero()[:, 0]])
            layout = editing_layout(
                source[one], codes[one], edit_mask[one], valid[one], orders=order[None], **common
            )
            expected = model(layout, text[one])[:, len(kept)]
            torch.testing.assert_close(found[one], expected, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1


def test_a_revision_guesses_the_codes_that_it_replaces(pipelines, monkeypatch):
    """The draws are those of any other guesses."""
    editor, seen = pipelines["edit"].token_editor, []
    generate = editor.generate
    codes = torch.randint(16, (3, 9), generator=torch.Generator().manual_seed(1))
    cells = torch.tensor([[1, 1, 0, 1, 0, 0, 0, 0, 0]]).bool().expand(3, 9)

    def watched(prompt, text, orders, *rest, guesses=None, **more):
        seen.append((orders, guesses))
        return generate(prompt, text, orders, *rest, guesses=guesses, **more)

    monkeypatch.setattr(editor, "generate", watched)
    drawn = []
    for guesses in ("independent", "source"):
        batch = batch_of(pipelines, "edit", EDITS)
        batch.sampling = replace(PLAIN, window=2, guesses=guesses)
        drawn.append(batch.draw_again(codes, cells, [1, 2, 3]))
    assert torch.equal(*drawn)
    (_, none), (orders, given) = seen
    assert none is None and torch.equal(given, codes.gather(1, orders))


@pytest.mark.parametrize(("name", "tasks"), [("t2i", DRAWINGS), ("t2i", EDITS), ("edit", EDITS)])
@pytest.mark.parametrize("region", ["lowest", "likelihood", "random"])
def test_a_search_improves_and_touches_only_the_proposed_cells(pipelines, name, tasks, region, monkeypatch):
    batch = batch_of(pipelines, name, tasks)
    drawn = []
    original = TaskBatch.draw_again

    def watched(self, codes, cells, seeds):
        candidates = original(self, codes, cells, seeds)
        drawn.append((codes, cells, candidates))
        return candidates

    monkeypatch.setattr(TaskBatch, "draw_again", watched)
    settings = SearchSettings(rounds=5, candidates=3, cells=2, region=region)
    results = search(batch, Brightness(), settings)
    for codes, cells, candidates in drawn:
        kept = ~cells.repeat_interleave(3, 0)
        assert (candidates[kept] == codes.repeat_interleave(3, 0)[kept]).all()
        assert (cells.sum(1) == 2).all() and not (cells & ~batch.free).any()
        assert (candidates != codes.repeat_interleave(3, 0)).any()
    assert len(drawn) == 5
    for i, result in enumerate(results):
        rewards = [entry.reward for entry in result.rounds]
        assert rewards == sorted(rewards) and result.reward == rewards[-1]
        assert Brightness().score([result.image], [""])[0].item() == result.reward
        assert [e.tokens_spent for e in result.rounds] == [batch.free[i].sum() + 6 * r for r in range(6)]
        for before, entry in zip(result.rounds, result.rounds[1:], strict=False):
            assert entry.accepted == (entry.best_candidate > before.reward) == (entry.image is not None)
        part = batch.rows([i])
        assert (np.asarray(part.render(result.codes[None])[0]) == np.asarray(result.image)).all()
        assert (result.codes[~batch.free[i]] == batch.source[i][~batch.free[i]]).all()
    assert sum(result.rounds[-1].reward > result.rounds[0].reward for result in results) >= 2


@pytest.mark.parametrize("name", ["t2i", "edit"])
def test_pixels_outside_an_edit_stay_bit_for_bit(pipelines, name):
    for result, task in zip(search(batch_of(pipelines, name, EDITS), Brightness()), EDITS, strict=True):
        before, after = np.asarray(task.image), np.asarray(result.image)
        assert before.shape == after.shape
        if task.mask is not None:
            assert (before[~task.mask] == after[~task.mask]).all()
        assert (before != after).any()


@pytest.mark.parametrize(("name", "tasks"), [("t2i", DRAWINGS + EDITS), ("edit", EDITS)])
def test_a_task_ends_the_same_in_any_batch(pipelines, name, tasks):
    settings = SearchSettings(rounds=3, candidates=2, region="likelihood", token_budget=16)
    together = search(batch_of(pipelines, name, tasks), Brightness(), settings)
    baseline = best_of_n(batch_of(pipelines, name, tasks), Brightness(), settings)
    for i, task in enumerate(tasks):
        alone = batch_of(pipelines, name, [task])
        same_but_for_rounding(search(alone, Brightness(), settings)[0], together[i])
        same_but_for_rounding(best_of_n(alone, Brightness(), settings)[0], baseline[i])


def same_but_for_rounding(result: SearchResult, other: SearchResult) -> None:
    """The decoder's sums hang on the batch, so that a pixel may be one level off."""
    assert torch.equal(result.codes, other.codes)
    for entry, twin in zip(trace_of(result), trace_of(other), strict=True):
        for key, value in entry.items():
            assert value == (pytest.approx(twin[key], abs=0.05) if isinstance(value, float) else twin[key])


def test_a_budget_is_never_passed(pipelines):
    """Images of 9 and 4 cells; 3 candidates of 2 cells are 6 codes a round."""
    batch = batch_of(pipelines, "edit", [EDITS[2], EDITS[0]])
    for budget, rounds in ((9, (0, 0)), (14, (0, 1)), (15, (1, 1)), (21, (2, 2)), (1000, (4, 4))):
        settings = SearchSettings(candidates=3, cells=2, region="random", token_budget=budget)
        results = search(batch, Brightness(), settings)
        assert tuple(len(result.rounds) - 1 for result in results) == rounds
        assert all(result.tokens_spent <= budget for result in results)
    with pytest.raises(UserError, match="a token budget of 8 is less than the 9 codes of one image"):
        search(batch, Brightness(), SearchSettings(token_budget=8))
    with pytest.raises(UserError, match="a token budget of 0 is less"):
        best_of_n(batch, Brightness(), SearchSettings(token_budget=0))


@pytest.mark.parametrize(
    ("budget", "costs", "images"),
    [(None, [27, 22], [3, 6]), (1000, [27, 22], [3, 6]), (20, [15, 16], [2, 4]), (24, [21, 22], [2, 6])],
)
def test_the_baseline_costs_what_a_search_costs(budget, costs, images):
    """Rounded up to whole images, unless that passes the budget."""
    settings = SearchSettings(rounds=3, candidates=3, cells=2, token_budget=budget)
    num_free = torch.tensor([9, 4])
    assert settings.cost(num_free).tolist() == costs and settings.num_images(num_free).tolist() == images


def test_best_of_n_keeps_the_best_of_what_the_budget_buys(pipelines):
    batch = batch_of(pipelines, "edit", EDITS)
    settings = SearchSettings(rounds=20, candidates=1, cells=1, token_budget=20)
    results = best_of_n(batch, Brightness(), settings)
    starts = search(batch, Brightness(), SearchSettings(rounds=0))
    for result, start, num_free in zip(results, starts, (4, 4, 9), strict=True):
        assert len(result.rounds) == 20 // num_free and result.tokens_spent == 20 // num_free * num_free
        assert result.rounds[0].reward == start.reward
        assert result.reward == max(entry.best_candidate for entry in result.rounds)
        assert result.reward_after(num_free) == start.reward and result.reward_after(3) == -torch.inf
    assert len({entry.best_candidate for entry in results[0].rounds}) > 1


def test_a_search_stops_at_the_highest_reward_and_refuses_what_is_no_number(pipelines):
    class Perfect(Brightness):
        highest = 0.0

    class Broken(Brightness):
        def score(self, images, texts):
            return torch.full((len(images),), torch.nan)

    batch = batch_of(pipelines, "t2i", DRAWINGS)
    assert [len(result.rounds) for result in search(batch, Perfect())] == [1, 1, 1]
    with pytest.raises(UserError, match="the reward 'brightness' of an image of 'a red circle' is nan"):
        search(batch, Broken())

    class Exits(Brightness):
        def score(self, images, texts):
            sys.exit(0)

    with pytest.raises(UserError, match=r"the reward 'brightness' called sys.exit\(0\)"):
        search(batch, Exits())

    class Unsure(Brightness):
        def token_scores(self, images, texts, grid):
            return torch.full((len(images), grid**2), torch.nan)

    with pytest.raises(UserError, match="region 'lowest': not all token scores .reward 'brightness'"):
        search(batch, Unsure())


def test_errors_name_the_value(pipelines):
    with pytest.raises(UserError, match="cannot draw from text alone"):
        batch_of(pipelines, "edit", DRAWINGS)
    with pytest.raises(UserError, match="mode 'zero_shot' does not fit this model"):
        TaskBatch(pipelines["edit"], EDITS, mode="zero_shot")
    with pytest.raises(UserError, match="'make it blue': this model reads .* give the task a caption"):
        batch_of(pipelines, "edit", [Task("make it blue", image=noise(24, 24))])
    with pytest.raises(UserError, match="'a star' has a mask but no image"):
        batch_of(pipelines, "t2i", [Task("a star", mask=box(24, 24))])
    with pytest.raises(UserError, match="candidates=0"):
        SearchSettings(candidates=0)
    with pytest.raises(UserError, match="cells=0"):
        SearchSettings(cells=0)
    with pytest.raises(UserError, match="region 'worst' is not known"):
        SearchSettings(region="worst")


def test_a_batch_uses_what_its_model_was_saved_with(pipelines, monkeypatch):
    monkeypatch.setattr(pipelines["t2i"], "defaults", Defaults(Sampling(1.0, temperature=0.5), "exact", 8))
    batch = TaskBatch(pipelines["t2i"], [EDITS[0], EDITS[2]])
    assert batch.sampling == Sampling(1.0, temperature=0.5)
    edits = [pipelines["t2i"].edit(task.image, task.prompt, task.mask)[0].edit_mask for task in batch.tasks]
    assert torch.equal(batch.free, torch.stack(edits)) and batch.free.all()  # 4 cells, widened by one
    own = TaskBatch(pipelines["t2i"], EDITS[:1], PLAIN, mask_rule="published", mask_error=0)
    assert own.sampling == PLAIN and torch.equal(
        own.free[0], pool_edit_mask(torch.tensor(box(24, 24))[None].float(), 3)
    )


def test_pictures_and_masks_of_all_kinds_are_tasks(pipelines):
    """A result keeps the pixels that one sees, and they are what is encoded."""
    clear = noise(24, 24).convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.eye(24) > 0, 0, 255).astype(np.uint8)))
    seen = np.array(noise(24, 24))
    seen[np.eye(24) > 0] = 255
    mask = torch.tensor(box(24, 24))
    batch = TaskBatch(pipelines["t2i"], [Task("x", image=i, mask=mask) for i in (clear, seen)], PLAIN)
    assert torch.equal(batch.source[0], batch.source[1]) and batch.free[0].sum() == 9
    (image,) = batch.rows([0]).render(batch.source[:1])
    assert image.size == (24, 24)


def test_raster_order_models_are_refused(pipelines):
    painter = pipelines["t2i"]
    config = replace(painter.transformer.config, any_order=False)
    raster = EditingPipeline(painter.tokenizer, Transformer(config), painter.text_encoder)
    with pytest.raises(UserError, match="raster-order GPT model.*drawing cells again, needs an any-order"):
        TaskBatch(raster, DRAWINGS)


def test_the_strip_shows_start_and_accepted_rounds(pipelines):
    batch = batch_of(pipelines, "t2i", DRAWINGS)
    result = search(batch, Brightness(), SearchSettings(rounds=6, candidates=4))[0]
    accepted = sum(entry.accepted for entry in result.rounds)
    assert accepted > 1
    strip = strip_of(result, 3)
    assert strip.width == accepted * (144 + 8) + 8
    pixels = np.asarray(strip)
    start, first = (pixels[8:152, 8 + i * 152 : 152 + i * 152] for i in range(2))
    enlarged = result.rounds[0].image.resize((144, 144), Image.Resampling.NEAREST)
    assert (start == np.asarray(enlarged)).all()
    revised = np.zeros((3, 3), bool)
    revised.flat[next(entry.cells for entry in result.rounds[1:] if entry.accepted)] = True
    outline = (first == (230, 0, 120)).all(-1).reshape(3, 48, 3, 48).any((1, 3))
    assert (outline & revised).any() and (outline <= _grown(revised)).all()
    assert (pixels[160:] < 128).any()  # the numbers


def _grown(cells: np.ndarray) -> np.ndarray:
    """With the neighbours, into which a line of two pixels may reach."""
    padded = np.pad(cells, 1)
    return np.any([np.roll(padded, shift, axis) for shift in (-1, 0, 1) for axis in (0, 1)], 0)[1:-1, 1:-1]


@pytest.fixture
def common(vq_ckpt, t5_dir) -> list:
    return ["--vq-ckpt", vq_ckpt, "--t5-path", t5_dir, "--device", "cpu", "--cfg-scale", "1"]


def scale(monkeypatch, *words: object) -> None:
    """The program, in this process."""
    monkeypatch.setattr("sys.argv", [PROGRAM, *map(str, words)])
    sample_test_time_scaling.main()


def test_the_program_draws_on_any_ranks(common, gpt_ckpts, tmp_path, monkeypatch):
    flags = [*common, "--gpt-ckpt", gpt_ckpts["t2i"], "--reward", "likelihood", "--rounds", "2"]
    flags += ["--prompts", "a red circle", "a blue star", "x", "--batch-size", "1"]
    scale(monkeypatch, *flags, "--output-dir", tmp_path / "one")
    run_program(PROGRAM, *flags, "--output-dir", tmp_path / "two", ranks=2)
    one, two = (json.loads((tmp_path / ranks / "trace.json").read_text()) for ranks in ("one", "two"))
    assert one == two and list(one["items"]) == ["0000.png", "0001.png", "0002.png"]
    assert one["settings"]["reward"] == "likelihood" and one["settings"]["rounds"] == 2
    for name, item in one["items"].items():
        assert [entry["round"] for entry in item["rounds"]] == [0, 1, 2]
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert Image.open(tmp_path / "one" / "strips" / name).height == 144 + 16 + 28


def test_what_is_kept_after_each_round_can_be_evaluated(common, gpt_ckpts, tmp_path, monkeypatch):
    flags = [*common, "--gpt-ckpt", gpt_ckpts["t2i"], "--reward", "likelihood", "--save-rounds"]
    flags += ["--output-dir", tmp_path / "made", "--prompts", "a red circle", "a blue star"]
    scale(monkeypatch, *flags, "--rounds", "3")
    for number in range(4):
        folder = tmp_path / "made" / "rounds" / str(number)
        images = list_generated(folder)
        assert read_captions(folder, images) == ["a red circle", "a blue star"]
        # A search of fewer rounds ends with the same pictures: seeds belong to rounds.
        if number:
            scale(monkeypatch, *flags, "--rounds", number, "--output-dir", tmp_path / str(number))
            assert all(p.read_bytes() == (tmp_path / str(number) / p.name).read_bytes() for p in images)
    with pytest.raises(UserError, match="--save-rounds is for searches that draw"):
        scale(monkeypatch, *flags, "--method", "best_of_n")


def test_the_program_edits_a_list(common, gpt_ckpts, tmp_path, monkeypatch):
    noise(40, 40).save(tmp_path / "in.png")
    Image.fromarray(box(40, 40)).save(tmp_path / "mask.png")
    line = {"prompt": "make it red", "image": "in.png", "mask": "mask.png",
            "caption": "a red circle at the top left, gray background"}  # fmt: skip
    (tmp_path / "edits.jsonl").write_text(json.dumps(line) + "\n")
    flags = [*common, "--gpt-ckpt", gpt_ckpts["edit"], "--reward", "shapes", "--mask-rule", "exact"]
    flags += ["--list", tmp_path / "edits.jsonl", "--output-dir", tmp_path]
    scale(monkeypatch, *flags, "--method", "best_of_n", "--rounds", "2")
    (item,) = json.loads((tmp_path / "trace.json").read_text())["items"].values()
    assert [entry["tokens_spent"] for entry in item["rounds"]] == [4, 8, 12]
    assert item["caption"] == line["caption"]
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("in.png", "0000.png"))
    assert (before[28:] == after[28:]).all() and (before != after).any()

    for bad, message in (
        ('{"image": "in.png"}', "lacks the key 'prompt'"),
        ("[1]", "must be an object"),
        ('{"prompt": "x", "mask": "mask.png"}', "has a mask but no image"),
        ('{"prompt": 3}', "'prompt' must be a non-empty string, got 3"),
        ('{"prompt": "x", "image": "no.png"}', ".*no.png does not exist"),
    ):
        (tmp_path / "edits.jsonl").write_text(f"{json.dumps(line)}\n{bad}\n")
        with pytest.raises(UserError, match=f"edits.jsonl line 2: {message}"):
            scale(monkeypatch, *flags)
    with pytest.raises(UserError, match="give texts with --prompts, or edits with --list"):
        scale(monkeypatch, *flags[:-4])


@pytest.mark.parametrize(("seed", "words"), [(-1, "0 or more"), (2**64, "64 bits"), (1.5, "whole number")])
def test_a_seed_that_no_draw_takes_is_refused(seed, words):
    with pytest.raises(UserError, match=words):
        Task("a red circle", seed=seed)
