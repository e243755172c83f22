"""Flags of what judges images, each declared once; see `shared`."""

from __future__ import annotations

from typing import Any

from runtime.config import option


def metric(what: str, default: str | None = "l1,l2,clip-i,dino,clip-t") -> Any:
    """`--metric`; `what` names those that there are."""
    return option(default, help=what)


def save_path(beside: str) -> Any:
    """`--save-path`."""
    return option(None, help=f"folder for the scores (default: scores, beside {beside})")


def fid(default: bool, what: str) -> Any:
    """`--fid`."""
    return option(default, help=what)


def clip_model(default: str | None, of: str) -> Any:
    """`--clip-model`."""
    return option(default, help=f"open_clip's name of the CLIP of {of}")


def clip_ckpt(file: str = "") -> Any:
    """`--clip-ckpt`; `file` is its name in pretrained_models."""
    where = f"pretrained_models{file and f'/{file}'}, then the user's caches"
    return option(None, help=f"CLIP's weights (default: {where})")


def clip_l14_ckpt(of: str) -> Any:
    """`--clip-l14-ckpt`."""
    return option(
        None, help=f"weights of CLIP ViT-L/14, for {of} (default: pretrained_models/ViT-L-14.pt, …)"
    )


def dino_ckpt(file: str) -> Any:
    """`--dino-ckpt`."""
    words = f"DINO's weights (default: pretrained_models/{file}, then the user's caches)"
    return option(None, help=words)


def vgg_ckpt() -> Any:
    """`--vgg-ckpt`."""
    words = "torchvision's VGG16 weights, for LPIPS; else from pretrained_models or torch's cache"
    return option(None, help=words)


def lpips_ckpt() -> Any:
    """`--lpips-ckpt`."""
    words = "LPIPS's linear layers for VGG16; else pretrained_models/vgg.pth or the lpips package's"
    return option(None, help=words)


def inception_ckpt() -> Any:
    """`--inception-ckpt`."""
    words = "TorchScript Inception, else pretrained_models/inception-2015-12-05.pt"
    return option(None, help=words)
