"""BrushBench and EditBench: their layout and masks, and the numbers of the published evaluator.

`tests/reference/brush_bench.json` holds what the functions of BrushNet's
examples/brushnet/evaluate_brushnet.py gave for the items that `make_items` makes, with torchmetrics' LPIPS
and the weights that `write_weights` writes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_pie_eval import config, noise, write_weights
from test_pie_published import REGIONS, runs_of
from tiny_networks import TINY_CLIP, random_clip
from torchvision.transforms import functional as TF

from dataset.testsets.brush_bench import prepare_brush_bench, read_brush_mapping
from dataset.testsets.magicbrush import read_sessions
from dataset.testsets.region_sets import load_region_set, load_scored_region
from evaluations.editing.pie_scores import evaluate_run
from runtime.errors import UserError

PUBLISHED = json.loads((ROOT / "tests" / "reference" / "brush_bench.json").read_text())
NAMES = ("a strip", "a column and a disc", "all but a pixel", "the source itself", "a black result")


def runs_from_1(region: np.ndarray) -> list[int]:
    """As published: starts count from 1."""
    return [n + 1 - number % 2 for number, n in enumerate(runs_of(region))]


def entry(number: int, region: np.ndarray) -> dict:
    masks = {"inpainting_mask": runs_from_1(region), "outpainting_mask": runs_from_1(~region)}
    return {"image": f"images/{number:04d}.jpg", "caption": f"a cake, number {number}", **masks}


def make_items(root: Path) -> None:
    """The published layout in `published`, results in `out` as published code writes them, and weights."""
    mapping = {}
    for number, name in enumerate(NAMES):
        mapping[f"{number:04d}"] = item = entry(number, REGIONS[name])
        source = noise(number)
        result = Image.blend(source, noise(50 + number), 0.3)
        if name == "the source itself":
            result = source
        if name == "a black result":
            result = Image.new("RGB", source.size)
        for folder, picture in (("published", source), ("out", result)):
            (root / folder / "images").mkdir(parents=True, exist_ok=True)
            picture.save(root / folder / item["image"], format="PNG")
        Image.new("RGB", source.size).save(root / "out" / item["image"].replace(".jpg", "_masked.jpg"))
    (root / "published" / "mapping_file.json").write_text(json.dumps(mapping))
    write_weights(root)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("brush")
    make_items(root)
    prepare_brush_bench(root / "published", root / "brush", "inpainting_mask")
    return root


@pytest.fixture(scope="module")
def scores(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluations.metrics.encoders.CLIP_L14_MODEL", TINY_CLIP)
        result = evaluate_run(config(data, pie_path=str(data / "brush")))
    return result, json.loads((data / "scores" / "evaluation_items.json").read_text())


def measured(scores, number: int, row: str = "generated") -> dict:
    (found,) = (i["metrics"] for i in scores[1] if i["row"] == row and i["session"] == f"{number:04d}")
    return found


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_the_numbers_are_the_published_evaluators(scores, number):
    ours, published = measured(scores, number), PUBLISHED[f"{number:04d}"]
    assert ours["mse_kept"] == pytest.approx(published["mse"], rel=1e-5, abs=1e-9)
    assert ours["lpips_kept"] == pytest.approx(published["lpips"], rel=1e-5, abs=1e-5)
    equal = published["psnr"] == 1000  # of equal pictures; no mean of ours survives that
    assert ours["psnr_kept"] == (100 if equal else pytest.approx(published["psnr"], rel=1e-5))
    assert equal == (NAMES[number] == "the source itself")


def test_clip_sees_the_whole_result_beside_its_caption(scores, data):
    import open_clip

    image = Image.open(data / "out" / "images" / "0001.jpg")
    small = TF.center_crop(TF.resize(image, 224, TF.InterpolationMode.BICUBIC), 224)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    network, tokenizer = random_clip(), open_clip.get_tokenizer(TINY_CLIP)
    with torch.no_grad():
        seen = network.encode_image(TF.normalize(TF.to_tensor(small), mean, std)[None])[0]
        said = network.encode_text(tokenizer(["a cake, number 1"]))[0]
    expected = max(100 * float(seen @ said / (seen.norm() * said.norm())), 0)
    assert measured(scores, 1)["clip_similarity"] == pytest.approx(expected, abs=1e-4)


def test_rows_page_and_what_is_not_computed(scores, data):
    result, _ = scores
    assert measured(scores, 0, "copy_source")["mse_kept"] == 0
    assert result["copy_source"]["all_turn"]["psnr_kept"] == 100 and "tokenizer_ceiling" not in result
    assert (
        result["info"]["data_set"] == "a set in BrushBench's layout, 5 items (of 600 or 240), inpainting_mask"
    )
    assert result["by_type"] == {} and result["info"]["not_computed"].keys() == {
        "Image Reward", "HPS V2.1", "Aesthetic Score"
    }  # fmt: skip
    table = (data / "scores" / "evaluation_table.txt").read_text()
    assert "not computed here: HPS V2.1" in table and "mse_kept" in table
    assert (data / "scores" / "evaluation_items.html").exists()


def test_masks_inside_and_outside(data, tmp_path):
    prepare_brush_bench(data / "published", tmp_path / "outside", "outpainting_mask")
    regions = {}
    for folder in (data / "brush", tmp_path / "outside"):
        kind, sessions, _ = load_region_set(folder)
        regions[folder.name] = [load_scored_region(kind, folder, session) for session in sessions]
    for name, inside, outside in zip(NAMES, *regions.values(), strict=True):
        assert np.array_equal(inside, REGIONS[name]) and np.array_equal(outside, ~inside)
    with pytest.raises(
        UserError, match=r"0000-mask1.png: marks another region .* choose another --output-dir"
    ):
        prepare_brush_bench(data / "published", tmp_path / "outside", "inpainting_mask")
    prepare_brush_bench(data / "published", tmp_path / "outside", "outpainting_mask")  # goes on
    (turn,) = read_sessions(data / "brush")["0000"]
    assert turn.instruction == "a cake, number 0"


@pytest.fixture
def broken(tmp_path):
    """`broken(change)` prepares a set of one item, changed."""

    def prepare(change, mask_key="inpainting_mask", size=(512, 512)):
        item = entry(0, REGIONS["a strip"])
        change(item)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / "images" / "0000.jpg")
        mapping = {"1": item, "2": entry(0, REGIONS["a strip"])} if "again" in item else {"1": item}
        (tmp_path / "mapping_file.json").write_text(json.dumps(mapping))
        prepare_brush_bench(tmp_path, tmp_path / "out", mask_key)

    return prepare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: item.update(image="images/no.jpg"), r"images/no.jpg: no such file"),
        (lambda item: item.update(image="../0000.jpg"), r"item '1': ../0000.jpg leads out of"),
        (lambda item: item.update(caption=" "), r"item '1': needs a text under the key 'caption', got ' '"),
        (lambda item: item.pop("inpainting_mask"), r"it has outpainting_mask: give one with --mask-key"),
        (
            lambda item: item.update(inpainting_mask=[1, 2, 3]),
            r"must be a list of starts, from 1, and lengths",
        ),
        (lambda item: item.update(inpainting_mask=[0, 5]), r"starts, from 1, and lengths, got \[0, 5\]"),
        (lambda item: item.update(inpainting_mask="x"), r"starts, from 1, and lengths, got x"),
        (lambda item: item.update(inpainting_mask=[300_000, 5]), r"starts at 300000, .* has 262144 pixels"),
        (lambda item: item.update(again=True), r"item '2': images/0000.jpg is the picture of item '1' too"),
    ],
    ids=[
        "missing picture",
        "outside",
        "no caption",
        "no mask",
        "odd",
        "from 0",
        "no list",
        "larger",
        "twice",
    ],
)
def test_what_is_wrong_in_an_item_is_named(broken, change, message):
    with pytest.raises(UserError, match=message):
        broken(change)


def test_what_is_wrong_in_files_is_named(broken, data, tmp_path):
    with pytest.raises(UserError, match=r"0000.jpg: 500x512, but the masks are for 512x512"):
        broken(lambda item: None, size=(500, 512))
    mapping = tmp_path / "mapping_file.json"
    for content, message in (
        ("{", "not JSON"),
        ("[]", r"must be an object \{...\}, got list"),
        ("{}", "holds no item"),
        ('{"1": {}, "1": {}}', "the key '1' is there twice"),
        ('{"1": 3}', "item '1': needs a text under the key 'image'"),
    ):
        mapping.write_text(content)
        with pytest.raises(UserError, match=f"mapping_file.json: .*{message}"):
            read_brush_mapping(mapping, "inpainting_mask")
    with pytest.raises(UserError, match=r"lacks|Missing: 0000/0000_1.png"):
        (tmp_path / "none").mkdir()
        options = {"pie_path": str(data / "brush"), "generated_path": [str(tmp_path / "none")]}
        evaluate_run(config(data, metric="kept", **options))


def test_a_mask_that_marks_nothing(broken, tmp_path):
    """Editors may change everything; as published, all is scored as kept."""
    broken(lambda item: item.update(inpainting_mask=[]))
    kind, (session,), listing = load_region_set(tmp_path / "out")
    assert listing["1"] == {
        "image_path": "images/0000.jpg",
        "mask_key": "inpainting_mask",
        "marks_nothing": True,
    }
    assert load_scored_region(kind, tmp_path / "out", session).all()  # what the editor is given
    assert not load_scored_region(kind, tmp_path / "out", session, marks_nothing=True).any()
    mask = tmp_path / "out" / "images" / "1" / "1-mask1.png"
    Image.open(mask).resize((256, 256)).save(mask)
    with pytest.raises(UserError, match=r"1-mask1.png: 256x256, but the set's masks are 512x512"):
        load_scored_region(kind, tmp_path / "out", session)
