"""Test 14: weights are used as they were trained, wherever they lie; what is none is called by its name."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autoregressive.models.arithmetic import MARKER, marked
from autoregressive.models.gpt import Transformer, build_gpt
from autoregressive.models.weights import initialise_from, load_transformer, model_args
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.stages import train_editing, train_t2i
from language.t5 import T5Encoder
from runtime.checkpoint import load_checkpoint, save_checkpoint
from runtime.config import parse
from runtime.distributed import ONE_RANK
from runtime.optim import Optimizers
from tests.battery.cases import Assets, Case, refused, same
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_loop import train as train_vq
from tokenizer.tokenizer_image.vq_model import load_vq_model

State = dict[str, Tensor]
ARITHMETIC = {
    "query_turn": "next_cells", "rotary_base": 20.0, "norm_eps": 1e-6, "n_head": 2, "own_cell": True,
}  # fmt: skip


def _under(*names: str) -> Callable[[Any], dict]:
    def wrap(state: Any) -> dict:
        for name in reversed(names):
            state = {name: state}
        return state

    return wrap


def _before(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: weight for name, weight in state.items()}


CONTAINERS = {
    "bare": (),
    "module": (_under("module"),),
    "state_dict": (_under("state_dict"),),
    "ema alone": (_under("ema"),),
    "compiled and distributed": (_before("_orig_mod.module."), _under("model")),
    "four deep": (_under("state", "module", "state_dict", "model"),),
}
STAND_INS = {
    "an LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "Git LFS pointer",
    ),
    "a web page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML page"),
    "an empty file": (b"", "empty"),
}
CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("run")
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
class Own(PreTrainedTokenizerFast): pass
class OwnConfig(T5Config): pass
class OwnModel(T5EncoderModel): pass
"""
OWN_CODE = {
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}),
    "config": ("config.json", {"auto_map": {"AutoConfig": "own.OwnConfig"}}),
    "model type": ("config.json", {"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own"}),
    "model": ("config.json", {"auto_map": {"AutoModel": "own.OwnModel"}, "architectures": ["OwnModel"]}),
}
STAGES = {"t2i": (T2IConfig, train_t2i), "editing": (EditingConfig, train_editing)}


def cases() -> list[Case]:
    return [
        *(Case(f"start from another {name}", partial(_other, name)) for name in ARITHMETIC),
        *(
            Case(f"a file without settings, of another {name}", partial(_bare, name))
            for name in ARITHMETIC
            if name != "own_cell"  # which the names of the weights show
        ),
        Case("unpublished weights in the published class", _elsewhere),
        Case("a flag that contradicts the file's model", _other_name),
        Case("a flag that contradicts the file's image size", _other_size),
        *(Case(f"transformer: {name}", partial(_transformer, wraps)) for name, wraps in CONTAINERS.items()),
        *(Case(f"tokenizer: {name}", partial(_tokenizer, wraps)) for name, wraps in CONTAINERS.items()),
        Case("two weights of one name", _twice),
        *(
            Case(f"{name}, {suffix}", partial(_stand_in, suffix, *what))
            for name, what in STAND_INS.items()
            for suffix in (".pt", ".safetensors")
        ),
        *(
            Case(f"{program} whose {part} ends as {value}", partial(_ruined, program, part, value))
            for program, part in (("t2i", "model"), ("editing", "model"), ("tokenizer", "model"),
                                  ("tokenizer", "discriminator"))
            for value in ("nan", "inf")
        ),
        *(
            Case(f"code in a text encoder's folder: {name}", partial(_own_code, *how))
            for name, how in OWN_CODE.items()
        ),
    ]  # fmt: skip


def _model(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "block_size": 9, "caption_dim": 16, **changes}
    model = build_gpt("R-GPT-tiny", **sizes)
    torch.nn.init.normal_(model.output.weight)
    return model


def _save(path: Path, model: Transformer) -> Path:
    save_checkpoint(path, {"model": model.state_dict(), "args": model_args("R-GPT-tiny", model.config)})
    return path


def _other(name: str, assets: Assets, folder: Path) -> None:
    other, published = _model(**{name: ARITHMETIC[name]}), _model()
    # Published weights grow a table of own cells: zeros, which change nothing.
    ways = ((other, published), (published, other))[: 1 if name == "own_cell" else 2]
    for trained, begun in ways:
        path = _save(folder / "a.pt", trained)
        before = {key: weight.clone() for key, weight in begun.state_dict().items()}
        refused(lambda begun=begun, path=path: initialise_from(begun, path), path, "another arithmetic", name)
        assert same(before, begun.state_dict()), "it was begun all the same"
        initialise_from(trained, path)


def _bare(name: str, assets: Assets, folder: Path) -> None:
    """Its settings were lost on the way: the marker among its weights speaks."""
    model = _model(**{name: ARITHMETIC[name]})
    path = folder / "bare.pt"
    torch.save(marked(model.state_dict(), model.config), path)
    refused(lambda: load_transformer(path, gpt_model="R-GPT-tiny"), path, "contradicts", name)


def _elsewhere(assets: Assets, folder: Path) -> None:
    model = _model(query_turn="next_cells")
    state = load_checkpoint(_save(folder / "a.pt", _model()))["model"]
    _model().load_state_dict(state)
    state = marked(model.state_dict(), model.config)
    try:
        _model().load_state_dict(state)
    except RuntimeError as error:
        assert MARKER in str(error), error
    else:
        raise AssertionError("the published class took weights of another arithmetic")


def _other_name(assets: Assets, folder: Path) -> None:
    path = _save(folder / "a.pt", _model())
    assert load_transformer(path, gpt_model="R-GPT-tiny").config == _model().config
    for name in ("GPT-tiny", "R-GPT-mini", "GPT-XL"):
        refused(lambda name=name: load_transformer(path, gpt_model=name), name, "contradicts", path)


def _other_size(assets: Assets, folder: Path) -> None:
    path = _save(folder / "a.pt", _model())
    assert load_transformer(path, image_size=24, downsample=8).config.grid == 3
    for size in (16, 32, 256, 0):
        refused(
            lambda size=size: load_transformer(path, image_size=size, downsample=8),
            f"--image-size {size} contradicts", path,
        )  # fmt: skip


def _wrapped(wraps: tuple, state: State) -> dict:
    for wrap in wraps:
        state = wrap(state)
    return state


def _transformer(wraps: tuple, assets: Assets, folder: Path) -> None:
    content = load_checkpoint(assets.editor)
    wrapped = _wrapped(wraps, content["model"])
    wrapped |= {"args": content["args"]} if wraps else {}
    torch.save(wrapped, folder / "a.pt")
    loaded = load_transformer(folder / "a.pt", gpt_model="R-GPT-tiny").state_dict()
    assert same(dict(loaded), dict(load_transformer(assets.editor).state_dict()))


def _tokenizer(wraps: tuple, assets: Assets, folder: Path) -> None:
    content = load_checkpoint(assets.vq)
    wrapped = _wrapped(wraps, content["model"])
    torch.save(wrapped | ({"args": content["args"]} if wraps else {}), folder / "a.pt")
    assert same(dict(load_checkpoint(folder / "a.pt")["model"]), dict(content["model"]))
    if wraps:
        loaded = load_vq_model(folder / "a.pt").state_dict()
        assert same(dict(loaded), dict(load_vq_model(assets.vq).state_dict()))


def _twice(assets: Assets, folder: Path) -> None:
    weight = torch.ones(2)
    torch.save({"model": {"module.a": weight, "a": weight}}, folder / "a.pt")
    refused(lambda: load_checkpoint(folder / "a.pt"), "a.pt", "two weights for a: module.a and a")


def _stand_in(suffix: str, content: bytes, words: str, assets: Assets, folder: Path) -> None:
    path = folder / f"model{suffix}"
    path.write_bytes(content)
    refused(lambda: load_checkpoint(path), path, words)


def _trainer(program: str, assets: Assets, folder: Path) -> Callable[[int], None]:
    """Trains up to a step, from where it stands."""
    common = ["--results-dir", str(folder / "run"), "--auto-resume", "--ckpt-every", "1"]
    if program != "tokenizer":
        config_class, train = STAGES[program]
        flags = [*assets.train_flags(), "--data-path", str(assets.shapes / "train" / f"{program}.jsonl")]
        flags += ["--mask_in_context"] if program == "editing" else []
        return lambda steps: train(
            parse(config_class, [*flags, *common, "--max-steps", str(steps)]), ONE_RANK
        )
    (folder / "images").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    words = "--vq-model VQ-8-small --image-size 32 --global-batch-size 4 --num-workers 0 --device cpu"
    words += " --perceptual-weight 0 --mixed-precision none --disc-start 0 --no-augment"
    flags = [*words.split(), "--data-path", str(folder / "images"), *common]
    return lambda steps: train_vq(parse(VQTrainConfig, [*flags, "--steps", str(steps)]), ONE_RANK)


def _ruined(program: str, part: str, value: str, assets: Assets, folder: Path) -> None:
    """The optimizer's second step leaves a weight that is not finite: nothing is written, nothing deleted."""
    train = _trainer(program, assets, folder)
    train(1)
    saved = sorted((folder / "run" / "checkpoints").iterdir())
    step, seen = Optimizers.step, []

    def ruined(self: Optimizers, *rest: Any, **options: Any) -> Any:
        result = step(self, *rest, **options)
        seen.extend([] if self in seen else [self])
        if seen.index(self) == (part == "discriminator"):
            weight = self.param_groups[0]["params"][0].data
            weight[(0,) * weight.dim()] = float(value)
        return result

    with mock.patch.object(Optimizers, "step", ruined):
        refused(lambda: train(2), "0000002.pt is not written", f"the {part}'s ")
    assert sorted((folder / "run" / "checkpoints").iterdir()) == saved
    train(2)


def _own_code(name: str, change: dict, assets: Assets, folder: Path) -> None:
    target, marker = folder / "t5", folder / "marker"
    shutil.copytree(assets.t5, target)
    (target / "own.py").write_text(CODE.format(marker=str(marker)))
    (target / name).write_text(json.dumps(json.loads((target / name).read_text()) | change))
    answers = io.StringIO("y\n" * 8)
    with mock.patch("sys.stdin", answers):
        refused(lambda: T5Encoder(target), "code of its own", name, "not run")
    assert answers.tell() == 0, "somebody was asked"
    assert not marker.exists(), "the folder's code was run"
