"""Who may import whom: the arrows of the architecture, checked from the source."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "autoregressive", "dataset", "evaluations", "integrations", "language", "runtime", "tokenizer", "scripts",
    "nep",
)  # fmt: skip
LOWER = ["runtime", "language", "dataset", "tokenizer"]
# A module may import its own room (the longest prefix of its name), the rooms named there, no other of ours.
ROOMS = {
    "runtime": [],
    "tokenizer": ["runtime"],
    "language": ["runtime"],
    "dataset": ["runtime", "language.published", "language.text_features"],
    "dataset.records": ["runtime", "dataset.choices"],
    "dataset.shapes": ["runtime", "dataset.records", "dataset.prepare"],
    # Backgrounds and formats are those of the shapes set.
    "dataset.emoji": ["runtime", "dataset.prepare", "dataset.shapes.scenes", "dataset.shapes.writers"],
    "dataset.imgedit": ["runtime", "dataset.prepare", "dataset.records", "dataset.choices"],
    "dataset.testsets": ["runtime", "language.text_features", "dataset.records", "dataset.choices"],
    # The verifier of the shapes set shares the renderer's palette; neither knows a model. LPIPS is a fixed
    # distance, no model that is judged.
    "evaluations": ["runtime", "dataset.records.images", "dataset.records.masks", "dataset.records.own_pairs",
                    "dataset.testsets", "dataset.shapes.scenes", "dataset.shapes.edits",
                    "dataset.shapes.verifier", "dataset.emoji.edits", "dataset.emoji.scenes",
                    "dataset.emoji.verifier",
                    "tokenizer.tokenizer_image.lpips", "tokenizer.tokenizer_image.lpips_files"],
    "autoregressive.sequence": ["runtime"],
    "autoregressive.models": ["runtime", "autoregressive.sequence"],
    "autoregressive.decoding": ["runtime", "autoregressive.sequence", "autoregressive.models"],
    # Knows no pipeline: what edits with an adapter gives it what it needs.
    "autoregressive.adapters": ["runtime", "autoregressive.models"],
    "autoregressive.editing": [*LOWER, "autoregressive.sequence", "autoregressive.models",
                               "autoregressive.decoding", "autoregressive.adapters"],
    "autoregressive.pipeline": ["autoregressive.editing"],  # the old addresses
    "autoregressive.session": ["autoregressive.editing"],
    # Rewards judge images: with the metrics' encoders and the verifier.
    "autoregressive.scaling": [*LOWER, "evaluations", "autoregressive.sequence", "autoregressive.models",
                               "autoregressive.decoding", "autoregressive.editing"],
    "autoregressive.sample": [*LOWER, "autoregressive.sequence", "autoregressive.models",
                              "autoregressive.decoding", "autoregressive.editing", "autoregressive.scaling"],
    "autoregressive.train": [*LOWER, "evaluations", "autoregressive.sequence", "autoregressive.models",
                             "autoregressive.decoding", "autoregressive.editing", "autoregressive.sample",
                             "autoregressive.adapters", "autoregressive.scaling"],  # rewards to train on
    # What others speak: OpenAI's image API, ComfyUI's nodes. Nothing imports them but the `nep` command.
    "integrations": ["autoregressive.editing"],
    "integrations.server": ["runtime", "dataset.records.images", "dataset.records.masks", "language",
                            "autoregressive.editing", "autoregressive.decoding.sampling_settings"],
    "integrations.comfyui": ["runtime", "dataset.records.images", "autoregressive.decoding.sampling_settings",
                             "autoregressive.editing"],
    "scripts": ["autoregressive", "dataset", "evaluations", "language", "runtime", "tokenizer"],
    # The one command; what it starts it names in a table, so that `--help` imports nothing else.
    "nep": ["runtime", "language.caption_cleaning", "autoregressive.editing", "autoregressive.sample"],
}  # fmt: skip
# Programs stand at the edge and may use more.
PROGRAMS = {
    "tokenizer.tokenizer_image.vq_loop": ["dataset"],
    "tokenizer.tokenizer_image.vq_trainer": ["dataset"],
    "tokenizer.tokenizer_image.reconstruction": ["dataset", "evaluations"],
    "tokenizer.tokenizer_image.reconstruction_config": ["evaluations.tokenizer.flags"],
    "language.feature_extraction": ["dataset"],
    "language.small_encoder": ["dataset"],
    "dataset.prepare.magicbrush": ["language"],
}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in PACKAGES}


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
}


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_import_directions(module):
    room = max((prefix for prefix in ROOMS if within(module, prefix)), key=len)
    allowed = [room, *ROOMS[room], *PROGRAMS.get(module, [])]
    for name in IMPORTS[module]:
        assert any(within(name, prefix) for prefix in allowed), f"{module} must not import {name}"


def test_no_circle():
    """Imports for types alone and inside of functions count too."""
    rest = {module: {name for name in names if name in MODULES} for module, names in IMPORTS.items()}
    while free := [module for module, names in rest.items() if not names & rest.keys()]:
        for module in free:
            del rest[module]
    assert not rest, f"these import each other: {sorted(rest)}"


MOST_FILES = 16


def test_rooms_are_small():
    """At one level, beside `__init__`."""
    counts = Counter(path.parent for path in MODULES.values())
    assert {str(room.relative_to(ROOT)): n for room, n in counts.items() if n > MOST_FILES} == {}


MOST_LINES = 60


def test_functions_are_short():
    """Their documentation included."""
    long = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                long += [f"{module}.{node.name}: {lines} lines"] if lines > MOST_LINES else []
    assert long == []


def test_the_pipeline_is_short():
    assert len((ROOT / "autoregressive/editing/pipeline.py").read_text().splitlines()) <= 300


@pytest.mark.parametrize("edge", ["scripts", "integrations"])
def test_nothing_imports_what_stands_at_the_edge(edge):
    for module, names in IMPORTS.items():
        if not within(module, edge):
            assert not any(within(name, edge) for name in names), module


def test_the_classes_of_test_sets_have_names_of_their_own():
    """A turn, an edit or a pair is one thing: lists, files and results of them are told apart by name."""
    homes = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Turn", "Edit", "Pair", "Session")):
                homes.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_tests_stand_in_folders_as_the_project():
    """What concerns several rooms stands at the top."""
    rooms = [path.parent for path in (ROOT / "tests").rglob("test_*.py") if "battery" not in path.parts]
    top = ROOT / "tests"
    assert max(Counter(rooms).values()) <= MOST_FILES
    assert {
        str(room.relative_to(top)) for room in rooms if not (ROOT / room.relative_to(top)).is_dir()
    } == set()
