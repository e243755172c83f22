"""A folder of models that belong together, here or on the hub: what is in it, and how its models are used.

    config.json             what is what, see `read_config`
    tokenizer.safetensors   the VQ tokenizer
    transformer.safetensors one transformer, or several under names of their own
    text_encoder/           the text encoder as transformers saves it, or only its hub id in config.json
    README.md               a model card
    examples/               to try it: NAME.png and NAME.txt, an instruction a line; drawings.txt, captions

Weights carry their own configuration in their heads, so that each file also loads by itself. All of this is
read without PyTorch, for flags are read before it is imported.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoregressive.decoding.sampling_settings import Sampling
from dataset.choices import RULES
from runtime.errors import UserError, require_known
from runtime.files import require_regular
from runtime.texts import read_json, write_json

CONFIG_FILE, EXAMPLES = "config.json", "examples"
FORMAT = 1
PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained_models"
DEFAULT = "shapes"
"""The model that comes with the project."""
_LONGEST_HEAD = 100_000_000  # bytes, as safetensors itself has it


@dataclass(frozen=True)
class Defaults:
    """How a model is used unless a call says otherwise; saved with it.

    Attributes:
      sampling: guidance and truncation of the draws.
      mask_rule: pixel mask to cells, see `pool_edit_mask`.
      mask_error: widens each mask by this many pixels first.
    """

    sampling: Sampling = field(default_factory=Sampling)
    mask_rule: str = "published"
    mask_error: int = 0

    def __post_init__(self) -> None:
        require_known("mask rule", self.mask_rule, RULES)
        if type(self.mask_error) is not int:
            raise UserError(f"mask_error {self.mask_error!r}: give a whole number of pixels")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Defaults:
        """Raises `TypeError` for names that it does not know."""
        return cls(**{**values, "sampling": Sampling(**values.get("sampling", {}))})


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
        psnr = self.usual_psnr
        is_number = type(psnr) in (int, float) and math.isfinite(psnr)
        if not isinstance(self.knows, str) or not (psnr is None or is_number):
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
        about = self.about.to_dict()
        models = {name: {"file": m.file, "defaults": m.defaults.to_dict()} for name, m in self.models.items()}
        return {
            "format": FORMAT,
            "tokenizer": self.tokenizer,
            "models": models,
            "text_encoder": self.text_encoder,
            **({"about": about} if about else {}),
        }

    def write(self, folder: Path) -> None:
        """Writes `config.json` whole or not at all."""
        write_json(folder / CONFIG_FILE, self.to_dict())


def read_config(folder: Path) -> FolderConfig:
    """Reads and checks `config.json`.

    Raises:
      UserError: it is missing, damaged, of a newer format, or names files outside the folder.
    """
    path = folder / CONFIG_FILE
    require_regular(path, "a config")
    try:
        content = read_json(path, dict, "a folder made by save_pretrained has one")
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
        if not isinstance(config.text_encoder, str | None):
            raise ValueError("text_encoder must be a name, or null")
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not the config of an editing pipeline ({error!r})") from None
    for name in names:
        _inside(folder, name)
    return config


def at_hand() -> dict[str, Path]:
    """The folders of models in the project's `pretrained_models` by their names, `DEFAULT` first."""
    files = sorted(PRETRAINED.glob(f"*/{CONFIG_FILE}"), key=lambda file: (file.parent.name != DEFAULT, file))
    return {file.parent.name: file.parent for file in files if _names_models(file)}


def _names_models(file: Path) -> bool:
    """Whether a `config.json` is one of ours, be it damaged or not; text encoders have such a file, too."""
    try:
        return '"models"' in file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def find_folder(name: str | Path, revision: str | None = None) -> Path:
    """What is `at_hand` by its name, a folder as it is; else the hub's model of that id, pulled."""
    if (folder := at_hand().get(str(name))) is not None:
        return folder
    return Path(name) if Path(name).is_dir() else _pull(str(name), revision)


def find_files(
    name: str | Path,
    model: str | None,
    *,
    draws: bool | None = None,
    revision: str | None = None,
    t5_path: str | Path | None = None,
    with_text_encoder: bool = True,
    **options: Any,
) -> tuple[dict[str, Any], Defaults, About]:
    """What `EditingPipeline.load` is to be told for a folder, its model's defaults, and what is said of it.

    Args:
      name, model, revision, t5_path, with_text_encoder: as in `EditingPipeline.from_pretrained`.
      draws: where no model is named, takes the one that `choose_model` chooses, not the first.
      options: passed on.
    """
    folder = find_folder(name, revision)
    config = read_config(folder)
    if model is None:
        model = next(iter(config.models)) if draws is None else choose_model(folder, config, draws=draws)
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
    files = {"vq_ckpt": folder / config.tokenizer, "gpt_ckpt": folder / member.file, **options}
    return files, member.defaults, config.about


def _find_encoder(folder: Path, name: str) -> dict[str, Any]:
    """What `EditingPipeline.load` is to be told of the text encoder that the config names."""
    remedy = "give from_pretrained the text encoder's folder as t5_path"
    path = _inside(folder, name, f"; {remedy}")
    if path.is_dir():
        return {"t5_path": path}
    from huggingface_hub.errors import HFValidationError  # slow to import
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(
            f"{folder / CONFIG_FILE}: text_encoder {name!r} is neither a folder there nor a hub id; {remedy}"
        ) from None
    return {"t5_model_type": name}


def read_args(file: Path) -> dict[str, Any]:
    """What a .safetensors file of ours says of itself, without its weights; nothing of another's file.

    Raises:
      UserError: it is missing or damaged.
    """
    require_regular(file, "a file of weights")
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _LONGEST_HEAD:
                raise ValueError("its head is too long")
            args = json.loads(stream.read(length)).get("__metadata__", {}).get("args", "{}")
        args = json.loads(args)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, struct.error, AttributeError, TypeError) as error:
        raise UserError(f"{file}: no whole .safetensors file ({error})") from None
    return args if isinstance(args, dict) else {}


def choose_model(folder: Path, config: FolderConfig, *, draws: bool) -> str:
    """The first transformer of a folder that draws from text; or the first with marks, else the first.

    Raises:
      UserError: none of them draws.
    """
    with_marks = {
        name: read_args(_inside(folder, member.file)).get("model_config", {}).get("mask_in_context", False)
        for name, member in config.models.items()
    }
    fitting = [name for name, has_marks in with_marks.items() if has_marks != draws]
    if draws and not fitting:
        raise UserError(f"{folder}: {', '.join(with_marks)} edits with marks and cannot draw from text alone")
    return (fitting or list(with_marks))[0]


def _pull(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{repo_id}: no folder here, none in pretrained_models ({', '.join(at_hand())}), and no model of "
            f"the hub ({first_line(error)})"
        ) from error


def _inside(folder: Path, name: str, remedy: str = "") -> Path:
    """`folder`/`name`, refused where that leads out of the folder: a config may come from anywhere."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{folder / CONFIG_FILE}: {name!r} leads outside the folder{remedy}")
    return path


def first_line(error: Exception) -> str:
    """Of its message, no more than a line of a terminal or two."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
