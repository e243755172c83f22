"""Who may import whom: the arrows of the architecture, checked from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("autoregressive", "dataset", "evaluations", "language", "runtime", "tokenizer")
# A module may import itself, what stands here for the longest prefix of its name, and nothing else of ours.
ALLOWED = {
    "runtime": [],
    "tokenizer": ["runtime"],
    "language": ["runtime"],
    # The verifier of the shapes set shares the renderer's palette; neither knows a model. LPIPS is a fixed
    # distance, no model that is judged.
    "evaluations": ["runtime", "dataset.images", "dataset.shapes", "dataset.shapes_edits",
                    "dataset.shapes_verifier", "tokenizer.tokenizer_image.lpips",
                    "tokenizer.tokenizer_image.lpips_files"],
    "dataset": ["runtime", "language.published", "language.text_features"],
    "autoregressive.layout": [],
    "autoregressive.models": ["autoregressive.layout", "runtime"],
    "autoregressive.composite": ["dataset", "runtime"],
    "autoregressive.pictures": ["dataset"],
    "autoregressive.auto_mask": ["autoregressive.layout", "autoregressive.models", "dataset", "runtime"],
    "autoregressive.arguments": ["autoregressive.auto_mask", "autoregressive.composite", "dataset",
                                 "language", "runtime"],
    "autoregressive.pipeline": ["autoregressive.arguments", "autoregressive.auto_mask",
                                "autoregressive.composite", "autoregressive.layout", "autoregressive.models",
                                "autoregressive.pretrained", "tokenizer", "language", "dataset", "runtime"],
    "autoregressive.pretrained": ["autoregressive", "dataset", "runtime"],
    "autoregressive.session": ["autoregressive", "dataset", "runtime"],
    # Rewards judge images: with the metrics' encoders and the verifier.
    "autoregressive.scaling": ["autoregressive", "dataset", "evaluations", "language", "runtime"],
    "autoregressive.sample": ["autoregressive", "tokenizer", "language", "dataset", "runtime"],
    "autoregressive.train": ["autoregressive", "tokenizer", "language", "dataset", "evaluations", "runtime"],
}  # fmt: skip
# Programs stand at the edge and may use more.
PROGRAMS = {
    "tokenizer.tokenizer_image.vq_loop": ["dataset"],
    "tokenizer.tokenizer_image.vq_trainer": ["dataset"],
    "tokenizer.tokenizer_image.reconstruction": ["dataset", "evaluations"],
    "tokenizer.tokenizer_image.reconstruction_config": ["evaluations.tokenizer.flags"],
    "language.feature_extraction": ["dataset"],
    "language.small_encoder": ["dataset"],
    "dataset.prepare_magicbrush": ["language"],
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


@pytest.mark.parametrize("module", sorted(MODULES))
def test_import_directions(module):
    rule = max((prefix for prefix in ALLOWED if within(module, prefix)), key=len)
    allowed = [rule, *ALLOWED[rule], *PROGRAMS.get(module, [])]
    for name in imports_of(MODULES[module]):
        assert any(within(name, prefix) for prefix in allowed), f"{module} must not import {name}"
