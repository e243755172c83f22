"""Makes a small file for others from a checkpoint: weights without the optimizer, in half precision.

    python scripts/export_weights.py --ckpt results/shapes/stage2/checkpoints/0003500.pt \\
        --output editing.safetensors

A folder (`.dcp`) of a sharded training becomes one file too. Takes the averaged weights where a checkpoint
has them. The file holds its configuration and loads wherever the checkpoint does.

Of a training with LoRA it makes a file of both, the weights below and the adapter, or, where --output is a
folder, an adapter in peft's format:

    python scripts/export_weights.py --ckpt results/lora/checkpoints/0000500.pt --output my_adapter
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.config import REQUIRED, option, parse
from runtime.errors import UserError, run_command
from runtime.flags import models

_WANTED = ("vq_model", "vq_config", "gpt_model", "model_config")


@dataclass(frozen=True)
class ExportWeights:
    """Makes a small file for others from a training's checkpoint."""

    ckpt: str = option(REQUIRED, help="checkpoint of a tokenizer or transformer training, file or folder")
    output: str = option(REQUIRED, help="the file to write, *.safetensors or *.pt; of LoRA also a folder")
    precision: str = models.precision("the weights", "fp16")
    base: str | None = option(
        None, help="LoRA: the weights below, where they are no longer where the training found them"
    )

    def __post_init__(self) -> None:
        if Path(self.output).suffix not in (".safetensors", ".pt", ""):
            raise UserError(f"--output {self.output}: name a *.safetensors or a *.pt file, or a folder")


def main() -> None:
    config = parse(ExportWeights)
    # PyTorch is imported once the flags are right.
    from autoregressive.adapters.export import merged_content
    from autoregressive.adapters.files import write_adapter
    from autoregressive.models.arithmetic import marked_like
    from autoregressive.models.weights import ADAPTER, transformer_state
    from runtime.checkpoint import checkpoint_args, load_checkpoint, save_checkpoint, save_safetensors
    from runtime.devices import PRECISIONS

    content, dtype = load_checkpoint(config.ckpt), PRECISIONS[config.precision]
    suffix = Path(config.output).suffix
    if not suffix:
        if ADAPTER not in content:
            raise UserError(
                f"--output {config.output}: a folder is for adapters, and {config.ckpt} is a model"
            )
        write_adapter(content, config.output, dtype, config.ckpt)
        print(f"{config.output}: an adapter, {_megabytes(Path(config.output)):.1f} MB")
        return
    if ADAPTER in content:
        content = merged_content(config.ckpt, config.base)
    args = {key: value for key, value in checkpoint_args(content).items() if key in _WANTED}
    state = {name: tensor.to(dtype) for name, tensor in transformer_state(content).items()}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{config.ckpt}: {name} does not fit into {config.precision}; take --precision bf16"
            )
    weights = marked_like(state, content, config.ckpt)
    if suffix == ".pt":
        save_checkpoint(config.output, {"model": weights, "args": args})
    else:
        save_safetensors(config.output, weights, args)
    print(f"{config.output}: {_megabytes(Path(config.output)):.1f} MB")


def _megabytes(path: Path) -> float:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


if __name__ == "__main__":
    run_command(main)
