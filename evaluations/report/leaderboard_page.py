"""The paper's tables, from `paper_tables.json`, with further results: the work of leaderboard.py."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluations.flags import CLIP_MODEL
from evaluations.report.pages import write_page
from evaluations.t2i.flags import COCO, VIT_B, WHOLE, WITHOUT
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.texts import read_json, write_text

log = get_logger(__name__)
PAPER = "https://arxiv.org/abs/2508.06044"
_TABLES = Path(__file__).parent / "paper_tables.json"
_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
          "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # fmt: skip
# Of each test set: what its results say of their size, and the sizes that the paper's figures may be of.
_SIZES = {
    "magicbrush": (("num_sessions", "num_edits"), ((535, 1053),)),
    "emu": (("num_items",), ((3589,), (2834,))),
    "coco": (("num_generated",), ((30_000,),)),
}
# What else decides its numbers, with the values at which they compare with the paper's figures; a count is 0
# of what was not measured.
_SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "magicbrush": {"clip_model": (CLIP_MODEL,)},
    "emu": {"clip_model": (CLIP_MODEL,)},
    "coco": {
        "num_clip_pairs": (30_000, 0),
        "num_references": (40_504, 0),
        "clip_model4eval": (VIT_B, WITHOUT),
        "eval_res": (256,),
        "eval_bottom": (WHOLE,),
    },
}


@dataclass(frozen=True)
class Column:
    """A number of a table: its name, where results have it ("all_turn.l1"), and which way is better."""

    name: str
    better: str
    key: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Row:
    """A method's numbers, None where it has none; `unranked` columns take no part in who is best."""

    method: str
    values: tuple[float | None, ...]
    note: str = ""
    unranked: tuple[str, ...] = ()
    is_ours: bool = False
    intervals: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """One table; `data_set` is "magicbrush", "emu", "coco", or None where no evaluator measures it."""

    number: str
    title: str
    data_set: str | None
    columns: tuple[Column, ...]
    rows: list[Row] = field(default_factory=list)

    def best(self, index: int) -> float | None:
        """The best number of a column."""
        column = self.columns[index]
        values = [row.values[index] for row in self.rows if column.name not in row.unranked]
        numbers = [value for value in values if value is not None]
        return (min if column.better == "lower" else max)(numbers, default=None)

    def cell(self, row: Row, index: int) -> dict[str, Any]:
        """What is shown of a number: its text, its value for sorting, whether it is the best."""
        value = row.values[index]
        ranked = self.columns[index].name not in row.unranked
        is_best = ranked and value is not None and value == self.best(index)
        interval = row.intervals[index] if row.intervals else None
        text = "–" if value is None else format_value(value)
        return {
            "text": text,
            "value": value,
            "best": is_best,
            "interval": interval and format_value(interval),
        }


def format_value(value: float) -> str:
    """Four decimals, as the paper; two where a number is larger than those of a share."""
    return f"{value:.4f}" if abs(value) < 2 else f"{value:.2f}"


def read_paper() -> list[PaperTable]:
    """The tables as the paper has them."""
    return [
        PaperTable(
            entry["table"],
            entry["title"],
            entry["set"],
            tuple(Column(**column) for column in entry["columns"]),
            [
                Row(r["method"], tuple(r["values"]), r.get("note", ""), tuple(r.get("unranked", ())))
                for r in entry["rows"]
            ],
        )
        for entry in json.loads(_TABLES.read_text(encoding="utf-8"))
    ]


def add_result(tables: Sequence[PaperTable], text: str) -> None:
    """Adds a result to the table it names, or to the first one of its test set.

    Args:
      text: "[TABLE:]NAME=FILE".
    Raises:
      UserError: another form, a file of no such evaluator, or a table of another test set.
    """
    match = re.fullmatch(r"(?:(\w+):)?([^=]+)=(.+)", text)
    if match is None:
        raise UserError(f"--scores {text!r}: write [TABLE:]NAME=FILE, as ours=evaluation_metrics.json")
    number, name, path = match[1], match[2].strip(), Path(match[3])
    result = read_json(path, dict)
    data_set = _data_set(result, path)
    takers = [table for table in tables if table.data_set == data_set]
    if number is not None:
        takers = [table for table in takers if table.number == number]
    if not takers:
        having = ", ".join(table.number for table in tables if table.data_set == data_set)
        raise UserError(f"--scores {text!r}: {data_set} results belong into table {having}, not {number}")
    table = takers[0]
    values = values_of(table, result, path)
    spread = result.get("interval95") or {}
    intervals = tuple(_number(spread, column.key, path) for column in table.columns)
    if other := other_data(data_set, result):
        log.warning("%s: of %s, not what the paper's figures are of: shown, but not ranked", path, other)
    note = f"of {other}, not ranked" if other else ""
    unranked = tuple(column.name for column in table.columns) if other else ()
    table.rows.append(Row(name, values, note, unranked, is_ours=True, intervals=intervals))


def values_of(table: PaperTable, result: dict[str, Any], path: Path) -> tuple[float | None, ...]:
    """The numbers of a result that a table has columns for.

    Raises:
      UserError: it holds none of them, or something else than numbers; names `path`.
    """
    values = tuple(_number(result, column.key, path) for column in table.columns)
    if all(value is None for value in values):
        raise UserError(f"{path}: holds none of {', '.join(str(column.key) for column in table.columns)}")
    return values


def _data_set(result: dict[str, Any], path: Path) -> str:
    info = result.get("info") if isinstance(result.get("info"), dict) else {}
    if "clip_score" in result and info.get("ref_data", COCO) == COCO:
        return "coco"
    if "num_sessions" in info:
        return "magicbrush"
    if "num_items" in info:
        return "emu"
    raise UserError(
        f"{path}: not from an evaluator of MagicBrush, Emu Edit or COCO; no table of the paper takes it"
    )


def other_data(data_set: str, result: dict[str, Any]) -> str | None:
    """What a result is of, where that is not the paper's test set, measured in its way; None where it is."""
    info = result.get("info") or {}
    keys, published = _SIZES[data_set]
    if any(
        all(info.get(*known) == known[1] for known in zip(keys, sizes, strict=True)) for sizes in published
    ):
        known = _SETTINGS[data_set]
        differing = [
            f"{name} {info[name]}" for name in known if info.get(name, known[name][0]) not in known[name]
        ]
        return f"its test set with {', '.join(differing)}" if differing else None
    said = keys[0].removeprefix("num_").replace("generated", "generated images")
    return str(info.get("data_set") or f"{info[keys[0]]} {said}")


def _number(result: dict[str, Any], key: str | None, path: Path) -> float | None:
    value: Any = result
    for part in (key or "").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and math.isfinite(value)):
        raise UserError(f"{path}: {key} is {value!r}, not a number that can be compared")
    return value


def write_leaderboard(results: Sequence[str], page: str | Path, latex: str | Path | None = None) -> None:
    """Writes the page and, where asked for, the LaTeX file.

    Args:
      results: see `add_result`.
    Raises:
      UserError: a result that cannot be added, or a file that cannot be written.
    """
    tables = read_paper()
    for text in results:
        add_result(tables, text)
    write_page(page, "leaderboard.html", tables=tables, paper=PAPER, groups=column_groups)
    if latex is not None:
        text = "\n".join(to_latex(table) for table in tables)
        write_text(latex, text)


def column_groups(table: PaperTable) -> list[tuple[str, int]]:
    """(name, columns) of what stands above the columns; none where nothing does."""
    groups: list[tuple[str, int]] = []
    for column in table.columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (groups[-1][0], groups[-1][1] + 1)
        elif column.group:
            groups.append((column.group, 1))
    return groups


def to_latex(table: PaperTable) -> str:
    """A table as LaTeX, with booktabs; the best numbers are bold, results that were added in italics."""
    arrows = {"lower": r"$\downarrow$", "higher": r"$\uparrow$"}
    heads = [f"{escape_latex(column.name)} {arrows[column.better]}" for column in table.columns]
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(table.title)}.}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
    ]
    if len(groups := column_groups(table)) > 1:
        spans = " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(name)}}}" for name, width in groups)
        lines.append(rf" & {spans} \\")
    lines += [" & ".join(["method", *heads]) + r" \\", r"\midrule"]
    for row in table.rows:
        name = escape_latex(row.method)
        cells = [rf"\textit{{{name}}}" if row.is_ours else name]
        for index in range(len(table.columns)):
            cell = table.cell(row, index)
            text = "--" if cell["value"] is None else cell["text"]
            text = rf"\textbf{{{text}}}" if cell["best"] else text
            cells.append(text + (rf" $\pm$ {cell['interval']}" if cell["interval"] else ""))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_LATEX.get(character, character) for character in text)
