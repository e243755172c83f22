"""One measured quantity, what it should reach, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from runtime.texts import markdown_table
from scripts.benchmarking.cases import Scale
from scripts.benchmarking.limits import Limits
from scripts.benchmarking.measure import Clock, Comparison, Spread

SIZES = {"s": [("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)], "B": [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)]}


@dataclass(frozen=True)
class Target:
    """The least ratio to the baseline, the most seconds, the least share of the machine's limit."""

    ratio: float | None = None
    seconds: float | None = None
    share: float | None = None


# By device and quantity; then by image size where it matters. Those of the CPU are for two cores.
TARGETS: dict[str, dict[str, Target | dict[int, Target]]] = {
    "cpu": {
        "packed loader, time per sample": {256: Target(20), 512: Target(100)},
        "packed loader, bytes per sample": {256: Target(12), 512: Target(60)},
        "image loader, time per sample": {512: Target(4)},
        "prefill fp32": {256: Target(1.1), 512: Target(1.3)},
        "prefill bf16 against fp32": Target(4),  # with AMX
        "prefill head, memory": Target(15),
        "cache set-up": {512: Target(20)},
        "decode step fp32": {256: Target(1.3), 512: Target(1.7)},
        "decode step bf16": Target(1.7),
        "decoding 10 % against all cells": Target(5),
        "edit of 25 %, window 8": Target(1.8),
        "shipped editor, whole edits": Target(1.5),
        "32 mixed requests, queue": Target(2.5),
        "decode step int8": Target(1.5),
        "8 masks in a batch, decoding per token": Target(2.3),
        "inputs, on the training thread": Target(seconds=3e-3),
        "training step, stage 2": Target(1.25),
        "training step, stage 2, memory": Target(1.2),
    },
    "cuda": {
        "decode step bf16": {256: Target(8, seconds=1.3e-3)},
        "decoding 10 % against all cells": Target(5),
        "edit of 25 %, image to image": {256: Target(seconds=0.090), 512: Target(seconds=0.480)},
        "8 masks in a batch, decoding per token": Target(3),
        "training step, stage 2": Target(2, share=0.4),
        "training step, stage 1": Target(1.8, share=0.4),
        "loss head, all cells, memory": {256: Target(3)},
        "loss head, 25 % of the cells, memory": {256: Target(10)},
    },
}


@dataclass(frozen=True)
class Row:
    """A measured quantity.

    Attributes:
      what: the key of `TARGETS`.
      setting: image size, type and whatever else it was measured with.
      unit: "s" or "B".
      share: of the machine's limit that the fast side reaches, 0 to 1.
      limit: what that limit is.
    """

    group: str
    what: str
    setting: str
    unit: str
    comparison: Comparison
    target: Target = field(default_factory=Target)
    share: float | None = None
    limit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether all targets are; None without one that could be judged."""
        fast, ratio = self.comparison.fast.median, self.comparison.ratio
        verdicts = []
        if self.target.ratio is not None and ratio is not None:
            verdicts.append(ratio.median >= self.target.ratio)
        if self.target.seconds is not None:
            verdicts.append(fast <= self.target.seconds)
        if self.target.share is not None and self.share is not None:
            verdicts.append(self.share >= self.target.share)
        return all(verdicts) if verdicts else None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "reached": self.reached}


@dataclass
class Bench:
    """What every group of measurements needs, and where it puts its results.

    Attributes:
      dtypes: names of `DTYPES`.
      repeats: counted runs of each side.
      machine: as `describe_machine` tells it.
      baseline: measure the slow twin too.
      compile: compile the project's side where time is measured.
      clock: of all times.
      curves: for pictures, by name.
    """

    scale: Scale
    model: str
    device: torch.device
    dtypes: list[str]
    image_sizes: list[int]
    repeats: int
    baseline: bool
    quick: bool
    compile: bool
    limits: Limits
    machine: dict[str, object]
    clock: Clock
    rows: list[Row] = field(default_factory=list)
    curves: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def edit_sizes(self) -> list[int]:
        """Whole edits of large images take minutes on a CPU."""
        return self.image_sizes if self.on_gpu else self.image_sizes[:1]

    @property
    def edit_dtype(self) -> str:
        """The type that whole edits run in: half precision, unless it was not asked for."""
        return "bf16" if "bf16" in self.dtypes else self.dtypes[0]

    def slow(self, run: Callable) -> Callable | None:
        """`run`, or nothing if no baseline is wanted."""
        return run if self.baseline else None

    def add(
        self,
        group: str,
        what: str,
        size: int,
        setting: str,
        comparison: Comparison,
        *,
        unit: str = "s",
        floor: tuple[float, str] | None = None,
        judged: bool = True,
    ) -> None:
        """Notes a row.

        Args:
          size: of the images, pixels.
          floor: the fewest seconds the machine needs, and which limit says so.
          judged: False where the target supposes another machine.
        """
        target = TARGETS[self.device.type].get(what, Target())
        if isinstance(target, dict):
            target = target.get(size, Target())
        share = None if floor is None else floor[0] / comparison.fast.median
        setting = f"{size} px, {setting}" if setting else f"{size} px"
        target = target if judged and not self.quick else Target()
        limit = "" if floor is None else floor[1]
        self.rows.append(Row(group, what, setting, unit, comparison, target, share, limit))

    def add_curve(self, name: str, setting: str, x: list[float], series: dict[str, list[Spread]]) -> None:
        """Notes what a picture shows: a line for each of `series`, over `x`."""
        lines = {label: [asdict(point) for point in points] for label, points in series.items()}
        self.curves[name] = {"setting": setting, "x": x, "series": lines}


def amount(value: float, unit: str) -> str:
    """Seconds or bytes in a unit of readable size."""
    name, size = next(((name, size) for name, size in SIZES[unit] if value >= size), SIZES[unit][-1])
    return f"{value / size:.3g} {name}"


HEADINGS = ("what", "setting", "project", "baseline", "ratio (min–max)", "target", "reached", "limit reached")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, below `HEADINGS`."""
    compared, target, ratio = row.comparison, row.target, row.comparison.ratio
    wanted = [f"{target.ratio:g}x"] if target.ratio else []
    wanted += [f"<= {amount(target.seconds, 's')}"] if target.seconds else []
    wanted += [f"{target.share:.0%} of the limit"] if target.share else []
    return (
        row.what,
        row.setting,
        amount(compared.fast.median, row.unit),
        "" if compared.baseline is None else amount(compared.baseline.median, row.unit),
        "" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})",
        " and ".join(wanted),
        {None: "", True: "yes", False: "NO"}[row.reached],
        "" if row.share is None else f"{row.share:.0%} {row.limit}",
    )


def table(rows: list[Row]) -> str:
    """The rows as text, one line each, columns aligned."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    return markdown_table(HEADINGS, map(cells, rows))
