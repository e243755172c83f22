"""Waiting for work only as long as somebody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from integrations.server.errors import ClientGoneError, too_slow

Value = TypeVar("Value")


@dataclass(frozen=True)
class Deadline:
    """Of one request, whose body has been read.

    Attributes:
      limit: seconds.
      end: on the monotonic clock.
    """

    request: Request
    limit: float
    end: float

    @classmethod
    def begin(cls, request: Request, limit: float) -> Deadline:
        return cls(request, limit, time.monotonic() + limit)

    async def wait(self, work: Awaitable[Value]) -> Value:
        """What the work gives; it is cancelled when the client hangs up or the time is over.

        Raises:
          ClientGoneError, ApiError: that is so.
        """
        working, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._until_gone())
        try:
            left = max(self.end - time.monotonic(), 0)
            await asyncio.wait({working, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientGoneError if gone.done() else too_slow(self.limit)
        finally:
            for task in (working, gone):
                task.cancel()
            await asyncio.gather(working, gone, return_exceptions=True)

    async def _until_gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
