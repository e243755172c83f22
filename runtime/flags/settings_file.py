"""Settings in YAML: every value is read as it is written, so that no reader's guess changes a setting.

YAML 1.1 takes `off` and `no` for false, `010` for 8 and `1:30` for 90. Here a value is text which the type of
its setting reads, as on the command line; true, false and null are the only
words of YAML's own, as in YAML 1.2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import UserError
from runtime.files import require_regular

_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_PLAIN_TAGS = (yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, yaml.resolver.BaseResolver.DEFAULT_SEQUENCE_TAG)
_WANTED = {int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Entry:
    """One `key: value` of a settings file."""

    key: str
    node: yaml.Node
    where: str
    """File and line, as messages begin."""

    @property
    def title(self) -> str:
        return f"{self.where}: {self.key}"

    def read(self, kind: type) -> Any:
        """The value as `kind` (str, int, float, bool); None for null."""
        if isinstance(self.node, yaml.SequenceNode):
            raise UserError(f"{self.title}: takes one value, not a list")
        return self._scalar(self.node, kind)

    def read_list(self, kind: type) -> list[Any] | None:
        """The values of a list, of which one may stand alone; None for null."""
        if not isinstance(self.node, yaml.SequenceNode):
            value = self._scalar(self.node, kind)
            return None if value is None else [value]
        values = [self._scalar(node, kind) for node in self.node.value]
        if not values or None in values:
            raise UserError(
                f"{self.title}: each item of the list needs a value; leave the setting out for none"
            )
        return values

    def _scalar(self, node: yaml.Node, kind: type) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
            raise UserError(f"{self.where}: {self.key!r} must be a value or a list of values, without tags")
        text, plain = node.value, node.style is None
        if plain and text in _NULLS:
            return None
        if kind is bool:
            if not plain or text not in _BOOLEANS:
                raise UserError(f"{self.title} {text!r}: write true or false, without quotes")
            return _BOOLEANS[text]
        if kind is str:
            return _as_name(text, self.title)
        try:
            return kind(text)
        except ValueError:
            raise UserError(f"{self.title} {text!r}: must be {_WANTED.get(kind, kind.__name__)}") from None


def read_entries(file: str) -> Iterator[Entry]:
    """The entries of a settings file, in its order.

    Raises:
      UserError: it cannot be read, or is no YAML of `name: value` lines.
    """
    try:
        require_regular(file, "a file of settings")
        node = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except UserError as error:
        raise UserError(f"--config {error}") from None
    except OSError as error:
        raise UserError(f"--config {file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"--config {file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        kind = {yaml.SequenceNode: "list", yaml.ScalarNode: "a single value"}.get(type(node), "nothing")
        raise UserError(f"--config {file}: must hold 'name: value' lines, got {kind}")
    for key, value in node.value:
        where = f"--config {file}: line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where}: must hold 'name: value' lines, got a name that is no word")
        yield Entry(key.value, value, where)


def _as_name(text: str, title: str) -> str:
    """A text with the bytes that it has in UTF-8, whatever the locale's names are decoded as.

    `dump_settings` keeps bytes that are not UTF-8 as escapes; they and letters beyond ASCII come out as the
    operating system's names do in this process.
    """
    if text.isascii():
        return text
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeError:
        raise UserError(f"{title} {text!r}: holds half a character, which no name can have") from None


class _Dumper(yaml.SafeDumper):
    """Quotes what some reader of YAML 1.1 or 1.2 would take for something else than text."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"0[ox][0-9a-fA-F]+$"), ["0"])
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        text = os.fsencode(text).decode("utf-8", "surrogateescape")
    except UnicodeError:  # letters that this locale's names cannot have: no name of this system
        pass
    # Quoted in full, line breaks and control characters stand as escapes; other styles fold or lose them.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_settings(settings: Mapping[str, Any], *, comment: str) -> str:
    """YAML of settings that `read_entries`, and any reader of YAML, reads back as they are.

    Args:
      settings: {name: None, bool, number, text or list of such}.
      comment: of the first line; characters that cannot stand in one are written as escapes.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in comment)
    body = yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    return f"# {shown}\n{body}"
