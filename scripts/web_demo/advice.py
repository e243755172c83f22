"""What the demo tells of its model, and what it warns of before a result disappoints."""

from __future__ import annotations

from autoregressive.editing.pipeline import EditingPipeline

LARGE_REGION = 0.6
"""Share of the cells from which on a region that the model found is warned of."""
FAR_DB = 10.0
"""A picture is far from what a tokenizer reproduces if it falls this much short of the usual: ten times the
squared error."""


def about_model(name: str, pipeline: EditingPipeline) -> list[str]:
    """Sentences on which model this is and what it knows; what its folder does not say is not claimed.

    Args:
      name: of the folder, or of the file.
    """
    config = pipeline.transformer.config
    millions = sum(parameter.numel() for parameter in pipeline.transformer.parameters()) / 1e6
    does = "edits" if config.mask_in_context else "edits by filling in, told what the result shows"
    side = pipeline.image_size
    lines = [
        f"Model “{name}”: {does}; {millions:.1f} M parameters, {side} × {side} pixels, {pipeline.grid} × "
        f"{pipeline.grid} cells."
    ]
    if pipeline.about.knows:
        lines.append(f"It has seen {pipeline.about.knows}, and nothing else.")
    if words := vocabulary(pipeline):
        lines.append(f"It knows {len(words)} words: {', '.join(words)}.")
    return lines


def vocabulary(pipeline: EditingPipeline) -> list[str]:
    """All words of a model that knows few; none where it reads parts of words, and so any."""
    encoder = pipeline.text_encoder
    return (encoder.tokenizer.vocabulary() or []) if encoder is not None else []


def on_words(pipeline: EditingPipeline, words: str) -> list[str]:
    """A warning of words that the model does not know."""
    encoder = pipeline.text_encoder
    told = encoder.tokenizer.told_unknown([words]) if encoder is not None and words.strip() else ""
    return [f"{told[0].upper()}{told[1:]}."] if told else []


def is_far(pipeline: EditingPipeline, psnr: float) -> bool:
    """Whether a picture is far from what the tokenizer reproduces; False where what is usual is not known."""
    usual = pipeline.about.usual_psnr
    return usual is not None and psnr < usual - FAR_DB


def on_reconstruction(pipeline: EditingPipeline, psnr: float) -> str:
    """The error of a picture's reconstruction, with what is usual where that is known.

    Args:
      psnr: decibels, see `Workspace.psnr`.
    """
    usual = pipeline.about.usual_psnr
    beside = "" if usual is None else f"; usual is {usual:.0f} dB"
    return f"the tokenizer reproduces it at {psnr:.1f} dB{beside}"


def on_picture(pipeline: EditingPipeline, psnr: float) -> list[str]:
    """A warning of a picture that is far from what the tokenizer reproduces."""
    if not is_far(pipeline, psnr):
        return []
    return [
        f"This picture is not of the kind that the model knows: {on_reconstruction(pipeline, psnr)}. What "
        "the model sees of it is shown here, and edited cells will look like that."
    ]


def on_region(share: float, found: bool) -> list[str]:
    """A warning of a large region that the model found itself.

    Args:
      share: of the cells, 0 to 1.
      found: by the model, not given.
    """
    if not found or share <= LARGE_REGION:
        return []
    return [
        f"The region found is {share:.0%} of the picture. If that is not what you mean, undo and paint the "
        "region, or name one object as the picture shows it."
    ]
