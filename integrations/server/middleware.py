"""What every request passes, before and after its answer is made: id, key, limits, counts and log line."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from integrations.server.config import Serve
from integrations.server.errors import (
    ApiError,
    ClientGoneError,
    internal,
    queue_full,
    shutting_down,
    too_large,
    unauthorized,
)
from integrations.server.metrics import Metrics
from runtime.logging import get_logger

log = get_logger("server")

WORK = ("/v1/images/edits", "/v1/images/generations")
"""Routes that count as open requests, and are logged."""
OPEN = ("/health", "/health/live", "/health/ready")
"""Routes without a key."""
_GONE = 499  # as others log a client that has hung up
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LEFT_UNREAD = 4  # times the limit; what comes beyond it finds a closed connection


@dataclass
class ServerState:
    """What the requests share.

    Attributes:
      num_open: requests that wait or run.
      stopping: no new ones are taken.
      last_seconds: that the last one took.
    """

    num_open: int = 0
    stopping: bool = False
    last_seconds: float = 1.0


class RequestMiddleware:
    """Ids, key, limits, counts, and a log line for each request, which never shows words or pictures."""

    def __init__(self, app: ASGIApp, *, state: ServerState, limits: Serve, metrics: Metrics) -> None:
        self.app, self.state, self.limits, self.metrics = app, state, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, start, status = Headers(scope=scope), time.perf_counter(), _GONE
        asked = headers.get("x-request-id", "")
        request_id = asked if _ID.fullmatch(asked) else f"req_{secrets.token_hex(12)}"
        of_request: dict[str, Any] = scope.setdefault("state", {})
        of_request["id"] = request_id
        counts = scope["path"] in WORK

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            try:
                await asyncio.wait_for(send(message), self.limits.max_seconds)
            except asyncio.TimeoutError:  # it reads no further, and would keep its place for ever
                raise ClientGoneError from None

        try:
            try:
                self._require(scope["path"], headers)
                if counts:
                    self._require_room()
            except ApiError as error:
                await as_response(error)(scope, receive, sending)
                return
            self.state.num_open += counts
            try:
                await self.app(scope, self._limited(receive, headers), sending)
            except (ClientGoneError, ClientDisconnect):
                status = _GONE
            except Exception:
                log.exception("%s failed", request_id)
                if status == _GONE:  # nothing is sent yet
                    await as_response(internal(request_id))(scope, receive, sending)
            finally:
                self.state.num_open -= counts
        finally:
            seconds = time.perf_counter() - start
            if counts:
                self._note(scope, of_request, status, seconds, headers)

    def _require(self, path: str, headers: Headers) -> None:
        key = self.limits.api_key
        given = headers.get("authorization", "").partition("Bearer ")[2].encode("latin-1")
        if key is not None and path not in OPEN and not hmac.compare_digest(given, key.encode()):
            raise unauthorized()

    def _require_room(self) -> None:
        if self.state.stopping:
            raise shutting_down()
        if self.state.num_open >= self.limits.max_waiting:
            raise queue_full(self.state.num_open, self.state.last_seconds)

    def _limited(self, receive: Receive, headers: Headers) -> Receive:
        """Reads no more of a body than may be kept; the client can finish sending a little more than that."""
        limit, length, received = self.limits.max_bytes, headers.get("content-length", ""), 0
        refused = length.isdigit() and int(length) > limit

        async def receiving() -> Message:
            nonlocal received, refused
            message = await receive()
            while message["type"] == "http.request":
                received += len(message.get("body", b""))
                refused = refused or received > limit
                more = message.get("more_body", False)
                if not refused:
                    break
                if not more or received > _LEFT_UNREAD * limit:
                    raise too_large(limit)
                message = await receive()
            return message

        return receiving

    def _note(
        self, scope: Scope, of_request: dict[str, Any], status: int, seconds: float, headers: Headers
    ) -> None:
        self.metrics.answered(scope["path"].rpartition("/")[2], status, seconds)
        if status == 200:
            self.state.last_seconds = seconds
        job = of_request.get("job")
        what = "" if job is None else f" model {job.model} n {job.n} {job.size[0]}x{job.size[1]}"
        size = headers.get("content-length", "?")
        log.info("%s %s %d %.3f s %s bytes%s", of_request["id"], scope["path"], status, seconds, size, what)


def as_response(error: ApiError) -> JSONResponse:
    """With its status and headers."""
    return JSONResponse(error.content, error.status, headers=error.headers)
