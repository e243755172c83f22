"""The worst and best items of an evaluation as one HTML page that opens anywhere.

write_item_page("scores/evaluation_items.html", json.load(open("scores/evaluation_items.json")))
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from evaluations.editing.measure import COPY_SOURCE, GENERATED
from evaluations.images import load_rgb
from evaluations.report.pages import write_page

_SHOWN_SIDE = 192
_SMALL_SIDE = 128
_JPEG = {"format": "JPEG", "quality": 88, "subsampling": 0}
_LOWER_IS_BETTER = {"l1", "l2", "mse", "lpips", "distance"}  # words of a name, wherever they were measured


def write_item_page(path: str | Path, items: Sequence[dict[str, Any]], *, per_end: int = 24) -> None:
    """Writes the page: the `per_end` worst and best generated items of every metric, sortable in the browser.

    Args:
      path: the HTML file to write; pictures are inside it as thumbnails.
      items: {"row", "protocol", "session", "turn", "instruction", "caption", "generated", "target",
        "source", "metrics": {name: number or None}} with "verdict" {"passed_and_unchanged": bool, "passed":
        bool, ...} where there is one.
        Rows besides the generated ones are shown as numbers beside them.
    Raises:
      UserError: if an image cannot be read, or the file cannot be written.
    """
    generated = [item for item in items if item["row"] == GENERATED]
    copies = {_key(item): item["metrics"] for item in items if item["row"] == COPY_SOURCE}
    names = dict.fromkeys(name for item in generated for name in item["metrics"])
    # A number of the target alone (an oracle) says nothing about what was generated.
    rankings = {name: rank_items(generated, name) for name in names if not name.endswith("_oracle")}
    rankings = {name: ranking for name, ranking in rankings.items() if ranking}
    chosen = {index for ranking in rankings.values() for index in (*ranking[:per_end], *ranking[-per_end:])}
    places = {name: _places(ranking) for name, ranking in rankings.items()}
    pictures = _Pictures()
    cards = [
        _card(generated[index], copies.get(_key(generated[index]), {}), pictures)
        | {"places": {name: place[index] for name, place in places.items() if index in place}}
        for index in sorted(chosen)
    ]
    write_page(
        path,
        "item_page.html",
        num_items=len(generated),
        per_end=per_end,
        metrics={name: _is_lower_better(name) for name in rankings},
        protocols=list(dict.fromkeys(card["protocol"] for card in cards)),
        cards=cards,
        has_copies=bool(copies),
        format_number=format_number,
        pictures=pictures.embed(),
    )


def rank_items(items: Sequence[dict[str, Any]], name: str) -> list[int]:
    """Indices of the items where metric `name` is defined, the worst first; equal ones in their order."""
    sign = -1 if _is_lower_better(name) else 1
    defined = [index for index, item in enumerate(items) if item["metrics"].get(name) is not None]
    return sorted(defined, key=lambda index: sign * items[index]["metrics"][name])


def _places(ranking: list[int]) -> dict[int, dict[str, Any]]:
    """Item index -> its number from the worst, out of how many, and that as a share from 0 to 1."""
    count = len(ranking)
    return {
        index: {"number": place + 1, "count": count, "share": round(place / max(count - 1, 1), 3)}
        for place, index in enumerate(ranking)
    }


def format_number(value: float | None) -> str:
    """A metric's value in few characters that keep its size: 0.1234, 31.25, 4.1e-05, or a dash for None."""
    if value is None:
        return "–"
    if value == 0 or 0.001 <= abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.1e}"


def _is_lower_better(name: str) -> bool:
    return not _LOWER_IS_BETTER.isdisjoint(name.split("_"))


def _key(item: dict[str, Any]) -> tuple:
    return item["protocol"], item["session"], item["turn"]


class _Pictures:
    """Numbers picture files in the order of their first use; every file is embedded once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, path: str) -> int:
        return self._numbers.setdefault(path, len(self._numbers))

    def embed(self) -> list[dict[str, Any]]:
        """Every file's thumbnail: {"url": data URL, "width", "height" to show it at, "small": bool}."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(_thumbnail, self._numbers))


def _card(item: dict[str, Any], copied: dict[str, float | None], pictures: _Pictures) -> dict[str, Any]:
    shown = {"source": item.get("source"), "generated": item["generated"], "target": item.get("target")}
    if shown["target"] == shown["source"]:
        del shown["target"]
    verdict = item.get("verdict") or {}
    return {
        "protocol": item["protocol"],
        "session": item["session"],
        "turn": item["turn"],
        "instruction": item.get("instruction") or "",
        "caption": item.get("caption") or "",
        "pictures": [
            {"label": label, "path": path, "number": pictures.number(path)}
            for label, path in shown.items()
            if path
        ],
        "passed": verdict.get("passed_and_unchanged"),
        "failed_checks": [
            key for key, value in verdict.items() if value is False and not key.startswith("passed")
        ],
        "values": item["metrics"],
        "copied": copied,
    }


def _thumbnail(path: str) -> dict[str, Any]:
    """Small images keep their pixels and grow by a whole factor; large ones are reduced."""
    picture = Image.fromarray(load_rgb(path))
    buffer = io.BytesIO()
    small = max(picture.size) <= _SMALL_SIDE
    if small:
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS)
        picture.save(buffer, **_JPEG)
    factor = round(_SHOWN_SIDE / max(picture.size)) if small else 1
    kind = "png" if small else "jpeg"
    return {
        "url": f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "width": picture.width * factor,
        "height": picture.height * factor,
        "small": small,
    }
