"""The picture of docs/architecture.md, rooms and who imports whom: the work of draw_architecture.py."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[2]
# From the ground up: (room, what it holds, where its middle is), so that no arrow runs behind a box.
FLOORS = [
    [("runtime", "flags, files, ranks,\ncheckpoints, optimizers", 0.1)],
    [
        ("autoregressive.sequence", "layouts, orders, builders,\npacking", -3.9),
        ("language", "words to features", 0.1),
        ("tokenizer", "pixels to codes and back", 4.6),
    ],
    [
        ("autoregressive.models", "weights and one forward", -3.9),
        ("dataset", "records, test sets, packed,\nshapes, preparation", 0.1),
    ],
    [
        ("autoregressive.decoding", "the engine: cache, steps,\ndraws", -5.8),
        ("autoregressive.adapters", "LoRA: trained, loaded,\nmerged", -2.0),
        ("evaluations", "metrics, reports", 5.0),
    ],
    [("autoregressive.editing", "pipeline, sessions, masks,\ncompositing", 0.9)],
    [
        ("autoregressive.sample", "programs that edit and draw", -0.6),
        ("autoregressive.scaling", "rewards, search", 3.4),
    ],
    [("autoregressive.train", "both stages, one loop", 0.2)],
    [("scripts", "programs in families", 0.6)],
]
WIDTH, HEIGHT, GAP = 3.4, 1.0, 0.62
COLORS = {"runtime": "#e5e7eb", "autoregressive": "#dbeafe", "scripts": "#fef3c7"}


def room_of(module: str) -> str | None:
    """The room of the picture that a module stands in."""
    rooms = [room for floor in FLOORS for room, *_ in floor]
    fitting = [room for room in rooms if module == room or module.startswith(room + ".")]
    return max(fitting, key=len, default=None)


def read_imports() -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Files of each room, and how many files of a room import another room."""
    files: Counter[str] = Counter()
    arrows: Counter[tuple[str, str]] = Counter()
    packages = {room.split(".")[0] for floor in FLOORS for room, *_ in floor}
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if room is None or path.name == "__init__.py":
            continue
        files[room] += 1
        names = [
            node.module
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module
        ]
        others = {room_of(name) for name in names} - {None, room}
        arrows.update((room, other) for other in others)
    return files, arrows


def needed(arrows: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The arrows that lead down and follow from no others; a few programs at the edge import upwards."""
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room, *_ in floor}
    down = {arrow: count for arrow, count in arrows.items() if floor_of[arrow[0]] > floor_of[arrow[1]]}

    def reached(start: str) -> set[str]:
        ends = {end for begin, end in down if begin == start}
        return ends.union(*map(reached, ends))

    return {
        (start, end): count
        for (start, end), count in down.items()
        if not any(end in reached(other) for begin, other in down if begin == start and other != end)
    }


def places() -> dict[str, tuple[float, float]]:
    """The middle of each room's box."""
    return {
        room: (column, number * (HEIGHT + GAP))
        for number, floor in enumerate(FLOORS)
        for room, _, column in floor
    }


def draw_rooms(output: Path) -> None:
    """Writes the picture; an arrow leads from who imports to what is imported, bold where many files do."""
    files, arrows = read_imports()
    middle = places()
    figure = Figure(figsize=(13, 10), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (start, end), count in sorted(needed(arrows).items()):
        _arrow(axes, middle[start], middle[end], count)
    for floor in FLOORS:
        for room, holds, _ in floor:
            _box(axes, middle[room], room, holds, files[room])
    axes.set_xlim(-7.7, 7.0)
    axes.set_ylim(-0.8, len(FLOORS) * (HEIGHT + GAP) - 0.4)
    axes.axis("off")
    axes.set_title("Rooms, and who imports whom (what follows from other arrows is left out)", fontsize=13)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], count: int) -> None:
    axes.add_patch(
        FancyArrowPatch(
            (start[0], start[1] - HEIGHT / 2),
            (end[0], end[1] + HEIGHT / 2),
            arrowstyle="-|>",
            mutation_scale=11,
            linewidth=0.5 + min(count, 12) / 6,
            color="#64748b",
            zorder=1,
        )
    )


def _box(axes: Axes, middle: tuple[float, float], room: str, holds: str, files: int) -> None:
    left, bottom = middle[0] - WIDTH / 2, middle[1] - HEIGHT / 2
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=COLORS.get(room.split(".")[0], "#dcfce7"),
            edgecolor="#334155",
            zorder=2,
        )
    )
    name = room.removeprefix("autoregressive.")
    words = f"{holds}  ({files} files)"
    centred = {"ha": "center", "va": "center", "zorder": 3}
    axes.text(middle[0], middle[1] + 0.24, name, fontsize=13, weight="bold", **centred)
    axes.text(middle[0], middle[1] - 0.18, words, fontsize=9, **centred)
