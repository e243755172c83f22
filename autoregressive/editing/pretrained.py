"""A whole pipeline in one folder, here or on the Hugging Face hub.

    config.json             what is what, see `read_config`
    tokenizer.safetensors   the VQ tokenizer
    transformer.safetensors one transformer, or several under names of their own
    text_encoder/           the text encoder as transformers saves it, or only its hub id in config.json
    README.md               a model card

Weights carry their own configuration in their headers, so that each file also loads by itself.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from autoregressive.editing.options import Defaults
from autoregressive.models.arithmetic import MARKER, marked, unpublished_arithmetic
from autoregressive.models.gpt import ModelConfig, Transformer
from autoregressive.models.weights import model_args
from language.t5 import T5Encoder
from runtime.checkpoint import load_checkpoint, save_safetensors
from runtime.errors import UserError
from runtime.files import require_regular, write_atomic, writing
from tokenizer.tokenizer_image.vq_model import VQModel

CONFIG_FILE = "config.json"
FORMAT = 1
TOKENIZER, TRANSFORMER, TEXT_ENCODER = "tokenizer.safetensors", "transformer.safetensors", "text_encoder"


class Models(Protocol):
    """What a folder holds one of: an `EditingPipeline`."""

    tokenizer: VQModel
    transformer: Transformer
    text_encoder: T5Encoder | None
    defaults: Defaults
    about: About


@dataclass(frozen=True)
class About:
    """What the maker of a folder says of its models, for people who use them; nothing is said by default.

    Attributes:
      knows: what they were trained on, as a phrase such as "coloured shapes on plain backgrounds".
      usual_psnr: decibels at which the tokenizer gives such pictures back, their mean.
    """

    knows: str = ""
    usual_psnr: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.knows, str) or not isinstance(self.usual_psnr, (int, float, type(None))):
            raise TypeError(f"knows must be words and usual_psnr a number, not {self}")

    def to_dict(self) -> dict[str, Any]:
        """What is said."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in ("", None)}


@dataclass(frozen=True)
class Member:
    """One transformer of a folder: its file, and its defaults."""

    file: str
    defaults: Defaults


@dataclass(frozen=True)
class FolderConfig:
    """What `config.json` says; the first of `models` is the one that is meant where none is named."""

    tokenizer: str
    models: dict[str, Member]
    text_encoder: str | None
    """A folder in this one, or a hub id; None for models whose texts come as features."""
    about: About = About()

    def to_dict(self) -> dict[str, Any]:
        models = {name: {"file": m.file, "defaults": m.defaults.to_dict()} for name, m in self.models.items()}
        about = self.about.to_dict()
        return {
            "format": FORMAT,
            "tokenizer": self.tokenizer,
            "models": models,
            "text_encoder": self.text_encoder,
            **({"about": about} if about else {}),
        }

    def write(self, folder: Path) -> None:
        """Writes `config.json` whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        write_atomic(folder / CONFIG_FILE, lambda temporary: temporary.write_text(text))


def read_config(folder: Path) -> FolderConfig:
    """Reads and checks `config.json`.

    Raises:
      UserError: it is missing, damaged, of a newer format, or names files outside the folder.
    """
    path = folder / CONFIG_FILE
    require_regular(path, "a config")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{path}: format {content['format']!r}; this version reads {FORMAT}")
        members = {
            name: Member(member["file"], Defaults.from_dict(member.get("defaults", {})))
            for name, member in content["models"].items()
        }
        about = About(**content.get("about", {}))
        config = FolderConfig(content["tokenizer"], members, content["text_encoder"], about)
        names = [config.tokenizer, *(member.file for member in members.values())]
        if not members or not all(isinstance(name, str) for name in names):
            raise ValueError("models and tokenizer must name files")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); a folder made by save_pretrained has one"
        ) from None
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not the config of an editing pipeline ({error!r})") from None
    for name in names:
        _inside(folder, name)
    return config


def find_folder(name: str | Path, revision: str | None = None) -> Path:
    """A folder as it is; else the hub's model of that id, pulled into the cache."""
    return Path(name) if Path(name).is_dir() else _pull(str(name), revision)


def find_files(
    name: str | Path,
    model: str | None,
    *,
    revision: str | None = None,
    t5_path: str | Path | None = None,
    with_text_encoder: bool = True,
    **options: Any,
) -> tuple[dict[str, Any], Defaults, About]:
    """What `EditingPipeline.load` is to be told for a folder, its model's defaults, and what is said of it.

    Args:
      name, model, revision, t5_path, with_text_encoder: as in `EditingPipeline.from_pretrained`.
      options: passed on.
    """
    folder = find_folder(name, revision)
    config = read_config(folder)
    model = next(iter(config.models)) if model is None else model
    if model not in config.models:
        raise UserError(f"{folder} holds no model {model!r}; it has {', '.join(config.models)}")
    member = config.models[model]
    if not with_text_encoder or t5_path is None and config.text_encoder is None:
        options["with_text_encoder"] = False
    elif t5_path is not None:
        options["t5_path"] = t5_path
        if config.text_encoder is not None and not (folder / config.text_encoder).is_dir():
            options.setdefault("t5_model_type", config.text_encoder)
    else:
        options |= _find_encoder(folder, config.text_encoder)
    return (
        {
            "vq_ckpt": folder / config.tokenizer,
            "gpt_ckpt": folder / member.file,
            **options,
        },
        member.defaults,
        config.about,
    )


def _find_encoder(folder: Path, name: str) -> dict[str, Any]:
    """What `EditingPipeline.load` is to be told of the text encoder that the config names."""
    remedy = "give from_pretrained the text encoder's folder as t5_path"
    path = _inside(folder, name, f"; {remedy}")
    if path.is_dir():
        return {"t5_path": path}
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(
            f"{folder / CONFIG_FILE}: text_encoder {name!r} is neither a folder there nor a hub id; {remedy}"
        ) from None
    return {"t5_model_type": name}


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
        write_atomic(folder / "README.md", lambda temporary: temporary.write_text(card, encoding="utf-8"))


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
            f"{repo_id}: cannot push ({_first_line(error)}); `hf auth login` gives access"
        ) from error


def _pull(repo_id: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{repo_id}: no folder here, and no model that can be had from the hub ({_first_line(error)})"
        ) from error


def _inside(folder: Path, name: str, remedy: str = "") -> Path:
    """`folder`/`name`, refused where that leads out of the folder: a config may come from anywhere."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{folder / CONFIG_FILE}: {name!r} leads outside the folder{remedy}")
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
