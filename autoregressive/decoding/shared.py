"""An engine whose callers share passes: rows of many threads in one batch."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autoregressive.decoding.batch import Batch, Row
from autoregressive.decoding.engine import Drawn, Engine, OnPass
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.gpt import evaluating
from autoregressive.sequence.layout import Prompt

MAX_LANES = 32


@dataclass(eq=False)
class _Call:
    """One call of `generate`: what it asks for, and what it is told."""

    arguments: tuple[Any, ...]
    num_lanes: int
    wants_passes: bool
    rows: list[Row] = field(default_factory=list)
    abandoned: bool = False
    news: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)


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
        self._worker = threading.Thread(target=self._work, name="decoding", daemon=True)
        self._worker.start()

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
        """As `Engine.generate`, to which calls go that have more rows than lanes, or draw cells in parallel.

        An error of `on_pass` ends this call alone.

        Raises:
          RuntimeError: it is closed.
        """
        num_rows, num_cells = orders.shape
        counts = [num_cells] * num_rows if counts is None else list(counts)
        num_lanes = num_rows * sampling.num_lanes
        arguments = (prompt, text, orders, seeds, sampling, counts, guesses)
        if num_lanes > self.max_lanes or sampling.parallel > 1:
            given = {"counts": counts, "guesses": guesses, "on_pass": on_pass}
            return self.engine.generate(*arguments[:5], **given)
        call = _Call(arguments, num_lanes, on_pass is not None)
        with self._wake:
            if self._closed:
                raise RuntimeError("this engine is closed: no new calls are taken")
            self._waiting.append(call)
            self._wake.notify()
        try:
            while not isinstance(news := call.news.get(), list):
                if isinstance(news, BaseException):
                    raise news
                on_pass(*news)
        finally:
            call.abandoned = True
        codes = torch.zeros_like(orders)
        for i, row in enumerate(news):
            codes[i, : row.count] = row.codes
        return Drawn(codes, [row.num_passes for row in news])

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
            except (
                BaseException
            ) as error:  # out of memory, say: those that ran are told, the next ones are tried
                for call in running:
                    call.news.put(error)

    def _batch(self):
        config = self.engine.model.config
        longest = config.cls_token_num + 3 * config.block_size  # text, source, marks, kept codes
        return self.engine.batch(self.max_lanes, longest, config.block_size)

    def _run(self, batch: Batch, running: list[_Call]) -> None:
        """Passes until nothing runs or waits."""
        while True:
            self._admit(batch, running)
            gone = {id(row) for call in running if call.abandoned for row in call.rows}
            batch.leave(lambda row, gone=gone: row.done or id(row) in gone)
            for call in list(running):
                if call.abandoned:
                    running.remove(call)
                elif all(row.codes is not None for row in call.rows):
                    running.remove(call)
                    call.news.put(call.rows)
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
                if not self._waiting or self._waiting[0].num_lanes > batch.free_lanes():
                    break
                call = self._waiting.popleft()
            running.append(call)  # before it joins, so that it hears of an error
            call.rows = batch.join(*call.arguments)
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
            call.news.put((codes, [row.num_settled for row in call.rows]))
