"""Reproduces a table: downloads, makes its rows, compares."""

from __future__ import annotations

from evaluations.report.leaderboard_page import PaperTable, other_data, read_paper, values_of
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.texts import read_json, write_json, write_text
from scripts.paper.config import ReproducePaper
from scripts.paper.downloads import Downloads
from scripts.paper.forecast import show
from scripts.paper.rows import BY_HAND, CANNOT, ROWS, hub_sources, why_not
from scripts.paper.sources import HAND, HUB, missing_places
from scripts.paper.steps import RowMaker
from scripts.paper.verdicts import Figure, as_records, compare, conclusion, format_figures

log = get_logger(__name__)


def run(config: ReproducePaper) -> None:
    """Does what the flags ask for and prints the outcome.

    Raises:
      UserError: something is missing, or a step failed; what is done is kept.
    """
    (table,) = (table for table in read_paper() if table.number == config.table)
    title = f"Table {table.number}: {table.title}"
    if config.dry_run:
        print(show(config, title))
        return
    figures, others = reproduce(config, table)
    text = format_figures(title, figures)
    for method, other in others.items():
        text += f"\n{method}: not judged, measured on {other}; the paper's figures are of its whole test set"
    content = {"table": table.number, "conclusion": conclusion(figures), "figures": as_records(figures)}
    content["measured_on_others"] = others
    write_text(config.root / f"table{table.number}.txt", text + "\n")
    write_json(config.root / f"table{table.number}.json", content)
    print(text)


def reproduce(config: ReproducePaper, table: PaperTable) -> tuple[list[Figure], dict[str, str]]:
    """Makes the rows that can be made.

    Returns:
      Every number of the table's rows of NEP and of its models; of the rows that were not measured on the
      paper's test set and in its way, on what they were.
    """
    reasons = {row.method: why for row in ROWS[table.number] if (why := why_not(config, row))}
    rows = [row for row in ROWS[table.number] if row.method not in reasons]
    for method, why in reasons.items():
        log.warning("%s: %s", method, why)
    if not rows:
        raise UserError(f"table {table.number}: {next(iter(reasons.values()))}")
    for name in BY_HAND[table.number]:
        if missing := missing_places(config, name):
            raise UserError(f"{missing[0]} is not there; {HAND[name].how}")
    downloads = Downloads(config)
    names = dict.fromkeys(name for row in rows for name in hub_sources(config, row))
    maker = RowMaker(config, {name: downloads.get(HUB[name]) for name in names})
    measured, others = {}, {}
    for row in rows:
        path = maker.make(row)
        result = read_json(path, dict)
        measured[row.method] = values_of(table, result, path)
        if table.data_set is not None and (other := other_data(table.data_set, result)):
            others[row.method] = other
    cannot = {method: why for (number, method), why in CANNOT.items() if number == table.number}
    return compare(table, measured, reasons | cannot, others), others
