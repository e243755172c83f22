"""LPIPS: its weight files, its two forms, and its gradient."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.errors import UserError
from tokenizer.tokenizer_image import lpips_files
from tokenizer.tokenizer_image.lpips import LPIPS, load_lpips
from tokenizer.tokenizer_image.lpips_files import find_lpips_weights

NARROW = ((4, 4), (4, 4), (6, 6, 6), (6, 6, 6), (6, 6, 6))


def write_lpips_weights(folder: Path, stages=NARROW) -> tuple[Path, Path]:
    """Random weights in the published layout; LPIPS.STAGES has to be `stages` to load them."""
    generator = torch.Generator().manual_seed(0)
    convs, position, channels = {}, 0, 3
    for i, widths in enumerate(stages):
        position += i > 0
        for width in widths:
            weight = torch.randn(width, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
            bias = torch.randn(width, generator=generator) / 10
            convs |= {f"features.{position}.weight": weight, f"features.{position}.bias": bias}
            position, channels = position + 2, width
    linear = {
        f"lin{i}.model.1.weight": torch.rand(1, widths[-1], 1, 1, generator=generator)
        for i, widths in enumerate(stages)
    }
    torch.save(convs, folder / "vgg16.pth")
    torch.save(linear, folder / "vgg.pth")
    return folder / "vgg16.pth", folder / "vgg.pth"


@pytest.fixture
def weights(tmp_path, monkeypatch) -> tuple[Path, Path]:
    monkeypatch.setattr(LPIPS, "STAGES", NARROW)
    return write_lpips_weights(tmp_path)


def expected_maps(weights: tuple[Path, Path], image: Tensor, other: Tensor) -> list[Tensor]:
    """The stages' maps of one (3, H, W) pair, written out from the weight files."""
    convs, linear = (torch.load(path) for path in weights)
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    both = [(x - mean[:, None, None]) / std[:, None, None] for x in (image, other)]
    maps, position = [], 0
    for i, widths in enumerate(NARROW):
        if i:
            both = [F.max_pool2d(x, 2) for x in both]
            position += 1
        for _ in widths:
            kernel = convs[f"features.{position}.weight"], convs[f"features.{position}.bias"]
            both = [F.conv2d(x[None], *kernel, padding=1)[0].relu() for x in both]
            position += 2
        a, b = (F.normalize(x, dim=0) for x in both)
        maps.append((linear[f"lin{i}.model.1.weight"][0] * (a - b) ** 2).sum(dim=0))
    return maps


def test_both_forms_agree_with_the_definition(weights):
    network = LPIPS(*weights)
    images, others = torch.rand(2, 3, 3, 34, 50, generator=torch.Generator().manual_seed(1)) * 2 - 1
    others[2] = images[2]
    distance, around = network(images, others), network.spatial(images, others)
    assert distance.shape == (3,) and around.shape == (3, 1, 34, 50)
    assert distance[2] == 0 and not around[2].any()
    for index in range(2):
        maps = expected_maps(weights, images[index], others[index])
        torch.testing.assert_close(distance[index], sum(m.mean() for m in maps))
        large = [F.interpolate(m[None, None], (34, 50), mode="bilinear", align_corners=False) for m in maps]
        torch.testing.assert_close(around[index], sum(large)[0])


def test_the_published_sizes_load_and_wrong_files_are_named(tmp_path):
    vgg, linear = write_lpips_weights(tmp_path, LPIPS.STAGES)
    assert "features.28.weight" in torch.load(vgg)
    a = torch.rand(1, 3, 16, 16)
    assert 0 < load_lpips(vgg, linear)(a, -a) < 100
    with pytest.raises(UserError, match="lin0.model.1.weight should be"):
        LPIPS(vgg, vgg)
    with pytest.raises(UserError, match="features.0.weight should be.*found nothing"):
        LPIPS(linear, linear)
    with pytest.raises(UserError, match="lost.pth.*torchvision's VGG16"):
        LPIPS(tmp_path / "lost.pth", linear)


def test_the_gradient_is_finite_where_all_features_are_zero(weights):
    convs = torch.load(weights[0])
    torch.save({name: torch.zeros_like(value) for name, value in convs.items()}, weights[0])
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    LPIPS(*weights)(image, torch.rand(1, 3, 16, 16)).sum().backward()
    assert image.grad.isfinite().all()


def test_images_too_small_for_four_poolings_are_refused(weights):
    with pytest.raises(UserError, match="16 pixels a side or more, got 20x15"):
        LPIPS(*weights)(torch.zeros(1, 3, 15, 20), torch.zeros(1, 3, 15, 20))


def test_weights_are_found_in_the_usual_places_or_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="VGG16: put it at pretrained_models/vgg16-397923af.pth or .*hub"):
        find_lpips_weights()
    vgg = tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    vgg.parent.mkdir(parents=True)
    vgg.touch()
    with pytest.raises(UserError, match="linear layers.* put it at pretrained_models/vgg.pth"):
        find_lpips_weights()
    linear = Path("pretrained_models") / "vgg.pth"
    linear.parent.mkdir()
    linear.touch()
    assert find_lpips_weights() == (vgg, linear)
    assert find_lpips_weights("a.pth", "b.pth") == (Path("a.pth"), Path("b.pth"))


def test_the_cache_is_the_one_that_torch_has(monkeypatch, tmp_path):
    for variables in ({}, {"XDG_CACHE_HOME": str(tmp_path)}, {"TORCH_HOME": "~/elsewhere"}):
        for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert lpips_files._torch_cache() == Path(torch.hub.get_dir())
