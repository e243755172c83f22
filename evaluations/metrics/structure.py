"""Structure distance (Tumanyan et al., arXiv 2201.00424), as PIE-Bench's published evaluator computes it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluations.metrics.dino import load_dino
from runtime.files import file_sha256

MODEL = "vit_base_patch8_224.dino"
FILE = "dino_vitbase8_pretrain.pth"
_SIDE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LEAST = 1e-8  # of a product of two lengths


class StructureNetwork:
    """DINO ViT-B/8 and how its last keys are alike.

    The keys of the last block, of all heads side by side, are compared with each other by their cosines, the
    class token's too: what is like what in an image. The distance of two images is the mean squared
    difference of these (785, 785) maps.
    """

    def __init__(self, path: Path, network: nn.Module) -> None:
        self._path = path
        self._network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path | None = None, device: torch.device | str = "cpu") -> StructureNetwork:
        """Loads DINO from `path`, or from the usual places; see `find_weights`."""
        found, network = load_dino(MODEL, path, "--dino_b8_ckpt", "DINO ViT-B/8", FILE)
        return cls(found, network.to(device))

    def describe(self) -> dict[str, str]:
        """Name and weights, for a report."""
        return {"model": MODEL, "path": str(self._path), "sha256": file_sha256(self._path)}

    @torch.inference_mode()
    def distance(self, image: Tensor, other: Tensor) -> float:
        """Of two (3, H, W) images in [0, 1] of one size."""
        return F.mse_loss(self.self_similarity(image), self.self_similarity(other)).item()

    def self_similarity(self, image: Tensor) -> Tensor:
        """(785, 785) cosines of the keys of a (3, H, W) image in [0, 1]."""
        caught: list[Tensor] = []
        attention = self._network.blocks[-1].attn
        handle = attention.qkv.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
        try:
            self._network(self._prepare(image))
        finally:
            handle.remove()
        keys = caught[0][0].chunk(3, dim=-1)[1]
        lengths = torch.linalg.vector_norm(keys, dim=-1, keepdim=True)
        return keys @ keys.T / (lengths @ lengths.T).clamp_min(_LEAST)

    def _prepare(self, image: Tensor) -> Tensor:
        """(1, 3, 224, 224); as published, levels of 0 to 255 meet the mean and deviation of values up to 1,
        and a picture is made smaller without a filter against aliases (torchvision 0.13 on tensors)."""
        device = next(self._network.parameters()).device
        levels = (255 * image[None]).to(device)
        small = F.interpolate(levels, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
        mean, deviation = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return (small - mean) / deviation
