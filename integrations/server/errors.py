"""What a client is told that went wrong, in the shape of OpenAI's API."""

from __future__ import annotations

import math
from typing import Any


class ApiError(Exception):
    """Becomes `{"error": {"message", "type", "param", "code"}}` with a status and headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.content: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: what was sent cannot be done."""
    return ApiError(400, message, param=param, code=code)


def unauthorized() -> ApiError:
    """401"""
    message = "wrong or missing API key: send it as `Authorization: Bearer KEY`"
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def model_not_found(name: str, known: list[str]) -> ApiError:
    """404"""
    message = f"the model {name!r} does not exist here; there are {', '.join(known)}"
    return ApiError(404, message, param="model", code="model_not_found")


def too_large(limit: int) -> ApiError:
    """413"""
    message = f"the request has more than {limit} bytes, this server's limit (--max-bytes)"
    return ApiError(413, message, code="request_too_large")


def queue_full(num_open: int, seconds: float) -> ApiError:
    """429

    Args:
      seconds: after which to try again.
    """
    message = f"{num_open} requests are open, as many as this server takes (--max-waiting); try again later"
    headers = {"retry-after": str(min(max(math.ceil(seconds), 1), 60))}
    return ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)


def internal(request_id: str) -> ApiError:
    """500; what happened stands in the server's log."""
    message = f"the server failed on this request; its log says how, under {request_id}"
    return ApiError(500, message, kind="server_error", headers={"x-should-retry": "false"})


def shutting_down() -> ApiError:
    """503"""
    message = "this server is stopping and takes no new requests"
    return ApiError(503, message, kind="server_error", code="shutting_down", headers={"retry-after": "5"})


def too_slow(limit: float, *, upload: bool = False) -> ApiError:
    """504, or 408 where the request itself did not arrive in time; clients are told not to try again."""
    what = "the request did not arrive" if upload else "the pictures were not drawn"
    message = f"{what} within {limit:g} seconds, this server's limit (--max-seconds)"
    headers = {"x-should-retry": "false"}
    return ApiError(408 if upload else 504, message, kind="timeout_error", code="timeout", headers=headers)
