"""Test 8: no path in a data file reads or writes outside its root."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path

from dataset.build import build_dataset
from dataset.prepare.captions import prepare_captions
from dataset.prepare.flags import PrepareCaptionsConfig
from dataset.testsets.emu_edit import read_emu
from dataset.testsets.magicbrush import read_listed_sessions, read_sessions
from runtime.config import parse
from tests.battery.cases import Assets, Case, refused

SECRET = "secret.png"


def cases() -> list[Case]:
    return [
        Case("image, ..", partial(_line, {"file_name": f"../{SECRET}"})),
        Case("image, .. in the middle", partial(_line, {"file_name": f"source/../../{SECRET}"})),
        Case("image, absolute", partial(_line, {"file_name": "ABSOLUTE"})),
        Case("image, symbolic link", partial(_line, {"file_name": "link.png"})),
        Case("mask, ..", partial(_line, {"mask_image": f"../{SECRET}"})),
        Case("text features, absolute", partial(_line, {"edit_prompt_t5_path": "ABSOLUTE"})),
        Case("session of MagicBrush, ..", _session_id),
        Case("image of MagicBrush, ..", _session_image),
        Case("session to be scored, ..", _scored_id),
        Case("result to be scored, ..", _scored_output),
        Case("Emu Edit index, ..", _emu),
        Case("tar member, ..", _tar),
    ]


def _line(change: dict, assets: Assets, folder: Path) -> None:
    root, secret = folder / "data", folder / SECRET
    root.mkdir()
    image = assets.shapes / "train"
    first = json.loads((image / "editing.jsonl").read_text().splitlines()[0])
    for key in ("file_name", "edited_image", "mask_image"):
        target = root / first[key]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((image / first[key]).read_bytes())
    secret.write_bytes((image / first["file_name"]).read_bytes())
    (root / "link.png").symlink_to(secret)
    key, value = next(iter(change.items()))
    value = str(secret) if value == "ABSOLUTE" else value
    lines = [first, {**first, key: value}]
    (root / "list.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    dataset = build_dataset(
        "editing_ultraedit", [root / "list.jsonl"], 24, 16, grid=3, text_field="instruction"
    )
    assert dataset[0, 0].problem is None, dataset[0, 0].problem
    problem = dataset[1, 0].problem
    assert problem is not None and "outside" in problem and "line 2" in problem, problem


def _sessions(folder: Path, session_id: str, entry: dict) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    file = folder / "edit_sessions.json"
    file.write_text(json.dumps({session_id: [entry]}))
    return file


ENTRY = {"input": "1-input.png", "mask": "1-mask1.png", "output": "1-output1.png", "instruction": "x"}


def _session_id(assets: Assets, folder: Path) -> None:
    _sessions(folder, "../1", ENTRY)
    refused(lambda: read_sessions(folder), "../1")


def _session_image(assets: Assets, folder: Path) -> None:
    _sessions(folder, "1", {**ENTRY, "input": f"../../{SECRET}"})
    refused(lambda: read_sessions(folder), SECRET)


def _scored_id(assets: Assets, folder: Path) -> None:
    file = _sessions(folder, "../1", ENTRY)
    refused(lambda: read_listed_sessions(file), "../1")


def _scored_output(assets: Assets, folder: Path) -> None:
    file = _sessions(folder, "1", {**ENTRY, "output": "../../1-output1.png"})
    refused(lambda: read_listed_sessions(file), "../../1-output1.png")


def _emu(assets: Assets, folder: Path) -> None:
    file = folder / "list.json"
    entry = {"idx": "../1", "input_caption": "a", "output_caption": "b", "edit_instruction": "c"}
    file.write_text(json.dumps([entry]))
    (folder / "images").mkdir()
    refused(lambda: read_emu(folder, file), "list.json item 1")


def _tar(assets: Assets, folder: Path) -> None:
    """Names in a shard lead nowhere: what is written is named by its number."""
    shard, image = folder / "data" / "0.tar", next((assets.shapes / "train").rglob("*.png"))
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as archive:
        for name, data in (("../../evil.png", image.read_bytes()), ("../../evil.txt", b"a text")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    flags = ["--data-path", shard, "--output-dir", folder / "out", "--num-workers", 1, "--min-side", 16]
    prepare_captions(parse(PrepareCaptionsConfig, list(map(str, flags))))
    written = [path.relative_to(folder) for path in folder.rglob("*.png")]
    assert written == [Path("out/images/0/000000.png")], written
    assert not (folder.parent / "evil.png").exists()
