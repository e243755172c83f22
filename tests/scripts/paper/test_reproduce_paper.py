"""The paper's tables: what they take, what is downloaded, the whole chain with tiny files, the verdicts."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
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


def test_emu_edits_set_is_the_one_that_the_documentation_names():
    """Its test split has the 3,589 items of which 2,834 are scored; that of the set with results 2,022."""
    assert HUB["emu_edit"].repository == "facebook/emu_edit_test_set"
    assert f"`{HUB['emu_edit'].repository}`" in (ROOT / "docs" / "data.md").read_text()


def test_a_verdict_follows_the_tolerance_and_the_better_direction():
    table = TABLE["5"]
    l1, clip_i = table.columns[0], table.columns[2]
    assert judge(l1, 0.0743, 0.0763) == "agrees" and judge(l1, 0.0743, 0.0723) == "agrees"
    assert judge(l1, 0.0743, 0.0764) == "worse" and judge(l1, 0.0743, 0.0722) == "better"
    assert judge(clip_i, 0.9032, 0.9082) == "better" and judge(clip_i, 0.9032, 0.8982) == "worse"
    exact = table.rows[1].values
    assert conclusion(compare(table, {"NEP": exact}, {})) == "reproduced: 8 agrees of 8"
    half = compare(table, {"NEP": (*exact[:2], *[None] * 6)}, {})
    assert conclusion(half) == "reproduced: 2 agrees of 2; 6 of 8 not measured"
    assert (
        conclusion(compare(TABLE["7"], {}, {"LlamaGen": "why"}))
        == "nothing that could be judged was measured"
    )
    off = (exact[0] + 0.01, exact[1] - 0.01, *exact[2:])
    figures = compare(table, {"NEP": off}, {})
    assert conclusion(figures) == "not reproduced: 6 agrees, 1 better, 1 worse of 8"
    line = next(line for line in format_figures("T", figures).splitlines() if "single-turn L1" in line)
    assert line.split() == ["single-turn", "L1", "0.0743", "0.0843", "+0.0100", "0.0020", "worse"]
    elsewhere = compare(table, {"NEP": off}, {}, others=["NEP"])
    assert {figure.verdict for figure in elsewhere} == {"not judged"}
    assert conclusion(elsewhere) == "nothing that could be judged was measured"
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


@pytest.mark.parametrize(
    ("method", "slots", "drawn"),
    [
        ("NEP, raster order", 30 + 256, 0.3 * 256),  # zero-shot: words, kept cells, the others
        ("NEP", 30 + 2 * 256 + 0.3 * 256, 0.3 * 256),  # source and marks
        ("w/o editing region conditioning", 30 + 256 + 0.3 * 256, 0.3 * 256),
        ("all tokens (NTP)", 30 + 3 * 256, 256),
    ],
)
def test_the_hours_of_a_sampling_are_those_of_its_sequences(method, slots, drawn, tmp_path):
    from autoregressive.models.config import GPT_MODELS
    from autoregressive.models.flops import forward_flops

    forecast = importlib.import_module("scripts.paper.forecast")
    number = "6" if "order" in method else "3"
    (row,) = (row for row in ROWS[number] if row.method == method)
    line = forecast._sampling(config(number, "--work-dir", tmp_path), row)
    operations = 2 * 1571 * forward_flops(GPT_MODELS["R-GPT-XL"], slots, drawn, 30)
    assert line.hours == pytest.approx(operations / (0.03 * 312e12) / 3600)


@pytest.mark.parametrize(("platform", "size"), [("linux", 1024 * 7), ("darwin", 7)])
def test_the_memory_of_an_edit_on_a_cpu_is_in_bytes(platform, size, monkeypatch):
    cost = importlib.import_module("scripts.paper.cost")
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=7))
    assert cost._most_memory(torch.device("cpu")) == size


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
        "facebook/emu_edit_test_set": {"data/test-0.parquet": b"p", "data/val-0.parquet": b"q"},
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


PROGRAMS = {
    "autoregressive/sample/sample_magicbrush.py": ("autoregressive.sample.flags", "SampleMagicBrush"),
    "autoregressive/sample/sample_emu_edit.py": ("autoregressive.sample.flags", "SampleEmuEdit"),
    "autoregressive/sample/sample_t2i_ddp.py": ("autoregressive.sample.flags", "SampleT2IDDP"),
    "autoregressive/sample/sample_test_time_scaling.py": ("autoregressive.sample.flags", "SampleScaled"),
    "autoregressive/train/train_editing.py": ("autoregressive.train.config", "EditingConfig"),
    "dataset/prepare_coco.py": ("dataset.prepare_coco", "PrepareCocoConfig"),
    "dataset/prepare_emu_edit.py": ("dataset.prepare.flags", "PrepareEmuEditConfig"),
    "evaluations/editing/image_eval.py": ("evaluations.editing.flags", "ImageEvalConfig"),
    "evaluations/editing/emuedit_eval.py": ("evaluations.editing.flags", "EmuEvalConfig"),
    "evaluations/t2i/evaluation.py": ("evaluations.t2i.flags", "T2IEvalConfig"),
    "scripts/paper/edit_cost.py": ("scripts.paper.cost_config", "EditCost"),
}
SCORES = {"all_turn": {"l1": 0.0743, "dino": 0.8}, "final_turn": {"l1": 0.0916}}
SCALED = ["a cat", "a \u2028 dog", "a bus"]


class Programs:
    """Stands in for the programs: reads their flags, writes what the next step needs, or fails."""

    def __init__(self) -> None:
        self.ran: list = []
        self.failing = ""

    def __call__(self, command, **_):
        program, *words = command[1:]
        module, name = PROGRAMS[program]
        config = parse(getattr(importlib.import_module(module), name), words)
        self.ran.append((Path(program).stem, config))
        if self.failing == Path(program).stem:
            return subprocess.CompletedProcess(command, 1)
        getattr(self, f"_{Path(program).stem}", lambda config: None)(config)
        return subprocess.CompletedProcess(command, 0)

    def names(self) -> list[str]:
        return [name for name, _ in self.ran]

    def _image_eval(self, config) -> None:
        write(Path(config.save_path) / "evaluation_metrics.json", json.dumps(SCORES))

    _emuedit_eval = _image_eval

    def _prepare_coco(self, config) -> None:
        write(Path(config.output), "Prompt\timage_id\n" + "".join(f"{text}\t1\n" for text in SCALED))

    def _sample_t2i_ddp(self, config) -> None:
        write(Path(config.sample_dir) / "made" / "captions.txt", "a cat\n")

    def _sample_test_time_scaling(self, config) -> None:
        lines = [json.loads(line)["prompt"] for line in Path(config.task_list).read_text().splitlines()]
        for number in range(config.rounds + 1):
            folder = Path(config.output_dir) / "rounds" / str(number)
            write(folder / "captions.txt", "".join(f"{line}\n" for line in lines))
            for i, line in enumerate(lines):
                write(folder / "images" / f"{i:04d}.png", f"{line} after {number}")

    def _evaluation(self, config) -> None:
        write(Path(config.fake_dir) / "score.json", json.dumps({"clip_score": 0.325, "fid": 11.0}))

    def _edit_cost(self, config) -> None:
        write(Path(config.output_dir) / "cost.json", json.dumps({"seconds": 1.0, "memory_gb": 12.0}))

    def _train_editing(self, config) -> None:
        write(Path(config.results_dir) / "checkpoints" / "0000001.pt", str(config.max_steps))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """All that is downloaded, as empty files, and stand-ins of the programs."""
    put, test, coco = tmp_path / "put", tmp_path / "test", tmp_path / "coco"
    for source in HUB.values():
        if source.place and source.name != "t5":
            write(put / source.place, source.name)
    for path in (put / "t5-ckpt" / "flan-t5-xl" / "config.json", put / "inception-2015-12-05.pt"):
        write(path, "{}")
    for name in ("edit_sessions.json", "local_descriptions.json", "images/1.png"):
        write(test / name, "{}")
    for name in ("val2014/1.jpg", "annotations/captions_val2014.json"):
        write(coco / name, "{}")
    programs = Programs()
    steps = importlib.import_module("scripts.paper.steps")
    monkeypatch.setattr("scripts.shapes.step_runner.subprocess.run", programs)
    monkeypatch.setattr("scripts.shapes.step_runner.current_commit", lambda: "commit")
    monkeypatch.setattr(steps, "newest_whole_checkpoint", lambda folder: next(folder.iterdir()))
    monkeypatch.setattr(steps, "_PART", 2)
    emu = tmp_path / "emu"
    monkeypatch.setattr(Downloads, "noted", lambda self, source: emu if source.name == "emu_edit" else None)
    flags = ["--work-dir", tmp_path / "work", "--pretrained", put, "--magicbrush-path", test, "--coco", coco]
    return programs, flags, tmp_path


def test_steps_that_are_done_are_skipped_and_tables_share_them(place, capsys):
    programs, flags, root = place
    run = importlib.import_module("scripts.paper.run").run
    programs.failing = "image_eval"
    with pytest.raises(UserError, match="step evaluate failed with exit status 1"):
        run(config("6", *flags))
    programs.failing = ""
    run(config("6", *flags))
    once = ["sample_magicbrush", "image_eval"]
    assert programs.names() == [*once, "image_eval", *once]  # the first sampling was not done again
    orders = [made.order for name, made in programs.ran if name == "sample_magicbrush"]
    assert orders == ["raster", "random"] and all(made.mode == "zero_shot" for _, made in programs.ran[:1])
    run(config("6", *flags))
    run(config("5", *flags))
    assert len(programs.ran) == 5
    said = capsys.readouterr().out
    assert "agrees" in said and "worse" in said and "not measured" in said  # L1, DINO, CLIP-I
    kept = json.loads((root / "work" / "table5.json").read_text())
    assert kept["conclusion"] == "not reproduced: 2 agrees, 1 worse of 3; 5 of 8 not measured"
    assert kept["figures"][3] == {
        "method": "NEP", "column": "single-turn DINO", "paper": 0.8509, "ours": 0.8, "tolerance": 0.007,
        "verdict": "worse", "difference": pytest.approx(-0.0509),
    }  # fmt: skip
    run(config("6", *flags, "--sample-flags", "--cfg-scale 3"))  # other settings: made anew
    assert programs.names()[5:] == [*once, *once] and programs.ran[5][1].cfg_scale == 3


def test_editors_are_given_or_trained_by_the_published_command(place):
    programs, flags, root = place
    run = importlib.import_module("scripts.paper.run").run
    write(root / "mine.pt", "weights")
    run(config("1", *flags, "--gpt-ckpt", root / "mine.pt"))
    assert programs.names() == ["sample_magicbrush", "image_eval"]
    made = programs.ran[0][1]
    assert made.gpt_ckpt == str(root / "mine.pt") and made.text == "global" and made.mode is None
    write(root / "mine.pt", "other weights")  # under the same name
    run(config("1", *flags, "--gpt-ckpt", root / "mine.pt"))
    assert len(programs.ran) == 4
    with pytest.raises(UserError, match="--gpt-ckpt nowhere.pt: no such file"):
        run(config("1", *flags, "--gpt-ckpt", "nowhere.pt"))
    write(root / "mine.dcp" / "state.pt", "of a sharded training")
    for number, text in ((6, "weights"), (8, "other weights"), (8, "other weights")):
        write(root / "mine.dcp" / "__0_0.distcp", text)
        run(config("1", *flags, "--gpt-ckpt", root / "mine.dcp"))
        assert len(programs.ran) == number
    programs.ran.clear()
    run(config("3", *flags, "--ultraedit", root / "list.jsonl"))
    trained = [made for name, made in programs.ran if name == "train_editing"]
    assert [t.mask_in_context for t in trained] == [True, False, True]
    assert [t.enforce_fake_masking for t in trained] == [False, False, True]
    assert {(t.max_steps, t.lr, t.global_batch_size, t.max_checkpoints) for t in trained} == {
        (30000, 1e-4, 16, 3)
    }
    assert {t.init_gpt_ckpt for t in trained} == {str(root / "put" / "RLlamaGen.pt")}
    assert [m.full_mask for name, m in programs.ran if name == "sample_magicbrush"] == [False, False, True]
    programs.ran.clear()
    run(config("2", *flags, "--ultraedit", root / "list.jsonl", "--text", "instruction"))
    first, then = (made for name, made in programs.ran if name == "train_editing")
    assert (first.lr, first.epochs, first.text_field) == (1e-4, 10, "instruction")
    assert (then.lr, then.max_steps) == (1e-5, 60000) and then.init_gpt_ckpt.endswith("0000001.pt")
    assert programs.names()[2:] == ["prepare_emu_edit", "sample_emu_edit", "emuedit_eval"]


def test_cost_and_pictures_from_words(place, capsys):
    programs, flags, root = place
    run = importlib.import_module("scripts.paper.run").run
    write(root / "mine.pt", "weights")
    run(config("4", *flags, "--gpt-ckpt", root / "mine.pt"))
    assert "not judged" in capsys.readouterr().out and programs.names() == ["edit_cost"]
    programs.ran.clear()
    run(config("7", *flags, "--num-prompts", "3"))
    scaled = "sample_test_time_scaling"
    drawn = ["sample_t2i_ddp", "evaluation"]
    assert programs.names() == ["prepare_coco", *drawn, *drawn, scaled, scaled, *["evaluation"] * 4]
    first, second = (made for name, made in programs.ran if name == "sample_t2i_ddp")
    assert (first.gpt_model, first.image_size, second.gpt_model) == ("GPT-XL", 256, "R-GPT-XL")
    parts = [made for name, made in programs.ran if name == scaled]
    assert [part.seed for part in parts] == [0, 2] and parts[0].reward == "image_reward"
    rounds = root / "work" / "coco_scaled" / "rounds"
    assert (rounds / "3" / "captions.txt").read_text(encoding="utf-8") == "".join(f"{c}\n" for c in SCALED)
    assert (rounds / "3" / "images" / "000002.png").read_text() == "a bus after 3"
    said = capsys.readouterr().out
    assert "RLlamaGen, 4 rounds of revision" in said and "its weights are not published" in said
    run(config("7", *flags, "--num-prompts", "3"))
    assert len(programs.ran) == 11
