"""Servers of the shipped models in threads of the tests' process."""

from __future__ import annotations

import base64
import functools
import io
import threading
import time

import numpy as np
import uvicorn
from conftest import ROOT
from openai import OpenAI
from PIL import Image

from integrations.server.app import make_app
from integrations.server.config import Serve
from integrations.server.middleware import ServerState
from integrations.server.served import Served, load_pipelines

SCENE = Image.open(ROOT / "assets" / "scene.png").convert("RGB")
WORDS = "turn the large blue star into a circle"


@functools.cache
def served() -> Served:
    return Served("shapes", load_pipelines("shapes", "cpu"), 32)


class Running:
    """A server with these limits; all have the same models."""

    def __init__(self, **limits) -> None:
        self.state, self.limits = ServerState(), Serve(port=0, **limits)
        config = uvicorn.Config(make_app(served(), self.limits, self.state), port=0, log_config=None)
        self._server = uvicorn.Server(config)
        threading.Thread(target=self._server.run, daemon=True).start()
        while not self._server.started:
            time.sleep(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()
        self.url = f"http://{host}:{port}"

    def client(self, **options) -> OpenAI:
        options = {"api_key": self.limits.api_key or "none", "max_retries": 0, "timeout": 100} | options
        return OpenAI(base_url=f"{self.url}/v1", **options)


@functools.cache
def running(**limits) -> Running:
    """One for all tests with these limits."""
    return Running(**limits)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def as_file(image: Image.Image, name: str = "picture.png") -> tuple[str, bytes, str]:
    return name, png(image), "image/png"


def transparent(region: np.ndarray) -> Image.Image:
    """A mask of OpenAI's: (H, W) bool, True = transparent = edit."""
    pixels = np.full((*region.shape, 4), 255, np.uint8)
    pixels[..., 3] = np.where(region, 0, 255)
    return Image.fromarray(pixels)


def white(region: np.ndarray) -> Image.Image:
    """A mask of the other polarity."""
    return Image.fromarray(np.where(region, 255, 0).astype(np.uint8))


def box(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (72, 72)) -> np.ndarray:
    region = np.zeros(size[::-1], bool)
    region[top:bottom, left:right] = True
    return region


def opened(data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    return image


def pixels(data: str) -> np.ndarray:
    return np.asarray(opened(data))
