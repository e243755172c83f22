"""Results of the benchmarks with judges of their own: where they are, and that a second run makes none."""

from __future__ import annotations

import json

import pytest
from pictures import picture, png
from PIL import Image
from preparation_data import cell, snapshot, write_parquet

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.sample.flags import SampleJudged
from autoregressive.sample.judged.edits import sample_judged
from runtime.config import parse
from runtime.distributed import ONE_RANK


@pytest.fixture
def sample(vq_ckpt, gpt_ckpts, t5_dir, tmp_path):
    models = ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", gpt_ckpts["edit"], "--t5-path", t5_dir, "--device", "cpu"]

    def run(*words):
        flags = [*models, "--output-dir", tmp_path / "out", *words]
        sample_judged(parse(SampleJudged, [str(flag) for flag in flags]), ONE_RANK)
        return {name for name in snapshot(tmp_path / "out") if name.endswith((".png", ".json"))}

    return run


def test_gedit_bench(sample, tmp_path):
    rows = [
        {
            "key": f"k{number}", "task_type": "style_change", "instruction": "a red circle",
            "instruction_language": language,
            "input_image_raw": cell(png(picture(number, 24 + number))),
            "input_image": cell(png(picture(number, 16))),
        }
        for number, language in enumerate(["en", "cn", "en"])
    ]  # fmt: skip
    write_parquet(tmp_path / "set" / "a.parquet", rows, ("input_image_raw", "input_image"))
    words = ("--benchmark", "gedit", "--data-path", tmp_path / "set")
    made = sample(*words)
    results = {f"fullset/style_change/en/k{n}.png" for n in (0, 2)}
    copies = {name.replace(".png", "_SRCIMG.png") for name in results}
    assert made == results | copies | {f"regions/{name}" for name in results} | {"samples.json"}
    assert Image.open(tmp_path / "out" / "fullset/style_change/en/k2.png").size == (26, 26)
    shown = Image.open(tmp_path / "out" / "fullset/style_change/en/k2_SRCIMG.png")
    assert shown.tobytes() == picture(2, 16).tobytes()
    before = snapshot(tmp_path / "out")
    before.pop("config.yaml")
    sample(*words)
    after = snapshot(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    both = sample(*words, "--languages", "en", "cn")
    assert "fullset/style_change/cn/k1.png" in both and results < both


def test_imgedit_bench(sample, tmp_path, monkeypatch):
    asked = []
    real = EditingPipeline.edit

    def noted(self, images, texts, masks=None, **options):
        asked.extend(masks)
        return real(self, images, texts, masks, **options)

    monkeypatch.setattr(EditingPipeline, "edit", noted)
    root = tmp_path / "singleturn"
    root.mkdir()
    picture(1, 24).save(root / "a.png")
    listing = {key: {"id": "a.png", "prompt": "a blue star", "edit_type": "add"} for key in ("97", "1082")}
    (root / "singleturn.json").write_text(json.dumps(listing))
    words = ("--benchmark", "imgedit", "--data-path", root)
    made = sample(*words)
    assert made == {
        "images/97.png", "images/1082.png", "regions/97.png", "regions/1082.png", "edits.json", "samples.json"
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "edits.json").read_text()) == listing
    assert asked == [None, None]  # the whole picture
    sample(*words, "--auto-mask")
    assert asked[2:] == ["auto", "auto"]
