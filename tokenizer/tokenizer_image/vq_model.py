"""VQ-8 and VQ-16: the VQGAN autoencoder with an l2-normalised codebook, and small configurations of it.

Parameter names and shapes are LlamaGen's (arXiv 2406.06525), so its checkpoints load unchanged.

Legend: B batch, H, W pixels, C channels, h, w cells (H / downsampling), N = h * w, V codes, E code width.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.checkpoint import checkpoint_args, load_checkpoint, load_weights, settings_from
from runtime.errors import UserError
from tokenizer.tokenizer_image.vq_layers import Decoder, Encoder
from tokenizer.tokenizer_image.vq_registry import VQ_MODELS, VQConfig


class VectorQuantizer(nn.Module):
    """Nearest row of an l2-normalised codebook, with a straight-through gradient."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_embed_dim)
        bound = 1.0 / config.codebook_size
        with torch.no_grad():
            self.embedding.weight.uniform_(-bound, bound)
            self.embedding.weight.copy_(F.normalize(self.embedding.weight, dim=-1))
        # Published checkpoints carry this window of recent codes; we only keep its place.
        self.register_buffer("codebook_used", torch.zeros(65536))

    def codebook(self) -> Tensor:
        """The (V, E) unit rows that codes stand for."""
        return F.normalize(self.embedding.weight.float(), dim=-1)

    def nearest(self, unit: Tensor) -> Tensor:
        """Maps (..., E) unit vectors to the (...) int64 codes of the nearest rows.

        Between unit vectors the smallest distance is the largest inner product.
        """
        with torch.autocast(unit.device.type, enabled=False):  # bf16 would turn codes into their neighbours
            return (unit.detach() @ self.codebook().detach().T).argmax(dim=-1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantises (B, E, h, w) latents.

        Returns:
          (B, E, h, w) code vectors with straight-through gradient, (B, h, w) codes, codebook loss and
          commitment loss (both unweighted).
        """
        unit = normalize_latents(z).movedim(1, -1)
        ids = self.nearest(unit)
        rows = F.embedding(ids, self.codebook())
        codebook_loss = F.mse_loss(rows, unit.detach())
        commitment_loss = F.mse_loss(unit, rows.detach())
        through = unit + (rows - unit).detach()
        return through.movedim(-1, 1), ids, codebook_loss, commitment_loss


def normalize_latents(z: Tensor) -> Tensor:
    """Projects (B, E, h, w) latents to the unit sphere, in float32 under any autocast."""
    return F.normalize(z.float(), dim=1)


class VQOutput(NamedTuple):
    """Result of a training pass.

    Attributes:
      reconstruction: (B, 3, H, W).
      ids: (B, N) codes, raster order.
      unit_latents: (B, E, h, w) unit vectors before quantising.
      codebook_loss, commitment_loss: scalars, unweighted.
    """

    reconstruction: Tensor
    ids: Tensor
    unit_latents: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class VQModel(nn.Module):
    """Image tokenizer: pixels in [-1, 1] <-> codes in raster order."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_embed_dim, config.z_channels, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) images in [-1, 1] to (B, E, h, w) latents before normalisation and quantising."""
        return self.quant_conv(self.encoder(images))

    def decode(self, code_vectors: Tensor) -> Tensor:
        """Maps (B, E, h, w) code vectors to (B, 3, H, W) images; values may exceed [-1, 1] a little."""
        return self.decoder(self.post_quant_conv(code_vectors))

    @torch.no_grad()
    def encode_ids(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) images in [-1, 1] to (B, N) int64 codes in raster order."""
        factor = self.config.downsampling
        if images.shape[-2] % factor or images.shape[-1] % factor:
            height, width = images.shape[-2:]
            raise UserError(f"image of {height}x{width} pixels: both sides must be multiples of {factor}")
        unit = normalize_latents(self.encode(images)).movedim(1, -1)
        return self.quantize.nearest(unit).flatten(1)

    @torch.no_grad()
    def decode_ids(self, ids: Tensor) -> Tensor:
        """Maps (B, N) codes of a square grid to (B, 3, H, W) images."""
        grid = math.isqrt(ids.shape[1])
        if grid * grid != ids.shape[1]:
            raise UserError(f"{ids.shape[1]} codes do not form a square grid of side {grid}")
        rows = F.embedding(ids, self.quantize.codebook())
        return self.decode(rows.unflatten(1, (grid, grid)).movedim(-1, 1))

    def forward(self, images: Tensor, quantize: bool = True) -> VQOutput:
        """Reconstructs (B, 3, H, W) images in [-1, 1]; `quantize=False` skips the rounding to codes."""
        z = self.encode(images)
        code_vectors, ids, codebook_loss, commitment_loss = self.quantize(z)
        unit = normalize_latents(z)
        decoded = self.decode(code_vectors if quantize else unit)
        return VQOutput(decoded, ids.flatten(1), unit, codebook_loss, commitment_loss)


def require_config(
    model: VQModel,
    path: str | Path,
    *,
    codebook_size: int | None = None,
    codebook_embed_dim: int | None = None,
    vocab_size: int | None = None,
    downsample_size: int | None = None,
    image_size: int | None = None,
) -> None:
    """Compares what the flags say with the tokenizer that was loaded; None compares nothing.

    Raises:
      UserError: names the flag that contradicts the file.
    """
    config = model.config
    for flag, asked, actual in (
        ("--codebook-size", codebook_size, config.codebook_size),
        ("--codebook-embed-dim", codebook_embed_dim, config.codebook_embed_dim),
        ("--vocab-size", vocab_size, config.codebook_size),
        ("--downsample-size", downsample_size, config.downsampling),
    ):
        if asked not in (None, actual):
            raise UserError(f"{flag} {asked} contradicts the tokenizer {path}, which has {actual}")
    if image_size is not None and image_size % config.downsampling:
        raise UserError(
            f"--image-size {image_size} is not a multiple of {config.downsampling}, "
            "the tokenizer's pixels per cell side"
        )


def codebook_usage(ids: Tensor, codebook_size: int) -> float:
    """Share of the codebook that occurs in `ids` (any shape)."""
    return (torch.bincount(ids.flatten(), minlength=codebook_size) > 0).float().mean().item()


def build_vq_model(name: str, **overrides: Any) -> VQModel:
    """Builds a registered tokenizer with random weights; `overrides` replace fields of its `VQConfig`."""
    if name not in VQ_MODELS:
        raise UserError(f"unknown tokenizer {name!r}: choose one of {', '.join(VQ_MODELS)}")
    return VQModel(dataclasses.replace(VQ_MODELS[name], **overrides))


def stored_config(checkpoint: dict[str, Any], path: str | Path) -> VQConfig | None:
    """The configuration that a tokenizer checkpoint of ours holds; published ones have none.

    Raises:
      UserError: it is there, but is no configuration.
    """
    args = checkpoint_args(checkpoint)
    return settings_from(VQConfig, args["vq_config"], path, "vq_config") if "vq_config" in args else None


def require_same_arithmetic(config: VQConfig, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuses weights that fit by name and shape, but were trained to be used otherwise.

    Raises:
      UserError: names what differs, with both values.
    """
    stored = stored_config(checkpoint, path) or config
    differing = [
        f"{name} is {getattr(stored, name)!r} there and {getattr(config, name)!r} here"
        for name in ("norm_groups", "local_norm", "local_encoder")
        if getattr(stored, name) != getattr(config, name)
    ]
    if differing:
        raise UserError(
            f"{path} was trained with another arithmetic: {'; '.join(differing)}; choose its --vq-model"
        )


def _build_stored(config: VQConfig, state: dict[str, Tensor], path: str | Path) -> VQModel:
    """The model of a configuration that came from a file, of which nothing is to be believed.

    It is tried without memory first: the weights themselves say how much it may take.
    """
    try:
        if len(config.channel_mult) > 16 or config.num_res_blocks > 64:
            raise ValueError(f"{len(config.channel_mult)} levels of {config.num_res_blocks} blocks")
        with torch.device("meta"):
            load_weights(VQModel(config), {name: t.to("meta") for name, t in state.items()}, path)
        return VQModel(config)
    except (ValueError, ArithmeticError, RuntimeError, TypeError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: no tokenizer can be made of its settings: {error}") from None


def load_vq_model(path: str | Path, name: str | None = None, device: str | torch.device = "cpu") -> VQModel:
    """Loads a tokenizer for inference, the averaged weights if the file has them.

    Args:
      path: our checkpoint, which holds its configuration, or a published one.
      name: registered name, for files that do not say it (LlamaGen's released ones); a file's own wins.
    Raises:
      UserError: if the file is no tokenizer checkpoint, or its weights are not those of that name.
    """
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("ema") or checkpoint["model"]
    codebook = state.get("quantize.embedding.weight")
    if codebook is None or codebook.dim() != 2:
        raise UserError(
            f"{path}: no tokenizer checkpoint, 'quantize.embedding.weight' is missing; it has "
            f"{', '.join([*state][:4]) or 'nothing'}"
        )
    args, config = checkpoint_args(checkpoint), stored_config(checkpoint, path)
    if config is not None:
        model = _build_stored(config, state, path)
    else:
        name = args.get("vq_model") or name
        if name is None:
            raise UserError(
                f"{path} does not say which tokenizer it is: name it, for example --vq-model VQ-16"
            )
        codebook_size, codebook_embed_dim = codebook.shape
        model = build_vq_model(name, codebook_size=codebook_size, codebook_embed_dim=codebook_embed_dim)
    load_weights(model, state, path)
    return model.to(device).eval().requires_grad_(False)
