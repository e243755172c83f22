"""A flag that several programs have is declared once, in runtime/flags."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from test_config import PROGRAM_FOLDERS, ROOT

SHARED = [
    ROOT / "runtime" / "flags" / f"{name}.py"
    for name in ("shared", "models", "training", "drawing", "scoring")
]
# One name, but another thing in each program: declared where it is used.
EXCEPTIONS = {
    "adapter": "the one that is used, or those that requests ask for by name",
    "data_path": "each program reads formats of its own",
    "add": "results of each program's own kind",
    "data": "own pairs, or which variants of the shapes set",
    "output": "a picture, a table, a settings file or weights",
    "model": "a folder to read, or a name in the folder that is written",
    "num_samples": "pictures to draw, or pairs to train on",
    "parallel": "cells of a pass that are drawn together, or how ranks share a training",
    "num_images": "captions to draw, or images to reconstruct",
    "caption_path": "each test set has a layout of its own",
    "ceiling_path": "each test set has a layout of its own",
    "regions_path": "one folder, or one for each seed",
    "generated_path": "each test set has a layout of its own",
    "gt_path": "each test set has a layout of its own",
    "rewards": "what leads a search, or what is trained on, with weights",
    "device": "benchmark.py measures one kind of machine and guesses none",
    "vq_ckpt": "the tokenizer's own training goes on from it",
    "vq_model": "the tokenizer's own training builds it",
}


def program_files() -> list[Path]:
    return [file for folder in PROGRAM_FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]


def calls_of(node: ast.AST) -> set[str]:
    """Names of the functions called anywhere in it."""
    return {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}


def declarations() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """{flag: classes} whose body declares it by `option` or `legacy`, and {flag: modules} that share it."""
    alone, shared = defaultdict(list), defaultdict(list)
    for path in program_files():
        classes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]
        for name, line in ((n.name, line) for n in classes for line in n.body):
            made_by = calls_of(line) & {"option", "legacy"} if isinstance(line, ast.AnnAssign) else set()
            if made_by:
                kind = "legacy " if "legacy" in made_by else ""
                alone[kind + line.target.id].append(f"{path.relative_to(ROOT)} {name}")
    for path in SHARED:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                kind = "legacy " if "legacy" in calls_of(node) else ""
                shared[kind + node.name].append(path.stem)
    return alone, shared


def test_a_flag_of_several_programs_is_declared_once():
    alone, shared = declarations()
    assert len(alone) > 100 and len(shared) > 60
    assert {name: places for name, places in shared.items() if len(places) > 1} == {}
    several = {name: classes for name, classes in alone.items() if len(classes) + len(shared[name]) > 1}
    assert {name: classes for name, classes in several.items() if name not in EXCEPTIONS} == {}
    assert set(EXCEPTIONS) <= set(several), "exceptions that are none"


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_a_shared_flag_has_several_users(path):
    """A flag of one program is declared there."""
    text = "".join(file.read_text() for file in program_files())
    functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    used = Counter(re.findall(rf" {path.stem}\.(\w+)\(", text))
    assert {name: used[name] for name in functions if used[name] < 2} == {}
