from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_networks import (
    TINY_CLIP,
    PlainFeatures,
    plain_cosine,
    random_clip,
    random_dino,
    register_tiny_clip,
    write_networks,
)

from evaluations.editing.registry import EMU_METRICS, MAGICBRUSH_METRICS, load_metric_networks
from evaluations.flags import CLIP_MODEL, WeightFlags
from evaluations.images import load_rgb
from evaluations.metrics.encoders import ClipEncoder, DinoEncoder, full_float32
from evaluations.metrics.weights import read_state_dict
from runtime.errors import UserError
from runtime.files import file_sha256


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> tuple[Path, Path]:
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    Image.effect_mandelbrot((300, 180), (-2, -1.2, 0.8, 1.2), 60).convert("RGB").save(path)
    return path


@pytest.fixture
def nothing_cached(tmp_path, monkeypatch) -> Path:
    """A working directory and a user without any weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def embed(encoder, path: Path) -> np.ndarray:
    return encoder.embed_images(encoder.prepare(load_rgb(path))[None])[0].numpy()


def test_the_real_layout_computes_what_open_clip_does(tmp_path, picture):
    model = open_clip.CLIP(**open_clip.get_model_config(CLIP_MODEL)).eval()
    path = tmp_path / "ViT-B-32.pt"
    torch.save(model.half().state_dict(), path)
    model.float()
    encoder = ClipEncoder.load(CLIP_MODEL, path)
    with torch.no_grad():
        image = open_clip.image_transform(224, is_train=False)(Image.open(picture))
        expected = model.encode_image(image[None])[0].numpy()
        text = model.encode_text(open_clip.tokenize(["a red circle"]))[0]
    np.testing.assert_array_equal(encoder.prepare(load_rgb(picture)).numpy(), image.numpy())
    np.testing.assert_allclose(embed(encoder, picture), expected, atol=1e-5 * np.abs(expected).max())
    torch.testing.assert_close(encoder.embed_texts(["a red circle"])[0], text, rtol=1e-5, atol=1e-5)


def test_dino_takes_its_own_transform(networks, picture):
    encoder = DinoEncoder.load(networks[1])
    assert encoder.describe()["sha256"] == file_sha256(networks[1])
    plain = PlainFeatures()
    assert plain_cosine(embed(encoder, picture), plain.dino_image(picture)) == pytest.approx(1, abs=1e-9)
    assert encoder.prepare(load_rgb(picture)).shape == (3, 224, 224)
    np.testing.assert_array_equal(
        encoder.prepare(load_rgb(picture)), plain.dino_transform(Image.open(picture))
    )


def containers(folder: Path) -> dict[str, Path]:
    """The tiny CLIP in every container that is accepted."""
    model = random_clip()
    state = model.state_dict()
    files = {name: folder / name for name in ("bare.pt", "open_clip.bin", "run.pt", "x.safetensors", "ts.pt")}
    torch.save(state, files["bare.pt"])
    torch.save({name: tensor.half() for name, tensor in state.items()}, files["open_clip.bin"])
    trained = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": trained}, files["run.pt"])
    save_file(dict(state), files["x.safetensors"])
    # As OpenAI's: traced in float16, with the mask and some numbers beside the weights.
    half = random_clip().half()
    half.register_buffer("input_resolution", torch.tensor(224))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = torch.zeros(1, 3, 224, 224).half(), torch.zeros(1, 77, dtype=torch.long)
        torch.jit.trace(half, inputs, strict=False, check_trace=False).save(str(files["ts.pt"]))
    return files


def test_every_container_holds_the_same_network(tmp_path, picture):
    register_tiny_clip(tmp_path / "configs")
    features = {name: embed(ClipEncoder.load(TINY_CLIP, file), picture) for name, file in
                containers(tmp_path).items()}  # fmt: skip
    for name, found in features.items():
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, features["bare.pt"], err_msg=name)


def test_a_dino_training_run_gives_its_teacher(tmp_path):
    state = random_dino().state_dict()
    teacher = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    teacher["module.head.mlp.0.weight"] = torch.zeros(2, 2)
    torch.save({"student": {}, "teacher": teacher, "epoch": 1}, tmp_path / "run.pth")
    loaded = DinoEncoder.load(tmp_path / "run.pth")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.embed_images(image), random_dino()(image), rtol=1e-5, atol=1e-5)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("kind", ["pickle", "archive"])
def test_nothing_in_a_weight_file_is_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    if kind == "pickle":
        torch.save({"a": Evil()}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("evil/constants.pkl", b"")
            archive.writestr("evil/data.pkl", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UserError, match="evil.pt.*read safely"):
        read_state_dict(path)
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["bare.pt", "ts.pt"])
def test_a_file_that_would_unpack_to_more_than_it_has_is_refused(tmp_path, name):
    register_tiny_clip(tmp_path / "configs")
    whole = containers(tmp_path)[name]
    read_state_dict(whole)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for entry in archive.namelist():
            content = archive.read(entry)
            other.writestr(entry, bytes(len(content)) if "/data/" in entry else content)
    with pytest.raises(UserError, match="packed.pt.*would unpack to .* bytes, more than it has"):
        read_state_dict(packed)


def test_foreign_files_are_named(tmp_path):
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\0\0\0")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"lr": 0.1}, tmp_path / "other.pt")
    with zipfile.ZipFile(tmp_path / "cut.pt", "w") as archive:
        archive.writestr("cut/constants.pkl", b"")
    for name in ("page.pt", "torn.safetensors", "list.pt", "other.pt", "cut.pt", "missing.pt"):
        with pytest.raises(UserError, match=name):
            read_state_dict(tmp_path / name)


def test_weights_of_another_network_are_refused_by_name(networks, tmp_path):
    clip, dino = networks
    with pytest.raises(UserError, match="dino.pth.*missing: .*logit_scale.*unexpected: cls_token"):
        ClipEncoder.load(TINY_CLIP, dino)
    state = random_dino().state_dict()
    state["norm.bias"] = state["norm.bias"][:7]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"cut.pth.*misshapen: norm.bias \(file \(7,\), model \(384,\)\)"):
        DinoEncoder.load(tmp_path / "cut.pth")
    with pytest.raises(UserError, match="--clip_ckpt nowhere.pt: no such file"):
        ClipEncoder.load(TINY_CLIP, "nowhere.pt")


def test_another_activation_is_refused(networks):
    with pytest.raises(UserError, match="'ViT-B-32'.*quick GELU.*take ViT-B-32-quickgelu"):
        ClipEncoder.load("ViT-B-32")
    with pytest.raises(UserError, match="'tiny'.*take tiny-quickgelu"):
        ClipEncoder.load("tiny", networks[0])
    with pytest.raises(UserError, match="'ViT-B-33': open_clip does not know it"):
        ClipEncoder.load("ViT-B-33")


@pytest.mark.parametrize("name", ["local-dir:FOLDER", "hf-hub:someone/clip", "tiny-hub-quickgelu"])
def test_a_clip_that_could_bring_code_is_refused(name, tmp_path, networks):
    """open_clip would take its tokenizer from that folder or hub repository, code and all."""
    tiny = open_clip.get_model_config(TINY_CLIP)
    tiny["text_cfg"]["hf_tokenizer_name"] = str(tmp_path)
    (tmp_path / "tiny-hub-quickgelu.json").write_text(json.dumps(tiny))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny}))
    open_clip.add_model_config(tmp_path / "tiny-hub-quickgelu.json")
    with pytest.raises(UserError, match="code.* not run here"):
        ClipEncoder.load(name.replace("FOLDER", str(tmp_path)))


def test_missing_weights_say_what_to_put_where_and_what_runs_without(nothing_cached):
    with pytest.raises(UserError) as caught:
        load_metric_networks(list(MAGICBRUSH_METRICS.values()), MAGICBRUSH_METRICS, WeightFlags())
    message = str(caught.value)
    for part in ("put ViT-B-32.pt into pretrained_models/", "--clip_ckpt", "azureedge", "fbaipublicfiles",
                 "put dino_deitsmall16_pretrain.pth into pretrained_models/", "--dino_ckpt",
                 "metrics that run without: l1, l2, psnr, ssim, "):  # fmt: skip
        assert part in message
    only_dino = [EMU_METRICS["dino"], EMU_METRICS["l1"]]
    with pytest.raises(UserError, match="without: l1, l2, psnr, ssim, lpips, clip-i, clip-t, clip-dir-l14$"):
        load_metric_networks(only_dino, EMU_METRICS, WeightFlags())
    assert load_metric_networks([EMU_METRICS["l1"]], EMU_METRICS, WeightFlags()) == {}


def test_weights_are_looked_for_in_order(networks, nothing_cached):
    root = nothing_cached
    hub = root / "hub" / "models--timm--vit_small_patch16_224.dino"
    places = [
        root / "pretrained_models" / "dino_deitsmall16_pretrain.pth",
        root / "torch" / "hub" / "checkpoints" / "dino_deitsmall16_pretrain.pth",
        hub / "snapshots" / "abc" / "model.safetensors",
    ]
    for place in places:
        place.parent.mkdir(parents=True)
        if place.suffix == ".pth":
            place.symlink_to(networks[1])
        else:
            save_file(random_dino().state_dict(), place)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    for place in places:
        assert DinoEncoder.load().path.resolve() == place.resolve()
        assert DinoEncoder.load().path.samefile(place)
        place.unlink()
    with pytest.raises(UserError, match="hub cache of timm/vit_small_patch16_224.dino"):
        DinoEncoder.load()


@pytest.mark.parametrize(("package", "load"), [("open_clip", ClipEncoder.load), ("timm", DinoEncoder.load)])
def test_a_missing_package_says_what_to_install(networks, monkeypatch, package, load):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    wanted = {"open_clip": "pip install open_clip_torch", "timm": "pip install timm"}[package]
    with pytest.raises(UserError, match=wanted):
        load(path=networks[1])


def test_long_texts_are_cut(networks):
    encoder = ClipEncoder.load(TINY_CLIP, networks[0])
    assert not encoder.is_cut("dog " * 75) and encoder.is_cut("dog " * 76)
    same = encoder.embed_texts(["dog " * 75, "dog " * 200, "dog"])
    torch.testing.assert_close(same[0], same[1])
    assert not torch.allclose(same[0], same[2])


def test_loading_leaves_the_random_state_and_the_precision_of_the_caller(networks):
    state = torch.get_rng_state()
    ClipEncoder.load(TINY_CLIP, networks[0])
    DinoEncoder.load(networks[1])
    assert torch.equal(state, torch.get_rng_state())
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with full_float32("cpu"), pytest.raises(ZeroDivisionError), full_float32("cpu"):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            raise ZeroDivisionError
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    encoder = ClipEncoder.load(TINY_CLIP, networks[0])
    noise = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = encoder.embed_images(noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.embed_images(noise), expected)
