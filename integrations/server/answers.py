"""Answers and events as OpenAI's clients read them.

`model`, `seed`, `lossless`, `unknown_words` and `warnings` are extensions.
"""

from __future__ import annotations

import json
import time
from typing import Any

from PIL import Image

from autoregressive.editing.results import EditResult
from integrations.server.asks import Ask


def as_content(ask: Ask, results: list[EditResult | Image.Image]) -> dict[str, Any]:
    """The whole answer."""
    pictures = [one.image if isinstance(one, EditResult) else one for one in results]
    return {
        "created": int(time.time()),
        "data": [
            {"b64_json": ask.format.write(picture), "seed": ask.seed + number}
            for number, picture in enumerate(pictures)
        ],
        **_described(ask),
        "usage": ask.usage(results),
    }


def partial_event(ask: Ask, picture: Image.Image, number: int) -> str:
    """A picture that is not drawn to its end."""
    content = {"b64_json": ask.format.write(picture), "partial_image_index": number, **_described(ask)}
    return _event(f"{ask.kind}.partial_image", {"created_at": int(time.time()), **content})


def completed_event(ask: Ask, results: list[EditResult | Image.Image]) -> str:
    """The one result of a stream."""
    content = as_content(ask, results)
    (result,) = content.pop("data")
    return _event(f"{ask.kind}.completed", {"created_at": content.pop("created"), **result, **content})


def error_event(content: dict[str, Any]) -> str:
    """What went wrong after a stream had begun."""
    return _event("error", content)


def _described(ask: Ask) -> dict[str, Any]:
    width, height = ask.size
    return {
        "model": ask.model,
        "size": f"{width}x{height}",
        "output_format": ask.format.name,
        "lossless": ask.lossless,
        "unknown_words": ask.unknown_words(),
        "warnings": list(ask.warnings),
    }


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **content})}\n\n"
