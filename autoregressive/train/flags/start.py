"""What a training starts from when it is given a folder of models in the place of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoregressive.editing.model_folders import choose_model, find_files, find_folder, read_args, read_config
from autoregressive.models.config import GPT_MODELS, ModelConfig
from runtime.errors import UserError


def flags_of_model(name: str, model_name: str | None, *, draws: bool) -> dict[str, Any]:
    """The flags of a training that goes on from a transformer of a folder: {field of `TrainConfig`: value}.

    Args:
      name, model_name: of the folder, and of its transformer; None takes the first that fits.
      draws: whether one without marks is wanted, for stage 1.
    Raises:
      UserError: a folder that is missing or damaged, or whose model has no name of its size.
    """
    folder = find_folder(name)
    config = read_config(folder)
    model_name = model_name or choose_model(folder, config, draws=draws)
    files, defaults, _ = find_files(folder, model_name)
    args = read_args(Path(files["gpt_ckpt"]))
    known, tokenizer = args.get("model_config", {}), read_args(Path(files["vq_ckpt"])).get("vq_config", {})
    if not known or not tokenizer:
        raise UserError(f"--model {name}: {files['gpt_ckpt']} does not say its size: give the files by flags")
    cells = tokenizer["stem_stride"] * 2 ** (len(tokenizer["channel_mult"]) - 1)
    return {
        "vq_ckpt": str(files["vq_ckpt"]),
        "init_gpt_ckpt": str(files["gpt_ckpt"]),
        "t5_path": str(files["t5_path"]) if "t5_path" in files else None,
        "t5_model_type": files.get("t5_model_type"),
        "gpt_model": args.get("gpt_model") or _size_of(known, name),
        "image_size": round(known["block_size"] ** 0.5) * cells,
        "cls_token_num": known["cls_token_num"],
        "own_cell": known.get("own_cell", False),
        "mask_in_context": known["mask_in_context"],
        "mask_rule": defaults.mask_rule,
    }


def _size_of(known: dict[str, Any], name: str) -> str:
    shape = ("dim", "n_layer", "n_head", "any_order", "query_turn", "rotary_base")
    wanted = {key: known.get(key, getattr(ModelConfig, key, None)) for key in shape}
    for size, config in GPT_MODELS.items():
        if all(getattr(config, key) == value for key, value in wanted.items()):
            return size
    raise UserError(f"--model {name}: no --gpt-model has the size of its transformer")
