"""HTML pages from the Jinja templates in `evaluations/report/templates`; what is put into them is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from runtime.files import write_atomic
from runtime.texts import NOT_UTF8

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Writes the page that a template makes of the values.

    Args:
      template: name of a file in `evaluations/report/templates`.
    Raises:
      UserError: the page cannot be written.
    """
    html = _TEMPLATES.get_template(template).render(values).encode("utf-8", NOT_UTF8)
    write_atomic(path, lambda temporary: temporary.write_bytes(html))
