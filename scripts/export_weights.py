"""Makes a small file for others from a checkpoint: weights without the optimizer, in half precision.

    python scripts/export_weights.py --ckpt results/shapes/stage2/checkpoints/0003500.pt \\
        --output editing.safetensors

A folder (`.dcp`) of a sharded training becomes one file too. Takes the averaged weights where a checkpoint
has them. The file holds its configuration and loads wherever the checkpoint does.
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
    output: str = option(REQUIRED, help="the file to write, *.safetensors or *.pt")
    precision: str = models.precision("the weights", "fp16")

    def __post_init__(self) -> None:
        if Path(self.output).suffix not in (".safetensors", ".pt"):
            raise UserError(f"--output {self.output}: name a *.safetensors or a *.pt file")


def main() -> None:
    config = parse(ExportWeights)
    # PyTorch is imported once the flags are right.
    from autoregressive.models.arithmetic import marked_like
    from autoregressive.models.weights import transformer_state
    from runtime.checkpoint import checkpoint_args, load_checkpoint, save_checkpoint, save_safetensors
    from runtime.precision import PRECISIONS

    content = load_checkpoint(config.ckpt)
    args = {key: value for key, value in checkpoint_args(content).items() if key in _WANTED}
    dtype = PRECISIONS[config.precision]
    state = {name: tensor.to(dtype) for name, tensor in transformer_state(content).items()}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{config.ckpt}: {name} does not fit into {config.precision}; take --precision bf16"
            )
    weights = marked_like(state, content, config.ckpt)
    if Path(config.output).suffix == ".pt":
        save_checkpoint(config.output, {"model": weights, "args": args})
    else:
        save_safetensors(config.output, weights, args)
    print(f"{config.output}: {Path(config.output).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
