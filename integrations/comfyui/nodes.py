"""What ComfyUI shows: a class a node, in its V1 interface; the work is in `work`."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from autoregressive.editing.choices import CROPS
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.session import EditSession
from integrations.comfyui.work import as_batch, as_masks, draw, edit, edit_session, load, open_session

CATEGORY = "NEP"
MODEL, SESSION = "NEP_MODEL", "NEP_SESSION"
_SEED = ("INT", {"default": 0, "min": 0, "max": 2**63 - 16, "control_after_generate": True})
_WORDS = ("STRING", {"multiline": True, "default": ""})
_GUIDANCE = ("FLOAT", {
    "default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "0: as the model was saved; 1: none",
})  # fmt: skip
_TEMPERATURE = ("FLOAT", {
    "default": -1.0, "min": -1.0, "max": 100.0, "step": 0.05, "tooltip": "below 0: as the model was saved",
})  # fmt: skip
_MASK = ("MASK", {"tooltip": "1 = edit; without one the model finds the region from the words"})
_CROP = (["auto", *(name for name in CROPS if name != "auto")], {"default": "auto"})


class NEPLoadModel:
    """Loads one model of a folder."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (MODEL,)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("model",)
    DESCRIPTION = "Loads a model that edits or draws: shapes (comes with the project), a folder, or a hub id."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "folder": ("STRING", {"default": "shapes"}),
                "model": ("STRING", {"default": "", "tooltip": "one of several in it; empty: the first"}),
                "device": (["auto", "cpu", "cuda", "mps"], {"default": "auto"}),
            }
        }

    def load(self, folder: str, model: str, device: str) -> tuple[EditingPipeline]:
        return (load(folder, model, device),)


class NEPEdit:
    """Edits a region of each picture of a batch."""

    CATEGORY, FUNCTION = CATEGORY, "edit"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE", "MASK")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("image", "changed")
    DESCRIPTION = (
        "Regenerates the masked cells. All pixels outside of `changed` are the source's, bit for bit."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "model": (MODEL,),
                "image": ("IMAGE",),
                "prompt": _WORDS,
                "seed": _SEED,
                "guidance": _GUIDANCE,
                "temperature": _TEMPERATURE,
                "crop": _CROP,
            },
            "optional": {"mask": _MASK},
        }

    def edit(
        self,
        model: EditingPipeline,
        image: Tensor,
        prompt: str,
        seed: int,
        guidance: float,
        temperature: float,
        crop: str,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return edit(model, image, prompt, as_masks(mask, image), seed, (guidance, temperature), crop)


class NEPDraw:
    """Draws pictures from text."""

    CATEGORY, FUNCTION = CATEGORY, "draw"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("image",)
    DESCRIPTION = "Draws pictures from text, with a text-to-image model."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "model": (MODEL,),
                "prompt": _WORDS,
                "seed": _SEED,
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 64}),
                "guidance": _GUIDANCE,
                "temperature": _TEMPERATURE,
            }
        }

    def draw(
        self,
        model: EditingPipeline,
        prompt: str,
        seed: int,
        batch_size: int,
        guidance: float,
        temperature: float,
    ) -> tuple[Tensor]:
        return (draw(model, prompt, seed, batch_size, (guidance, temperature)),)


class NEPOpenSession:
    """Begins several edits of one picture."""

    CATEGORY, FUNCTION = CATEGORY, "open"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (SESSION,)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("session",)
    DESCRIPTION = (
        "Several edits in a row: what a turn does not touch keeps its codes and pixels, without drift."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": (MODEL,), "image": ("IMAGE",), "crop": _CROP}}

    def open(self, model: EditingPipeline, image: Tensor, crop: str) -> tuple[EditSession]:
        return (open_session(model, image, crop),)


class NEPSessionEdit:
    """The next edit of a session; other branches of it stay as they are."""

    CATEGORY, FUNCTION = CATEGORY, "edit"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (SESSION, "IMAGE", "MASK")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("session", "image", "changed")
    DESCRIPTION = "One more edit. Take an earlier session to go back, or to try several ways from there."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "session": (SESSION,),
                "prompt": _WORDS,
                "seed": _SEED,
                "guidance": _GUIDANCE,
                "temperature": _TEMPERATURE,
            },
            "optional": {"mask": _MASK},
        }

    def edit(
        self,
        session: EditSession,
        prompt: str,
        seed: int,
        guidance: float,
        temperature: float,
        mask: Tensor | None = None,
    ) -> tuple[EditSession, Tensor, Tensor]:
        (region,) = as_masks(mask, as_batch(session.image))
        return edit_session(session, prompt, region, seed, (guidance, temperature))


NODE_CLASS_MAPPINGS = {
    "NEPLoadModel": NEPLoadModel,
    "NEPEdit": NEPEdit,
    "NEPDraw": NEPDraw,
    "NEPOpenSession": NEPOpenSession,
    "NEPSessionEdit": NEPSessionEdit,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "NEPLoadModel": "NEP Load Model",
    "NEPEdit": "NEP Edit Region",
    "NEPDraw": "NEP Draw",
    "NEPOpenSession": "NEP Open Session",
    "NEPSessionEdit": "NEP Session Edit",
}
