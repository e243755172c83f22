"""The documentation: its links lead somewhere, and what it tells you to run, runs."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_within

from autoregressive.models.config import GPT_MODELS
from autoregressive.models.flops import PEAKS, training_flops

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("pretrained_models/**/*.md")])
RUN = sorted(ROOT.glob("docs/*.md"))
NOT_RUN = "<!-- full size -->"  # before a block whose commands take longer
PAGE_SECONDS = 900
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<kind>bash|python)\n(?P<code>.*?)\n```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of GitHub's headings, and those set by hand."""
    found = set(re.findall(r'<a id="([^"]+)">', page.read_text()))
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]*>", "", title).lower())
        found.add(plain.strip().replace(" ", "-"))
    return found


def blocks() -> list:
    """Commands to run, a page's together: later ones use what earlier ones made."""
    cases = []
    for page in [ROOT / "README.md", *RUN]:
        chosen = [m for m in BLOCK.finditer(page.read_text()) if m["before"].strip() != NOT_RUN]
        # README's commands set up, run for minutes, or want published weights: all have tests of their own.
        for kind in ("python",) if page.name == "README.md" and page.parent == ROOT else ("bash", "python"):
            code = [m["code"] for m in chosen if m["kind"] == kind]
            if code:
                cases.append(pytest.param(kind, code, id=f"{page.stem}-{kind}"))
    return cases


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.finditer(prose(page)):
        target, _, anchor = link["target"].partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = page if not target else (page.parent / target).resolve()
        assert file.exists() and (file.is_relative_to(ROOT)), f"{page.name}: {link['target']} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {link['target']}: no such heading"


def test_every_page_can_be_found_in_two_clicks():
    readme = {m["target"].partition("#")[0] for m in LINK.finditer(prose(ROOT / "README.md"))}
    index = {m["target"].partition("#")[0] for m in LINK.finditer(prose(ROOT / "docs" / "README.md"))}
    assert "docs/README.md" in readme and "docs/faq.md" in readme
    assert {page.name for page in RUN} - {"README.md"} <= index
    faq = (ROOT / "docs" / "faq.md").read_text()
    asked = re.findall(r"\(#(\w+)\)", faq.split("\n## ")[0])
    assert len(asked) >= 10 and set(asked) == set(re.findall(r'<a id="(\w+)">', faq))


def test_what_extending_names_stands_in_the_file_beside_it():
    """`NAME` in, into or of [`file`](file)."""
    page = prose(ROOT / "docs" / "extending.md")
    named = re.findall(r"`(_?[A-Z]\w+)`[^`.]*?(?:in|into|of)\s+\[`([\w/]+\.py)`\]", page)
    assert len(named) >= 6
    for name, file in named:
        text = (ROOT / file).read_text()
        assert re.search(rf"^(?:class )?{name}\b", text, re.MULTILINE), f"{file} has no {name}"


@pytest.mark.parametrize(("kind", "code"), blocks())
def test_commands_run(kind, code, tmp_path):
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("results", "data"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nep").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nep "$@"\n')  # this tree's
    (tmp_path / "bin" / "nep").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(ROOT)}
    words = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[kind]
    done = run_within(PAGE_SECONDS, [*words, "\n".join(code)], cwd=tmp_path, env=environment)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_what_own_data_computes():
    """The page's table follows from the arithmetic that dry runs and logs use."""
    page = (ROOT / "docs" / "own_data.md").read_text()
    config = dataclasses.replace(GPT_MODELS["R-GPT-XL"], mask_in_context=True)
    flops = training_flops(config, 40 + 256 + 256 + 80, 80, 40)
    assert f"costs {flops / 1e12:.1f} TFLOP" in page
    rows = re.findall(r"^\| ([\w ]+) \| (\d+) TFLOP/s \| ([\d.]+) s \| (\d+) minutes \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for name, rate, seconds, minutes in rows:
        assert float(rate) * 1e12 == PEAKS[name]
        exact = 4 / 3 * flops / (0.3 * PEAKS[name])
        assert float(seconds) == pytest.approx(exact, rel=0.02) and float(minutes) == round(
            exact * 10_000 / 60
        )


def test_a_command_that_hangs_ends_with_all_that_it_started():
    with pytest.raises(AssertionError, match="still running after 0.5 s: .*\nbefore"):
        run_within(0.5, ["bash", "-c", "echo before; sleep 60 & sleep 60; echo after"])
