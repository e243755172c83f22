"""Tab-separated text that people and programs write."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runtime.errors import UserError

# A field that is in quotes as a whole, as csv and pandas write it, or else everything up to the next tab.
_FIELD = re.compile(r'"((?:[^"]|"")*)"(?=\t|\r|\n|\Z)|([^\t\r\n]*)')
_END = re.compile(r"\t|\r\n|\r|\n|\Z")


def tsv_rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """The number of the line on which each row ends, from 1, and its fields; blank lines are left out.

    Quotation marks are text, except around a whole field: one that does not close must not swallow rows.

    Raises:
      UserError: naming the file `name` and the line, where marks could be around one field or in several.
    """
    position, number, fields = 0, 1, []
    while position < len(text) or fields:
        field = _FIELD.match(text, position)
        quoted = field[1]
        if quoted is not None and "\t" in quoted and "\n" in quoted:
            raise UserError(
                f'{name} line {number}: the quotation mark closes on a later line, after tabs; write "" for '
                "a mark that is text, in a field that is in quotes as a whole"
            )
        fields.append(field[2] if quoted is None else quoted.replace('""', '"'))
        number += field[0].count("\n")
        end = _END.match(text, field.end())
        position = end.end()
        if end[0] != "\t":
            if fields != [""] or quoted is not None:
                yield number, fields
            fields = []
            number += 1
