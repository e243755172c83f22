"""Sends a server mixed requests, one after the other and all at once, and prints what sharing passes saves.

python integrations/server/serve.py &
python integrations/server/load.py
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import statistics
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from runtime.config import option, parse
from runtime.errors import UserError, run_command
from runtime.flags.ranges import COUNT

SCENE = Path(__file__).resolve().parents[2] / "assets" / "scene.png"
WORDS = ("turn the large blue star into a circle", "remove the large green square", "make the star red")
KINDS = ("masked", "masked", "auto", "drawn")
_BOUNDARY = "nep-load"


@dataclass(frozen=True)
class Load:
    """Measures a running server: mixed requests one after the other, then all at once."""

    url: str = option("http://127.0.0.1:8000", help="the server, without /v1")
    requests: int = option(
        32, within=COUNT, help="how many: half with masks, the others without, and drawings"
    )
    times: int = option(1, within=COUNT, help="how often each way, in turn; the fastest counts")


@dataclass
class Timing:
    """What a number of requests took.

    Attributes:
      wall, cpu: seconds of all requests; of the server's process, None where its system does not tell.
      each: seconds of each request.
    """

    wall: float
    cpu: float | None
    each: list[float] = field(repr=False)

    def __str__(self) -> str:
        middle, slow = statistics.median(self.each), sorted(self.each)[int(0.95 * (len(self.each) - 1))]
        cpu = "" if self.cpu is None else f", {self.cpu:.2f} s of CPU"
        return f"{self.wall:.2f} s{cpu}; a request {middle:.2f} s (median), {slow:.2f} s (95 %)"


def body(number: int) -> tuple[str, bytes, str]:
    """Address, body and type of the request of that number."""
    kind, words = KINDS[number % len(KINDS)], WORDS[number % len(WORDS)]
    if kind == "drawn":
        asked = {"prompt": "a large red circle at the center", "seed": number}
        return "/v1/images/generations", json.dumps(asked).encode(), "application/json"
    fields = {"prompt": words, "seed": str(number)}
    if kind == "masked":
        with Image.open(SCENE) as image:
            mask = Image.new("L", image.size)
        side = mask.width // 4 + number % 3 * mask.width // 6
        mask.paste(255, (0, 0, side, side))
        stream = io.BytesIO()
        mask.save(stream, "PNG")
        fields["mask_image"] = base64.b64encode(stream.getvalue()).decode()
    files = {"image": SCENE.read_bytes()}
    return "/v1/images/edits", as_form(fields, files), f"multipart/form-data; boundary={_BOUNDARY}"


def as_form(fields: dict[str, str], files: dict[str, bytes]) -> bytes:
    """A multipart form."""
    heads = {name: f'form-data; name="{name}"' for name in [*fields, *files]}
    contents = {name: value.encode() for name, value in fields.items()} | files
    for name in files:
        heads[name] += f'; filename="{name}.png"'
    parts = [
        f"--{_BOUNDARY}\r\nContent-Disposition: {heads[name]}\r\n\r\n".encode() + content + b"\r\n"
        for name, content in contents.items()
    ]
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def send(url: str, path: str, content: bytes | None = None, kind: str = "") -> Any:
    """The answer's bytes.

    Raises:
      UserError: there is no such server, or it refuses.
    """
    headers = {"authorization": f"Bearer {os.environ.get('NEP_API_KEY', '')}", "content-type": kind}
    try:
        request = urllib.request.Request(url + path, content, headers)
        with urllib.request.urlopen(request, timeout=600) as reply:
            return reply.read()
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}{path}: {error.code}: {error.read().decode(errors='replace')[:300]}") from None
    except OSError as error:
        raise UserError(f"{url}: no server answers ({error}); start integrations/server/serve.py") from None


def cpu_seconds(url: str) -> float | None:
    """That the server's process has used."""
    found = re.search(rb"^process_cpu_seconds_total (\S+)$", send(url, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else None


def measure(url: str, number: int, at_once: int) -> tuple[Timing, list[list[str]]]:
    """Sends that many requests, so many at once; also gives the pictures of each."""

    def ask(i: int) -> tuple[float, list[str]]:
        start = time.perf_counter()
        answer = json.loads(send(url, *body(i)))
        return time.perf_counter() - start, [one["b64_json"] for one in answer["data"]]

    before, start = cpu_seconds(url), time.perf_counter()
    with ThreadPoolExecutor(at_once) as clients:
        answers = list(clients.map(ask, range(number)))
    wall, after = time.perf_counter() - start, cpu_seconds(url)
    cpu = None if before is None or after is None else after - before
    return Timing(wall, cpu, [seconds for seconds, _ in answers]), [pictures for _, pictures in answers]


def main() -> None:
    config = parse(Load)
    for i in range(len(KINDS)):  # what is slow the first time
        send(config.url, *body(i))
    timings: dict[int, list[Timing]] = {1: [], config.requests: []}
    pictures = []
    for _ in range(config.times):
        for at_once, measured in timings.items():
            timing, drawn = measure(config.url, config.requests, at_once)
            measured.append(timing)
            pictures.append(drawn)
    one, all_ = (min(measured, key=lambda timing: timing.wall) for measured in timings.values())
    print(f"{config.requests} requests one after the other: {one}")
    print(f"{config.requests} requests at once: {all_}")
    cpu = "" if one.cpu is None else f", {one.cpu / all_.cpu:.2f} by CPU"
    same = "the same" if all(drawn == pictures[0] for drawn in pictures) else "NOT the same"
    print(f"ratio {one.wall / all_.wall:.2f} by the clock{cpu}; pictures are {same}")


if __name__ == "__main__":
    run_command(main)
