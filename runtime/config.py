"""One dataclass per command: its fields are the flags, its annotations the types, its helps the manual."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

REQUIRED = object()
Config = TypeVar("Config")


def option(
    default: Any = REQUIRED, *, help: str, choices: Sequence | None = None, aliases: Sequence[str] = ()
) -> Any:
    """Declares a flag as a dataclass field.

    Args:
      default: value without the flag; `REQUIRED` makes the flag mandatory.
      help: one line for `--help`.
      choices: the values allowed.
      aliases: further spellings, without dashes in front.
    """
    metadata = {"help": help, "choices": choices, "aliases": tuple(aliases), "required": default is REQUIRED}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=None if default is REQUIRED else default, metadata=metadata)


def argument(help: str) -> Any:
    """Declares a positional word of the command line."""
    return dataclasses.field(default=None, metadata={"help": help, "positional": True})


def legacy(why: str, *, takes_value: bool = True) -> Any:
    """Declares a published flag that has no effect here; using it prints the reason `why`."""
    metadata = {"help": f"accepted without effect: {why}", "legacy": why, "takes_value": takes_value}
    return dataclasses.field(default=None, metadata=metadata)


def _base_type(annotation: Any) -> tuple[type, bool]:
    """Splits an annotation into (scalar type, is a list); `X | None` counts as X."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        (annotation,) = [a for a in typing.get_args(annotation) if a is not type(None)]
        origin = typing.get_origin(annotation)
    if origin is list:
        return typing.get_args(annotation)[0], True
    return annotation, False


def _spellings(name: str, aliases: Sequence[str] = ()) -> list[str]:
    spelled = [s for n in (name, *aliases) for s in (n.replace("_", "-"), n.replace("-", "_"))]
    return [f"--{s}" for s in dict.fromkeys(spelled)]


def _add_field(parser: argparse.ArgumentParser, field: dataclasses.Field, annotation: Any) -> None:
    meta = field.metadata
    help_text = meta["help"].replace("%", "%%")
    if "positional" in meta:
        parser.add_argument(field.name, help=help_text)
        return
    if "legacy" in meta:
        arity = {"nargs": "?", "const": ""} if meta["takes_value"] else {"action": "store_const", "const": ""}
        parser.add_argument(*_spellings(field.name), dest=field.name, default=None, help=help_text, **arity)
        return
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default
    kind, is_list = _base_type(annotation)
    flags = _spellings(field.name, meta["aliases"])
    shared = {"dest": field.name, "default": default, "required": meta["required"]}
    if kind is bool:
        parser.add_argument(*flags, action="store_true", help=f"{help_text} (default: {default})", **shared)
        if default:
            negative = [f"--no{sep}{f[2:]}" for f in flags for sep in "-_"]
            parser.add_argument(*negative, dest=field.name, action="store_false", help=argparse.SUPPRESS)
        return
    suffix = "" if meta["required"] or default is None else f" (default: {default})"
    parser.add_argument(
        *flags,
        type=kind,
        nargs="+" if is_list else None,
        choices=meta["choices"],
        metavar=None if meta["choices"] else field.name.upper(),
        help=help_text + suffix,
        **shared,
    )


class _Help(argparse.HelpFormatter):
    """Names a flag's value once, after all its spellings."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def build_parser(config_class: type) -> argparse.ArgumentParser:
    """The argparse parser of a config dataclass; every flag in kebab-case and snake_case."""
    parser = argparse.ArgumentParser(
        description=(config_class.__doc__ or "").strip().split("\n")[0],
        allow_abbrev=False,
        formatter_class=_Help,
    )
    annotations = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        _add_field(parser, field, annotations[field.name])
    return parser


def parse(config_class: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Reads a command line into `config_class`; unknown flags and abbreviations end the program.

    Args:
      config_class: a dataclass whose fields were made by `option` and `legacy`.
      argv: the words after the program's name; None takes `sys.argv`.
    """
    values = vars(build_parser(config_class).parse_args(argv))
    for field in dataclasses.fields(config_class):
        if "legacy" in field.metadata and values[field.name] is not None:
            flag = _spellings(field.name)[0]
            print(f"note: {flag} has no effect: {field.metadata['legacy']}", file=sys.stderr)
    return config_class(**values)
