"""The paper's tables: what they take, what is downloaded, the whole chain with tiny files, the verdicts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from hub_server import local_hub

from evaluations.report.leaderboard_page import read_paper
from runtime.config import parse
from runtime.errors import UserError
from scripts.paper.config import TABLES, ReproducePaper
from scripts.paper.downloads import Downloads
from scripts.paper.rows import CANNOT, ROWS
from scripts.paper.sources import HUB
from scripts.paper.verdicts import TOLERANCES, compare, conclusion, format_figures, judge

# The rows of NEP and of its models, typed from the paper once more.
PAPER = {
    "1": {"NEP": ".0547/.0163/.9350/.9044/.0707/.0269/.9107/.8493"},
    "2": {"NEP": ".1064/.3078/.0781/.8710/.8440"},
    "3": {
        "NEP": ".0712/.0272/.9097/.8459",
        "w/o editing region conditioning": ".0741/.0281/.9040/.8372",
        "all tokens (NTP)": ".0968/.0309/.8854/.8235",
    },
    "4": {"NEP": "13.25/2.88"},
    "5": {"NEP": ".0743/.0211/.9032/.8509/.0916/.0319/.8798/.7859"},
    "6": {
        "NEP, raster order": ".0743/.0211/.9032/.8509/.0916/.0319/.8798/.7859",
        "NEP, random order": ".0741/.0211/.9027/.8482/.0911/.0316/.8782/.7833",
    },
    "7": {
        "LlamaGen": ".320/15.07",
        "LlamaGen, fine-tuned": ".326/12.00",
        "RLlamaGen": ".325/11.49",
        "RLlamaGen with test-time scaling": ".330/10.18",
        "RLlamaGen, 1 round of revision": ".332/9.94",
        "RLlamaGen, 2 rounds of revision": ".332/9.93",
        "RLlamaGen, 3 rounds of revision": ".332/9.85",
        "RLlamaGen, 4 rounds of revision": ".332/9.82",
    },
}
TABLE = {table.number: table for table in read_paper()}


def config(*words: object) -> ReproducePaper:
    return parse(ReproducePaper, [str(word) for word in words])


@pytest.mark.parametrize("number", TABLES)
def test_the_printed_figures_are_the_papers(number):
    table = TABLE[number]
    reasons = {method: why for (n, method), why in CANNOT.items() if n == number}
    measured = {row.method: (None,) * len(table.columns) for row in ROWS[number]}
    figures = compare(table, measured, reasons)
    expected = {m: [float(v) for v in values.split("/")] for m, values in PAPER[number].items()}
    found: dict[str, list] = {}
    for figure in figures:
        found.setdefault(figure.method, []).append(figure.paper)
    assert found == expected
    assert {column.name for column in table.columns} <= TOLERANCES.keys()
    text = format_figures("Table", figures)
    assert all(method in text for method in expected) and "nothing that could be judged" in text
    for why in reasons.values():
        assert why in text


def test_a_verdict_follows_the_tolerance_and_the_better_direction():
    table = TABLE["5"]
    l1, clip_i = table.columns[0], table.columns[2]
    assert judge(l1, 0.0743, 0.0763) == "agrees" and judge(l1, 0.0743, 0.0723) == "agrees"
    assert judge(l1, 0.0743, 0.0764) == "worse" and judge(l1, 0.0743, 0.0722) == "better"
    assert judge(clip_i, 0.9032, 0.9082) == "better" and judge(clip_i, 0.9032, 0.8982) == "worse"
    exact = table.rows[1].values
    assert conclusion(compare(table, {"NEP": exact}, {})) == "reproduced: 8 agrees of 8"
    off = (exact[0] + 0.01, exact[1] - 0.01, *exact[2:])
    figures = compare(table, {"NEP": off}, {})
    assert conclusion(figures) == "not reproduced: 6 agrees, 1 better, 1 worse of 8"
    line = next(line for line in format_figures("T", figures).splitlines() if "single-turn L1" in line)
    assert line.split() == ["single-turn", "L1", "0.0743", "0.0843", "+0.0100", "0.0020", "worse"]
    cost = compare(TABLE["4"], {"NEP": (13.0, 1.0)}, {})
    assert [figure.verdict for figure in cost] == ["agrees", "not judged"]


@pytest.mark.parametrize("number", TABLES)
def test_the_forecast_says_what_it_takes_and_what_cannot_be_had(number, tmp_path, capsys):
    run = importlib.import_module("scripts.paper.run").run
    places = (
        "--work-dir",
        tmp_path,
        "--pretrained",
        tmp_path,
        "--magicbrush-path",
        tmp_path,
        "--coco",
        tmp_path,
    )
    run(config(number, "--dry-run", *places))
    said = capsys.readouterr().out
    assert TABLE[number].title in said and "GB are free" in said
    if number in "1234":
        assert "no such editor is published: give one with --" in said and "hmwhwm/NEP" not in said
    else:
        assert "hmwhwm/NEP" in said and "computed: " in said
    assert ("MISSING" in said) == (number != "2")
    assert ("its weights are not published" in said) == (number == "7")
    run(config(number, "--dry-run", *places, "--ultraedit", "list.jsonl", "--num-ranks", "4"))
    trained = {"1": 1, "2": 2, "3": 3, "4": 1}.get(number, 0)
    said = capsys.readouterr().out
    assert said.count("\ntrain ") == trained and "7d6315df2c2fb742f0f5b556879d730926ca9001" in said
    assert not list(tmp_path.iterdir())


def test_the_hours_of_a_training_are_those_of_the_plan(tmp_path):
    forecast = importlib.import_module("scripts.paper.forecast").forecast

    def line(*more: object):
        lines = forecast(config("3", "--ultraedit", "list.jsonl", "--work-dir", tmp_path, *more))
        return next(line for line in lines if line.what == "train ntp")

    one, four = line(), line("--num-ranks", 4)
    assert one.hours == pytest.approx(4 * four.hours) and one.hours > 2
    assert one.gigabytes == pytest.approx(3 * 12 * 0.78, rel=0.05)  # weights and two averages, three times
    with pytest.raises(UserError, match="--gpu abacus: its peak is not known"):
        forecast(config("5", "--gpu", "abacus"))


def test_what_is_missing_is_named(tmp_path):
    run = importlib.import_module("scripts.paper.run").run
    with pytest.raises(UserError, match="the paper has the tables 1, 2"):
        config("8")
    with pytest.raises(UserError, match="write REPOSITORY=COMMIT"):
        config("5", "--revisions", "main")
    with pytest.raises(UserError, match="table 2: no such editor is published: give one with --gpt-ckpt"):
        run(config("2", "--work-dir", tmp_path))
    with pytest.raises(UserError, match=r"edit_sessions.json is not there; .*OSU-NLP-Group/MagicBrush"):
        run(config("5", "--work-dir", tmp_path, "--magicbrush-path", tmp_path))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`hub(address)` makes a stand-in the hub of this process, with a cache of its own."""

    def use(address: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(template, f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return use


def download(tmp_path: Path, name: str, *more: str) -> Path:
    places = ("--work-dir", tmp_path, "--pretrained", tmp_path / "put")
    return Downloads(config("5", *places, *more)).get(HUB[name])


def test_files_are_downloaded_once_at_one_commit_and_by_their_sum(hub, tmp_path):
    repos = {
        "peizesun/llamagen_t2i": {"vq_ds16_t2i.pt": b"v" * 2000, "t2i_XL_stage1_256.pt": b"g" * 2000},
        "google/flan-t5-xl": {"config.json": b"{}", "a.safetensors": b"t" * 2000, "tf_model.h5": b"h"},
        "facebook/emu_edit_test_set_generations": {"data/test-0.parquet": b"p", "data/val-0.parquet": b"q"},
    }
    with local_hub(repos, wrong_sums=["t2i_XL_stage1_256.pt"]) as address:
        hub(address)
        vq, t5, emu = (download(tmp_path, name) for name in ("tokenizer", "t5", "emu_edit"))
        with pytest.raises(UserError, match="the hub says 0000.* it is deleted: run this again"):
            download(tmp_path, "llamagen")
        with pytest.raises(UserError, match="hmwhwm/NEP: cannot be downloaded .*put/RLlamaGen.pt"):
            download(tmp_path, "rllamagen")
    assert vq.read_bytes() == b"v" * 2000
    assert {path.name for path in t5.iterdir()} == {"config.json", "a.safetensors"}
    assert [path.name for path in emu.iterdir()] == ["test-0.parquet"]
    notes = json.loads((tmp_path / "downloads.json").read_text())
    assert notes.keys() == {"tokenizer", "t5", "emu_edit"} and notes["tokenizer"]["revision"] == "a" * 40
    assert notes["t5"]["revision"] == HUB["t5"].revision
    # The hub is empty now: what is noted is taken; what somebody has put there comes before it.
    with local_hub() as address:
        hub(address)
        assert [download(tmp_path, name) for name in ("tokenizer", "t5")] == [vq, t5]
        with pytest.raises(UserError, match="cannot be downloaded"):
            download(tmp_path, "t5", "--revisions", f"google/flan-t5-xl={'b' * 40}")
        (tmp_path / "put").mkdir()
        (tmp_path / "put" / "vq_ds16_t2i.pt").write_bytes(b"mine")
        assert download(tmp_path, "tokenizer") == tmp_path / "put" / "vq_ds16_t2i.pt"
