"""The application: which address does what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from integrations.server.config import Serve
from integrations.server.errors import ApiError, model_not_found
from integrations.server.fields import DRAW_FIELDS, EDIT_FIELDS
from integrations.server.handlers import Handlers
from integrations.server.metrics import CONTENT_TYPE, Metrics
from integrations.server.middleware import RequestMiddleware, ServerState, as_response
from integrations.server.served import Served

_FILES = ("image", "mask", "mask_image")


def make_app(served: Served, limits: Serve, state: ServerState) -> FastAPI:
    """All routes over models that are loaded; the queues are closed with the application."""
    metrics = Metrics(lambda: state.num_open)
    handlers = Handlers(served, limits, metrics)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(handlers.close)

    # The pages that FastAPI would add load their scripts from elsewhere.
    app = FastAPI(title="NEP", lifespan=living, docs_url=None, redoc_url=None)
    app.add_middleware(RequestMiddleware, state=state, limits=limits, metrics=metrics)
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    _add_routes(app, handlers)
    _add_health(app, state, metrics)
    return app


def _add_routes(app: FastAPI, handlers: Handlers) -> None:
    edits = _body("multipart/form-data", EDIT_FIELDS, ["image", "prompt"])
    draws = _body("application/json", DRAW_FIELDS, ["prompt"])

    @app.post("/v1/images/edits", openapi_extra=edits)
    async def edit(request: Request) -> Response:
        """Edits a region of a picture; every pixel outside the edited cells stays."""
        return await handlers.edit(request)

    @app.post("/v1/images/generations", openapi_extra=draws)
    async def draw(request: Request) -> Response:
        """Draws a picture from text."""
        return await handlers.draw(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What may be given as `model`."""
        return {"object": "list", "data": handlers.served.cards()}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        for card in handlers.served.cards():
            if card["id"] == name:
                return card
        raise model_not_found(name, handlers.served.names())


def _add_health(app: FastAPI, state: ServerState, metrics: Metrics) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        """New requests are taken: 200; or no more, as the server is stopping: 503."""
        status = "stopping" if state.stopping else "ok"
        return JSONResponse({"status": status, "open": state.num_open}, 503 if state.stopping else 200)

    @app.get("/metrics")
    async def measured() -> Response:
        """In Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _body(kind: str, fields: dict[str, str], required: list[str]) -> dict[str, Any]:
    """What /openapi.json says of a body; `Fields` checks it."""
    properties = {
        name: {"description": words} | ({"type": "string", "format": "binary"} if name in _FILES else {})
        for name, words in fields.items()
    }
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


async def _refuse(request: Request, error: ApiError) -> Response:
    return as_response(error)


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}"
    return as_response(ApiError(error.status_code, message, code="unknown_url", headers=error.headers))
