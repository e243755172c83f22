"""LPIPS 0.1 (Zhang et al., arXiv 1801.03924) over VGG16, or over SqueezeNet 1.1, as PIE-Bench is scored."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluations.metrics.weights import PRETRAINED, find_weights, read_state_dict
from runtime.errors import UserError
from runtime.files import file_sha256
from tokenizer.tokenizer_image.lpips import LPIPS, load_lpips
from tokenizer.tokenizer_image.lpips_files import find_lpips_weights

FILE, LINEAR_FILE = "squeezenet1_1-b8a52dc0.pth", "squeeze.pth"
_URL = f"https://download.pytorch.org/models/{FILE}"
_ENDS = (2, 5, 8, 10, 11, 12, 13)  # layers after which features are compared
_WIDTHS = (64, 128, 256, 384, 384, 512, 512)


class LpipsNetwork:
    """A distance of images in [0, 1], by weights from local files."""

    def __init__(
        self, title: str, paths: dict[str, Path], network: LPIPS, device: torch.device | str
    ) -> None:
        """
        Args:
          title: what a report calls it.
          paths: the files of its parts, by their names.
        """
        self._title, self._paths, self._network, self._device = title, paths, network, device

    def describe(self) -> dict[str, str]:
        """Name and weights, for a report."""
        description = {"model": self._title}
        for name, path in self._paths.items():
            description |= {f"{name}_path": str(path), f"{name}_sha256": file_sha256(path)}
        return description

    @torch.inference_mode()
    def distance(self, image: Tensor, other: Tensor) -> float:
        """Of two (3, H, W) images in [0, 1]."""
        return self._network(*self._prepare(image, other)).item()

    @torch.inference_mode()
    def distance_map(self, image: Tensor, other: Tensor) -> Tensor:
        """(1, H, W) float32 on the CPU: the distance around each pixel."""
        return self._network.spatial(*self._prepare(image, other))[0].cpu()

    def _prepare(self, *images: Tensor) -> list[Tensor]:
        return [(2 * image[None] - 1).to(self._device) for image in images]


def load_vgg_lpips(vgg_path: str | None, lpips_path: str | None, device: torch.device | str) -> LpipsNetwork:
    """LPIPS over VGG16; raises `UserError` where weights are missing or do not fit."""
    vgg, lpips = find_lpips_weights(vgg_path, lpips_path)
    network = load_lpips(vgg, lpips, device)
    return LpipsNetwork("LPIPS 0.1, VGG16", {"vgg": vgg, "lpips": lpips}, network, device)


class SqueezeLPIPS(LPIPS):
    """The distance of `LPIPS` with the stages of another network."""

    def __init__(self, features: dict[str, Tensor], linear: dict[str, Tensor]) -> None:
        from torchvision.models import squeezenet1_1  # takes seconds, which other metrics need not wait for

        nn.Module.__init__(self)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        with torch.random.fork_rng(devices=[]):
            layers = squeezenet1_1(weights=None).features
        layers.load_state_dict(features)
        starts = (0, *_ENDS[:-1])
        self.stages = nn.ModuleList(layers[start:end] for start, end in zip(starts, _ENDS, strict=True))
        weights = (linear[f"lin{number}.model.1.weight"] for number in range(len(_WIDTHS)))
        self.linear = nn.ParameterList(weights)
        self.requires_grad_(False).eval()


def load_squeeze_lpips(
    squeeze_path: str | None, lpips_path: str | None, device: torch.device | str
) -> LpipsNetwork:
    """LPIPS over SqueezeNet 1.1; raises as `load_vgg_lpips`."""
    hub = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    places = [PRETRAINED / FILE, hub]
    squeeze = find_weights(squeeze_path, "--squeeze_ckpt", "SqueezeNet 1.1", places, {}, _URL)
    linear = find_weights(
        lpips_path, "--lpips_squeeze_ckpt", "LPIPS's linear layers for SqueezeNet", _linear_places(), {}
    )
    features = {
        name.removeprefix("features."): tensor
        for name, tensor in read_state_dict(squeeze).items()
        if name.startswith("features.")
    }
    try:
        network = SqueezeLPIPS(features, read_state_dict(linear)).to(device)
    except (RuntimeError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{squeeze} and {linear} do not fit LPIPS over SqueezeNet 1.1: {reason}") from None
    paths = {"squeeze": squeeze, "lpips": linear}
    return LpipsNetwork("LPIPS 0.1, SqueezeNet 1.1", paths, network, device)


def _linear_places() -> list[Path]:
    places = [PRETRAINED / LINEAR_FILE]
    package = importlib.util.find_spec("lpips")
    if package is not None and package.origin:
        places.append(Path(package.origin).parent / "weights" / "v0.1" / LINEAR_FILE)
    return places
