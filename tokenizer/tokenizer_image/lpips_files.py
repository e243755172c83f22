"""Where the weights of LPIPS lie; flags are checked against it, so it does without PyTorch."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from runtime.errors import UserError

VGG_FILE = "vgg16-397923af.pth"
LINEAR_FILE = "vgg.pth"


def find_lpips_weights(
    vgg_path: str | Path | None = None, lpips_path: str | Path | None = None
) -> tuple[Path, Path]:
    """The two weight files of LPIPS: those given, or the first found in the usual places.

    Raises:
      UserError: names the file that is missing, and where to put it.
    """
    hub = _torch_cache() / "checkpoints"
    vgg = _find(vgg_path, [Path("pretrained_models") / VGG_FILE, hub / VGG_FILE], "torchvision's VGG16")
    places = [Path("pretrained_models") / LINEAR_FILE]
    package = importlib.util.find_spec("lpips")
    if package is not None and package.origin:
        places.append(Path(package.origin).parent / "weights" / "v0.1" / LINEAR_FILE)
    return vgg, _find(
        lpips_path, places, "LPIPS's linear layers for VGG16 (weights/v0.1 of the lpips package)"
    )


def _find(path: str | Path | None, places: list[Path], what: str) -> Path:
    if path is not None:
        return Path(path)
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"LPIPS needs {what}: put it at {' or '.join(map(str, places))}, or leave LPIPS out")


def _torch_cache() -> Path:
    """What `torch.hub.get_dir()` says."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"
