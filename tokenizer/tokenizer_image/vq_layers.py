"""The convolutional parts of the image tokenizer: residual blocks, attention, encoder and decoder.

Absent parts (a shortcut, attention, a resampling) are `nn.Identity`, which has no parameters: so the names in
a checkpoint are LlamaGen's while no forward has a branch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.tokenizer_image.vq_registry import VQConfig


class LocalNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def normalization(channels: int, config: VQConfig) -> nn.Module:
    if config.local_norm:
        return LocalNorm(channels, eps=1e-6)
    return nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


def convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    """Of an odd kernel, as large as what it reads."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)


class ResBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, config: VQConfig, kernel: int = 3):
        super().__init__()
        self.norm1 = normalization(in_channels, config)
        self.conv1 = convolution(in_channels, out_channels, kernel)
        self.norm2 = normalization(out_channels, config)
        self.dropout = nn.Dropout(config.dropout_p)
        self.conv2 = convolution(out_channels, out_channels, kernel)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(self.dropout(F.silu(self.norm2(residual))))
        return self.nin_shortcut(x) + residual


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int, config: VQConfig):
        super().__init__()
        self.norm = normalization(channels, config)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (proj(normed).flatten(2).mT.contiguous() for proj in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended.mT.reshape(x.shape))


class Downsample(nn.Module):
    """Stride-2 convolution; one of three pads at the right and the bottom only, as published."""

    def __init__(self, channels: int, kernel: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, stride=2)
        self.pad = kernel - 2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, self.pad, 0, self.pad)))


class Upsample(nn.Module):
    """Nearest x2, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = convolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, attention after each if asked, then an optional resampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        attend: bool,
        config: VQConfig,
        kernel: int = 3,
    ):
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        pairs = zip(widths, widths[1:], strict=False)
        self.res = nn.ModuleList(ResBlock(a, b, config, kernel) for a, b in pairs)
        attn = (AttnBlock(out_channels, config) if attend else nn.Identity() for _ in range(num_blocks))
        self.attn = nn.ModuleList(attn)
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for res, attn in zip(self.res, self.attn, strict=True):
            x = attn(res(x))
        return self.upsample(self.downsample(x))


def middle(channels: int, config: VQConfig, kernel: int = 3) -> nn.ModuleList:
    between = AttnBlock(channels, config) if config.attention else nn.Identity()
    first, last = (ResBlock(channels, channels, config, kernel) for _ in range(2))
    return nn.ModuleList([first, between, last])


class Encoder(nn.Module):
    """(B, 3, H, W) pixels -> (B, z_channels, h, w)."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.stem_stride = config.stem_stride
        widths = [config.width * m for m in config.channel_mult]
        kernel, down = (1, 2) if config.local_encoder else (3, 3)
        self.conv_in = convolution(3 * config.stem_stride**2, config.width, kernel)
        self.conv_blocks = nn.ModuleList()
        for i, (before, width) in enumerate(zip([config.width, *widths], widths, strict=False)):
            last = i == len(widths) - 1
            level = Level(before, width, config.num_res_blocks, last and config.attention, config, kernel)
            if not last:
                level.downsample = Downsample(width, down)
            self.conv_blocks.append(level)
        self.mid = middle(widths[-1], config, kernel)
        self.norm_out = normalization(widths[-1], config)
        self.conv_out = convolution(widths[-1], config.z_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.stem_stride))
        for block in (*self.conv_blocks, *self.mid):
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """(B, z_channels, h, w) -> (B, 3, H, W) pixels; the encoder mirrored, coarsest level first."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.stem_stride = config.stem_stride
        widths = [config.width * m for m in reversed(config.channel_mult)]
        self.conv_in = convolution(config.z_channels, widths[0], 3)
        self.mid = middle(widths[0], config)
        self.conv_blocks = nn.ModuleList()
        for i, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = Level(before, width, config.num_res_blocks + 1, i == 0 and config.attention, config)
            if i < len(widths) - 1:
                level.upsample = Upsample(width)
            self.conv_blocks.append(level)
        self.norm_out = normalization(widths[-1], config)
        self.conv_out = convolution(widths[-1], 3 * config.stem_stride**2, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in (*self.mid, *self.conv_blocks):
            x = block(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.stem_stride)
