"""What a training starts from when it is given a folder of models in the place of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoregressive.editing.model_folders import find_files, read_args
from autoregressive.models.config import ModelConfig, identity_of, model_name
from runtime.errors import UserError
from tokenizer.tokenizer_image.vq_registry import VQConfig


def flags_of_model(name: str, transformer: str | None, *, draws: bool) -> dict[str, Any]:
    """The flags of a training that goes on from a transformer of a folder: {field of `TrainConfig`: value}.

    Args:
      name, transformer: of the folder, and of its transformer; None takes the first that fits.
      draws: whether one without marks is wanted, for stage 1.
    Raises:
      UserError: a folder that is missing or damaged, or whose model has no name of its size.
    """
    files, defaults, _ = find_files(name, transformer or None, draws=draws)
    args, tokenizer_args = (read_args(Path(files[file])) for file in ("gpt_ckpt", "vq_ckpt"))
    try:
        model = ModelConfig(**args["model_config"])
        tokenizer = VQConfig(**tokenizer_args["vq_config"])
    except (KeyError, TypeError):
        raise UserError(
            f"--model {name}: {files['gpt_ckpt']} does not say its size: give the files by flags"
        ) from None
    gpt_model = args.get("gpt_model") or model_name(identity_of(model))
    if gpt_model is None:
        raise UserError(f"--model {name}: no --gpt-model has the size of its transformer")
    return {
        "vq_ckpt": str(files["vq_ckpt"]),
        "init_gpt_ckpt": str(files["gpt_ckpt"]),
        "t5_path": str(files["t5_path"]) if "t5_path" in files else None,
        "t5_model_type": files.get("t5_model_type"),
        "gpt_model": gpt_model,
        "image_size": model.grid * tokenizer.downsampling,
        "cls_token_num": model.cls_token_num,
        "own_cell": model.own_cell,
        "mask_in_context": model.mask_in_context,
        "mask_rule": defaults.mask_rule,
    }
