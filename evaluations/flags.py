"""The flags that evaluators share: of the networks that judge, and of what measures reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.flags import scoring

CLIP_MODEL = "ViT-B-32-quickgelu"
DINO_FILE = "dino_deitsmall16_pretrain.pth"


@dataclass(frozen=True)
class WeightFlags:
    """Flags of every evaluator that uses the networks of `evaluations.metrics.encoders`."""

    clip_model: str = scoring.clip_model(CLIP_MODEL, "clip-i and clip-t")
    clip_ckpt: str | None = scoring.clip_ckpt("ViT-B-32.pt")
    dino_ckpt: str | None = scoring.dino_ckpt(DINO_FILE)
    vgg_ckpt: str | None = scoring.vgg_ckpt()
    lpips_ckpt: str | None = scoring.lpips_ckpt()
