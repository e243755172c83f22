"""The flags of serve.py."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from runtime.config import option
from runtime.errors import UserError
from runtime.flags import models, shared
from runtime.flags.ranges import COUNT, POSITIVE


@dataclass(frozen=True)
class Serve:
    """Edits and draws behind OpenAI's image API: /v1/images/edits, /v1/images/generations, /v1/models."""

    TOPICS: ClassVar[dict[str, str]] = {"model": "models", "host": "the address", "max_bytes": "limits"}
    EXAMPLES: ClassVar[str] = """
  python integrations/server/serve.py
  NEP_API_KEY=secret python integrations/server/serve.py --model FOLDER --host 0.0.0.0
"""

    model: str = option(
        "shapes",
        help="shapes (comes with the project), another folder of models (in pretrained_models its name is "
        "enough), or a hub id; all in it are served",
    )
    adapter: list[str] | None = option(
        None, help="NAME=FOLDER: LoRA that requests may ask for by NAME; a folder of peft's, or a checkpoint"
    )
    t5_path: str | None = models.t5_path("; by default that of --model")
    device: str = shared.device()
    precision: str = models.decoding_precision()
    host: str = shared.host("set a key")
    port: int = shared.port(8000)
    api_key: str | None = option(
        None,
        help="clients must send it; better in the environment, as NEP_API_KEY, which processes do not show",
    )
    max_bytes: int = option(25_000_000, within=COUNT, help="bytes that a request may have")
    max_pixels: int = option(
        32_000_000, within=COUNT, help="pixels that a picture may have, times the number of results asked for"
    )
    max_waiting: int = option(
        64, within=COUNT, help="requests that may wait or run; the next one is told to come back"
    )
    max_seconds: float = option(120.0, within=POSITIVE, help="seconds that a request may take")
    max_lanes: int = shared.max_lanes()

    def __post_init__(self) -> None:
        key = (os.environ.get("NEP_API_KEY") or None) if self.api_key is None else self.api_key
        if key is not None and not key.strip():
            raise UserError("--api-key (or NEP_API_KEY) is empty: leave it out for a server without a key")
        object.__setattr__(self, "api_key", key and key.strip())  # as headers arrive
        self.adapters()  # checks them

    def adapters(self) -> dict[str, str]:
        """Where adapters are, by their names.

        Raises:
          UserError: a word without a name or a place, or a name that comes twice.
        """
        places: dict[str, str] = {}
        for word in self.adapter or []:
            name, _, place = word.partition("=")
            if not name or not place:
                raise UserError(f"--adapter {word}: give NAME=FOLDER")
            if name in places:
                raise UserError(f"--adapter: two are called {name}: {places[name]} and {place}")
            places[name] = place
        return places
