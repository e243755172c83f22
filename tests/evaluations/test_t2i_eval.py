"""COCO FID and CLIP score: the cut, the captions, both numbers against plain computations, the flags."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from conftest import run_threads
from PIL import Image
from test_fid import write_images, write_inception
from torchvision import transforms

from evaluations.metrics.encoders import ClipEncoder
from evaluations.t2i import clip_score
from evaluations.t2i.clip_score import PREFIX
from evaluations.t2i.flags import T2IEvalConfig
from evaluations.t2i.pictures import cut_picture, list_generated, read_captions
from evaluations.t2i.scores import evaluate_run
from runtime.config import parse
from runtime.distributed import ONE_RANK
from runtime.errors import UserError

TINY = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CAPTIONS = [
    "a red bus",
    "A Dog's dinner &amp; more, 42!",
    "  two   spaces\u2028and a line separator\x0b",
    " ".join(["word"] * 71),
    " ".join(["word"] * 72),
    " ".join(["word"] * 73),
    " ".join(["another"] * 90),
    "",
]
# Scripting is the only way to make an Inception file.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


@pytest.fixture
def clip_ckpt(tmp_path, monkeypatch) -> str:
    """A tiny CLIP that open_clip knows, in the place of ViT-B/32, and its weights."""
    config = tmp_path / "tiny-quickgelu.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    monkeypatch.setattr(clip_score, "CLIP_MODEL", "tiny-quickgelu")
    torch.save(tiny_clip().state_dict(), tmp_path / "clip.pt")
    return str(tmp_path / "clip.pt")


def tiny_clip() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(**TINY).eval()


@pytest.fixture
def coco(tmp_path):
    """A folder with fake/images and fake/captions.txt, and ref/val2014."""
    write_images(tmp_path / "fake" / "images", len(CAPTIONS), size=40)
    (tmp_path / "fake" / "captions.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS))
    write_images(tmp_path / "ref" / "val2014", 6, seed=1)
    return tmp_path


def run(coco, world=ONE_RANK, **changes) -> dict:
    paths = {"fake_dir": str(coco / "fake"), "ref_dir": str(coco / "ref"), "fid_cache": str(coco / "cache")}
    return evaluate_run(T2IEvalConfig(**paths | {"eval_res": 24} | changes), world)


def tokens_at_token_level(caption: str) -> torch.Tensor:
    """Start, three tokens of the prefix, the caption's own, cut to 77 with an end token last."""
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    prefix, own = tokenize([PREFIX])[0, 1:4], tokenize([caption])[0]
    tokens = torch.cat([own[:1], prefix, own[1:]])[:77]
    if tokens[76] > 0:
        tokens[76] = 49407
    return tokens


def plain_scores(folder) -> list[float]:
    """The published computation, written out for one image at a time."""
    model = tiny_clip()
    transform = transforms.Compose([
        transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(32),
        transforms.ToTensor(),
        transforms.Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
    ])  # fmt: skip
    scores = []
    for number, caption in enumerate(CAPTIONS):
        picture = Image.open(folder / f"{number}.png").resize((24, 24), Image.Resampling.LANCZOS)
        with torch.no_grad():
            image = model.encode_image(transform(picture)[None])
            text = model.encode_text(tokens_at_token_level(caption)[None])
        scores.append(torch.cosine_similarity(image, text).item())
    return scores


@pytest.mark.parametrize("caption", CAPTIONS)
def test_the_prefix_before_the_words_is_the_prefix_before_the_tokens(caption):
    tokens = open_clip.get_tokenizer("ViT-B-32")([PREFIX + caption])[0]
    assert torch.equal(tokens, tokens_at_token_level(caption))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_clip_score_agrees_with_a_plain_computation(coco, clip_ckpt, batch_size):
    result = run(coco, clip_ckpt=clip_ckpt, fid=False, batch_size=batch_size)
    expected = plain_scores(coco / "fake" / "images")
    assert result["clip_score"] == pytest.approx(np.mean(expected), abs=1e-6) and result["fid"] is None
    items = json.loads((coco / "fake" / "score_items.json").read_text())
    assert [item["metrics"]["clip-t"] for item in items] == pytest.approx(expected, abs=1e-6)
    assert [item["instruction"] for item in items] == CAPTIONS
    page = (coco / "fake" / "score_items.html").read_text()
    assert "A Dog&#39;s dinner &amp;amp; more" in page


def test_only_the_first_so_many_images_take_part_in_the_clip_score(coco, clip_ckpt):
    result = run(coco, clip_ckpt=clip_ckpt, fid=False, how_many=3)
    assert result["clip_score"] == pytest.approx(
        np.mean(plain_scores(coco / "fake" / "images")[:3]), abs=1e-6
    )
    assert result["info"]["num_clip_pairs"] == 3 and result["info"]["num_generated"] == len(CAPTIONS)


def test_both_scores_are_written_as_published(coco, clip_ckpt, capsys):
    inception = write_inception(coco / "inception.pt")
    result = run(coco, clip_ckpt=clip_ckpt, inception_ckpt=inception)
    lines = (coco / "fake" / "score.txt").read_text().splitlines()
    assert lines == [f"CLIP score: {result['clip_score']}", f"FID_24px: {result['fid']}"]
    assert json.loads((coco / "fake" / "score.json").read_text()) == result
    info = result["info"]
    assert info["num_references"] == 6 and len(info["weights"]["clip"]["sha256"]) == 64
    assert info["weights"]["inception"]["path"] == inception and len(info["captions_sha256"]) == 64
    assert len(list((coco / "cache").glob("*.npz"))) == 1
    assert run(coco, inception_ckpt=inception, clip_model4eval="WO")["fid"] == pytest.approx(result["fid"])
    assert (coco / "fake" / "score.txt").read_text().startswith("FID_24px: ")
    assert not list((coco / "fake").glob("score_items.*"))  # those of the run before are not this one's


def test_equal_images_are_at_distance_zero_and_rows_from_below_count_alone(coco):
    inception = write_inception(coco / "inception.pt")
    flags = {"inception_ckpt": inception, "ref_data": "other", "ref_type": "a"}
    write_images(coco / "ref" / "a", len(CAPTIONS), size=40)
    assert run(coco, **flags)["fid"] == pytest.approx(0, abs=1e-6)
    for path in (coco / "ref" / "a").iterdir():
        pixels = np.array(Image.open(path))
        pixels[:10] = 255  # at 24 pixels the first 6 rows, and 2 more within reach of the filter
        Image.fromarray(pixels).save(path)
    assert run(coco, **flags)["fid"] > 1e-4
    assert run(coco, **flags, eval_bottom=12)["fid"] == pytest.approx(0, abs=1e-6)


def test_ranks_share_the_work_with_the_same_result(coco, clip_ckpt, monkeypatch):
    flags = {"clip_ckpt": clip_ckpt, "inception_ckpt": write_inception(coco / "inception.pt")}
    alone = run(coco, **flags)
    monkeypatch.setattr("evaluations.metrics.fid._BLOCK", 2)
    for result in run_threads(2, lambda world: run(coco, world, **flags, batch_size=3)):
        assert result["clip_score"] == pytest.approx(alone["clip_score"], abs=1e-7)
        assert result["fid"] == pytest.approx(alone["fid"], rel=1e-6)


def test_images_are_in_natural_order_and_unequal_numbers_are_refused(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    with pytest.raises(UserError, match="holds no .png files"):
        list_generated(tmp_path)
    for name in ("10.png", "9.png", "000011.png", "8.jpg", "7.PNG"):
        (images / name).touch()
    assert [path.name for path in list_generated(tmp_path)] == ["7.PNG", "9.png", "10.png", "000011.png"]
    images = [images / name for name in ("0.png", "1.png", "000002.png")]
    with pytest.raises(UserError, match="captions.txt.*clip_model4eval WO"):
        read_captions(tmp_path, images)
    (tmp_path / "captions.txt").write_bytes("one\r\ntwo\u2028and a half\n\n".encode())
    assert read_captions(tmp_path, images) == ["one", "two\u2028and a half", ""]
    (tmp_path / "captions.txt").write_bytes("\ufeffone\ntwo\nthree\n".encode())
    assert read_captions(tmp_path, images)[0] == "one"  # CLIP is not told of a byte-order mark
    with pytest.raises(UserError, match="holds 3 captions, but .*images 2 images.* Missing: 000002.png.$"):
        read_captions(tmp_path, images[:2])
    surplus = [*images, tmp_path / "images" / "000003.png"]  # as LlamaGen's sampler leaves them
    with pytest.raises(UserError, match="Not in captions.txt: 000003.png. LlamaGen.* last batch.*delete"):
        read_captions(tmp_path, surplus)
    (tmp_path / "captions.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="captions.txt: cannot be read"):
        read_captions(tmp_path, images)


@pytest.mark.parametrize("extra", ["8.png", "000004.png", "preview.png"])
def test_captions_do_not_shift_when_another_image_stands_in_for_a_missing_one(coco, clip_ckpt, extra):
    images = coco / "fake" / "images"
    (images / "5.png").rename(images / extra)
    with pytest.raises(UserError, match="Missing: 000005.png. Not in captions.txt: 0*[48p].*png.$"):
        run(coco, clip_ckpt=clip_ckpt, fid=False)


@pytest.mark.parametrize("size", [(31, 20), (20, 31), (25, 20), (20, 20)])
def test_the_cut_is_torchvisions_centre_crop_and_pils_lanczos(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    square = transforms.functional.center_crop(image, min(size)).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(cut_picture(np.asarray(image), 16), np.asarray(square))
    np.testing.assert_array_equal(cut_picture(np.asarray(image), 16, 5), np.asarray(square)[11:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_bottom": 25}, "--eval_bottom 25: between 1 and --eval_res 24"),
        ({"eval_bottom": 0}, "--eval_bottom 0"),
        ({"how_many": 0}, "--how-many"),
        ({"ref_dir": None}, "give --ref_dir"),
        ({"ref_data": "imagenet2012"}, "give --ref_type"),
        ({"fid": False, "clip_model4eval": "WO"}, "nothing to measure"),
        ({"clip_model4eval": "WO"}, "inception-2015-12-05.pt.*do without FID: --no-fid"),
        ({"fid": False, "clip_ckpt": "lost.pt"}, "lost.pt.*do without CLIP: --clip_model4eval WO"),
        ({"fid": False, "clip_model4eval": "ViT-G/14"}, "ViT-g-14.*pretrained_models.*--clip_model4eval WO"),
        ({"ref_dir": "nowhere"}, "nowhere/val2014 is not a folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(coco, monkeypatch, changes, message):
    monkeypatch.chdir(coco)
    with pytest.raises(UserError, match=message):
        run(coco, **changes)
    assert not (coco / "fake" / "score.txt").exists()


def test_an_infinite_similarity_names_the_pair(coco, clip_ckpt, monkeypatch):
    broken = torch.full((1, 12), torch.nan)
    monkeypatch.setattr(ClipEncoder, "embed_texts", lambda self, texts: broken.expand(len(texts), 12))
    with pytest.raises(UserError, match="0.png with 'a red bus' is nan"):
        run(coco, clip_ckpt=clip_ckpt, fid=False)


def test_the_larger_clip_loads_from_its_own_file(coco, monkeypatch):
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: TINY if name == "ViT-g-14" else None)
    torch.save(tiny_clip().state_dict(), coco / "g.pt")
    result = run(coco, clip_model4eval="ViT-G/14", clip_ckpt=str(coco / "g.pt"), fid=False)
    assert result["clip_score"] == pytest.approx(np.mean(plain_scores(coco / "fake" / "images")), abs=1e-6)
    assert result["info"]["weights"]["clip"]["model"] == "ViT-g-14"


@pytest.mark.parametrize("dash", ["-", "_"])
def test_the_published_flags(dash):
    flags = (
        "fake_dir ref_dir ref_data ref_type how_many clip_model4eval eval_res batch_size eval_bottom device"
    )
    values = ["f", "r", "coco2014", "test", 5, "ViT-G/14", 512, 4, 128, "cpu"]
    words = [
        word
        for flag, value in zip(flags.split(), values, strict=True)
        for word in ("--" + flag.replace("_", dash), str(value))
    ]
    config = parse(T2IEvalConfig, words)
    assert [getattr(config, flag) for flag in flags.split()] == values
