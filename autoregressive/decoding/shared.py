"""An engine whose callers share passes: rows of many threads in one batch."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoregressive.decoding.batch import Batch, Row
from autoregressive.decoding.engine import Drawn, Engine, OnPass
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.gpt import evaluating
from autoregressive.sequence.layout import Prompt
from runtime.errors import UserError

MAX_LANES = 32


@dataclass(frozen=True)
class _Caller:
    """What a thread says of its calls: see `SharedEngine.calling`."""

    cancelled: Callable[[], bool] = bool  # which gives False
    working: threading.Semaphore | None = None


@dataclass(eq=False)
class _Call:
    """Rows of one call of `generate` that join together: what it asks for, and whom it tells.

    Attributes:
      first_row: which of the call's rows is its first.
      news: of all parts of the call: (part, (codes, how many are settled)) after a pass, (part, None) at its
        end, (part, error).
    """

    arguments: tuple[Any, ...]
    num_lanes: int
    first_row: int
    wants_passes: bool
    cancelled: Callable[[], bool]
    news: queue.SimpleQueue
    rows: list[Row] = field(default_factory=list)
    abandoned: bool = False


class SharedEngine:
    """`Engine.generate` for many threads at a time, in one batch: first come, first served.

    A thread of its own runs the passes while there is anything to decode; the memory of keys and values goes
    back to the engine when there is nothing.
    """

    def __init__(self, engine: Engine, max_lanes: int = MAX_LANES) -> None:
        """
        Args:
          max_lanes: rows that are decoded together; with guidance a row counts twice.
        """
        self.engine, self.max_lanes = engine, max_lanes
        self._waiting: deque[_Call] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._process = os.getpid()
        self._callers = threading.local()
        self._worker = threading.Thread(target=self._work, name="decoding", daemon=True)
        self._worker.start()

    @contextmanager
    def calling(self, cancelled: Callable[[], bool], working: threading.Semaphore) -> Iterator[None]:
        """For the calls of this thread in the block.

        Args:
          cancelled: asked between passes; once it says True, `generate` raises `CancelledError`.
          working: held by the thread, and given back while it waits for passes.
        """
        self._callers.this = _Caller(cancelled, working)
        try:
            yield
        finally:
            del self._callers.this

    def generate(
        self,
        prompt: Prompt,
        text: Tensor,
        orders: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        counts: Sequence[int] | None = None,
        guesses: Tensor | None = None,
        on_pass: OnPass | None = None,
    ) -> Drawn:
        """As `Engine.generate`, to which calls go that draw cells in parallel.

        Rows beyond the lanes wait for those before them. An error of `on_pass` ends this call alone.

        Raises:
          UserError: guidance, which takes two lanes a row, where there is one.
          RuntimeError: it is closed, or belongs to the process from which this one was forked.
          CancelledError: see `calling`.
        """
        num_rows, num_cells = orders.shape
        counts = [num_cells] * num_rows if counts is None else list(counts)
        caller = getattr(self._callers, "this", _Caller())
        if sampling.parallel > 1:
            heeding = _heeding(caller.cancelled, on_pass)
            given = {"counts": counts, "guesses": guesses, "on_pass": heeding}
            return self.engine.generate(prompt, text, orders, seeds, sampling, **given)
        if sampling.num_lanes > self.max_lanes:
            raise UserError("guidance takes two lanes a row, and there is one: give max_lanes 2 or more")
        self.require_own_process()
        news, calls = queue.SimpleQueue(), []
        for start, end in _spans(num_rows, len(prompt.cells), self.max_lanes // sampling.num_lanes):
            rows, num_samples = slice(start, end), num_rows // len(prompt.cells)
            own = torch.arange(start // num_samples, (end - 1) // num_samples + 1, device=prompt.cells.device)
            drawn = (orders[rows], seeds[rows], sampling, counts[rows])
            arguments = (prompt.rows(own), text[own], *drawn, None if guesses is None else guesses[rows])
            num_lanes = (end - start) * sampling.num_lanes
            calls.append(_Call(arguments, num_lanes, start, on_pass is not None, caller.cancelled, news))
        with self._wake:
            if self._closed:
                raise RuntimeError("this engine is closed: no new calls are taken")
            self._waiting.extend(calls)
            self._wake.notify()
        return _collect(calls, news, torch.zeros_like(orders), on_pass, caller.working)

    def require_own_process(self) -> None:
        """Raises `RuntimeError` in a process that was forked: it has no thread that runs the passes."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "these queued edits belong to the process from which this one was forked, and would wait for "
                "ever: open the EditQueue after the fork"
            )

    def close(self) -> None:
        """Takes no new calls and returns when those that wait and run are done."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._worker.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
            running: list[_Call] = []
            try:
                with torch.inference_mode(), evaluating(self.engine.model), self._batch() as batch:
                    self._run(batch, running)
            except BaseException as error:  # out of memory, say: those that ran are told, others are tried
                with self._wake:
                    if not running and self._waiting:  # there was no memory for a batch: not tried for ever
                        running.append(self._waiting.popleft())
                for call in running:
                    call.news.put((call, error))

    def _batch(self):
        config = self.engine.model.config
        context = config.cls_token_num + 2 * config.block_size  # text, source, marks
        return self.engine.batch(self.max_lanes, context, config.block_size)  # codes that are kept or drawn

    def _run(self, batch: Batch, running: list[_Call]) -> None:
        """Passes until nothing runs or waits."""
        while True:
            self._admit(batch, running)
            for call in running:
                if not call.abandoned and call.cancelled():
                    call.abandoned = True
                    call.news.put((call, CancelledError()))
            gone = {id(row) for call in running if call.abandoned for row in call.rows}
            batch.leave(lambda row, gone=gone: row.done or id(row) in gone)
            for call in list(running):
                if call.abandoned:
                    running.remove(call)
                elif all(row.codes is not None for row in call.rows):
                    running.remove(call)
                    call.news.put((call, None))
            if batch.rows:
                batch.step()
                self._tell(batch, running)
            elif not running and not self._waiting:
                return

    def _admit(self, batch: Batch, running: list[_Call]) -> None:
        """Lets those that wait join, in their order, as far as there are lanes."""
        came = []
        while True:
            with self._wake:
                while self._waiting and (self._waiting[0].abandoned or self._waiting[0].cancelled()):
                    call = self._waiting.popleft()
                    call.news.put((call, CancelledError()))
                if not self._waiting or self._waiting[0].num_lanes > batch.free_lanes():
                    break
                call = self._waiting.popleft()
            running.append(call)  # before it joins, so that it hears of an error
            rows_before = len(batch.rows)
            try:
                call.rows = batch.join(*call.arguments)
            except Exception as error:
                if len(batch.rows) > rows_before:
                    raise
                running.remove(call)  # nothing of it is in the batch: the others go on
                call.news.put((call, error))
                continue
            came.append(call)
        self._tell(batch, came)

    def _tell(self, batch: Batch, calls: list[_Call]) -> None:
        """Tells those who want to know what is drawn so far."""
        if not any(call.wants_passes for call in calls):
            return
        drawn = {id(row): codes for row, codes in batch.codes()}
        for call in calls:
            if not call.wants_passes:
                continue
            codes = torch.zeros_like(call.arguments[2])
            for i, row in enumerate(call.rows):
                codes[i, : row.count] = drawn[id(row)] if row.codes is None else row.codes
            call.news.put((call, (codes, [row.num_settled for row in call.rows])))


def _heeding(cancelled: Callable[[], bool], on_pass: OnPass | None) -> OnPass:
    """`on_pass` of a call that runs alone: it ends the call once that is cancelled."""

    def heed(codes: Tensor, num_settled: list[int]) -> None:
        if cancelled():
            raise CancelledError
        if on_pass is not None:
            on_pass(codes, num_settled)

    return heed


def _spans(num_rows: int, num_prompts: int, most: int) -> list[tuple[int, int]]:
    """The rows of each call, first and end: of as many whole prompts as fit, or some of one prompt's."""
    num_samples = num_rows // num_prompts
    if num_samples <= most:
        step = most // num_samples * num_samples
        return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
    ends = range(num_samples, num_rows + 1, num_samples)
    return [(start, min(start + most, end)) for end in ends for start in range(end - num_samples, end, most)]


def _collect(
    calls: Sequence[_Call],
    news: queue.SimpleQueue,
    codes: Tensor,
    on_pass: OnPass | None,
    working: threading.Semaphore | None,
) -> Drawn:
    """Waits for all parts of a call; (B, K) `codes` fill up."""
    num_open, settled, passes = len(calls), [0] * len(codes), [0] * len(codes)
    try:
        while num_open:
            part, what = _wait(news, working)
            rows = slice(part.first_row, part.first_row + len(part.rows))
            if isinstance(what, BaseException):
                raise what
            if what is None:
                num_open -= 1
                for i, row in enumerate(part.rows, part.first_row):
                    codes[i, : row.count], passes[i] = row.codes, row.num_passes
            else:
                codes[rows], settled[rows] = what
                on_pass(codes.clone(), list(settled))
    finally:
        for part in calls:
            part.abandoned = True
    return Drawn(codes, passes)


def _wait(news: queue.SimpleQueue, working: threading.Semaphore | None) -> tuple[_Call, Any]:
    if working is None:
        return news.get()
    working.release()
    try:
        return news.get()
    finally:
        working.acquire()
