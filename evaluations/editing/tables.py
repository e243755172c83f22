"""The result of an editing evaluation as text."""

from __future__ import annotations

from typing import Any

from dataset.testsets.pairs import ALL_TURN, PROTOCOLS
from evaluations.editing.measure import COPY_SOURCE, GENERATED, TOKENIZER_CEILING


def format_tables(result: dict[str, Any]) -> str:
    """The scores, what they are of, and with a verifier its rates, of all edits and by kind.

    With several seeds a score is their mean ± half its 95 % interval. None, a number that is undefined, shows
    as a dash.
    """
    by_row = {GENERATED: result} | {
        row: result[row] for row in (COPY_SOURCE, TOKENIZER_CEILING) if row in result
    }
    intervals = result.get("interval95", {})
    scores = {
        f"{row} {protocol}": {
            key: format_number(value, intervals.get(protocol, {}).get(key) if row == GENERATED else None)
            for key, value in by_protocol[protocol].items()
        }
        for row, by_protocol in by_row.items()
        for protocol in PROTOCOLS
        if protocol in by_protocol
    }
    parts = [_describe_data(result), align(scores), *_notes(result)]
    if "verifier" in result:
        verifier = result["verifier"]
        parts.append(align({
            f"{row} {protocol}": _rates(table)
            for row, by_protocol in verifier.items()
            for protocol, table in by_protocol.items()
        }))  # fmt: skip
        protocol = ALL_TURN if ALL_TURN in verifier[GENERATED] else next(iter(verifier[GENERATED]))
        kinds = verifier[GENERATED][protocol]["by_kind"]
        parts.append(align({f"{kind} ({protocol})": _rates(table) for kind, table in kinds.items()}))
        confusions = {
            f"{row} {protocol}: found": {
                relation: str(count) for relation, count in table["confusion"].items()
            }
            for row, by_protocol in verifier.items()
            for protocol, table in by_protocol.items()
            if "confusion" in table
        }
        parts += [align(confusions)] if confusions else []
    return "\n\n".join(parts)


def _describe_data(result: dict[str, Any]) -> str:
    info = result["info"]
    data = f"{info['data_set']}: {info['gt_path']}"
    if "seeds" in result:
        data += f"; mean of {len(result['seeds'])} seeds ± half the 95 % t-interval"
    return data


def _notes(result: dict[str, Any]) -> list[str]:
    info, notes = result["info"], []
    num_seeds = len(result.get("seeds", [None]))
    for protocol, counts in info["num_pairs_defined"].items():
        total = info["num_pairs"][protocol] * num_seeds
        notes += [
            f"{key} is undefined for {total - count} of {total} pairs ({protocol}), not part of its mean"
            for key, count in counts.items()
            if count < total
        ]
    if info["num_captions_cut"]:
        notes.append(f"{info['num_captions_cut']} captions were cut to CLIP's 77 tokens")
    return ["\n".join(notes)] if notes else []


def _rates(table: dict[str, Any]) -> dict[str, str]:
    rates = {key: value for key, value in table.items() if key not in ("counts", "by_kind", "confusion")}
    return {
        key: format_number(value) for key, value in ({"edits": table["counts"]["passed"]} | rates).items()
    }


def align(rows: dict[str, dict[str, str]]) -> str:
    columns = list(dict.fromkeys(key for values in rows.values() for key in values))
    cells = [["", *columns]]
    for name, values in rows.items():
        cells.append([name, *(values.get(column, "-") for column in columns)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def format_number(value: float | int | None, half_interval: float | None = None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if half_interval is None else f"{value:.4f} ± {half_interval:.4f}"
