"""Scores a folder of MagicBrush-style results, single-turn and multi-turn.

    python evaluations/editing/image_eval.py --generated_path results/images --gt_path data/test/images \\
        --caption_path data/test/local_descriptions.json --save_path results/scores

Reads images only, never a model. Under torchrun the ranks share the pairs, with the same result.
"""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluations.editing.measure import (
    COPY_SOURCE,
    GENERATED,
    TOKENIZER_CEILING,
    Sources,
    load_edit_inputs,
    measure_rows,
)
from evaluations.metrics import mean_over_pairs, select_metrics
from evaluations.pairs import ALL_TURN, PROTOCOLS, Pair, Session, find_pairs, load_sessions
from runtime.checkpoint import write_atomic
from runtime.config import legacy, option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.logging import progress

METRICS_FILE = "evaluation_metrics.json"
ITEMS_FILE = "evaluation_items.json"


@dataclass(frozen=True)
class ImageEvalConfig:
    """Scores MagicBrush-style results: L1, L2, region metrics, the shapes verifier."""

    generated_path: str = option(help="folder with <id>/<id>_1.png, _inde_K.png, _iter_K.png")
    gt_path: str = option(help="folder with <id>/<id>-input.png, <id>-outputK.png")
    caption_path: str | None = option(None, help="local_descriptions.json (or edit_sessions.json)")
    metric: str = option("l1,l2", help="comma-separated; region and unchanged join with --regions-path")
    save_path: str | None = option(
        None, help="folder for the scores (default: scores, beside generated_path)"
    )
    device: str | None = legacy("the metrics available so far run on the CPU")
    num_workers: int = option(2, help="threads that read and compare images")
    sessions_json: str | None = option(
        None, help="edit_sessions.json, for the turns' inputs and instructions"
    )
    regions_path: str | None = option(None, help="folder with <id>/<file>.png, 255 where the edit may change")
    samples_json: str | None = option(
        None, help="the sampler's samples.json: which image each edit started from"
    )
    shapes_json: str | None = option(
        None, help="shapes.json of the embedded data set: adds the verifier's rates"
    )
    ceiling_path: str | None = option(
        None, help="folder with <id>/<id>-outputK.png passed through the tokenizer"
    )
    protocols: list[str] = option(list(PROTOCOLS), choices=PROTOCOLS, help="which turns to score")


def evaluate_run(config: ImageEvalConfig, world: Distributed | None = None) -> dict[str, Any]:
    """Scores a run and writes `evaluation_metrics.json` and `evaluation_items.json` to the save path.

    Args:
      config: what the command line takes.
      world: the ranks that share the work; None = this process alone.
    Returns:
      The content of `evaluation_metrics.json`: {"final_turn": {"l1": ...}, "all_turn": {...}} for the
      results, "copy_source" and (with a ceiling folder) "tokenizer_ceiling" -> the same, (with a shapes file)
      "verifier" -> row -> protocol -> rates, and "info". A number that no pair defines is None.
    Raises:
      UserError: for missing, extra or unreadable files, unknown metrics, and non-finite numbers.
    """
    sessions = _read_sessions(config)
    by_protocol = find_pairs(sessions, config.generated_path, config.gt_path, config.protocols)
    sources = _read_sources(config, sessions)
    pairs = [pair for protocol_pairs in by_protocol.values() for pair in protocol_pairs]
    items = [item for rows in _measure_all(pairs, sources, config.num_workers, world) for item in rows]
    result = _summarise(items) | {"info": _describe_run(config, sessions, items)}
    if world is None or world.is_main:
        folder = Path(config.save_path) if config.save_path else Path(config.generated_path).parent / "scores"
        _write_json(folder / METRICS_FILE, result)
        _write_json(folder / ITEMS_FILE, items)
    return result


def format_tables(result: dict[str, Any]) -> str:
    """The result of `evaluate_run` as text: the scores, the verifier's rates, and these by kind of edit."""
    info = result["info"]
    scores = {GENERATED: result} | {
        row: result[row] for row in (COPY_SOURCE, TOKENIZER_CEILING) if row in result
    }
    parts = [f"{info['num_sessions']} sessions, {info['num_edits']} edits: {info['gt_path']}"]
    parts.append(_format_table({
        f"{row} {protocol}": by_protocol[protocol]
        for row, by_protocol in scores.items()
        for protocol in PROTOCOLS
        if protocol in by_protocol
    }))  # fmt: skip
    if "verifier" in result:
        verifier = result["verifier"]
        parts.append(_format_table({
            f"{row} {protocol}": _with_count(table)
            for row, by_protocol in verifier.items()
            for protocol, table in by_protocol.items()
        }))  # fmt: skip
        protocol = ALL_TURN if ALL_TURN in verifier[GENERATED] else next(iter(verifier[GENERATED]))
        kinds = verifier[GENERATED][protocol]["by_kind"]
        parts.append(
            _format_table({f"{kind} ({protocol})": _with_count(table) for kind, table in kinds.items()})
        )
    return "\n\n".join(parts)


def main() -> None:
    config = parse(ImageEvalConfig)
    with distributed("cpu") as world:
        result = evaluate_run(config, world)
        if world.is_main:
            print(format_tables(result))


def _read_sessions(config: ImageEvalConfig) -> list[Session]:
    """The sessions of the caption file; inputs and instructions of the sessions file where there are both."""
    if not config.caption_path and not config.sessions_json:
        raise UserError(
            "give --caption_path (local_descriptions.json) or --sessions-json (edit_sessions.json)"
        )
    described = load_sessions(config.caption_path or config.sessions_json)
    if not (config.caption_path and config.sessions_json):
        return described
    instructed = {session.id: session.turns for session in load_sessions(config.sessions_json)}
    merged = []
    for session in described:
        turns = instructed.get(session.id, ())
        if len(turns) != len(session.turns):
            raise UserError(
                f"{config.sessions_json}: session {session.id!r} has {len(turns)} turns, "
                f"but {len(session.turns)} in {config.caption_path}"
            )
        both = zip(turns, session.turns, strict=True)
        turns = tuple(dataclasses.replace(turn, caption=named.caption) for turn, named in both)
        merged.append(Session(session.id, turns))
    return merged


def _read_sources(config: ImageEvalConfig, sessions: list[Session]) -> Sources:
    names = [name.strip().lower() for name in config.metric.split(",") if name.strip()]
    if not names:
        raise UserError(f"--metric {config.metric!r} names no metric; for example --metric l1,l2")
    provided = {"caption"} if all(turn.caption for session in sessions for turn in session.turns) else set()
    if config.regions_path:
        provided.add("region")
        names += ["region", "unchanged"]
    metrics = select_metrics(names, provided)
    examples = None
    if config.shapes_json:
        # Only the embedded data set has a verifier; other data must not need its renderer.
        from evaluations.editing.verification import load_examples

        examples = load_examples(config.shapes_json, sessions)
    return Sources(
        metrics=metrics,
        regions_path=Path(config.regions_path) if config.regions_path else None,
        ceiling_path=Path(config.ceiling_path) if config.ceiling_path else None,
        edit_inputs=load_edit_inputs(config.samples_json) if config.samples_json else None,
        examples=examples,
    )


def _measure_all(
    pairs: list[Pair], sources: Sources, num_workers: int, world: Distributed | None
) -> list[list[dict[str, Any]]]:
    """The items of every pair, in the order of the pairs, whatever the number of ranks and threads."""
    rank, world_size = (world.rank, world.world_size) if world else (0, 1)
    mine = pairs[rank::world_size]
    with ThreadPoolExecutor(max(num_workers, 1)) as pool:
        results = pool.map(lambda pair: measure_rows(pair, sources), mine)
        measured = list(progress(results, total=len(mine), desc="evaluate", unit="pair", disable=rank > 0))
    if world is None:
        return measured
    shares = world.gather_objects(measured)
    return [shares[index % world_size][index // world_size] for index in range(len(pairs))]


def _summarise(items: list[dict[str, Any]]) -> dict[str, Any]:
    from_verdicts = any("verdict" in item for item in items)
    if from_verdicts:
        from evaluations.editing.verification import verifier_table
    result, verifier = {}, {}
    groups = dict.fromkeys((item["row"], item["protocol"]) for item in items)
    # The published keys, those of the generated row, stand first in the file.
    for row, protocol in sorted(groups, key=lambda group: group[0] != GENERATED):
        chosen = [item for item in items if (item["row"], item["protocol"]) == (row, protocol)]
        scores = result if row == GENERATED else result.setdefault(row, {})
        scores[protocol] = mean_over_pairs([item["metrics"] for item in chosen])
        if from_verdicts:
            verifier.setdefault(row, {})[protocol] = verifier_table([item["verdict"] for item in chosen])
    return result | ({"verifier": verifier} if verifier else {})


def _describe_run(config: ImageEvalConfig, sessions: list[Session], items: list[dict]) -> dict[str, Any]:
    """What the scores were computed on, and for how many pairs each number was defined."""
    folders = {folder.name for folder in Path(config.gt_path).iterdir() if folder.is_dir()}
    defined: dict[str, dict[str, int]] = {}
    for item in items:
        if item["row"] == GENERATED:
            counts = defined.setdefault(item["protocol"], {})
            for key, value in item["metrics"].items():
                counts[key] = counts.get(key, 0) + (value is not None)
    return {
        **{key: value for key, value in dataclasses.asdict(config).items() if value is not None},
        "num_sessions": len(sessions),
        "num_edits": sum(len(session.turns) for session in sessions),
        "num_gt_sessions_not_scored": len(folders - {session.id for session in sessions}),
        "num_pairs_defined": defined,
    }


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, allow_nan=False)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _with_count(table: dict[str, Any]) -> dict[str, Any]:
    rates = {key: value for key, value in table.items() if key not in ("counts", "by_kind")}
    return {"edits": table["counts"]["overall"]} | rates


def _format_table(rows: dict[str, dict[str, Any]]) -> str:
    """Aligned text; None, a number that is undefined, shows as a dash."""
    columns = list(dict.fromkeys(key for values in rows.values() for key in values))
    cells = [["", *columns]]
    for name, values in rows.items():
        cells.append([name, *(_format_number(values.get(column)) for column in columns)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _format_number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


if __name__ == "__main__":
    run_command(main)
