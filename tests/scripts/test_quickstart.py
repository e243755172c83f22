"""The whole quickstart at a small fraction of its steps: every program, from nothing to the report."""

from __future__ import annotations

import json

import pytest
from conftest import run_program
from PIL import Image

from autoregressive import EditingPipeline
from evaluations.report.item_page import write_item_page
from evaluations.report.report import EditGridSection, build_report
from scripts.shapes.quickstart import edit_items
from scripts.web_demo.advice import vocabulary
from scripts.web_demo.examples import EASY, examples_for

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


def test_the_report_folds_its_details_and_ends_with_a_command_that_works(results):
    page = (results / "report.html").read_text()
    shown, _, rest = page.partition("<details>")
    details, _, end = rest.partition("</details>")
    assert shown.count('class="instruction"') <= 6 and details.count('class="instruction"') > 20
    assert "Try your model now" in end and end.count("<h2>") == 1
    folder = results / "model"
    assert f"python scripts/demo.py --model {folder}" in end
    pipeline = EditingPipeline.from_pretrained(folder)
    assert pipeline.defaults.mask_rule == "exact" and pipeline.about.knows and pipeline.about.usual_psnr > 10
    assert examples_for(vocabulary(pipeline)) is EASY
    assert pipeline.edit(Image.new("RGB", (72, 72), "white"), EASY.instructions[0], "auto")
    assert EditingPipeline.from_pretrained(folder, "t2i").draw(["a red circle"])


def test_a_picture_with_damage_outside_has_no_tick(results):
    """Whatever became of the edited object itself."""
    scores = results / "scores" / "full_regeneration" / "evaluation_items.json"
    items = json.loads(scores.read_text())
    for item in items:
        if item["row"] == "generated":
            item["verdict"] |= {"passed": True, "others_unchanged": False, "passed_and_unchanged": False}
    (results / "scores" / "damaged").mkdir(exist_ok=True)
    (results / "scores" / "damaged" / scores.name).write_text(json.dumps(items))
    (results / "edits" / "damaged").symlink_to(results / "edits" / "full_regeneration")
    shown = edit_items(results, "damaged")
    assert shown and not any(item.passed for item in shown)
    build_report(results / "damaged.html", "t", [EditGridSection("e", shown[:2])])
    assert "✓" not in (results / "damaged.html").read_text()
    write_item_page(results / "items.html", [item for item in items if item["row"] == "generated"][:2])
    assert "✓" not in (results / "items.html").read_text()


def test_a_second_run_does_nothing_again(results):
    done = run_program("scripts/quickstart.py", "--results-dir", results, *FLAGS)
    assert done.stderr.count("done already") == 12
