"""Weight files of frozen networks: found in the usual places, read without running anything they hold."""

from __future__ import annotations

import importlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.checkpoint import require_stored
from runtime.errors import UserError
from runtime.files import require_regular

PRETRAINED = Path("pretrained_models")
# Under which a training run stores its state dict, and what it puts before the names.
_NESTS = ("state_dict", "model", "teacher")
_PREFIXES = ("module.", "backbone.")
_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}


def import_package(module: str, package: str) -> Any:
    """A module that only some metrics need.

    Raises:
      UserError: it is not installed; `package` is what pip calls it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this metric needs the package {package}: pip install {package}") from error


def find_weights(
    given: str | Path | None,
    flag: str,
    what: str,
    places: Sequence[Path],
    hub: Mapping[str, Sequence[str]],
    url: str | None = None,
) -> Path:
    """The weight file to read: the one given, or the first that exists in the usual places.

    Args:
      given: what the user passed, or None.
      flag: the flag it was passed with.
      what: the network, for the message.
      places: files to try, in order; the first one is where the message says to put the weights.
      hub: repository -> its files, tried in order in the user's hub cache (nothing is downloaded).
      url: where the published file is, for the message.
    Raises:
      UserError: the given file, or every usual one, is missing.
    """
    if given is not None:
        if not Path(given).is_file():
            raise UserError(f"{flag} {given}: no such file; it should hold the weights of {what}")
        return Path(given)
    for place in places:
        if place.is_file():
            return place
    for repository, names in hub.items():
        if cached := _in_hub_cache(repository, names):
            return cached
    source = f" (published at {url})" if url else ""
    looked = [str(place) for place in places] + [f"the hub cache of {repository}" for repository in hub]
    raise UserError(
        f"the weights of {what} are not here: put {places[0].name} into {places[0].parent}/{source}, or pass "
        f"{flag} FILE; looked for {', '.join(looked)}"
    )


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads named weights as float32 (integers as they are), whatever the container.

    Takes safetensors; what `torch.save` wrote, bare or under "state_dict", "model" or "teacher", with or
    without "module." and "backbone." before the names; and TorchScript archives, such as OpenAI's CLIP files,
    of which the tensors are read and the code is not.

    Raises:
      UserError: missing, damaged or foreign files.
    """
    path = Path(path)
    require_regular(path, "a file of weights")
    try:
        content = _read(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Exception as error:  # torch, safetensors and pickle raise many kinds for a damaged or foreign file
        reason = str(error).split("\n")[0].split(". ")[0][:200]
        raise UserError(
            f"{path}: no weights that can be read safely ({type(error).__name__}: {reason}); expected "
            ".safetensors, a state dict written by torch.save, or a TorchScript archive"
        ) from error
    for nest in _NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds no state dict (names -> tensors) but a {type(content).__name__}")
    if others := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{path}: {others[0]!r} is no tensor; expected a state dict (names -> tensors)")
    return {
        _without_prefixes(name): value.float() if value.is_floating_point() else value
        for name, value in content.items()
    }


def _in_hub_cache(repository: str, names: Sequence[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # slow to import

    for name in names:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str) and Path(cached).is_file():
            return Path(cached)
    return None


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            code = [name for name in archive.namelist() if name.endswith("/constants.pkl")]
            if code:
                return _read_torchscript(archive, code[0].rpartition("/")[0])
        require_stored(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _without_prefixes(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


class _Holder:
    """Stands for a module of the archive: its attributes, none of its code."""


class _ArchiveUnpickler(pickle.Unpickler):
    """Rebuilds an archive's tree of modules from `_Holder`s and tensors; refuses every other class."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root = archive, root
        super().__init__(archive.open(f"{root}/data.pkl"))

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Holder
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle":
            return _first_argument
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an archive of weights")

    def persistent_load(self, reference: Any) -> Tensor:
        _, dtype, key, *_ = reference
        content = bytearray(self._archive.read(f"{self._root}/data/{key}"))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _first_argument(values: Any, *_: Any) -> Any:
    """In place of the functions that give lists their type."""
    return values


def _read_torchscript(archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    require_stored(Path(archive.filename), f"{root}/data")  # the code beside it may be packed
    return dict(_named_tensors(_ArchiveUnpickler(archive, root).load(), ""))


def _named_tensors(holder: _Holder, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(holder).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Holder):
            yield from _named_tensors(value, f"{prefix}{name}.")
