"""What is drawn is what is trained on: the same distribution and cells, the pixels outside untouched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_files import IMAGE_SIZE

from autoregressive.decoding import batch as decoding
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.weights import load_transformer
from autoregressive.scaling.reward import RewardCase
from autoregressive.sequence.builders import infill_layout, t2i_layout
from autoregressive.sequence.orders import edit_orders
from autoregressive.train.rewards.policy import PolicyLoss, drawn_codes
from autoregressive.train.rewards.prompts import RewardPrompt, as_picture
from autoregressive.train.rewards.rollout import Editing, Infilling, Rollouts, join_rows, row_seed
from language.t5 import T5Encoder
from tokenizer.tokenizer_image.vq_model import load_vq_model

N, GROUP, TEMPERATURE = 9, 3, 0.7


@pytest.fixture(params=["editing", "infill", "t2i"])
def kind(request) -> str:
    return request.param


def make(kind: str, vq_ckpt, gpt_ckpts, t5_dir, orders=("raster", "random")) -> Rollouts:
    model = load_transformer(gpt_ckpts["edit" if kind == "editing" else "t2i"])
    encoder = T5Encoder(t5_dir, max_tokens=model.config.cls_token_num)
    pipeline = EditingPipeline(load_vq_model(vq_ckpt), model, encoder)
    vocab = pipeline.transformer.config.vocab_size
    task = Editing(vocab, marks=True) if kind == "editing" else Infilling()
    return Rollouts(pipeline, task, TEMPERATURE, orders)


def some_prompts(kind: str, finds_region: bool = False) -> list[RewardPrompt]:
    torch.manual_seed(3)
    masks = torch.zeros(3, N, dtype=torch.bool)
    for row, cells in enumerate([[4], [1, 2, 5, 8], [0, 3]]):
        masks[row, cells] = True
    texts = ["a red circle at the center", "a blue star at the top, gray background", "paint the circle red"]
    prompts = []
    for number, (mask, text) in enumerate(zip(masks, texts, strict=True)):
        source = None if kind == "t2i" else torch.rand(3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1
        case = RewardCase(text, source=None if source is None else as_picture(source))
        mask = torch.ones_like(mask) if kind == "t2i" else mask
        prompts.append(RewardPrompt(text, case, source, mask, finds_region, 10 + number, f"line {number}"))
    return prompts


def seeds_of(prompts: list[RewardPrompt]) -> list[int]:
    return [prompt.seed for prompt in prompts]


def test_training_sees_the_probabilities_of_the_draws(kind, vq_ckpt, gpt_ckpts, t5_dir, monkeypatch):
    """The cached decode, seen where it draws, against the teacher-forced forward on what it has drawn."""
    rollouts, prompts = make(kind, vq_ckpt, gpt_ckpts, t5_dir), some_prompts(kind)
    rollouts.sampling = replace(rollouts.sampling, window=1)  # no guesses, of which some would be wrong
    seen: dict[tuple[int, int], torch.Tensor] = {}
    pick = decoding.pick

    def watched(logits, sampling, seeds, cells, *more):
        assert sampling.temperature == TEMPERATURE and sampling.top_k == 0 and sampling.num_lanes == 1
        log_probs = (logits.float() / TEMPERATURE).log_softmax(-1)
        for key, row in zip(zip(seeds.tolist(), cells.tolist(), strict=True), log_probs, strict=True):
            assert key not in seen
            seen[key] = row
        return pick(logits, sampling, seeds, cells, *more)

    monkeypatch.setattr(decoding, "pick", watched)
    rows = rollouts.draw(rollouts.encode(prompts), seeds_of(prompts), GROUP)
    layout = rollouts.task.layout(rows)
    with torch.no_grad():
        found = drawn_codes(rollouts.pipeline.transformer, layout, rows.text, TEMPERATURE)
    wanted = []
    for number, (codes, order, mask) in enumerate(zip(rows.codes, rows.orders, rows.edit_mask, strict=True)):
        seed = row_seed(prompts[number // GROUP].seed, number % GROUP)
        wanted += [seen[seed, cell][codes[cell]] for cell in order[: int(mask.sum())].tolist()]
    torch.testing.assert_close(found.log_probs, torch.stack(wanted), atol=2e-5, rtol=0)
    assert found.log_probs.std() > 0.1, "the model is too flat to tell one code from another"


def test_a_prompt_that_is_computed_once_gives_the_same_gradient(kind, vq_ckpt, gpt_ckpts, t5_dir):
    rollouts, prompts = make(kind, vq_ckpt, gpt_ckpts, t5_dir), some_prompts(kind)
    rows = rollouts.draw(rollouts.encode(prompts), seeds_of(prompts), GROUP)
    model, layout = rollouts.pipeline.transformer.double(), rollouts.task.layout(rows)
    advantages = torch.randn(len(rows), dtype=torch.double)
    found = []
    for group_size in (1, GROUP):
        policy = PolicyLoss(model, TEMPERATURE, group_size, clip_range=0.2, kl_weight=0.1)
        loss, watched, log_probs = policy(layout, rows.text.double(), advantages, torch.tensor(-1.0), None)
        model.zero_grad()
        loss.backward()
        found.append((watched, log_probs, torch.cat([p.grad.flatten() for p in model.parameters()])))
    for plain, shared in zip(*found, strict=True):
        torch.testing.assert_close(plain, shared, atol=1e-5, rtol=1e-4)


def test_samples_of_a_prompt_differ_and_no_batch_matters(kind, vq_ckpt, gpt_ckpts, t5_dir):
    rollouts, prompts = make(kind, vq_ckpt, gpt_ckpts, t5_dir), some_prompts(kind)
    encoded = rollouts.encode(prompts)
    rows = rollouts.draw(encoded, seeds_of(prompts), GROUP)
    alone = [
        rollouts.draw(encoded.take(slice(i, i + 1)), [prompt.seed], GROUP) for i, prompt in enumerate(prompts)
    ]
    assert torch.equal(rows.codes, join_rows(alone).codes)
    assert torch.equal(rows.orders, join_rows(alone).orders)
    assert len(set(map(tuple, rows.codes.tolist()))) > len(prompts)
    kept = ~rows.edit_mask
    assert torch.equal(rows.codes[kept], encoded.source.repeat_interleave(GROUP, 0)[kept])


def test_pixels_outside_the_drawn_cells_are_the_sources(vq_ckpt, gpt_ckpts, t5_dir):
    rollouts, prompts = make("editing", vq_ckpt, gpt_ckpts, t5_dir), some_prompts("editing")
    rows = rollouts.draw(rollouts.encode(prompts), seeds_of(prompts), 1)
    pictures = rollouts.pictures(rows, [prompt.case.source for prompt in prompts])
    for picture, prompt in zip(pictures, prompts, strict=True):
        changed = (np.asarray(picture) != np.asarray(prompt.case.source)).any(-1)
        cells = changed.reshape(3, 8, 3, 8).any((1, 3)).flatten()
        assert cells.tolist() == prompt.edit_mask.tolist()


def test_samples_that_are_alike_are_decoded_once(kind, vq_ckpt, gpt_ckpts, t5_dir, monkeypatch):
    rollouts, prompts = make(kind, vq_ckpt, gpt_ckpts, t5_dir), some_prompts(kind)
    drawn = rollouts.draw(rollouts.encode(prompts), seeds_of(prompts), 1)
    rows = drawn.take(torch.tensor([2, 0, 0, 1, 0]))
    sources = [prompts[i].case.source for i in (2, 0, 0, 1, 0)]
    one_by_one = [rollouts.pictures(rows.take([i]), sources[i : i + 1])[0] for i in range(5)]
    decoded, decode = [], rollouts.pipeline.decode

    def counted(codes: torch.Tensor) -> list:
        decoded.append(len(codes))
        return decode(codes)

    monkeypatch.setattr(rollouts.pipeline, "decode", counted)
    pictures = rollouts.pictures(rows, sources)
    assert decoded == [3]
    for picture, wanted in zip(pictures, one_by_one, strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(wanted))


def test_regions_that_the_model_finds(vq_ckpt, gpt_ckpts, t5_dir):
    rollouts = make("editing", vq_ckpt, gpt_ckpts, t5_dir)
    prompts = some_prompts("editing", finds_region=True)
    encoded, pipeline = rollouts.encode(prompts), rollouts.pipeline
    images = [prompt.case.source for prompt in prompts]
    results = pipeline.edit(images, [prompt.text for prompt in prompts], "auto")
    assert torch.equal(encoded.edit_mask, torch.stack([result.edit_mask.flatten() for result in results]))


def test_infilling_predicts_what_its_prompt_is_asked_for():
    torch.manual_seed(0)
    codes, text_valid = torch.randint(16, (2, N)), torch.ones(2, 3, dtype=torch.bool)
    mask = torch.zeros(2, N, dtype=torch.bool)
    mask[0, [2, 6, 7]] = True
    mask[1] = True
    orders = edit_orders([5, 6], mask, ["random"])
    layout = infill_layout(codes, mask, orders, text_valid)
    targets = layout.targets.flatten()[layout.supervised]
    drawn = orders[0, :3].tolist()
    assert targets[:3].tolist() == codes[0, drawn].tolist() and len(targets) == 3 + N
    assert layout.cells[0, 3:].tolist() == [0, 1, 3, 4, 5, 8, *drawn[:2]]
    whole = t2i_layout(codes, orders, text_valid)
    assert torch.equal(layout.token_ids[1], whole.token_ids[1])
    assert torch.equal(layout.targets[1], whole.targets[1])
    assert layout.loss_weight.sum(1).tolist() == [3, N]
