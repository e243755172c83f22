"""Test 12: the evaluators give the closed-form value or a clear error, whatever the folders look like.

Images are flat: ground truth k is 10·k, an edit alone misses it by `ALONE`, one of a session by `CHAINED`.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from torch import Tensor

from evaluations.editing import emu_scores, magicbrush_scores, measure
from evaluations.editing.flags import EmuEvalConfig, ImageEvalConfig
from evaluations.metrics import formulas as metrics
from runtime.errors import UserError
from tests.battery.cases import Assets, Case

TURNS = {"1": 1, "2": 12}  # sessions and their turns: iter_10 sorts before iter_2
ALONE, CHAINED = 3, 5
SIDE = 16


def cases() -> list[Case]:
    closed_form = [
        *(Case(f"shuffled listing {seed}", partial(_shuffled, seed)) for seed in range(4)),
        Case("12-turn sessions, single turns", partial(_scored, "all_turn", ALONE)),
        Case("12-turn sessions, last turns", partial(_scored, "final_turn", CHAINED)),
        Case("sessions in another order", _reordered),
        Case("files written in another order", _rewritten),
        Case("a perfect run", _perfect),
        Case("Emu Edit against its sources", _emu),
        Case("not a number among the pixels", _not_a_number),
    ]
    broken = {
        "a missing edit": (lambda root: _edit(root, 7).unlink(), "2_inde_7.png"),
        "a missing last turn": (lambda root: _edit(root, 12, "iter").unlink(), "2_iter_12.png"),
        "one turn too many": (lambda root: shutil.copy(_edit(root, 7), _edit(root, 13)), "2_inde_13.png"),
        "an edit of no session": (_stranger, "3_1.png"),
        "a missing ground truth": (lambda root: _truth(root, 4).unlink(), "2-output4.png"),
        "one ground truth too many": (_further_truth, "2-output13.png"),
        "an empty image": (lambda root: _edit(root, 7).write_bytes(b""), "2_inde_7.png"),
        "half an image": (lambda root: _halve(_edit(root, 7)), "2_inde_7.png"),
        "a session with fewer captions": (_forget_caption, "session '2' has 12 turns, but 11"),
    }
    return closed_form + [Case(name, partial(_refused, *how)) for name, how in broken.items()]


def _flat(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(path)


def _write(root: Path, alone: int = ALONE, chained: int = CHAINED, backwards: bool = False) -> None:
    files: dict[Path, int] = {}
    captions: dict[str, dict[str, str]] = {}
    sessions: dict[str, list[dict]] = {}
    for name, turns in TURNS.items():
        files[root / "gt" / name / f"{name}-input.png"] = 0
        captions[name], sessions[name] = {}, []
        before = f"{name}-input.png"
        for k in range(1, turns + 1):
            output = f"{name}-output{k}.png"
            files[root / "gt" / name / output] = 10 * k
            captions[name][output] = f"text {k}"
            entry = {"input": before, "mask": f"{name}-mask{k}.png", "output": output, "instruction": "go"}
            sessions[name].append(entry)
            before = output
            kinds = {"1": chained} if k == 1 else {f"inde_{k}": alone, f"iter_{k}": chained}
            for kind, error in kinds.items():
                files[root / "out" / name / f"{name}_{kind}.png"] = 10 * k + error
    for path in reversed(files) if backwards else files:
        _flat(path, files[path])
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "sessions.json").write_text(json.dumps(sessions))


def _evaluate(root: Path) -> dict:
    config = ImageEvalConfig(
        generated_path=[str(root / "out")],
        gt_path=str(root / "gt"),
        caption_path=str(root / "captions.json"),
        sessions_json=str(root / "sessions.json"),
        save_path=str(root / "scores"),
        metric="l1,l2",
    )
    return magicbrush_scores.evaluate_run(config)


def _require(result: dict, alone: int = ALONE, chained: int = CHAINED) -> None:
    """L1 is the mean over pairs of |error| / 255, L2 that of its square."""
    edits = sum(TURNS.values())
    first = len(TURNS)  # their single turn is the session's first
    l1 = ((edits - first) * alone + first * chained) / edits / 255
    l2 = ((edits - first) * alone**2 + first * chained**2) / edits / 255**2
    expected = {"all_turn": (l1, l2), "final_turn": (chained / 255, chained**2 / 255**2)}
    for protocol, values in expected.items():
        for name, value in zip(("l1", "l2"), values, strict=True):
            found = result[protocol][name]
            assert abs(found - value) < 1e-7, f"{protocol} {name}: {found}, expected {value}"


def _scored(protocol: str, error: int, assets: Assets, folder: Path) -> None:
    _write(folder)
    result = _evaluate(folder)
    _require(result)
    # Turn k copied from the source misses by 10, the last of twelve from the first image by 120.
    copied = {"all_turn": 10, "final_turn": (10 + 120) / 2}[protocol]
    assert abs(result["copy_source"][protocol]["l1"] - copied / 255) < 1e-7


def _shuffled(seed: int, assets: Assets, folder: Path) -> None:
    _write(folder)
    dice = random.Random(seed)

    def shuffle(listing: Callable) -> Callable:
        def shuffled(*arguments, **options):
            files = list(listing(*arguments, **options))
            dice.shuffle(files)
            return iter(files)

        return shuffled

    with (
        mock.patch.object(Path, "glob", shuffle(Path.glob)),
        mock.patch.object(Path, "rglob", shuffle(Path.rglob)),
        mock.patch.object(Path, "iterdir", shuffle(Path.iterdir)),
    ):
        _require(_evaluate(folder))


def _reordered(assets: Assets, folder: Path) -> None:
    _write(folder)
    for name in ("captions.json", "sessions.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(dict(reversed(content.items()))))
    _require(_evaluate(folder))


def _rewritten(assets: Assets, folder: Path) -> None:
    _write(folder, backwards=True)
    _require(_evaluate(folder))


def _perfect(assets: Assets, folder: Path) -> None:
    _write(folder, alone=0, chained=0)
    _require(_evaluate(folder), alone=0, chained=0)


def _emu(assets: Assets, folder: Path) -> None:
    entries = []
    for idx in (3, 20, 100):
        _flat(folder / "gt" / f"{idx}_gt.png", 50)
        _flat(folder / "out" / f"{idx}.png", 50 + ALONE)
        entries.append({"idx": idx, "input_caption": "a", "output_caption": "b", "edit_instruction": "c"})
    (folder / "list.json").write_text(json.dumps(entries))
    config = EmuEvalConfig(
        generated_path=[str(folder / "out")],
        gt_path=str(folder / "gt"),
        caption_path=str(folder / "list.json"),
        save_path=str(folder / "scores"),
        metric="l1,l2",
    )
    result = emu_scores.evaluate_run(config)
    (protocol,) = [key for key in result if isinstance(result[key], dict) and "l1" in result[key]]
    assert abs(result[protocol]["l1"] - ALONE / 255) < 1e-7, result[protocol]


def _not_a_number(assets: Assets, folder: Path) -> None:
    def to_tensor(image: np.ndarray) -> Tensor:
        tensor = metrics.to_tensor(image)
        return tensor * float("nan") if (image == 70 + ALONE).all() else tensor  # the edit of turn 7

    with mock.patch.object(measure, "to_tensor", to_tensor):
        _refused(lambda root: None, "2_inde_7.png", assets, folder)


def _refused(damage: Callable[[Path], object], named: str, assets: Assets, folder: Path) -> None:
    _write(folder)
    damage(folder)
    try:
        result = _evaluate(folder)
    except UserError as error:
        assert named in str(error), f"{named} is not named: {error}"
    else:
        raise AssertionError(f"scored all the same: {result['all_turn']}")
    assert not (folder / "scores" / "evaluation_metrics.json").exists(), "scores were written"


def _edit(root: Path, turn: int, kind: str = "inde") -> Path:
    return root / "out" / "2" / f"2_{kind}_{turn}.png"


def _truth(root: Path, turn: int) -> Path:
    return root / "gt" / "2" / f"2-output{turn}.png"


def _further_truth(root: Path) -> None:
    shutil.copy(_truth(root, 4), _truth(root, 13))


def _stranger(root: Path) -> None:
    _flat(root / "out" / "3" / "3_1.png", 0)


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _forget_caption(root: Path) -> None:
    content = json.loads((root / "captions.json").read_text())
    del content["2"]["2-output12.png"]
    (root / "captions.json").write_text(json.dumps(content))
