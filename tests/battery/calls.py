"""Test 17: calls from Python: threads and callbacks get their own codes, wrong arguments are named."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms

from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from dataset.records.images import load_image
from runtime.pictures import FORMATS, save_picture
from tests.battery.cases import Assets, Case, refused

SIDE = 24
GUIDED = Sampling(cfg_scale=2.0)
PLAIN = Sampling(cfg_scale=1.0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OPTIONS = {
    "seeds 'x'": {"seeds": "x"},
    "num_samples 1.5": {"num_samples": 1.5},
    "generator 0": {"generator": 0},
    "mode 'best' is not known": {"mode": "best"},
    "mask_error 1.5": {"mask_error": 1.5},
    "source_codes of shape (2, 9)": {"source_codes": torch.zeros(2, 9, dtype=torch.long)},
    "from 16 to 16: the model knows the codes 0 to 15": {"source_codes": torch.full((1, 9), 16)},
}
ARGUMENTS = {
    "one prompt for two images": (lambda a: ([a, a], "ab"), "prompt"),
    "no prompt": (lambda a: (a, None), "prompt 0 is"),
    "a prompt that says nothing": (lambda a: (a, "page 3"), "prompt 0: say what you want to see"),
    "one mask for two images": (lambda a: ([a, a], ["a", "b"], _box()), "one mask for a list of 2 images"),
    "a mask of words": (lambda a: (a, "x", np.full((SIDE, SIDE), "x")), "mask"),
    "a mask of 0 and 1 bytes": (lambda a: (a, "x", _box().astype(np.uint8)), "multiply it by 255"),
    "an image without pixels": (lambda a: (np.zeros((0, 0, 3), np.uint8), "x"), "no pixels"),
    "no image": (lambda a: (None, "x"), "images of type NoneType"),
}


def cases() -> list[Case]:
    return [
        Case("threads", _threads),
        Case("a callback that edits", _callback),
        Case("sessions in threads", _sessions),
        Case("a copy", partial(_copied, copy.deepcopy)),
        Case("a pickled network", _pickled),
        *(Case(f"edit: {name[:40]}", partial(_option, name, value)) for name, value in OPTIONS.items()),
        *(Case(f"edit: {name}", partial(_argument, *how)) for name, how in ARGUMENTS.items()),
        Case("sampling of another type", _sampling),
        Case("draw: a cell twice", _orders),
        Case("numbers of NumPy, grey arrays, paths", _kinds),
        Case("a proposal made for another image", _proposal),
        *(Case(f"saved as {suffix}", partial(_saved, suffix)) for suffix in FORMATS),
        *(Case(f"not saved as {name}", partial(_not_saved, name)) for name in ("a.gif", "a.tiff", "a")),
        *(
            Case(f"profile and resolution: {suffix}", partial(_profile, suffix))
            for suffix in (".png", ".jpg", ".jpeg")
        ),
    ]


def _pipeline(assets: Assets, name: str = "edit") -> EditingPipeline:
    return EditingPipeline.load(assets.vq, assets.folder / f"{name}.pt", assets.t5)


def _image(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _box() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:8, :8] = True
    return mask


def _codes(pipeline: EditingPipeline, seed: int, **options: Any) -> torch.Tensor:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[: 6 + 4 * seed, :12] = True  # every seed another number of cells
    words = "make the circle blue " * (seed + 1)
    return pipeline.edit(_image(), words, mask, seeds=seed, sampling=GUIDED, **options)[0].codes


def _threads(assets: Assets, folder: Path) -> None:
    pipeline = _pipeline(assets)
    alone = [_codes(pipeline, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(partial(_codes, pipeline), range(4)))
            assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def _callback(assets: Assets, folder: Path) -> None:
    pipeline = _pipeline(assets)
    alone, inner = [_codes(pipeline, seed) for seed in (2, 1)], []
    outer = _codes(pipeline, 2, progress=lambda _: inner.append(_codes(pipeline, 1)))
    assert torch.equal(outer, alone[0]), "the edit that called back has other codes"
    assert inner and all(torch.equal(codes, alone[1]) for codes in inner), "the inner edit has other codes"


def _sessions(assets: Assets, folder: Path) -> None:
    pipeline = _pipeline(assets)

    def turns(seed: int) -> list[torch.Tensor]:
        session = EditSession(pipeline, _image(seed))
        for turn in range(2):
            session.edit("remove the square", _box(), seed=seed + turn, sampling=GUIDED)
        return [turn.result.codes for turn in session.history]

    alone = [turns(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for mine, together in zip(alone, pool.map(turns, range(3)), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, together, strict=True))


def _copied(copied: Any, assets: Assets, folder: Path) -> None:
    pipeline = _pipeline(assets)
    other = copied(pipeline)
    assert torch.equal(_codes(other, 1), _codes(pipeline, 1))
    assert other.engine.caches is not pipeline.engine.caches


def _pickled(assets: Assets, folder: Path) -> None:
    model = _pipeline(assets).transformer
    again = pickle.loads(pickle.dumps(model)).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())


def _option(message: str, options: dict, assets: Assets, folder: Path) -> None:
    refused(lambda: _pipeline(assets).edit(_image(), "x", **options), message)


def _argument(make: Any, message: str, assets: Assets, folder: Path) -> None:
    refused(lambda: _pipeline(assets).edit(*make(_image())), message)


def _sampling(assets: Assets, folder: Path) -> None:
    for name, value in (("top_k", 1.0), ("temperature", float("nan")), ("cfg_scale", "1"), ("top_p", None)):
        refused(lambda name=name, value=value: Sampling(**{name: value}), name)


def _orders(assets: Assets, folder: Path) -> None:
    pipeline = _pipeline(assets, "t2i")
    message = "row 0 of orders must hold each of the cells 0 to 8 once"
    refused(lambda: pipeline.draw("x", orders=torch.zeros(1, 9, dtype=torch.long)), message)
    refused(lambda: pipeline.draw("x", orders=torch.arange(1, 10)[None]), message)


def _kinds(assets: Assets, folder: Path) -> None:
    pipeline, grey = _pipeline(assets), np.asarray(_image().convert("L"))
    Image.fromarray(grey).save(folder / "grey.png")
    edits = [
        pipeline.edit(kind, "x", _box(), seeds=seed, sampling=PLAIN)[0].codes
        for kind, seed in ((grey, 3), (folder / "grey.png", np.int64(3)), (str(folder / "grey.png"), [3]))
    ]
    assert torch.equal(edits[0], edits[1]) and torch.equal(edits[0], edits[2])


def _proposal(assets: Assets, folder: Path) -> None:
    session = EditSession(_pipeline(assets), _image())
    first, second = session.propose("make it blue", _box(), num_samples=2, sampling=PLAIN)
    session.accept("make it blue", second)
    codes = session.codes
    refused(lambda: session.accept("make it blue", first), "image has changed since this was proposed")
    assert session.codes is codes and len(session.history) == 1


def _saved(suffix: str, assets: Assets, folder: Path) -> None:
    save_picture(_image(), folder / f"a{suffix}")
    with Image.open(folder / f"a{suffix}") as written:
        assert written.format == FORMATS[suffix], f"{suffix} holds {written.format}"
    if written.format != "JPEG":
        assert (np.asarray(load_image(folder / f"a{suffix}")) == np.asarray(_image())).all()


def _not_saved(name: str, assets: Assets, folder: Path) -> None:
    refused(lambda: save_picture(_image(), folder / name), name, "use one of .png")
    assert not list(folder.iterdir())


def _profile(suffix: str, assets: Assets, folder: Path) -> None:
    path = folder / f"a{suffix}"
    _image().save(path, icc_profile=SRGB, dpi=(300, 150))
    edited = _pipeline(assets).edit(load_image(path), "make it red", _box(), sampling=PLAIN)[0].image
    save_picture(edited, path)
    with Image.open(path) as written:
        assert written.info["icc_profile"] == SRGB
        assert [round(value) for value in written.info["dpi"]] == [300, 150]
