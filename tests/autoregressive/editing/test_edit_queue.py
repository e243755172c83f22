"""Requests of many callers share passes; each gets what it gets alone."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from autoregressive.decoding.batch import Batch
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.decoding.shared import SharedEngine
from autoregressive.editing.edit_queue import EditQueue, QueueFullError
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sequence.builders import editing_prompt
from integrations.server.config import Serve
from runtime.config import parse
from runtime.errors import UserError
from scripts.web_demo.config import Demo

HOW = Sampling(cfg_scale=1.0, temperature=1.5)


@pytest.fixture(scope="module")
def pipelines(gpt_ckpts, vq_ckpt, t5_dir):
    return {name: EditingPipeline.load(vq_ckpt, path, t5_dir) for name, path in gpt_ckpts.items()}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def box(width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[: height // 2, : width // 2] = True
    return mask


def _requests() -> list[tuple[tuple, dict]]:
    """Of all sizes: masks and none, guidance, several samples, several images, crops."""
    guided = dataclasses.replace(HOW, cfg_scale=2.0)
    return [
        ((noise(24, 24, 1), "red", box(24, 24)), {"seeds": 1, "sampling": HOW}),
        ((noise(24, 24, 2), "a blue square"), {"seeds": 2, "sampling": guided}),
        ((noise(24, 24, 3), "red", box(24, 24)), {"seeds": 3, "num_samples": 3, "sampling": HOW}),
        (([noise(24, 24, 4)] * 2, ["red", "a"], [box(24, 24), None]), {"seeds": [4, 5], "sampling": HOW}),
        ((noise(60, 90, 5), "red", box(60, 90)), {"seeds": 6, "crop": "region", "sampling": guided}),
        ((noise(24, 24, 6), "red", "auto"), {"seeds": 7, "sampling": HOW, "order": "random"}),
    ]


def _same(results, others) -> bool:
    return len(results) == len(others) and all(
        torch.equal(a.codes, b.codes) and (np.asarray(a.image) == np.asarray(b.image)).all()
        for a, b in zip(results, others, strict=True)
    )


@pytest.mark.parametrize("max_lanes", [2, 32])
def test_each_request_gets_what_it_gets_alone(pipelines, max_lanes):
    pipeline = pipelines["edit"]
    alone = [pipeline.edit(*inputs, **options) for inputs, options in _requests()]
    with EditQueue(pipeline, max_lanes=max_lanes) as edits:
        futures = [edits.submit(*inputs, **options) for inputs, options in 2 * _requests()]
        results = [future.result(60) for future in futures]
    assert all(_same(a, b) for a, b in zip(results, 2 * alone, strict=True))
    assert edits.num_open == 0
    assert _same(pipeline.edit(*_requests()[0][0], **_requests()[0][1]), alone[0])  # and afterwards


def test_drawings_come_with_their_progress(pipelines):
    pipeline, seen = pipelines["t2i"], []
    (alone,) = pipeline.draw("red", seeds=3, sampling=HOW)
    with EditQueue(pipeline) as edits:
        future = edits.submit_drawing("red", seeds=3, sampling=HOW, progress=lambda d: seen.append(d.step))
        (drawn,) = future.result(60)
    assert (np.asarray(drawn) == np.asarray(alone)).all()
    assert seen == sorted(seen) and seen[-1] == 9


def test_a_late_request_starts_within_two_passes(pipelines):
    pipeline, late = pipelines["edit"], []
    slow = dataclasses.replace(HOW, window=1)
    steps: dict[str, list[int]] = {"first": [], "late": []}

    def first(drawing) -> None:
        steps["first"].append(drawing.step)
        if drawing.step == 2:
            arguments = noise(24, 24), "red", box(24, 24)
            late.append(edits.submit(*arguments, seeds=1, sampling=slow, progress=second))
            assert joined.wait(60)  # holds this thread, not the passes

    def second(drawing) -> None:
        steps["late"].append(drawing.step)
        joined.set()

    joined = threading.Event()
    with EditQueue(pipeline) as edits:
        assert edits.submit(noise(24, 24), "red", seeds=1, sampling=slow, progress=first).result(60)
        assert late[0].result(60)
    assert steps["first"] == list(range(1, 10)) and steps["late"][0] == 1


def test_calls_join_between_the_passes_of_others(pipelines):
    """Whatever waits joins before the next pass, and one that is done earlier leaves earlier."""
    editor = pipelines["edit"].token_editor
    shared, order, widths = SharedEngine(editor.engine), [], []
    step = editor.engine.step

    def counted(layout, *rest):
        widths.append(len(layout.cells))
        if len(widths) == 2:
            started.set()
            assert submitted.wait(60)
        return step(layout, *rest)

    started, submitted = threading.Event(), threading.Event()
    text = torch.randn(1, 3, editor.transformer.config.caption_dim)
    valid = torch.ones(1, 3, dtype=torch.bool)

    def call(name: str, num_cells: int) -> None:
        mask = (torch.arange(9) < num_cells)[None]
        codes = torch.zeros(1, 9, dtype=torch.long)
        orders = torch.arange(num_cells)[None]
        prompt = editing_prompt(codes, mask, orders, valid, editor.transformer.config.vocab_size)
        shared.generate(prompt, text, orders, [0], dataclasses.replace(HOW, window=1))
        order.append(name)

    editor.engine.step = counted
    try:
        threads = [threading.Thread(target=call, args=("long", 9))]
        threads[0].start()
        assert started.wait(60)
        threads.append(threading.Thread(target=call, args=("short", 3)))
        threads[1].start()
        while not shared._waiting:
            pass
        submitted.set()
        for thread in threads:
            thread.join(60)
    finally:
        del editor.engine.step
        shared.close()
    assert order == ["short", "long"]
    assert widths == [1, 1, 2, 2, 1, 1, 1, 1]


def test_one_that_fails_fails_alone(pipelines):
    pipeline = pipelines["edit"]

    def bad(drawing) -> None:
        raise ValueError("of the caller")

    with EditQueue(pipeline) as edits:
        fine = edits.submit(noise(24, 24), "red", seeds=1, sampling=HOW)
        broken = edits.submit(noise(24, 24), "red", seeds=1, sampling=HOW, progress=bad)
        refused = edits.submit(noise(24, 24), "red", np.zeros((24, 24), bool))
        with pytest.raises(ValueError, match="of the caller"):
            broken.result(60)
        with pytest.raises(UserError, match="marks no pixel"):
            refused.result(60)
        assert fine.result(60)
        assert edits.submit(noise(24, 24), "red", seeds=1, sampling=HOW).result(60)


@pytest.mark.parametrize("joins", [True, False])
def test_one_that_cannot_join_ends_no_other(pipelines, joins, monkeypatch):
    """What goes wrong while rows join is told to their own call; those that are drawn go on."""
    pipeline, began, go_on = pipelines["edit"], threading.Event(), threading.Event()
    slow = dataclasses.replace(HOW, window=1)
    (alone,) = pipeline.edit(noise(24, 24), "red", seeds=1, sampling=slow)
    prefill = Batch._prefill

    def failing(batch, prompt, text, orders, copies):
        if copies == 2:
            raise RuntimeError("no room for a prompt")
        return prefill(batch, prompt, text, orders, copies)

    def hold(drawing) -> None:
        began.set()
        go_on.wait(60)

    monkeypatch.setattr(Batch, "_prefill", failing)
    with EditQueue(pipeline) as edits:
        if joins:
            running = edits.submit(noise(24, 24), "red", seeds=1, sampling=slow, progress=hold)
            assert began.wait(60)
        guided = dataclasses.replace(HOW, cfg_scale=2.0)
        broken = edits.submit(noise(24, 24), "red", seeds=1, sampling=guided)
        with pytest.raises(RuntimeError, match="no room for a prompt"):
            broken.result(60)
        go_on.set()
        later = edits.submit(noise(24, 24), "red", seeds=1, sampling=slow)
        for future in ([running] if joins else []) + [later]:
            assert _same(future.result(60), [alone])


def test_a_callback_may_raise_what_cancelled_requests_raise(pipelines):
    """Nobody has cancelled it: who waits for it is told, and does not wait for ever."""

    def bad(drawing) -> None:
        raise concurrent.futures.CancelledError

    with EditQueue(pipelines["edit"]) as edits:
        future = edits.submit(noise(24, 24), "red", sampling=HOW, progress=bad)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(60)
        assert future.done() and not future.cancelled()


def test_cells_drawn_in_parallel_are_cancelled_between_passes_too(pipelines):
    pipeline, began, go_on, steps = pipelines["edit"], threading.Event(), threading.Event(), []

    def hold(drawing) -> None:
        steps.append(drawing.step)
        began.set()
        go_on.wait(60)

    with EditQueue(pipeline) as edits:
        sampling = dataclasses.replace(HOW, parallel=2)
        running = edits.submit(noise(24, 24), "red", seeds=1, sampling=sampling, progress=hold)
        assert began.wait(60) and running.cancel()
        go_on.set()
    assert steps == [1]


def test_calls_of_other_threads_outlive_the_queue(pipelines):
    """While it closes, they go to the pipeline's own engine."""
    pipeline = pipelines["edit"]
    edits = EditQueue(pipeline)
    close = edits._shared[pipeline.token_editor].close

    def closing() -> None:
        close()
        assert pipeline.edit(noise(24, 24), "red", sampling=HOW)

    edits._shared[pipeline.token_editor].close = closing
    edits.close()


def test_two_queues_of_one_pipeline_each_decode_their_own(pipelines):
    """Whichever was opened last: requests keep to their queue, and are cancelled between its passes."""
    pipeline, began, go_on, steps = pipelines["edit"], threading.Event(), threading.Event(), []
    slow = dataclasses.replace(HOW, window=1)

    def hold(drawing) -> None:
        steps.append(drawing.step)
        began.set()
        go_on.wait(60)

    with EditQueue(pipeline) as first, EditQueue(pipeline) as second:
        running = first.submit(noise(24, 24), "red", sampling=slow, progress=hold)
        assert began.wait(60) and running.cancel()
        go_on.set()
        assert second.submit(noise(24, 24), "red", sampling=HOW).result(60)
        second.close()
        engine, made = pipeline.engine, []
        engine.generate = lambda *_, **__: made.append("without the queue")
        try:
            assert first.submit(noise(24, 24), "red", sampling=HOW).result(60)
        finally:
            del engine.generate
    assert len(steps) < pipeline.grid**2 and not made  # passes run ahead of what is told of them


def test_a_forked_process_is_told_to_open_its_own_queue(pipelines, monkeypatch):
    """There are no threads that would answer it."""
    pipeline = pipelines["edit"]
    with EditQueue(pipeline) as edits:
        with monkeypatch.context() as forked:
            forked.setattr("os.getpid", lambda: -1)
            for ask in (edits.submit, pipeline.edit):
                with pytest.raises(RuntimeError, match="open the EditQueue after the fork"):
                    ask(noise(24, 24), "red", sampling=HOW)
            with EditQueue(pipeline) as own:
                assert own.submit(noise(24, 24), "red", sampling=HOW).result(60)
        assert edits.num_open == 0


def test_a_request_can_be_cancelled_while_it_is_drawn(pipelines):
    pipeline, began, go_on = pipelines["edit"], threading.Event(), threading.Event()

    def hold(drawing) -> None:
        began.set()
        go_on.wait(60)

    with EditQueue(pipeline) as edits:
        running = edits.submit(
            noise(24, 24), "red", seeds=1, sampling=dataclasses.replace(HOW, window=1), progress=hold
        )
        assert began.wait(60) and running.cancel()
        go_on.set()
        with pytest.raises(concurrent.futures.CancelledError):
            running.result(60)
        assert edits.submit(noise(24, 24), "red", seeds=1, sampling=HOW).result(60)
    assert edits.num_open == 0


def test_a_full_queue_and_a_closed_one_say_so(pipelines):
    pipeline, go_on = pipelines["edit"], threading.Event()
    with EditQueue(pipeline, max_waiting=1) as edits:
        one = edits.submit(noise(24, 24), "red", sampling=HOW, progress=lambda drawing: go_on.wait(60))
        with pytest.raises(QueueFullError, match="1 requests are open"):
            edits.submit(noise(24, 24), "red", sampling=HOW)
        go_on.set()
        assert one.result(60)
    with pytest.raises(RuntimeError, match="closed"):
        edits.submit(noise(24, 24), "red")
    edits.close()


def test_a_pipeline_with_an_open_queue_can_be_copied(pipelines):
    inputs, options = _requests()[0]
    with EditQueue(pipelines["edit"]) as edits:
        copied = copy.deepcopy(pipelines["edit"])
        assert copied.token_editor.shared is None
        assert _same(copied.edit(*inputs, **options), edits.submit(*inputs, **options).result(60))


def test_more_rows_than_lanes_take_turns(pipelines):
    """No call has a cache of its own: `max_lanes` bounds the memory, whatever is asked for."""
    pipeline = pipelines["edit"]
    guided = dataclasses.replace(HOW, cfg_scale=2.0)
    many = (noise(24, 24, 3), "red", box(24, 24)), {"seeds": 3, "num_samples": 5, "sampling": guided}
    several = [noise(24, 24, i) for i in range(3)], ["red", "a", "red"], [box(24, 24)] * 3
    pairs = several, {"seeds": 9, "num_samples": 2, "sampling": HOW}
    alone = [pipeline.edit(*inputs, **options) for inputs, options in (many, pairs)]
    engine, lanes, seen = pipeline.engine, [], []
    make = engine.batch
    engine.batch = lambda max_lanes, *rest: lanes.append(max_lanes) or make(max_lanes, *rest)
    try:
        with EditQueue(pipeline, max_lanes=4) as edits:
            futures = [edits.submit(*many[0], **many[1]), edits.submit(*pairs[0], **pairs[1])]
            assert all(_same(f.result(60), a) for f, a in zip(futures, alone, strict=True))
            told = edits.submit(*many[0], **many[1], progress=lambda d: seen.append(int(d.drawn.sum())))
            assert _same(told.result(60), alone[0])
    finally:
        del engine.batch
    assert set(lanes) == {4} and seen == sorted(seen) and seen[-1] == alone[0][0].num_tokens * 5
    with EditQueue(pipeline, max_lanes=1) as edits, pytest.raises(UserError, match="max_lanes 2"):
        edits.submit(*many[0], **many[1]).result(60)


def test_too_few_lanes_for_the_models_guidance_are_told_of_at_the_start(pipelines, caplog):
    assert pipelines["edit"].defaults.sampling.num_lanes == 2
    for max_lanes, told in ((2, 0), (1, 1)):
        caplog.clear()
        EditQueue(pipelines["edit"], max_lanes=max_lanes).close()
        assert caplog.text.count("give max_lanes 2 or more") == told
    with pytest.raises(UserError, match="max_lanes 0"):
        EditQueue(pipelines["edit"], max_lanes=0)
    for program in (Serve, Demo):
        with pytest.raises(UserError, match="--max-lanes 1: must be at least 2"):
            parse(program, ["--max-lanes", "1"])


def test_no_memory_for_a_batch_is_told_to_the_one_that_waits(pipelines):
    pipeline, tries = pipelines["edit"], []
    make = pipeline.engine.batch

    def scarce(*rest):
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError("no room")
        return make(*rest)

    pipeline.engine.batch = scarce
    try:
        with EditQueue(pipeline) as edits:
            with pytest.raises(MemoryError, match="no room"):
                edits.submit(noise(24, 24), "red", sampling=HOW).result(60)
            assert edits.submit(noise(24, 24), "red", sampling=HOW).result(60)
    finally:
        del pipeline.engine.batch
    assert len(tries) == 2


def test_what_is_cancelled_before_its_turn_is_let_go_at_once(pipelines):
    pipeline, began, go_on = pipelines["edit"], threading.Event(), threading.Event()

    def hold(drawing) -> None:
        began.set()
        go_on.wait(60)

    image = noise(24, 24)
    with EditQueue(pipeline, max_lanes=1, max_waiting=2) as edits:
        first = edits.submit(noise(24, 24), "red", sampling=HOW, progress=hold)
        assert began.wait(60)
        second, uses = edits.submit(image, "red", sampling=HOW), sys.getrefcount(image)
        assert second.cancel() and edits.num_open == 1 and sys.getrefcount(image) < uses
        third = edits.submit(noise(24, 24), "red", sampling=HOW)  # its place is free
        go_on.set()
        assert first.result(60) and third.result(60)
    assert edits.num_open == 0


def test_a_request_without_progress_is_cancelled_between_passes(pipelines):
    engine, began, go_on, passes = pipelines["edit"].engine, threading.Event(), threading.Event(), []
    step = engine.step

    def counted(*arguments):
        passes.append(1)
        began.set()
        assert go_on.wait(60)
        return step(*arguments)

    engine.step = counted
    try:
        with EditQueue(pipelines["edit"]) as edits:
            slow = dataclasses.replace(HOW, window=1)
            running = edits.submit(noise(24, 24), "red", sampling=slow)
            assert began.wait(60) and running.cancel()
            go_on.set()
    finally:
        del engine.step
    assert len(passes) <= 2  # of 8


@pytest.mark.parametrize("crop", ["none", "region"])
def test_edits_can_be_seen_while_they_are_drawn(pipelines, crop):
    """The last picture is the result; those before differ from the source inside of its region alone."""
    image, region, seen = noise(200, 90), np.zeros((90, 200), bool), []
    region[5:20, 5:20] = region[60:80, 150:190] = True
    (one, two) = pipelines["edit"].edit(
        image,
        "red",
        region,
        seeds=1,
        num_samples=2,
        crop=crop,
        sampling=dataclasses.replace(HOW, window=1),
        progress=lambda drawing: seen.append([np.asarray(p) for p in drawing.pictures()]),
    )
    assert (seen[-1][0] == np.asarray(one.image)).all() and (seen[-1][1] == np.asarray(two.image)).all()
    changed = [(pictures[0] != np.asarray(image)).any(2) for pictures in seen]
    assert all(not (cells & ~one.region.numpy()).any() for cells in changed)
    numbers = [int(cells.sum()) for cells in changed]
    assert 0 < numbers[0] < numbers[-1] and len(one.crops) == (1 if crop == "none" else 2)
