"""Edits and drawings of many callers at once, on one pipeline: what a server and a demo use."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autoregressive.decoding.shared import MAX_LANES, SharedEngine
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.token_editor import TokenEditor
from runtime.errors import UserError
from runtime.logging import get_logger

log = get_logger(__name__)


class QueueFullError(UserError):
    """As many requests wait as may; try again later."""


WORKING = 2
"""Requests that encode, find their region or decode at a time; each of them uses all cores, or the GPU."""


@dataclass(eq=False)
class _Request:
    """What is to be called, and who waits for it."""

    future: Future
    work: Callable[..., Any] | None
    inputs: tuple
    options: dict[str, Any]
    shared: SharedEngine
    begun: bool = False


class EditQueue:
    """Requests of any size share the passes of decoding; results are those of the pipeline alone.

        with EditQueue(pipeline) as edits:
            future = edits.submit(image, "make the circle blue", mask, seeds=3)
            image = future.result()[0].image

    While it is open, other threads that call the pipeline share passes too, with the queue that was opened
    last. Requests with an adapter share passes with those of the same adapter, which have a cache of their
    own. A process that was forked from this one wants a queue of its own: threads are not copied.
    """

    def __init__(
        self, pipeline: EditingPipeline, *, max_lanes: int = MAX_LANES, max_waiting: int | None = None
    ) -> None:
        """
        Args:
          max_lanes: rows decoded together, with each adapter; a result is a row, two with guidance.
          max_waiting: requests that may wait or run; None for any number.
        Raises:
          UserError: fewer than one lane.
        """
        if max_lanes < 1:
            raise UserError(f"max_lanes {max_lanes}: give 1, for requests without guidance, or more")
        if max_lanes < pipeline.defaults.sampling.num_lanes:
            log.warning(
                "max_lanes %d: with guidance, as this model edits by default, a row takes two: requests are "
                "refused unless their cfg_scale is 1; give max_lanes 2 or more",
                max_lanes,
            )
        self.pipeline = pipeline
        self._max_waiting = max_waiting
        self.max_lanes = max_lanes
        self._shared: dict[TokenEditor, SharedEngine] = {}
        self._threads = ThreadPoolExecutor(max_lanes, thread_name_prefix="edit")
        self._working = threading.Semaphore(WORKING)
        self._lock = threading.Lock()
        self._num_open = 0
        self._closed = False
        self._share(pipeline.token_editor)

    def submit(self, *inputs: Any, adapter: str | None = None, **options: Any) -> Future:
        """`EditingPipeline.edit` as a future; requests begin in the order in which they come.

        The future's `cancel` works while the request waits and, up to the next pass, while it is drawn; what
        a cancelled request was given is let go at once. What is given is read when the request begins: leave
        arrays and images as they are until then. `progress` is called in a thread of the queue, of which
        `WORKING` work at a time: it should return soon, and wait for no other request.

        Args:
          adapter: of those that the pipeline has loaded; by default the one that it uses now, or none.
        Raises:
          QueueFullError: `max_waiting` requests are open.
          RuntimeError: the queue is closed, or was opened before this process was forked.
          UserError: there is no such adapter.
        """
        return self._start("edit", adapter, inputs, options)

    def submit_drawing(self, *inputs: Any, adapter: str | None = None, **options: Any) -> Future:
        """`EditingPipeline.draw` as a future, as `submit`."""
        return self._start("draw", adapter, inputs, options)

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
        for editor, shared in self._shared.items():
            if editor.shared is shared:  # first: other threads' calls go to the engine itself from here on
                editor.shared = None
            shared.close()

    def __enter__(self) -> EditQueue:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _share(self, editor: TokenEditor) -> SharedEngine:
        """What decodes for it: others' calls too."""
        if editor not in self._shared:
            self._shared[editor] = editor.shared = SharedEngine(editor.engine, self.max_lanes)
        return self._shared[editor]

    def _start(self, work: str, adapter: str | None, inputs: tuple, options: dict[str, Any]) -> Future:
        pipeline = self.pipeline.as_it_is() if adapter is None else self.pipeline.with_adapter(adapter)
        with self._lock:
            if self._closed:
                raise RuntimeError("the queue is closed: no new requests are taken")
            if self._max_waiting is not None and self._num_open >= self._max_waiting:
                raise QueueFullError(
                    f"{self._num_open} requests are open, as many as may be: try again later"
                )
            shared = self._share(pipeline.token_editor)
            shared.require_own_process()
            self._num_open += 1
            # Another queue of this pipeline may be what its own editor shares passes with.
            pipeline.token_editor = copy.copy(pipeline.token_editor)
            pipeline.token_editor.shared = shared
            request = _Request(Future(), getattr(pipeline, work), inputs, options, shared)
            self._threads.submit(self._run, request)
        request.future.add_done_callback(lambda _: self._drop(request))
        return request.future

    def _drop(self, request: _Request) -> None:
        """Lets go of what a request was given that is cancelled before it begins: images are large."""
        with self._lock:
            if request.begun:
                return
            request.begun = True
            request.work, request.inputs, request.options = None, (), {}
            self._num_open -= 1

    def _run(self, request: _Request) -> None:
        with self._lock:
            dropped, request.begun = request.begun, True
        future = request.future
        try:  # the future stays "pending", so that it can be cancelled at any time
            if not dropped:
                with self._working, request.shared.calling(future.cancelled, self._working):
                    if future.cancelled():  # while it waited to work
                        raise CancelledError
                    result = request.work(*request.inputs, **request.options)
                future.set_result(result)
        except BaseException as error:  # `CancelledError` too: a progress callback may raise what it likes
            with suppress(InvalidStateError):  # it is cancelled, perhaps just now
                future.set_exception(error)
        finally:
            if not dropped:
                with self._lock:
                    self._num_open -= 1
            if future.cancelled():
                future.set_running_or_notify_cancel()  # tells those who wait
