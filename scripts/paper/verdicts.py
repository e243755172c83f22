"""Our figures beside the paper's: differences, tolerances, verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass

from evaluations.report.leaderboard_page import Column, PaperTable, format_value

TOLERANCES: dict[str, float | None] = {
    "L1": 0.002,
    "L2": 0.0008,
    "CLIP-I": 0.004,
    "CLIP-img": 0.004,
    "DINO": 0.007,
    "CLIP-dir": 0.005,
    "CLIP-out": 0.005,
    "CLIP": 0.003,
    "FID": 0.5,
    "memory (GB)": 2.0,
    "time (s)": None,
}
"""How far a figure may be from the paper's and still agree; None: the machine decides it, nobody judges.

The paper gives no error bars. Its own two orders of one model (table 6) are up to .0005 (L1), .0003 (L2),
.0016 (CLIP-I) and .0027 (DINO) apart: two and a half to four times that is allowed. It is less than what
table 3 tells apart, .0029, .0009, .0057 and .0087 between marks and none.
"""
AGREES, BETTER, WORSE, OTHER = "agrees", "better", "worse", "not judged"


@dataclass(frozen=True)
class Figure:
    """One number: the paper's, ours, and how they compare; `ours` is None where it was not measured."""

    method: str
    column: str
    paper: float | None
    ours: float | None
    tolerance: float | None
    verdict: str

    @property
    def difference(self) -> float | None:
        return None if None in (self.paper, self.ours) else self.ours - self.paper


def judge(column: Column, paper: float, ours: float) -> str:
    """Whether ours is within the tolerance of the paper's number, else which is better."""
    tolerance = TOLERANCES[column.name]
    if tolerance is None:
        return OTHER
    difference = ours - paper
    if abs(difference) <= tolerance + 1e-9:  # .0567 - .0547 is above .002
        return AGREES
    return BETTER if (difference < 0) == (column.better == "lower") else WORSE


def compare(
    table: PaperTable,
    measured: Mapping[str, tuple[float | None, ...]],
    why_not: Mapping[str, str],
    others: Collection[str] = (),
) -> list[Figure]:
    """Every number of the rows that are measured, or named in `why_not` {method: reason}.

    Args:
      others: methods that were measured on other data, or in another way, than the paper's: nobody judges.
    """
    figures = []
    for row in table.rows:
        if row.method not in measured and row.method not in why_not:
            continue  # another's method
        ours = measured.get(row.method, (None,) * len(table.columns))
        for column, paper, value in zip(table.columns, row.values, ours, strict=True):
            verdict = why_not.get(row.method, "not measured")
            if value is not None and paper is not None:
                verdict = OTHER if row.method in others else judge(column, paper, value)
            name = f"{column.group} {column.name}" if column.group else column.name
            figures.append(Figure(row.method, name, paper, value, TOLERANCES[column.name], verdict))
    return figures


def conclusion(figures: Iterable[Figure]) -> str:
    """One line: how many numbers agree, and how many of the paper's there is nothing to compare with."""
    figures = list(figures)
    known = [f for f in figures if f.paper is not None]
    judged = [f.verdict for f in figures if f.verdict in (AGREES, BETTER, WORSE)]
    if not judged:
        return "nothing that could be judged was measured"
    counts = ", ".join(f"{judged.count(v)} {v}" for v in (AGREES, BETTER, WORSE) if v in judged)
    if WORSE in judged:
        counts = f"not reproduced: {counts} of {len(judged)}"
    else:
        counts = f"reproduced: {counts} of {len(judged)}"
    lacking = sum(f.ours is None for f in known)
    return counts + f"; {lacking} of {len(known)} not measured" * (lacking > 0)


def format_figures(title: str, figures: list[Figure]) -> str:
    """The table as text."""
    lines = [title]
    method = None
    for figure in figures:
        if figure.method != method:
            method = figure.method
            lines += ["", f"{method:<34}{'paper':>9}{'ours':>9}{'diff.':>9}{'allowed':>9}  verdict"]
        numbers = (figure.paper, figure.ours, figure.difference, figure.tolerance)
        cells = ["–" if number is None else format_value(number) for number in numbers]
        if figure.difference is not None and figure.difference > 0:
            cells[2] = f"+{cells[2]}"
        lines.append(
            f"  {figure.column:<32}" + "".join(f"{cell:>9}" for cell in cells) + f"  {figure.verdict}"
        )
    return "\n".join([*lines, "", conclusion(figures)])


def as_records(figures: Iterable[Figure]) -> list[dict]:
    """For JSON."""
    return [asdict(figure) | {"difference": figure.difference} for figure in figures]
