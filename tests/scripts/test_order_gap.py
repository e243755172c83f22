"""The gap between orders: likelihoods against a slow twin, the table, a tiny run that is resumed."""

from __future__ import annotations

import csv
import importlib
import json
import math

import pytest
import torch
from conftest import run_program
from PIL import Image

from autoregressive.models.gpt import evaluating
from autoregressive.sequence.builders import t2i_layout
from autoregressive.sequence.orders import drawing_orders
from runtime.errors import UserError
from scripts.orders.config import DATA, OrderGap


def edits_of(pipeline):
    from scripts.orders.score import RegionEdits

    generator = torch.Generator().manual_seed(0)
    source, wanted = (torch.randint(16, (3, 9), generator=generator) for _ in range(2))
    cells = torch.zeros(3, 9, dtype=torch.bool)
    cells[0, [0, 1, 3, 4]] = cells[1, [4]] = cells[2] = True
    text, text_valid = pipeline.encode_texts(["a red circle at the top", "a blue star", "x"])
    return RegionEdits(source, torch.where(cells, wanted, source), cells, text, text_valid, [5, 6, 7])


@pytest.fixture(scope="module")
def pipeline(vq_ckpt, gpt_ckpts, t5_dir):
    from autoregressive.editing.pipeline import EditingPipeline

    return EditingPipeline.load(vq_ckpt, gpt_ckpts["t2i"], t5_dir)


@pytest.mark.parametrize("order", ["raster", "random", "reverse", "spiral"])
def test_the_likelihood_of_a_region_is_that_of_its_codes_one_by_one(pipeline, order):
    """A code at a time: a forward of the kept cells in raster order and of the codes before it."""
    from scripts.orders.score import region_nll

    edits = edits_of(pipeline)
    found = region_nll(pipeline, edits, order)
    orders = drawing_orders(order, edits.seeds, edits.cells).tolist()
    for row, count in enumerate(edits.cells.sum(1).tolist()):
        known, total = (~edits.cells[row]).nonzero().flatten().tolist(), 0.0
        for cell in orders[row][:count]:
            others = [other for other in range(9) if other not in (*known, cell)]
            full = torch.tensor([[*known, cell, *others]])
            layout = t2i_layout(edits.wanted[row : row + 1], full, edits.text_valid[row : row + 1])
            with evaluating(pipeline.transformer), torch.inference_mode():
                logits = pipeline.transformer(layout, edits.text[row : row + 1])[0, len(known)]
            total -= logits.log_softmax(-1)[edits.wanted[row, cell]].item()
            known.append(cell)
        assert found[row].item() == pytest.approx(total, rel=1e-4)


def test_a_consistent_model_gives_every_order_one_likelihood(pipeline, monkeypatch):
    """By the chain rule: codes that do not hang on each other make such a model."""
    from scripts.orders import score

    monkeypatch.setattr(
        score, "log_likelihood", lambda model, layout, text, orders: -torch.arange(9.0).expand(3, 9)
    )
    edits = edits_of(pipeline)
    values = [score.region_nll(pipeline, edits, order) for order in ("raster", "random", "spiral")]
    assert values[0].tolist() == [0 + 1 + 3 + 4, 4, 36] and all(torch.equal(values[0], v) for v in values)


def test_a_share_of_no_case_is_shown_as_a_dash(tmp_path, monkeypatch, capsys):
    """Such as the common offset of objects that are removed."""
    from types import SimpleNamespace

    from scripts.orders import score

    rates = {"passed_and_unchanged": 0.5, "nll": 2.0}
    found = {"raster": rates | {"one_offset": 0.25}, "random": rates | {"one_offset": None}}
    monkeypatch.setattr(
        score,
        "load_pipeline",
        lambda *_: SimpleNamespace(token_editor=SimpleNamespace(resolve_mode=lambda mode: mode)),
    )
    monkeypatch.setattr(score, "measure", lambda *_: found)
    (tmp_path / "gpt.pt").write_bytes(b"weights")
    score.score_orders(
        SimpleNamespace(
            gpt_ckpt=tmp_path / "gpt.pt",
            mask_error=0,
            temperature=1.0,
            seed=0,
            device="cpu",
            output=tmp_path / "orders.json",
        )
    )
    said = capsys.readouterr().err
    assert "one offset fits all 0.250; NLL 2.00" in said and "one offset fits all –; NLL 2.00" in said


def test_what_the_flags_refuse():
    with pytest.raises(UserError, match="--gpt-models GPT-XL draws in raster order only"):
        OrderGap(gpt_models=["GPT-XL"])
    with pytest.raises(UserError, match="--orders raster raster: give different ones"):
        OrderGap(orders=["raster", "raster"])
    assert OrderGap(samples=[70, 33, 5]).points == [32, 64]


def test_the_recipes_differ_in_data_size_and_length_alone():
    from scripts.orders.gap import recipe

    config = OrderGap()
    made = [recipe(config, data, "R-GPT-midi", 64000) for data in DATA]
    assert [one.variant for one in made] == [None, "named_offsets"]
    assert all(one.own_cell and one.region_orders == tuple(config.orders) for one in made)
    assert made[0].steps == {"stage1": 2000} and made[0].gpt_model == "R-GPT-midi"


def test_points_of_other_runs_are_shown_beside_and_refused_where_they_do_not_fit(tmp_path):
    from scripts.orders.added import added_rows

    earlier = OrderGap(data=["unspoken"])
    rows = [
        {"data": "unspoken", "model": "R-GPT-mini", "samples": 8000, "order": order}
        | {"seed": earlier.seed, "num_train": earlier.num_train, "num_test": earlier.num_test}
        | {"orders": earlier.orders}
        for order in earlier.orders
    ]
    file = tmp_path / "order_gap.json"
    file.write_text(json.dumps(rows))
    more = {"data": ["named_offsets"], "add": [str(file)]}
    assert added_rows(OrderGap(**more)) == rows
    with pytest.raises(UserError, match="unspoken, R-GPT-mini, 8000 is in this run too"):
        added_rows(OrderGap(add=[str(file)]))
    with pytest.raises(UserError, match="its --num-test is 700; give this run the same"):
        added_rows(OrderGap(num_test=30, **more))
    (tmp_path / "again.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="again.json: .* is in .*order_gap.json too"):
        added_rows(OrderGap(data=["named_offsets"], add=[str(file), str(tmp_path / "again.json")]))
    file.write_text('[{"data": "unspoken"}]')
    with pytest.raises(UserError, match="order_gap.json holds no points of the gap"):
        added_rows(OrderGap(**more))


def test_a_figure_of_every_size_order_and_kind_of_data(tmp_path):
    from scripts.orders.picture import draw_gap, write_table

    rows = [
        {"data": data, "model": model, "samples": samples, "order": order, "num_edits": 100, "passed": 0.9}
        | {"passed_and_unchanged": share, "nll": 3 / share, "nll_standard_error": 0.1}
        for data in DATA
        for number, model in enumerate(OrderGap().gpt_models)
        for samples in OrderGap().points
        for order in OrderGap().orders
        for share in [min(1.0, 0.1 + 0.1 * number + samples / 1e5 + 0.05 * (order == "raster"))]
    ]
    draw_gap(rows, tmp_path / "gap.png")
    assert Image.open(tmp_path / "gap.png").width > 1200
    write_table(rows, tmp_path / "gap.csv")
    with (tmp_path / "gap.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows) and read[0]["passed_and_unchanged"] == str(rows[0]["passed_and_unchanged"])


@pytest.mark.slow
def test_a_tiny_run_writes_numbers_and_figure_and_is_resumed(tmp_path, vq_ckpt):
    flags = ["--results-dir", tmp_path, "--vq-ckpt", vq_ckpt, "--data", "named_offsets", "--num-train", "24"]
    flags += [
        "--gpt-models",
        "R-GPT-tiny",
        "--samples",
        "64",
        "--orders",
        "raster",
        "random",
        "--num-test",
        "8",
    ]
    run_program("scripts/orders/order_gap.py", *flags)
    rows = json.loads((tmp_path / "order_gap.json").read_text())
    assert [(row["order"], row["samples"]) for row in rows] == [("raster", 64), ("random", 64)]
    for row in rows:
        assert 0 <= row["passed_and_unchanged"] <= 1 and 0 < row["num_edits"] <= 8
        assert 0 < row["nll"] < 81 * math.log(16) and row["nll_standard_error"] > 0
    assert Image.open(tmp_path / "order_gap.png").width > 400
    assert len((tmp_path / "order_gap.csv").read_text().splitlines()) == 3
    again = run_program("scripts/orders/order_gap.py", *flags)
    assert (
        again.stderr.count("done already")
        == len(list((tmp_path / "named_offsets" / "steps").rglob("*.json")))
        == 5
    )


def test_a_tokenizer_may_be_a_folder_as_sharded_trainings_write(tmp_path, monkeypatch):
    gap = importlib.import_module("scripts.orders.gap")
    told = []
    monkeypatch.setattr(gap, "report_cost", told.append)
    (tmp_path / "0000001.dcp").mkdir()
    gap.run(OrderGap(vq_ckpt=str(tmp_path / "0000001.dcp"), dry_run=True))
    assert len(told) == 1
    with pytest.raises(UserError, match="0000002.dcp does not exist"):
        gap.run(OrderGap(vq_ckpt=str(tmp_path / "0000002.dcp"), dry_run=True))


def test_a_dry_run_says_how_many_hours(tmp_path, vq_ckpt):
    flags = [
        "--results-dir",
        tmp_path / "none",
        "--vq-ckpt",
        vq_ckpt,
        "--gpt-models",
        "R-GPT-tiny",
        "--dry-run",
    ]
    done = run_program("scripts/orders/order_gap.py", *flags)
    assert (
        "in all about " in done.stdout and "8 trainings" in done.stdout and not (tmp_path / "none").exists()
    )
