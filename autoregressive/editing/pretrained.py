"""Saving a whole pipeline as a folder, see `model_folders`, and pushing it to the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from autoregressive.editing.model_folders import (
    CONFIG_FILE,
    About,
    Defaults,
    FolderConfig,
    Member,
    first_line,
    read_config,
)
from autoregressive.models.arithmetic import MARKER, marked, unpublished_arithmetic
from autoregressive.models.gpt import ModelConfig, Transformer
from autoregressive.models.weights import model_args
from language.t5 import T5Encoder
from runtime.checkpoint import load_checkpoint, save_safetensors
from runtime.errors import UserError
from runtime.files import writing
from runtime.texts import write_text
from tokenizer.tokenizer_image.vq_model import VQModel

TOKENIZER, TRANSFORMER, TEXT_ENCODER = "tokenizer.safetensors", "transformer.safetensors", "text_encoder"


class Models(Protocol):
    """What a folder holds one of: an `EditingPipeline`."""

    tokenizer: VQModel
    transformer: Transformer
    text_encoder: T5Encoder | None
    defaults: Defaults
    about: About


def save_pretrained(
    pipeline: Models,
    folder: Path,
    model: str = "transformer",
    *,
    copy_text_encoder: bool | None = None,
) -> None:
    """See `EditingPipeline.save_pretrained`."""
    # A folder can hold several models over one tokenizer: a text-to-image model and an editor, say.
    config = read_config(folder) if (folder / CONFIG_FILE).exists() else FolderConfig(TOKENIZER, {}, None)
    file = TRANSFORMER if model == "transformer" else f"{model}.safetensors"
    if Path(file).name != file or file == TOKENIZER:
        raise UserError(f"model {model!r}: name it with a plain word other than 'tokenizer'")
    tokenizer, transformer = pipeline.tokenizer, pipeline.transformer
    if others := sorted(config.models.keys() - {model}):
        _require_same_tokenizer(folder / config.tokenizer, pipeline, others)
    copy = _copies_encoder(pipeline, copy_text_encoder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(
        folder / TOKENIZER, tokenizer.state_dict(), {"vq_config": dataclasses.asdict(tokenizer.config)}
    )
    weights = marked(transformer.state_dict(), transformer.config)
    save_safetensors(folder / file, weights, model_args("", transformer.config))
    text_encoder = config.text_encoder
    if copy:
        text_encoder = TEXT_ENCODER
        with writing(folder / text_encoder):
            pipeline.text_encoder.save(folder / text_encoder)
    elif pipeline.text_encoder is not None:
        text_encoder = pipeline.text_encoder.hub_id
    models = config.models | {model: Member(file, pipeline.defaults)}
    about = pipeline.about if pipeline.about.to_dict() else config.about
    FolderConfig(TOKENIZER, models, text_encoder, about).write(folder)
    if not (folder / "README.md").exists():
        card = _card(pipeline, models)
        write_text(folder / "README.md", card)


def _require_same_tokenizer(path: Path, pipeline: Models, models: list[str]) -> None:
    """Refuses to take from `models`, which are saved beside it, the tokenizer that they were trained with."""
    saved = load_checkpoint(path)["model"]
    weights = pipeline.tokenizer.state_dict()
    if not all(name in saved and torch.equal(saved[name].to(own), own) for name, own in weights.items()):
        raise UserError(
            f"{path}: another tokenizer than this pipeline's, and that of {', '.join(models)}; save into "
            "another folder"
        )


def _copies_encoder(pipeline: Models, wanted: bool | None) -> bool:
    """Whether its text encoder, if it has one, is saved with its weights."""
    encoder = pipeline.text_encoder
    copies = encoder is not None and (encoder.is_local if wanted is None else wanted)
    if encoder is not None and not copies and encoder.hub_id is None:
        raise UserError(
            f"the text encoder {encoder.name} has no name that others could find it by: put it into the "
            "folder (copy_text_encoder=True, --copy-text-encoder), or leave it out (with_text_encoder=False, "
            "--no-text-encoder) and give from_pretrained a t5_path"
        )
    return copies


def push_folder(folder: Path, repo_id: str, *, private: bool, message: str, token: str | None) -> str:
    """Uploads a saved folder; returns where it is."""
    read_config(folder)
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=repo_id, commit_message=message))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"{repo_id}: cannot push ({first_line(error)}); `hf auth login` gives access"
        ) from error


def front_matter(*, edits: bool) -> list[str]:
    """What the hub reads at the head of a model card: the project's licence, and where the model is found."""
    return [
        "---",
        "license: mit",
        "library_name: nep-editing",
        f"pipeline_tag: {'image-to-image' if edits else 'text-to-image'}",
        "tags: [image-editing, text-to-image, autoregressive]",
        "---",
        "",
    ]


def arithmetic_note(config: ModelConfig) -> list[str]:
    """The paragraph of a model card on weights that the published class would take and misuse."""
    settings = ", ".join(f"{name} {value}" for name, value in unpublished_arithmetic(config).items())
    if not settings:
        return []
    sentence = (
        f"**Not the published arithmetic** ({settings}): names and shapes of the weights are those of the "
        "published class, but in it they draw noise. Use them with this project; the tensor "
        f"`{MARKER}` is among them so that other loaders report it."
    )
    return [*textwrap.wrap(sentence, 110), ""]


def _card(pipeline: Models, models: Mapping[str, Member]) -> str:
    config = pipeline.transformer.config
    kind = "edits inside a region" if config.mask_in_context else "draws from text and edits zero-shot"
    pixels = config.grid * pipeline.tokenizer.config.downsampling
    millions = sum(p.numel() for p in pipeline.transformer.state_dict().values()) / 1e6
    return "\n".join([
        *front_matter(edits=config.mask_in_context),
        "# Next editing token prediction",
        "",
        f"A transformer of {millions:.1f} M parameters that {kind}, with its tokenizer "
        f"({pixels} px, {config.block_size} cells, {config.vocab_size} codes).",
        "",
        "```python",
        "from autoregressive import EditingPipeline",
        "",
        f'pipeline = EditingPipeline.from_pretrained("THIS_REPO", model="{next(iter(models))}")',
        'result = pipeline.edit(image, "make the circle blue", mask)[0]',
        "```",
        "",
        *arithmetic_note(config),
        "Data, training and scores: to be told by whoever trained it.",
        "",
    ])  # fmt: skip
