"""FID: Gaussians in closed form, folders, the cache, ranks, and garbage in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluations.folders import list_images, load_batches
from evaluations.metrics import fid
from evaluations.metrics.fid import (
    FolderSettings,
    Gaussian,
    Moments,
    ScriptedInception,
    clean_resize,
    folder_gaussian,
    frechet_distance,
    load_inception,
)
from runtime.distributed import ONE_RANK, Distributed
from runtime.errors import UserError

# Scripting is the only way to make such a file.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


class TinyInception(nn.Module):
    """Five features; `layers` takes what the real file's does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 23, stride=23), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return self.layers(images)


def write_inception(path) -> str:
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(TinyInception().eval()), str(path))
    return str(path)


def write_images(folder, count: int, seed: int = 0, size: int | None = None):
    """Noise as 0.png, 1.png, …: squares of `size`, or of several sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        height, width = (size, size) if size else (rng.integers(6, 20), 13)
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def network(tmp_path) -> ScriptedInception:
    return ScriptedInception(write_inception(tmp_path / "inception.pt"))


def gaussian(mean, covariance) -> Gaussian:
    return Gaussian(torch.tensor(mean).double(), torch.tensor(covariance).double(), 10)


def test_distance_of_gaussians_in_closed_form():
    first, second = (
        gaussian([1.0, 2.0], [[4.0, 0.0], [0.0, 9.0]]),
        gaussian([0.0, 4.0], [[1.0, 0.0], [0.0, 25.0]]),
    )
    # Independent coordinates: squared differences of means and of deviations.
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 5) ** 2)
    assert frechet_distance(second, first) == pytest.approx(10)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-12)
    flat = gaussian([1.0, 2.0], [[0.0, 0.0], [0.0, 0.0]])
    assert frechet_distance(first, flat) == pytest.approx(13)


def test_distance_of_correlated_gaussians_agrees_with_the_eigenvalues_of_the_product():
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    first, second = (Gaussian(torch.zeros(6).double(), root @ root.T, 10) for root in roots)
    overlap = torch.linalg.eigvals(first.covariance @ second.covariance).sqrt().real.sum()
    expected = first.covariance.trace() + second.covariance.trace() - 2 * overlap
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-9)


def test_fewer_vectors_than_features_give_zero_for_equal_sets_and_a_number_for_others():
    generator = torch.Generator().manual_seed(0)
    moments = [Moments(), Moments()]
    for moment in moments:
        moment.add(torch.rand(5, 30, generator=generator))
    first, second = (moment.gaussian(ONE_RANK) for moment in moments)
    assert frechet_distance(first, first) < 1e-9
    assert 0.1 < frechet_distance(first, second) < 30


def test_moments_are_numpys_whatever_the_batches():
    features = np.random.default_rng(0).random((9, 4)).astype(np.float32) + 100
    for size in (1, 4, 9):
        moments = Moments()
        for start in range(0, 9, size):
            moments.add(torch.from_numpy(features[start : start + size]))
        result = moments.gaussian(ONE_RANK)
        np.testing.assert_allclose(result.mean, features.astype(np.float64).mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(result.covariance, np.cov(features.astype(np.float64).T), rtol=1e-7)
        assert result.count == 9


def test_apple_gpus_which_have_no_float64_are_not_asked_for_it():
    moments = Moments()
    moments.add(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    gaussian = moments.gaussian(Distributed(0, 1, 0, torch.device("mps")))
    assert gaussian.mean.tolist() == [1, 1] and gaussian.covariance.tolist() == [[2, 0], [0, 0]]


def test_a_single_image_has_no_covariance():
    moments = Moments()
    moments.add(torch.rand(1, 4))
    with pytest.raises(UserError, match="two images"):
        moments.gaussian(ONE_RANK)
    with pytest.raises(UserError, match="two images"):
        Moments().gaussian(ONE_RANK)


def test_resizing_is_bicubic_without_rounding():
    flat = np.full((7, 5, 3), (10, 20, 30), np.uint8)
    assert torch.equal(clean_resize(flat)[:, 5, 9], torch.tensor([10.0, 20.0, 30.0]))
    steps = np.zeros((300, 300, 3), np.uint8)
    steps[:, 150:] = 255
    resized = clean_resize(steps)
    assert resized.shape == (3, 299, 299) and resized.min() == 0 and resized.max() == 255
    assert (resized != resized.round()).any()


def test_folders_of_the_same_images_are_at_distance_zero(tmp_path, network):
    first, second = write_images(tmp_path / "a", 8), write_images(tmp_path / "b", 8)
    other = write_images(tmp_path / "c", 8, seed=1)
    results = [
        folder_gaussian(list_images(folder), network, ONE_RANK, FolderSettings(batch_size=size))
        for folder, size in ((first, 8), (second, 3), (other, 8))
    ]
    assert frechet_distance(results[0], results[1]) < 1e-6
    assert frechet_distance(results[0], results[2]) > 1e-4


def test_statistics_are_cached_until_files_or_settings_change(tmp_path, network, monkeypatch):
    folder, cache = write_images(tmp_path / "a", 4), tmp_path / "cache"
    calls = []
    monkeypatch.setattr(fid, "load_rgb", lambda path, load=fid.load_rgb: (calls.append(path), load(path))[1])

    def run(**changes) -> Gaussian:
        calls.clear()
        return folder_gaussian(
            list_images(folder), network, ONE_RANK, FolderSettings(cache_dir=cache, **changes)
        )

    first = run()
    assert len(calls) == 4
    again = run()
    assert not calls and torch.equal(first.covariance, again.covariance) and again.count == 4
    dark = run(prepare=lambda image: image // 2, prepared="half as bright")
    assert len(calls) == 4 and not torch.allclose(dark.mean, first.mean)
    write_images(folder, 4, seed=1)
    assert not torch.equal(run().mean, first.mean) and len(calls) == 4


def test_an_interrupted_run_goes_on_with_the_next_block(tmp_path, network, monkeypatch):
    folder, cache = write_images(tmp_path / "a", 6), tmp_path / "cache"
    monkeypatch.setattr(fid, "_BLOCK", 2)
    expected = folder_gaussian(list_images(folder), network, ONE_RANK, FolderSettings())
    loaded = []

    def load(path, real=fid.load_rgb):
        loaded.append(path.name)
        if path.name == "5.png" and len(loaded) == 6:
            raise UserError("power cut")
        return real(path)

    monkeypatch.setattr(fid, "load_rgb", load)
    settings = FolderSettings(cache_dir=cache, num_workers=1)
    with pytest.raises(UserError, match="power cut"):
        folder_gaussian(list_images(folder), network, ONE_RANK, settings)
    result = folder_gaussian(list_images(folder), network, ONE_RANK, settings)
    assert loaded[6:] == ["4.png", "5.png"]
    torch.testing.assert_close(result.covariance, expected.covariance)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]  # the blocks are gone


def test_a_damaged_cache_is_named(tmp_path, network):
    folder, cache = write_images(tmp_path / "a", 2), tmp_path / "cache"
    settings = FolderSettings(cache_dir=cache)
    folder_gaussian(list_images(folder), network, ONE_RANK, settings)
    (path,) = cache.glob("*.npz")
    whole = dict(np.load(path))
    np.savez(tmp_path / "lacks.npz", mean=whole["mean"])
    np.savez(tmp_path / "nan.npz", **whole | {"mean": whole["mean"] * np.nan})
    damaged = [path.read_bytes()[:50], *((tmp_path / f"{n}.npz").read_bytes() for n in ("lacks", "nan"))]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path.name}.*delete"):
            folder_gaussian(list_images(folder), network, ONE_RANK, settings)


def test_weights_that_are_missing_or_something_else_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="put inception-2015-12-05.pt into pretrained_models.*do without FID: --no-fid"
    ):
        load_inception(None, "--no-fid")
    with pytest.raises(UserError, match="here.pt: no such file"):
        load_inception("here.pt", "--no-fid")
    (tmp_path / "text.pt").write_text("no network")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "linear.pt"))
    for name in ("text.pt", "weights.pt", "linear.pt"):
        with pytest.raises(UserError, match=f"{name}: no TorchScript Inception"):
            load_inception(name, "--no-fid")


def test_unreadable_images_and_infinite_features_name_the_file(tmp_path, network):
    folder = write_images(tmp_path / "a", 3)
    with torch.no_grad():
        next(network.parameters()).fill_(torch.inf)
    with pytest.raises(UserError, match="0.png: Inception's features are not finite"):
        folder_gaussian(list_images(folder), network, ONE_RANK, FolderSettings())
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1.png"):
        folder_gaussian(list_images(folder), network, ONE_RANK, FolderSettings())


def test_listing_is_in_natural_order_and_empty_folders_are_refused(tmp_path):
    for name in ("10.png", "9.PNG", "a2.jpg", "notes.txt", "sub/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["9.PNG", "10.png", "a2.jpg", "sub/1.png"]
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path / "sub", [".jpg"])
    with pytest.raises(UserError, match="not a folder"):
        list_images(tmp_path / "nowhere")


def test_batches_keep_the_order():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        for size in (1, 3, 7, 10):
            batches = list(load_batches(range(7), lambda n: n * n, size, pool))
            assert sum(batches, []) == [n * n for n in range(7)] and max(map(len, batches)) == min(size, 7)
