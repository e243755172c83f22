"""What the tables are made from, where it is published, and what cannot be had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluations.metrics.fid import INCEPTION_FILE, INCEPTION_URL
from scripts.paper.config import ReproducePaper


@dataclass(frozen=True)
class HubSource:
    """Files of a repository on the hub.

    Attributes:
      files: their names; one with a * stands for several.
      place: where the file, or the folder with them, is in --pretrained, if somebody put it there.
      gigabytes: about.
      revision: the commit, where it is known.
    """

    name: str
    repository: str
    files: tuple[str, ...]
    gigabytes: float
    place: str | None = None
    kind: str = "model"
    revision: str | None = None


@dataclass(frozen=True)
class HandSource:
    """What no program can download: it wants a browser, a password, or an archive to be unpacked."""

    name: str
    gigabytes: float
    how: str


_LLAMAGEN = "peizesun/llamagen_t2i"
_T5_FILES = ("*.json", "spiece.model", "*.safetensors")
HUB = {
    source.name: source
    for source in (
        HubSource("tokenizer", _LLAMAGEN, ("vq_ds16_t2i.pt",), 0.3, "vq_ds16_t2i.pt"),
        HubSource("llamagen", _LLAMAGEN, ("t2i_XL_stage1_256.pt",), 3.1, "t2i_XL_stage1_256.pt"),
        HubSource("rllamagen", "hmwhwm/NEP", ("RLlamaGen.pt",), 3.1, "RLlamaGen.pt"),
        HubSource(
            "t5",
            "google/flan-t5-xl",
            _T5_FILES,
            11.4,
            "t5-ckpt/flan-t5-xl",
            revision="7d6315df2c2fb742f0f5b556879d730926ca9001",
        ),
        HubSource(
            "clip",
            "timm/vit_base_patch32_clip_224.openai",
            ("open_clip_model.safetensors",),
            0.6,
            "ViT-B-32.pt",
        ),
        HubSource(
            "dino",
            "timm/vit_small_patch16_224.dino",
            ("model.safetensors",),
            0.1,
            "dino_deitsmall16_pretrain.pth",
        ),
        # Not ..._generations: that has Emu Edit's own results, and its "test" is the validation set.
        HubSource("emu_edit", "facebook/emu_edit_test_set", ("data/test*.parquet",), 1.4, kind="dataset"),
    )
}
HAND = {
    source.name: source
    for source in (
        HandSource(
            "magicbrush",
            4,
            "MagicBrush's test set: the link and the password are in "
            "https://github.com/OSU-NLP-Group/MagicBrush; unpack it, and name its folder `test` with "
            "--magicbrush-path",
        ),
        HandSource(
            "coco",
            13.5,  # the archive and what is in it
            "COCO: http://images.cocodataset.org/zips/val2014.zip (md5 a3d79f5ed8d289b7a7554ce06a5782b3) and "
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip, unpacked in --coco",
        ),
        HandSource(
            "inception",
            0.1,
            f"{INCEPTION_URL}, in --pretrained",
        ),
    )
}


def hand_places(config: ReproducePaper, name: str) -> list[Path]:
    """The files that must be there once somebody has fetched a `HAND` source."""
    test = Path(config.magicbrush_path)
    coco = Path(config.coco)
    return {
        "magicbrush": [test / "edit_sessions.json", test / "local_descriptions.json", test / "images"],
        "coco": [coco / "val2014", coco / "annotations" / "captions_val2014.json"],
        "inception": [Path(config.pretrained) / INCEPTION_FILE.name],
    }[name]


def missing_places(config: ReproducePaper, name: str) -> list[Path]:
    return [place for place in hand_places(config, name) if not place.exists()]
