"""From the checkpoint of an adapter to files for others: peft's folder, or the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoregressive.adapters.adapted import adapted_copy
from autoregressive.adapters.files import read_adapter
from autoregressive.models.arithmetic import configuration, marked
from autoregressive.models.gpt import Transformer
from autoregressive.models.weights import initialise_from
from runtime.errors import UserError


def merged_content(path: str | Path, base: str | Path | None = None) -> dict[str, Any]:
    """An adapter and the weights that it is added to as one checkpoint of a whole model, in float32.

    Args:
      path: the adapter, a folder or a checkpoint.
      base: the file of the weights; by default where they were when the adapter was trained.
    Raises:
      UserError: the file is missing or holds other weights, or the adapter was not trained here.
    """
    adapter = read_adapter(path)
    config = configuration({"args": adapter.args}, path)
    if config is None or adapter.base is None:
        raise UserError(
            f"{path} does not say which model it is for: it was not trained here. Load it with --adapter"
        )
    base = adapter.base if base is None else base
    if not Path(base).exists():
        raise UserError(f"{path} is an adapter of {base}, which is not here: say where with --base")
    model = Transformer(config).requires_grad_(False)
    initialise_from(model, base)
    merged = adapted_copy(model, adapter, merged=True)
    return {"model": marked(merged.state_dict(), config), "args": adapter.args}
