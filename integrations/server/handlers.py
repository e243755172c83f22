"""From a request to its answer: read, checked, put into a queue, waited for, written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from autoregressive.editing.results import Drawing, EditResult
from integrations.server.answers import as_content, completed_event, error_event, partial_event
from integrations.server.bodies import read_form, read_json
from integrations.server.config import Serve
from integrations.server.deadline import Deadline
from integrations.server.errors import ApiError, ClientGoneError, bad_request, internal, too_slow
from integrations.server.jobs import Job, read_drawing, read_edit
from integrations.server.metrics import Metrics
from integrations.server.served import Served
from runtime.errors import UserError

PICTURE_THREADS = 2
"""Pictures are read and written so many at a time, beside the models."""
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
Value = TypeVar("Value")
Results = list[EditResult | Image.Image]


class Handlers:
    """Answers requests with the models that are served."""

    def __init__(self, served: Served, limits: Serve, metrics: Metrics) -> None:
        self.served, self.limits, self.metrics = served, limits, metrics
        self._threads = ThreadPoolExecutor(PICTURE_THREADS, thread_name_prefix="pictures")

    async def edit(self, request: Request) -> Response:
        """`POST /v1/images/edits`"""
        values = await self._arrived(read_form(request, self.limits.max_bytes))
        return await self._answer(request, lambda: read_edit(values, self.served, self.limits.max_pixels))

    async def draw(self, request: Request) -> Response:
        """`POST /v1/images/generations`"""
        values = await self._arrived(read_json(request))
        return await self._answer(request, lambda: read_drawing(values, self.served, self.limits.max_pixels))

    def close(self) -> None:
        """Returns when all that runs is done."""
        self._threads.shutdown()
        self.served.close()

    async def _arrived(self, reading: Awaitable[Value]) -> Value:
        try:
            return await asyncio.wait_for(reading, self.limits.max_seconds)
        except asyncio.TimeoutError:
            raise too_slow(self.limits.max_seconds, upload=True) from None

    async def _answer(self, request: Request, read: Callable[[], Job]) -> Response:
        deadline = Deadline.begin(request, self.limits.max_seconds)
        job = request.state.job = await deadline.wait(self._in_thread(read))
        if not job.stream:
            return JSONResponse(await deadline.wait(self._whole(job)))
        events = self._events(job, deadline)
        first = await anext(events)  # what is wrong before anything is shown has a status of its own
        sent = _from_first(first, events, request.state.id)
        return StreamingResponse(sent, media_type="text/event-stream", headers=_STREAM_HEADERS)

    async def _whole(self, job: Job) -> dict[str, Any]:
        with _told_to_the_client():
            results = await asyncio.wrap_future(job.submit())  # which is cancelled with this task
        self._count(job, results)
        return await self._in_thread(as_content, job, results)

    async def _events(self, job: Job, deadline: Deadline) -> AsyncIterator[str]:
        loop, news = asyncio.get_running_loop(), asyncio.Queue()

        def tell(one: str | Future) -> None:
            loop.call_soon_threadsafe(news.put_nowait, one)

        future = job.submit(_Partials(job, tell) if job.partial_images else None)
        future.add_done_callback(tell)
        try:
            while not isinstance(one := await deadline.wait(news.get()), Future):
                yield one
            with _told_to_the_client():
                results = one.result()
            self._count(job, results)
            yield await deadline.wait(self._in_thread(completed_event, job, results))
        finally:
            future.cancel()

    def _count(self, job: Job, results: Results) -> None:
        route = "generations" if job.image is None else "edits"
        self.metrics.made(route, job.model, len(results), job.num_cells(results))

    async def _in_thread(self, function: Callable[..., Value], *inputs: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *inputs)


class _Partials:
    """Tells of pictures at even shares of the drawing; of fewer where a pass goes beyond several."""

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self._job, self._tell = job, tell
        self._due = self._sent = 0

    def __call__(self, drawing: Drawing) -> None:
        due = drawing.step * (self._job.partial_images + 1) // drawing.num_steps
        if due > self._due and drawing.step < drawing.num_steps:
            self._tell(partial_event(self._job, drawing.pictures()[0], self._sent))
            self._due, self._sent = due, self._sent + 1


@contextmanager
def _told_to_the_client() -> Iterator[None]:
    """What the pipeline refuses, such as a region that it cannot find, is the request's mistake."""
    try:
        yield
    except UserError as error:
        raise bad_request(str(error)) from None


async def _from_first(first: str, events: AsyncIterator[str], request_id: str) -> AsyncIterator[str]:
    """All events; what goes wrong now becomes one, as the status is sent."""
    try:
        yield first
        async for event in events:
            yield event
    except ClientGoneError:
        return
    except ApiError as error:
        yield error_event(error.content)
    except Exception:
        yield error_event(internal(request_id).content)
        raise
