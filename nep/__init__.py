"""One command for everything: `nep --help`. What programs import is `autoregressive`."""

from __future__ import annotations

__version__ = "0.1.0"
