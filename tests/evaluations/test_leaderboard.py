"""The paper's tables as a page and as LaTeX, with results of one's own among them."""

from __future__ import annotations

import json
import re

import pytest

from evaluations.report.leaderboard import LeaderboardConfig
from evaluations.report.leaderboard_page import (
    add_result,
    escape_latex,
    read_paper,
    to_latex,
    write_leaderboard,
)
from runtime.errors import UserError

MAGICBRUSH = {
    "all_turn": {"l1": 0.05, "l2": 0.0163, "clip-i": None},
    "final_turn": {"l1": 0.07, "dino": 0.9},
    "interval95": {"all_turn": {"l1": 0.001}},
    "info": {"num_sessions": 535},
}
EMU = {"final_turn": {"l1": 0.08, "clip-out": 0.31}, "info": {"num_items": 2834}}
COCO = {"clip_score": 0.331, "fid": 10.0, "info": {}}


@pytest.fixture
def files(tmp_path):
    contents = {"mb": MAGICBRUSH, "emu": EMU, "coco": COCO, "pie": {"info": {}}}
    contents["tokenizer"] = {"psnr": 30.0, "ssim": 0.9, "fid": 0.5, "info": {"num_images": 9}}
    contents["other"] = COCO | {"info": {"ref_data": "flowers", "ref_type": "test"}}
    contents["nan"] = COCO | {"clip_score": float("nan")}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_the_papers_figures():
    """A few of each table, by hand."""
    tables = {table.number: table for table in read_paper()}
    assert list(tables) == ["1", "2", "3", "4", "5", "6", "7"]
    rows = {number: {row.method: row.values for row in table.rows} for number, table in tables.items()}
    assert len(rows["1"]) == 12 and rows["1"]["NEP"] == (
        0.0547, 0.0163, 0.9350, 0.9044, 0.0707, 0.0269, 0.9107, 0.8493
    )  # fmt: skip
    assert rows["1"]["EditAR"][4:] == (0.1341, 0.0433, 0.8256, 0.7200)
    assert len(rows["2"]) == 7 and rows["2"]["MIGE"] == (0.1070, 0.3067, 0.0865, 0.8714, 0.8432)
    assert rows["3"]["all tokens (NTP)"] == (0.0968, 0.0309, 0.8854, 0.8235)
    assert rows["4"]["NEP"] == (13.25, 2.88) and rows["5"]["aMUSEd"][0] == 0.0913
    assert rows["6"]["NEP, random order"][4] == 0.0911
    assert rows["7"]["RLlamaGen with test-time scaling"] == (0.330, 10.18)
    assert rows["7"]["RLlamaGen, 4 rounds of revision"] == (0.332, 9.82)
    assert all(len(values) == len(tables[n].columns) for n in rows for values in rows[n].values())


def test_the_best_leaves_out_what_is_on_another_scale():
    table = read_paper()[0]
    assert [table.best(index) for index in range(4)] == [0.0547, 0.0163, 0.9350, 0.9044]  # not GLIDE's


def test_results_join_the_table_of_their_set(files):
    write_leaderboard(
        [f"ours={files / 'mb.json'}", f"5:ours <zero-shot>={files / 'mb.json'}",
         f"ours={files / 'emu.json'}", f"ours={files / 'coco.json'}"],
        files / "page.html",
        files / "tables.tex",
    )  # fmt: skip
    page = (files / "page.html").read_text()
    assert page.count('<tr class="ours">') == 4 and "ours &lt;zero-shot&gt;" in page
    sections = re.split(r"<h2>Table (\d)", page)[1:]
    text = dict(zip(sections[::2], sections[1::2], strict=True))
    assert 'class="best" data-value="0.05"' in text["1"] and "± 0.0010" in text["1"]
    assert "zero-shot" in text["5"] and "ours" not in text["3"]
    assert 'data-value="0.31"' in text["2"] and 'data-value="10.0"' in text["7"]
    assert "http" not in page.replace("https://arxiv.org", "")
    latex = (files / "tables.tex").read_text()
    assert latex.count(r"\begin{tabular}") == 7 and latex.count(r"\textit{ours}") == 3
    assert r"\textbf{0.0500} $\pm$ 0.0010" in latex and r"\multicolumn{4}{c}{single-turn}" in latex
    assert latex.count("{") == latex.count("}")


@pytest.mark.parametrize(
    ("result", "info", "of"),
    [
        (MAGICBRUSH, {"num_sessions": 3, "num_edits": 7, "data_set": "3 sessions, 7 edits"}, "3 sessions"),
        (EMU, {"num_items": 12, "data_set": "12 items (another selection)"}, "12 items"),
        (COCO, {"ref_data": "coco2014", "num_generated": 100}, "100 generated"),
        (COCO, {"num_generated": 30000, "num_clip_pairs": 50}, "its test set with num_clip_pairs 50"),
        (COCO, {"clip_model4eval": "ViT-G/14", "eval_res": 64}, "its test set with clip_model4eval ViT-G"),
        (EMU, {"num_items": 3589, "clip_model": "ViT-L-14-quickgelu"}, "its test set with clip_model ViT-L"),
    ],
)
def test_results_of_another_set_are_not_ranked_beside_the_papers(files, result, info, of):
    """Such as those of shapes, of a part of the test set, or by another CLIP: the evaluators are the same."""
    tables = read_paper()
    (files / "small.json").write_text(json.dumps(result | {"info": info}))
    add_result(tables, f"mine={files / 'small.json'}")
    (table,) = (table for table in tables if table.rows[-1].is_ours)
    row = table.rows[-1]
    assert row.note.startswith(f"of {of}") and row.note.endswith("not ranked")
    assert not any(table.cell(row, index)["best"] for index in range(len(table.columns)))


def test_latex_escapes_what_it_would_read():
    assert escape_latex("50% & a_b {x}\\") == r"50\% \& a\_b \{x\}\textbackslash{}"
    assert escape_latex("a<b>|") == r"a\textless{}b\textgreater{}\textbar{}"  # else ¡, ¿ and a dash
    lines = to_latex(read_paper()[3]).splitlines()
    assert r"NEP & 13.25 & \textbf{2.88} \\" in lines


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("{}/mb.json", "write \\[TABLE:\\]NAME=FILE"),
        ("2:ours={}/mb.json", "magicbrush results belong into table 1, 3, 5, 6, not 2"),
        ("ours={}/pie.json", "no table of the paper takes it"),
        ("ours={}/nowhere.json", "nowhere.json"),
        ("ours={}/tokenizer.json", "no table of the paper takes it"),
        ("ours={}/other.json", "no table of the paper takes it"),
        ("ours={}/nan.json", "clip_score is nan, not a number"),
    ],
)
def test_what_cannot_be_added_is_refused(files, result, message):
    with pytest.raises(UserError, match=message):
        add_result(read_paper(), result.format(files))


def test_without_results_it_is_the_paper(files):
    assert LeaderboardConfig().scores is None
    write_leaderboard([], files / "page.html")
    assert '<tr class="ours">' not in (files / "page.html").read_text()


def test_results_of_the_papers_set_measured_in_its_way_are_ranked(files):
    info = {"num_generated": 30000, "num_clip_pairs": 30000, "num_references": 40504, "eval_res": 256}
    (files / "whole.json").write_text(json.dumps(COCO | {"info": info | {"clip_model4eval": "ViT-B/32"}}))
    tables = read_paper()
    add_result(tables, f"mine={files / 'whole.json'}")
    assert tables[-1].rows[-1].note == "" and tables[-1].cell(tables[-1].rows[-1], 0)["text"] == "0.3310"
