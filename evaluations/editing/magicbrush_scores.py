"""Scores of MagicBrush-style results, single-turn and multi-turn: the work of image_eval.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dataset.testsets.listed import Session
from dataset.testsets.magicbrush import read_listed_sessions
from dataset.testsets.pairs import (
    ALL_TURN,
    FINAL_TURN,
    check_ground_truth,
    find_pairs,
)
from evaluations.editing.engine import (
    Evaluation,
    evaluate,
    per_seed,
    write_results,
)
from evaluations.editing.flags import ImageEvalConfig, as_list
from evaluations.editing.measure import Run, load_edit_inputs
from evaluations.editing.registry import MAGICBRUSH_METRICS, Metric, load_metric_networks, select_metrics
from evaluations.editing.tables import format_tables
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError
from runtime.files import without_mac_metadata
from runtime.logging import get_logger

log = get_logger(__name__)

# MagicBrush's test set, and what its ground truth scores there: a check of captions, weights and transforms.
_TEST_SET = (535, 1053)
_TEST_SET_ORACLE = {ALL_TURN: 0.2826, FINAL_TURN: 0.2855}
_ORACLE_TOLERANCE = 2e-4


def check(config: ImageEvalConfig) -> None:
    """Checks all that is known before there are images to score, the weights of the metrics included.

    Raises:
      UserError: what `evaluate_run` would raise.
    """
    sessions = _read_sessions(config)
    check_ground_truth(sessions, config.gt_path)
    load_metric_networks(_select(config, sessions), MAGICBRUSH_METRICS, config)


def evaluate_run(config: ImageEvalConfig, world: Distributed | None = None) -> dict[str, Any]:
    """Scores results and writes `evaluation_metrics.json` and its company to the save path.

    Args:
      config: what the command line takes.
      world: the ranks that share the work, and their devices; None = this process alone.
    Returns:
      The content of `evaluation_metrics.json`: {"final_turn": {"l1": ...}, "all_turn": {...}} for the
      results, "copy_source" and (with a ceiling folder) "tokenizer_ceiling" -> the same, (with a shapes file)
      "verifier" -> row -> protocol -> rates, (with several seeds) "interval95" -> half widths and "seeds" ->
      the scores of each, and "info". A number that no pair defines is None.
    Raises:
      UserError: for missing, extra or unreadable files, unknown metrics, weights that are missing or do not
        fit, and non-finite numbers.
    """
    sessions = _read_sessions(config)
    metrics = _select(config, sessions)
    verify = _load_verifier(config, sessions)
    regions = per_seed("--regions-path", as_list(config.regions_path), config)
    samples = per_seed("--samples-json", as_list(config.samples_json), config)
    folder, runs, num_pairs = config.save_folder, [], {}
    for seed, generated in enumerate(config.folders):
        by_protocol = find_pairs(sessions, generated, config.gt_path, config.protocols)
        num_pairs = {protocol: len(pairs) for protocol, pairs in by_protocol.items()}
        runs.append(
            Run(
                pairs=[pair for pairs in by_protocol.values() for pair in pairs],
                regions_path=Path(regions[seed]) if regions[seed] else None,
                edit_inputs=load_edit_inputs(samples[seed]) if samples[seed] else None,
                ceiling_path=Path(config.ceiling_path) if config.ceiling_path else None,
                verify=verify,
                seed=seed,
            )
        )
    info = _describe_data(config, sessions) | {"num_pairs": num_pairs}
    result, items = evaluate(config, Evaluation(runs, metrics, MAGICBRUSH_METRICS, info), world)
    if world is None or world.is_main:
        _compare_oracle(result)
        write_results(folder, result, items, format_tables(result))
    return result


def run(config: ImageEvalConfig) -> None:
    """Scores on the ranks that there are, and prints the table."""
    with distributed(config.device) as world:
        result = evaluate_run(config, world)
        if world.is_main:
            print(format_tables(result))


def _read_sessions(config: ImageEvalConfig) -> list[Session]:
    """The sessions of the caption file; inputs and instructions of the sessions file where there are both."""
    if not config.caption_path and not config.sessions_json:
        raise UserError(
            "give --caption_path (local_descriptions.json) or --sessions-json (edit_sessions.json)"
        )
    described = read_listed_sessions(config.caption_path or config.sessions_json)
    if not (config.caption_path and config.sessions_json):
        return described
    instructed = {session.id: session.turns for session in read_listed_sessions(config.sessions_json)}
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


def _load_verifier(config: ImageEvalConfig, sessions: list[Session]) -> Callable | None:
    """Only drawn sets have a verifier; other data must not need their renderers."""
    if config.shapes_json and config.emoji_json:
        raise UserError("give --shapes-json or --emoji-json: the test set is one of the two")
    if config.shapes_json:
        from evaluations.editing.verification import load_examples, verify_pair

        return partial(verify_pair, examples=load_examples(config.shapes_json, sessions))
    if config.emoji_json:
        from evaluations.editing.verification import load_emoji_verifier

        return load_emoji_verifier(config.emoji_json, sessions)
    return None


def _select(config: ImageEvalConfig, sessions: list[Session]) -> list[Metric]:
    turns = [turn for session in sessions for turn in session.turns]
    provided = {"caption"} if all(turn.caption is not None for turn in turns) else set()
    if config.regions_path:
        provided.add("region")
    joining = ("region", "unchanged") if config.regions_path else ()
    return select_metrics(config.metric, MAGICBRUSH_METRICS, provided, joining)


def _describe_data(config: ImageEvalConfig, sessions: list[Session]) -> dict[str, Any]:
    folders = {path.name for path in without_mac_metadata(Path(config.gt_path).iterdir()) if path.is_dir()}
    num_edits = sum(len(session.turns) for session in sessions)
    return {
        "data_set": f"{len(sessions)} sessions, {num_edits} edits",
        "num_sessions": len(sessions),
        "num_edits": num_edits,
        "num_gt_sessions_not_scored": len(folders - {session.id for session in sessions}),
    }


def _compare_oracle(result: dict[str, Any]) -> None:
    """On the real test set, warns if the ground truth scores otherwise than published."""
    info = result["info"]
    if (info["num_sessions"], info["num_edits"]) != _TEST_SET:
        return
    for protocol, published in _TEST_SET_ORACLE.items():
        oracle = result.get(protocol, {}).get("clip-t_oracle")
        if oracle is not None and abs(oracle - published) > _ORACLE_TOLERANCE:
            log.warning(
                "%s: clip-t_oracle is %.4f, MagicBrush's %.4f: check captions, weights and ground truth",
                protocol,
                oracle,
                published,
            )
