"""The flags that evaluators share: of the networks that judge, and of what measures reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import option

CLIP_MODEL = "ViT-B-32-quickgelu"
DINO_FILE = "dino_deitsmall16_pretrain.pth"


@dataclass(frozen=True)
class WeightFlags:
    """Flags of every evaluator that uses the networks of `evaluations.metrics.encoders`."""

    clip_model: str = option(CLIP_MODEL, help="open_clip's name of the CLIP of clip-i and clip-t")
    clip_ckpt: str | None = option(
        None, help="its weights (default: pretrained_models/ViT-B-32.pt, then the user's caches)"
    )
    dino_ckpt: str | None = option(
        None, help=f"weights of dino (default: pretrained_models/{DINO_FILE}, then the user's caches)"
    )
    vgg_ckpt: str | None = option(None, help="torchvision's VGG16, for lpips")
    lpips_ckpt: str | None = option(None, help="LPIPS's linear layers for VGG16, for lpips")
