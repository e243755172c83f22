"""Answers and events as OpenAI's clients read them.

`model`, `seed`, `lossless`, `unknown_words` and `warnings` are extensions.
"""

from __future__ import annotations

import json
import time
from typing import Any

from PIL import Image

from autoregressive.editing.results import EditResult
from integrations.server.jobs import Job


def as_content(job: Job, results: list[EditResult | Image.Image]) -> dict[str, Any]:
    """The whole answer."""
    pictures = [one.image if isinstance(one, EditResult) else one for one in results]
    return {
        "created": int(time.time()),
        "data": [
            {"b64_json": job.format.write(picture), "seed": job.seed + number}
            for number, picture in enumerate(pictures)
        ],
        **_described(job),
        "usage": job.usage(results),
    }


def partial_event(job: Job, picture: Image.Image, number: int) -> str:
    """A picture that is not drawn to its end."""
    content = {"b64_json": job.format.write(picture), "partial_image_index": number, **_described(job)}
    return _event(f"{job.kind}.partial_image", {"created_at": int(time.time()), **content})


def completed_event(job: Job, results: list[EditResult | Image.Image]) -> str:
    """The one result of a stream."""
    content = as_content(job, results)
    (result,) = content.pop("data")
    return _event(f"{job.kind}.completed", {"created_at": content.pop("created"), **result, **content})


def error_event(content: dict[str, Any]) -> str:
    """What went wrong after a stream had begun."""
    return _event("error", content)


def _described(job: Job) -> dict[str, Any]:
    width, height = job.size
    return {
        "model": job.model,
        "size": f"{width}x{height}",
        "output_format": job.format.name,
        "lossless": job.lossless,
        "unknown_words": job.unknown_words(),
        "warnings": list(job.warnings),
    }


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **content})}\n\n"
