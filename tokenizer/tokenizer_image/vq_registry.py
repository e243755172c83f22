"""What shapes a tokenizer, and the tokenizers by name; flags choose from them, so it does without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from runtime.errors import UserError


@dataclass(frozen=True)
class VQConfig:
    """Everything that fixes the shape of a tokenizer; the defaults are those of VQ-16.

    Attributes:
      channel_mult: width of each level in units of `width`, finest level first.
      num_res_blocks: residual blocks a level in the encoder; the decoder has one more.
      stem_stride: 1 convolves pixels as published; s > 1 folds s x s pixels into channels first, which takes
        the levels away that cost most on a CPU.
      norm_groups: groups of every GroupNorm. It must stay well below `width`: one channel a group would
        remove each channel's mean, which is the colour of a flat image.
      local_norm: normalise every position by itself. A GroupNorm takes in the whole image, so that an
        object at one end changes codes at the other: noise that a transformer cannot foresee.
      local_encoder: the encoder sees of each cell that cell alone, so that equal pixels always have the same
        code, whatever is beside them. Needs `local_norm` and no `attention`. The decoder sees neighbours.
      attention: self-attention at the coarsest level and in the middle.
      dropout_p: within the residual blocks, in training.
    """

    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    width: int = 128
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    stem_stride: int = 1
    norm_groups: int = 32
    local_norm: bool = False
    local_encoder: bool = False
    attention: bool = True
    dropout_p: float = 0.0

    def __post_init__(self) -> None:
        if self.local_encoder and (self.attention or not self.local_norm):
            raise UserError("local_encoder needs local_norm and no attention: both would look beyond a cell")

    @cached_property
    def downsampling(self) -> int:
        """Pixels per cell along one side."""
        return self.stem_stride * 2 ** (len(self.channel_mult) - 1)


VQ_MODELS: dict[str, VQConfig] = {
    "VQ-16": VQConfig(),
    "VQ-8": VQConfig(channel_mult=(1, 2, 2, 4)),
    "VQ-8-small": VQConfig(
        codebook_size=1024,
        width=128,
        channel_mult=(1,),
        num_res_blocks=1,
        z_channels=64,
        stem_stride=8,
        norm_groups=8,
        attention=False,
    ),
    # Sees quarter patches first: for objects at any place, where the small one blurs their edges.
    "VQ-8-medium": VQConfig(
        codebook_size=512,
        width=96,
        channel_mult=(1, 2),
        num_res_blocks=1,
        z_channels=64,
        stem_stride=4,
        local_norm=True,
        local_encoder=True,
        attention=False,
    ),
}
