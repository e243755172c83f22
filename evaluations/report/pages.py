"""HTML pages from the Jinja templates in `evaluations/report/templates`; what is put into them is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from runtime.texts import write_text

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
    write_text(path, _TEMPLATES.get_template(template).render(values))
