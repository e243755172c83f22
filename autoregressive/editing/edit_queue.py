"""Edits and drawings of many callers at once, on one pipeline: what a server and a demo use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any

from autoregressive.decoding.shared import MAX_LANES, SharedEngine
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import Drawing
from runtime.errors import UserError


class QueueFullError(UserError):
    """As many requests wait as may; try again later."""


class _Cancelled(Exception):
    """Ends the work on a request whose future was cancelled."""


class EditQueue:
    """Requests of any size share the passes of decoding; results are those of the pipeline alone.

        with EditQueue(pipeline) as edits:
            future = edits.submit(image, "make the circle blue", mask, seeds=3)
            image = future.result()[0].image

    While it is open, other threads that call the pipeline share passes too.
    """

    def __init__(
        self, pipeline: EditingPipeline, *, max_lanes: int = MAX_LANES, max_waiting: int | None = None
    ) -> None:
        """
        Args:
          max_lanes: rows decoded together; a result is a row, two with guidance.
          max_waiting: requests that may wait or run; None for any number.
        """
        self.pipeline = pipeline
        self._max_waiting = max_waiting
        self._shared = SharedEngine(pipeline.engine, max_lanes)
        self._threads = ThreadPoolExecutor(max_lanes, thread_name_prefix="edit")
        self._lock = threading.Lock()
        self._num_open = 0
        self._closed = False
        pipeline.token_editor.shared = self._shared

    def submit(self, *inputs: Any, **options: Any) -> Future:
        """`EditingPipeline.edit` as a future; requests begin in the order in which they come.

        The future's `cancel` works while the request waits and, up to the next pass, while it is drawn.
        `progress` is called in a thread of the queue.

        Raises:
          QueueFullError: `max_waiting` requests are open.
          RuntimeError: the queue is closed.
        """
        return self._start(self.pipeline.edit, inputs, options)

    def submit_drawing(self, *inputs: Any, **options: Any) -> Future:
        """`EditingPipeline.draw` as a future, as `submit`."""
        return self._start(self.pipeline.draw, inputs, options)

    @property
    def num_open(self) -> int:
        """Requests that wait or run."""
        return self._num_open

    def close(self) -> None:
        """Takes no new requests and returns when the open ones are done."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._threads.shutdown()
        self._shared.close()
        if self.pipeline.token_editor.shared is self._shared:
            self.pipeline.token_editor.shared = None

    def __enter__(self) -> EditQueue:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, work: Callable[..., Any], inputs: tuple, options: dict[str, Any]) -> Future:
        future: Future = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the queue is closed: no new requests are taken")
            if self._max_waiting is not None and self._num_open >= self._max_waiting:
                raise QueueFullError(
                    f"{self._num_open} requests are open, as many as may be: try again later"
                )
            self._num_open += 1
            self._threads.submit(self._run, future, work, inputs, options)
        return future

    def _run(self, future: Future, work: Callable[..., Any], inputs: tuple, options: dict[str, Any]) -> None:
        asked = options.get("progress")

        def progress(drawing: Drawing) -> None:
            if future.cancelled():
                raise _Cancelled
            if asked is not None:
                asked(drawing)

        try:  # the future stays "pending", so that it can be cancelled at any time
            if not future.cancelled():
                result = work(*inputs, **options | {"progress": progress})
                future.set_result(result)
        except (_Cancelled, InvalidStateError):
            pass
        except BaseException as error:
            if not future.cancelled():
                future.set_exception(error)
        finally:
            with self._lock:
                self._num_open -= 1
            if future.cancelled():
                future.set_running_or_notify_cancel()  # tells those who wait
