"""PIE-Bench: its layout, its masks, and each metric against a slow formula of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tiny_networks import TINY_CLIP, random_clip, register_tiny_clip
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import squeezenet1_1
from torchvision.transforms import functional as TF

from dataset.records.masks import load_magicbrush_mask, marked
from dataset.testsets.magicbrush import read_descriptions, read_sessions
from dataset.testsets.pie_bench import prepare_pie_bench, read_mapping
from dataset.testsets.region_sets import decode_runs, with_border
from evaluations.editing.flags import PieEvalConfig
from evaluations.editing.pie_eval import main
from evaluations.editing.pie_scores import evaluate_run
from runtime.errors import UserError

TINY_DINO = "vit_tiny_patch16_224.augreg_in21k"
BOX = (slice(100, 300), slice(200, 420))  # rows, columns of the first item's region


def runs_of_box() -> list[int]:
    return [n for row in range(BOX[0].start, BOX[0].stop)
            for n in (512 * row + BOX[1].start, BOX[1].stop - BOX[1].start)]  # fmt: skip


def entry(path: str, kind: str, mask: list[int]) -> dict:
    return {
        "image_path": path,
        "original_prompt": "a [round] cake on a table",
        "editing_prompt": "a [square] cake on a table",
        "editing_instruction": "make the cake square",
        "editing_type_id": kind,
        "blended_word": "cake cake",
        "mask": mask,
    }


def noise(seed: int) -> Image.Image:
    """Smooth and grainy, in colours."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((512, 512), Image.BICUBIC)
    grain = rng.integers(-20, 21, (512, 512, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pie")
    mapping = {
        "000000000000": entry("0_random_140/000000000000.jpg", "0", runs_of_box()),
        "912000000000": entry("9_change_style_80/2_natural/912000000000.jpg", "9", [0, 512 * 512 + 7]),
    }
    for seed, item in enumerate(mapping.values()):
        path = root / "published" / "annotation_images" / item["image_path"]
        path.parent.mkdir(parents=True)
        noise(seed).save(path, quality=95)
    (root / "published" / "mapping_file.json").write_text(json.dumps(mapping))
    prepare_pie_bench(root / "published", root / "pie")
    for seed, item in enumerate(mapping.values()):
        edited = root / "out" / item["image_path"]
        edited.parent.mkdir(parents=True)
        source = Image.open(root / "published" / "annotation_images" / item["image_path"]).convert("RGB")
        Image.blend(source, noise(10 + seed), 0.2).save(edited.with_suffix(".png"))
    write_weights(root)
    return root


def write_weights(root) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dino = timm.create_model(TINY_DINO, pretrained=False, num_classes=0)
        for parameter in dino.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        squeeze = squeezenet1_1(weights=None)
        linear = {
            f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1)
            for n, width in enumerate((64, 128, 256, 384, 384, 512, 512))
        }
    torch.save(dino.state_dict(), root / "dino.pth")
    torch.save(squeeze.state_dict(), root / "squeeze.pth")
    torch.save(linear, root / "linear.pth")
    register_tiny_clip(root / "configs")
    torch.save(random_clip().state_dict(), root / "clip.pt")


def config(root, **changes) -> PieEvalConfig:
    values = {
        "generated_path": [str(root / "out")],
        "pie_path": str(root / "pie"),
        "save_path": str(root / "scores"),
        "clip_l14_ckpt": str(root / "clip.pt"),
        "dino_b8_ckpt": str(root / "dino.pth"),
        "squeeze_ckpt": str(root / "squeeze.pth"),
        "lpips_squeeze_ckpt": str(root / "linear.pth"),
        "num_workers": 1,
    }
    return PieEvalConfig(**values | changes)


@pytest.fixture(scope="module")
def scores(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluations.metrics.structure.MODEL", TINY_DINO)
        patch.setattr("evaluations.metrics.encoders.CLIP_L14_MODEL", TINY_CLIP)
        return evaluate_run(config(data)), json.loads((data / "scores" / "evaluation_items.json").read_text())


@pytest.fixture(scope="module")
def pair(data):
    """The first item: source, result, the two as (1, 3, 512, 512) with the box black, and the box."""
    source = Image.open(data / "published/annotation_images/0_random_140/000000000000.jpg").convert("RGB")
    result = Image.open(data / "out/0_random_140/000000000000.png")
    edited = np.zeros((512, 512, 1))
    edited[BOX] = 1
    edited[0] = edited[-1] = edited[:, 0] = edited[:, -1] = 1
    parts = [
        torch.from_numpy((np.asarray(image) / 255 * (1 - edited)).astype(np.float32)).permute(2, 0, 1)[None]
        for image in (source, result)
    ]
    return source, result, parts, edited


def measured(scores, name, row="generated"):
    _, items = scores
    (value,) = (i["metrics"][name] for i in items if i["row"] == row and i["session"] == "000000000000")
    return value


def test_runs_are_starts_and_lengths_row_by_row():
    marks = decode_runs([1, 2, 6, 3, 15, 9], size=4)
    assert marks.astype(int).tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert with_border(np.zeros((4, 4), bool)).sum() == 12


def test_the_prepared_set_is_one_that_the_sampler_reads(data):
    sessions = read_sessions(data / "pie")
    (turn,) = sessions["000000000000"]
    assert turn.instruction == "make the cake square"
    region = marked(load_magicbrush_mask(str(turn.mask_path))).numpy().reshape(512, 512)
    wanted = np.zeros((512, 512), bool)
    wanted[BOX] = True
    assert (region == wanted).all()
    assert np.array_equal(np.asarray(Image.open(turn.input_path)), np.asarray(Image.open(turn.output_path)))
    texts = read_descriptions(data / "pie", "global")["000000000000"]
    assert list(texts.values()) == ["a round cake on a table", "a square cake on a table"]


def test_pixel_metrics_are_those_of_torchmetrics_on_blackened_images(scores, pair):
    source, result = pair[2]
    assert measured(scores, "psnr_unedit_part") == pytest.approx(
        peak_signal_noise_ratio(source, result, data_range=1.0).item(), abs=1e-5
    )
    mse = (source - result).square().mean().item()
    assert measured(scores, "mse_unedit_part") == pytest.approx(mse, abs=1e-8)
    # Until version 1.4.1, with which results were published, torchmetrics left out a border of 5 pixels.
    _, windows = structural_similarity_index_measure(source, result, data_range=1.0, return_full_image=True)
    ssim = windows[..., 5:-5, 5:-5].double().mean().item()
    assert measured(scores, "ssim_unedit_part") == pytest.approx(ssim, abs=1e-5)


def test_lpips_is_that_of_torchmetrics(scores, pair, data):
    network = _LPIPS(pretrained=False, net="squeeze", pnet_rand=True).eval()
    features = torch.load(data / "squeeze.pth")
    for part in network.net.slices:
        names = {f"{i}.{name}": f"features.{i}.{name}" for i, layer in part.named_children()
                 for name in layer.state_dict()}  # fmt: skip
        part.load_state_dict({name: features[key] for name, key in names.items()})
    network.load_state_dict(torch.load(data / "linear.pth"), strict=False)
    source, result = pair[2]
    with torch.no_grad():
        expected = network(2 * source - 1, 2 * result - 1).item()
    assert expected > 0.01
    assert measured(scores, "lpips_unedit_part") == pytest.approx(expected, abs=1e-5)


def test_structure_distance_is_that_of_keys_computed_block_by_block(scores, pair, data):
    network = timm.create_model(TINY_DINO, pretrained=False, num_classes=0).eval()
    network.load_state_dict(torch.load(data / "dino.pth"))

    def similarity(image: Image.Image) -> torch.Tensor:
        levels = torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1)
        small = TF.resize(levels, [224, 224], antialias=False)
        x = TF.normalize(small, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]
        x = torch.cat([network.cls_token, network.patch_embed(x)], dim=1) + network.pos_embed
        for block in network.blocks[:-1]:
            x = block(x)
        last = network.blocks[-1]
        heads = last.attn.qkv(last.norm1(x)).reshape(197, 3, 3, 64)[:, 1]
        keys = torch.cat([heads[:, head] for head in range(3)], dim=1).double()
        return torch.stack([torch.cosine_similarity(keys, key[None]) for key in keys])

    with torch.no_grad():
        expected = (similarity(pair[0]) - similarity(pair[1])).square().mean().item()
    assert expected > 1e-5
    assert measured(scores, "structure_distance") == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert measured(scores, "structure_distance", "copy_source") == 0


def test_clip_sees_the_whole_and_the_edited_part(scores, pair):
    import open_clip

    network, tokenizer = random_clip(), open_clip.get_tokenizer(TINY_CLIP)

    def score(image: Image.Image, text: str) -> float:
        small = TF.center_crop(TF.resize(image, 224, TF.InterpolationMode.BICUBIC), 224)
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        with torch.no_grad():
            seen = network.encode_image(TF.normalize(TF.to_tensor(small), mean, std)[None])[0]
            said = network.encode_text(tokenizer([text]))[0]
        return max(100 * float(seen @ said / (seen.norm() * said.norm())), 0)

    source, result, _, edited = pair
    part = Image.fromarray((np.asarray(result) * edited).astype(np.uint8))
    target = "a square cake on a table"
    for name, image, text in (
        ("clip_similarity_source_image", source, "a round cake on a table"),
        ("clip_similarity_target_image", result, target),
        ("clip_similarity_target_image_edit_part", part, target),
    ):
        assert measured(scores, name) == pytest.approx(score(image, text), abs=1e-4), name  # of 100


def test_what_is_edited_everywhere_has_no_unedited_part(scores, data):
    result, items = scores
    (style,) = (i["metrics"] for i in items if i["row"] == "generated" and i["session"] == "912000000000")
    assert style["psnr_unedit_part"] is None and style["lpips_unedit_part"] is None
    assert style["structure_distance"] > 0
    assert result["by_type"].keys() == {"random", "change style"}
    assert result["info"]["num_pairs_defined"]["all_turn"]["ssim_unedit_part"] == 1
    assert result["copy_source"]["all_turn"]["mse_unedit_part"] == 0
    assert "change style" in (data / "scores" / "evaluation_table.txt").read_text()
    assert (data / "scores" / "evaluation_items.html").exists()


def test_the_samplers_names_and_a_ceiling_serve_too(data, tmp_path):
    for identity in ("000000000000", "912000000000"):
        for folder, name in (("images", f"{identity}_1.png"), ("ceiling", f"{identity}-output1.png")):
            (tmp_path / folder / identity).mkdir(parents=True)
            noise(5).resize((256, 256)).save(tmp_path / folder / identity / name)
    changes = {"generated_path": [str(tmp_path / "images")], "ceiling_path": str(tmp_path / "ceiling")}
    result = evaluate_run(config(data, save_path=str(tmp_path / "scores"), metric="unedited", **changes))
    same = (result["all_turn"], result["tokenizer_ceiling"]["all_turn"])
    assert same[0] == same[1] and 5 < same[0]["psnr_unedit_part"] < 30


@pytest.mark.parametrize("other", ["a/1.png", "./a/1.jpg", "a/../a/1.jpg"])
def test_two_items_never_share_a_result(tmp_path, other):
    """A result may have another suffix than its picture: both of these would be scored by one a/1.png."""
    (tmp_path / "annotation_images" / "a").mkdir(parents=True)
    for name in ("a/1.jpg", "a/1.png"):
        noise(1).save(tmp_path / "annotation_images" / name)
    items = {"1": entry("a/1.jpg", "0", [1, 2]), "2": entry(other, "0", [1, 2])}
    (tmp_path / "mapping_file.json").write_text(json.dumps(items))
    with pytest.raises(UserError, match=f"item '2': {other} is the picture of item '1' too"):
        prepare_pie_bench(tmp_path, tmp_path / "out")


def test_what_is_wrong_is_named(data, tmp_path, capsys):
    with pytest.raises(UserError, match=r"2 generated images expected, 0 found. Missing: 000000000000/"):
        (tmp_path / "none").mkdir()
        evaluate_run(config(data, generated_path=[str(tmp_path / "none")], metric="unedited"))
    with pytest.raises(UserError, match="prepare_pie_bench.py"):
        evaluate_run(config(data, pie_path=str(tmp_path), metric="unedited"))
    with pytest.raises(UserError, match="unknown metric 'psnr'; available: structure, unedited, lpips, clip"):
        evaluate_run(config(data, metric="psnr"))
    with pytest.raises(UserError, match="without: unedited, lpips, clip"):
        evaluate_run(config(data, dino_b8_ckpt="nowhere.pth", metric="structure"))
    (tmp_path / "mapping_file.json").write_text(json.dumps({"1": entry("1.jpg", "0", [1, 2, 3])}))
    with pytest.raises(UserError, match="item '1': mask must be a list of starts and lengths"):
        read_mapping(tmp_path / "mapping_file.json")
    (tmp_path / "mapping_file.json").write_text(json.dumps({"1": entry("1.jpg", "0", [1, 2, 512 * 512, 3])}))
    with pytest.raises(UserError, match="item '1': a run of mask starts at 262144, but a picture of 512x512"):
        read_mapping(tmp_path / "mapping_file.json")
    (tmp_path / "mapping_file.json").write_text(json.dumps({"1": entry("../1.jpg", "0", [1, 2])}))
    with pytest.raises(UserError, match="leads out of"):
        prepare_pie_bench(tmp_path, tmp_path / "out")
    for identity in ("../../evil", "a/b", "", "."):
        (tmp_path / "mapping_file.json").write_text(json.dumps({identity: entry("1.jpg", "0", [1, 2])}))
        with pytest.raises(UserError, match="an id names a folder here; it must be a plain folder name"):
            prepare_pie_bench(tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit):
        main()
