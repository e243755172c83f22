"""The build backend: setuptools', which installs a checkout in place; wheels are refused.

The packages have the names of the published commands (`dataset`, `runtime`, `tokenizer`, …). Copied into an
environment they would stand in the way of others of these names; in a checkout they do not.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
]
REFUSAL = (
    "nep-editing is installed from a checkout: pip install -e . (a wheel would put packages called dataset, "
    "runtime, tokenizer and scripts among everybody's)"
)


def get_requires_for_build_wheel(config_settings: object = None) -> NoReturn:
    """Asked for before anything is fetched."""
    sys.exit(REFUSAL)


def build_wheel(wheel_directory: str, *_: object, **__: object) -> NoReturn:
    """What `pip install .` and `pip wheel` want."""
    sys.exit(REFUSAL)
