"""Frozen networks that judge images, from local weights: CLIP (open_clip), DINO (timm), and others by name.

clip = ClipEncoder.load("ViT-B-32-quickgelu", "ViT-B-32.pt", device)
features = clip.embed_images(torch.stack([clip.prepare(image) for image in images]))  # (B, 512)
texts = clip.embed_texts(["a red circle"])                                            # (1, 512)

Everything is computed in float32. Published figures used float16 on GPUs, at most 1.5e-5 a pair away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evaluations.flags import CLIP_MODEL, DINO_FILE, WeightFlags
from evaluations.metrics.dino import load_dino
from evaluations.metrics.lpips import LpipsNetwork, load_squeeze_lpips, load_vgg_lpips
from evaluations.metrics.structure import StructureNetwork
from evaluations.metrics.weights import PRETRAINED, find_weights, import_package, read_state_dict
from runtime.checkpoint import load_weights
from runtime.errors import UserError
from runtime.files import file_sha256

CLIP_L14_MODEL = "ViT-L-14-quickgelu"
DINO_MODEL = "vit_small_patch16_224.dino"

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Numbers that OpenAI's archives hold beside the weights, and the mask of the text's attention.
_CLIP_NOTES = ("input_resolution", "context_length", "vocab_size")


class ImageEncoder:
    """A frozen network that turns an image into a vector."""

    def __init__(self, name: str, path: Path, network: nn.Module, transform: Callable) -> None:
        self.name, self.path = name, path
        self._network = network.eval().requires_grad_(False)
        self._transform = transform

    @property
    def device(self) -> torch.device:
        return next(self._network.parameters()).device

    def describe(self) -> dict[str, str]:
        """Name and weights, for a report."""
        return {"model": self.name, "path": str(self.path), "sha256": file_sha256(self.path)}

    def prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB of any size to (3, S, S) float32, the network's own preprocessing."""
        return self._transform(Image.fromarray(image))

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) prepared images to (B, C) float32 features on the CPU, not normalised."""
        with full_float32(self.device):
            return self._image_features(images.to(self.device)).float().cpu()

    def _image_features(self, images: Tensor) -> Tensor:
        return self._network(images)


class DinoEncoder(ImageEncoder):
    """DINO ViT-S/16: the class token after the last norm, 384 numbers."""

    @classmethod
    def load(
        cls, path: str | Path | None = None, device: torch.device | str = "cpu", flag: str = "--dino_ckpt"
    ) -> DinoEncoder:
        """Loads DINO from `path`, or from the usual places; see `find_weights`."""
        found, network = load_dino(DINO_MODEL, path, flag, "DINO ViT-S/16", DINO_FILE)
        # As published with DINO: 256 then 224, where timm's own transform takes 248.
        return cls(DINO_MODEL, found, network.to(device), _transform(256, 224, _IMAGENET_MEAN, _IMAGENET_STD))


class ClipEncoder(ImageEncoder):
    """OpenAI's CLIP, images and texts."""

    def __init__(
        self, name: str, path: Path, network: nn.Module, transform: Callable, tokenizer: Any
    ) -> None:
        super().__init__(name, path, network, transform)
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        name: str = CLIP_MODEL,
        path: str | Path | None = None,
        device: torch.device | str = "cpu",
        flag: str = "--clip_ckpt",
    ) -> ClipEncoder:
        """Loads the CLIP that open_clip calls `name` from `path`, or from the usual places.

        Raises:
          UserError: open_clip is not installed, the name is unknown or has not OpenAI's activation, or the
            weights are missing or do not fit.
        """
        open_clip = import_package("open_clip", "open_clip_torch")
        config = _clip_config(open_clip, name)
        published = open_clip.get_pretrained_cfg(name, "openai") or {}
        file = f"{name.removesuffix('-quickgelu')}.pt"
        repository = published.get("hf_hub", "").strip("/")
        hub_files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        found = find_weights(
            path,
            flag,
            f"CLIP {name}",
            [PRETRAINED / file, Path.home() / ".cache" / "clip" / file],
            {repository: hub_files} if repository else {},
            published.get("url"),
        )
        with torch.random.fork_rng(devices=[]):
            network = open_clip.CLIP(**config)
        state = read_state_dict(found)
        notes = [n for n in state if n in _CLIP_NOTES or n.endswith("attn_mask")]
        load_weights(network, state, found, may_have=notes)
        size = network.visual.image_size
        side = size if isinstance(size, int) else size[0]
        transform = _transform(side, side, _CLIP_MEAN, _CLIP_STD)
        return cls(name, found, network.to(device), transform, open_clip.get_tokenizer(name))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, C) float32 features of the texts on the CPU, not normalised; long texts are cut."""
        tokens = self._tokenizer(list(texts), context_length=self._network.context_length)
        with full_float32(self.device):
            return self._network.encode_text(tokens.to(self.device)).float().cpu()

    def is_cut(self, text: str) -> bool:
        """Whether `text` is longer than CLIP reads: 77 tokens, two of which mark start and end."""
        return len(self._tokenizer.encode(text)) + 2 > self._network.context_length

    def _image_features(self, images: Tensor) -> Tensor:
        return self._network.encode_image(images)


Network = ImageEncoder | LpipsNetwork | StructureNetwork

_LOADERS: dict[str, Callable[[Any, torch.device | str], Network]] = {
    "clip": lambda flags, device: ClipEncoder.load(flags.clip_model, flags.clip_ckpt, device),
    "clip-l14": lambda flags, device: ClipEncoder.load(
        CLIP_L14_MODEL, flags.clip_l14_ckpt, device, "--clip_l14_ckpt"
    ),
    "dino": lambda flags, device: DinoEncoder.load(flags.dino_ckpt, device),
    "lpips": lambda flags, device: load_vgg_lpips(flags.vgg_ckpt, flags.lpips_ckpt, device),
    "lpips-squeeze": lambda flags, device: load_squeeze_lpips(
        flags.squeeze_ckpt, flags.lpips_squeeze_ckpt, device
    ),
    "structure": lambda flags, device: StructureNetwork.load(flags.dino_b8_ckpt, device),
}
NETWORKS = tuple(_LOADERS)


def load_network(name: str, flags: WeightFlags, device: torch.device | str = "cpu") -> Network:
    """Loads one of `NETWORKS` with the weights that the flags name."""
    return _LOADERS[name](flags, device)


@contextmanager
def full_float32(device: torch.device | str) -> Iterator[None]:
    """No TF32 and no autocast inside, whatever the caller, such as a training run, has switched on."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _clip_config(open_clip: Any, name: str) -> dict[str, Any]:
    """The sizes of a CLIP; only those with OpenAI's activation and tokenizer are let through."""
    if ":" in name:  # open_clip's schemas hf-hub: and local-dir:
        raise UserError(
            f"--clip-model {name!r}: folders and hub repositories can bring code of their own, which is not "
            f"run here; take one of open_clip's own names, such as {CLIP_MODEL}, and --clip-ckpt for weights"
        )
    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(f"--clip-model {name!r}: open_clip does not know it; take {CLIP_MODEL}")
    if not config.get("quick_gelu"):
        twin = f"{name}-quickgelu"
        advice = twin if open_clip.get_model_config(twin) else CLIP_MODEL
        raise UserError(
            f"--clip-model {name!r} has another activation (GELU) than OpenAI's weights were trained with "
            f"(quick GELU): its similarities would be wrong; take {advice}"
        )
    from_hub = [key for key in ("hf_model_name", "hf_tokenizer_name") if config.get("text_cfg", {}).get(key)]
    if from_hub:
        raise UserError(
            f"--clip-model {name!r} reads texts with what a hub repository brings ({', '.join(from_hub)}), "
            f"which could be code and is not run here; take {CLIP_MODEL}"
        )
    return config


def _transform(resize: int, crop: int, mean: Sequence[float], std: Sequence[float]) -> Callable:
    from torchvision import transforms  # seconds, which metrics of pixels alone need not wait for

    return transforms.Compose([
        transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(crop),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ])  # fmt: skip
