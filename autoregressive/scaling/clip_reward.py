"""CLIP similarity as a reward, with Grad-CAM for the cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from autoregressive.scaling.reward import Reward
from evaluations.metrics.encoders import CLIP_MODEL, ClipEncoder, full_float32
from runtime.errors import UserError


class GradCamClip(ClipEncoder):
    """A CLIP with a vision transformer that can tell where an image fits a text."""

    @torch.inference_mode(False)
    def relevance(self, images: Tensor, text_features: Tensor) -> Tensor:
        """Grad-CAM (Selvaraju et al., arXiv 1610.02391) of the cosine similarity.

        Taken at the input norm of the last block: the class token still reads the patches there, not after
        it. Each channel weighs as its gradient's mean over the patches. Negative values stay, because the
        lowest ones are what a search wants to know.

        Args:
          images: (B, 3, S, S) from `prepare`.
          text_features: (B, C) from `embed_texts`.
        Returns:
          (B, h, w) float32 on the CPU, one value a patch.
        """
        norm, batch_first = self._last_norm()
        seen: list[Tensor] = []

        def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen.append(output.detach().requires_grad_())  # nothing before it needs a gradient
            return seen[-1]

        images, text_features = (t.clone().to(self.device) for t in (images, text_features))
        with full_float32(self.device), torch.enable_grad(), norm.register_forward_hook(cut):
            similarity = torch.cosine_similarity(self._image_features(images), text_features)
            (gradient,) = torch.autograd.grad(similarity.sum(), seen)
        tokens, gradient = (t if batch_first else t.transpose(0, 1) for t in (seen[0].detach(), gradient))
        patches, channel_weights = tokens[:, 1:], gradient[:, 1:].mean(1, keepdim=True)
        relevance = (patches * channel_weights).sum(-1).float().cpu()
        return relevance.unflatten(1, tuple(self._network.visual.grid_size))

    def _last_norm(self) -> tuple[nn.Module, bool]:
        transformer = getattr(self._network.visual, "transformer", None)
        if transformer is None:
            raise UserError(
                f"--clip-model {self.name} is no vision transformer, which the cells' scores are made for; "
                f"take {CLIP_MODEL}, or choose the cells by --region likelihood or --region random"
            )
        return transformer.resblocks[-1].ln_1, transformer.batch_first


class ClipReward(Reward):
    """The cosine similarity of image and text, in [-1, 1].

    Images are resized to a square, as the transformer that drew them sees them: CLIP's own centre crop would
    hide the borders of others, and the patches would not lie on the cells.
    """

    name = "clip"

    def __init__(self, encoder: GradCamClip) -> None:
        self._encoder = encoder

    @classmethod
    def load(
        cls,
        clip_model: str | None = None,
        clip_ckpt: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> ClipReward:
        """Loads CLIP from `clip_ckpt`, or from the usual places; see `ClipEncoder.load`."""
        return cls(GradCamClip.load(clip_model or CLIP_MODEL, clip_ckpt, device, "--clip-ckpt"))

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        return torch.cosine_similarity(
            self._encoder.embed_images(self._prepare(images)), self._embed_texts(texts)
        )

    def token_scores(self, images: Sequence[Image.Image], texts: Sequence[str], grid: int) -> Tensor:
        relevance = self._encoder.relevance(self._prepare(images), self._embed_texts(texts))
        # With antialiasing, so that a grid coarser than the patches sees all of them.
        cells = F.interpolate(relevance[:, None], size=(grid, grid), mode="bilinear", antialias=True)
        return cells.flatten(1)

    def _prepare(self, images: Sequence[Image.Image]) -> Tensor:
        squares = (
            image.convert("RGB").resize((max(image.size),) * 2, Image.Resampling.BICUBIC) for image in images
        )
        return torch.stack([self._encoder.prepare(np.asarray(square)) for square in squares])

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, C); candidates share their text, so each is embedded once."""
        different = list(dict.fromkeys(texts))
        features = self._encoder.embed_texts(different)
        return features[[different.index(text) for text in texts]]
