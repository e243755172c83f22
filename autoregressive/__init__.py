"""Images edited with next editing tokens. What users import:

from autoregressive import EditingPipeline, EditSession, Sampling
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "EditingPipeline": "autoregressive.editing.pipeline",
    "EditSession": "autoregressive.editing.session",
    "EditQueue": "autoregressive.editing.edit_queue",
    "QueueFullError": "autoregressive.editing.edit_queue",
    "EditResult": "autoregressive.editing.results",
    "AutoMaskSettings": "autoregressive.editing.auto_mask_settings",
    "Sampling": "autoregressive.decoding.sampling_settings",
    "UserError": "runtime.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a name when it is asked for: importing a module of the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
