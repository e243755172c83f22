"""The body of a request: a form or JSON, as values by name, in memory."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from integrations.server.errors import bad_request

_MOST_PARTS = 64


async def read_json(request: Request) -> dict[str, Any]:
    """An object of JSON.

    Raises:
      ApiError: anything else.
    """
    try:
        values = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise bad_request("the body is no JSON", code="invalid_json") from None
    if not isinstance(values, dict):
        raise bad_request("the body must be a JSON object", code="invalid_json")
    return values


async def read_form(request: Request, max_bytes: int) -> dict[str, str | bytes]:
    """A multipart form; files as bytes, `image[]` as `image`.

    Args:
      max_bytes: that a part may have; nothing goes to disk.
    Raises:
      ApiError: no such form, or a field that comes twice.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise bad_request(
            "send the fields as multipart/form-data, the picture as a file", code="invalid_form"
        )
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=_MOST_PARTS,
        max_fields=_MOST_PARTS,
        max_part_size=max_bytes,
    )
    parser.spool_max_size = max_bytes + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise bad_request(f"the form cannot be read: {error.message}", code="invalid_form") from None
    values: dict[str, str | bytes] = {}
    for key, value in form.multi_items():
        name = key.removesuffix("[]")
        if name in values:
            message = (
                f"{name} was sent several times: one picture is edited at a time, with one value of each"
            )
            raise bad_request(message, name, "invalid_value")
        values[name] = await value.read() if isinstance(value, UploadFile) else value
    await form.close()
    return values
