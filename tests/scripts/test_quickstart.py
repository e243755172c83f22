"""The whole quickstart at a small fraction of its steps: every program, from nothing to the report."""

from __future__ import annotations

import json

import pytest
from conftest import run_program
from PIL import Image

FLAGS = ["--steps-scale", "0.02", "--num-train", "300", "--num-test", "24"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    run_program("scripts/quickstart.py", "--results-dir", folder, *FLAGS)
    return folder


def test_the_summary_holds_what_it_promises(results):
    summary = json.loads((results / "summary.json").read_text())
    assert summary["num_edits"] == 24 and summary["minutes"] > 0
    rows = {"masked", "zero_shot", "full_regeneration", "tokenizer_ceiling", "copy_source"}
    assert summary["verifier"].keys() == rows
    asked = ["passed_and_unchanged", "passed", "others_unchanged", "color", "shape", "remove", "one_offset"]
    assert all(list(rates) == asked for rates in summary["verifier"].values())
    assert summary["verifier"]["copy_source"]["passed_and_unchanged"] == 0
    assert summary["unchanged_pixel_share"] == 1  # whatever the models have learned
    assert summary["l1"].keys() == {"masked", "copy_source", "tokenizer_ceiling"}
    assert summary["tokenizer_psnr"] > 10 and summary["commit"]


def test_the_report_is_one_page_with_its_pictures_inside(results):
    page = (results / "report.html").read_text()
    assert page.count("data:image/png") > 50 and "http://" not in page.replace("http://www.w3.org", "")
    assert Image.open(results / "edits.png").width > 500


def test_a_second_run_does_nothing_again(results):
    done = run_program("scripts/quickstart.py", "--results-dir", results, *FLAGS)
    assert done.stderr.count("done already") == 12
