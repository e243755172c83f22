"""Random CLIP and DINO weights in the published formats, and plain computations with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

TINY_CLIP = "tiny-quickgelu"
_TINY = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "patch_size": 56, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def register_tiny_clip(folder: Path) -> None:
    """Makes open_clip know `TINY_CLIP`, and "tiny" with the other activation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{TINY_CLIP}.json").write_text(json.dumps(_TINY))
    (folder / "tiny.json").write_text(json.dumps({**_TINY, "quick_gelu": False}))
    open_clip.add_model_config(folder)


def random_clip(name: str = TINY_CLIP) -> torch.nn.Module:
    """Untrained, with weights large enough for images and texts to differ visibly."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = open_clip.CLIP(**open_clip.get_model_config(name)).eval()
        for parameter in model.parameters():
            parameter.data = (parameter.data * (3 if parameter.dim() > 1 else 1)).half().float()
    return model


def random_dino() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0).eval()


def write_networks(folder: Path) -> tuple[Path, Path]:
    """CLIP in float16 as safetensors, DINO as a bare state dict, and the folder of `TINY_CLIP`'s sizes."""
    register_tiny_clip(folder / "configs")
    clip, dino = folder / "clip.safetensors", folder / "dino.pth"
    save_file({name: tensor.half() for name, tensor in random_clip().state_dict().items()}, clip)
    torch.save(random_dino().state_dict(), dino)
    return clip, dino


class PlainFeatures:
    """What open_clip and timm compute when called directly, one image or text at a time."""

    def __init__(self) -> None:
        self.clip, self.dino = random_clip(), random_dino()
        self.clip_transform = open_clip.image_transform(224, is_train=False)
        self.dino_transform = transforms.Compose([
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])  # fmt: skip

    @torch.no_grad()
    def clip_image(self, path: Path) -> np.ndarray:
        return self.clip.encode_image(self.clip_transform(Image.open(path).convert("RGB"))[None])[0].numpy()

    @torch.no_grad()
    def dino_image(self, path: Path) -> np.ndarray:
        return self.dino(self.dino_transform(Image.open(path).convert("RGB"))[None])[0].numpy()

    @torch.no_grad()
    def clip_text(self, text: str) -> np.ndarray:
        return self.clip.encode_text(open_clip.tokenize([text]))[0].numpy()


def plain_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
