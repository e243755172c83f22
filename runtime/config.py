"""One dataclass per command: its fields are the flags, its annotations the types, its helps the manual.

Optional class attributes: `NEEDED` names fields that one gives mostly, beside those that are required: the
manual begins with them; `TOPICS` {field: title} names the field that begins a topic; `EXAMPLES` are commands
to start from; `ONE_OF` are groups of fields, one of which a command line must give whole. Every command takes
`--config FILE`, YAML of {field: value}, as `dump_config` writes it; flags given beside it win.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import UserError
from runtime.flags.ranges import Range
from runtime.flags.settings_file import Entry, dump_settings, read_entries
from runtime.manual import EXAMPLES_TITLE, Help, Parser
from runtime.texts import write_text

REQUIRED = object()
_MOST_SHOWN = 6  # choices in the place of a flag's value
Config = TypeVar("Config")


def option(
    default: Any = REQUIRED,
    *,
    help: str,
    choices: Sequence | None = None,
    aliases: Sequence[str] = (),
    within: Range | None = None,
    repeats: bool = False,
) -> Any:
    """Declares a flag as a dataclass field.

    Args:
      default: value without the flag; `REQUIRED` makes the flag mandatory.
      help: one line for `--help`.
      choices: the values allowed.
      aliases: further spellings, without dashes in front.
      within: what a number, or each of a list, may be; `runtime.flags.ranges` has the common ranges.
      repeats: of a list: the flag may be given several times, which adds up; else the last time counts.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "aliases": tuple(aliases),
        "within": within,
        "required": default is REQUIRED,
        "repeats": repeats,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=None if default is REQUIRED else default, metadata=metadata)


def argument(help: str) -> Any:
    """Declares a positional word of the command line, or one and more where the field is a list."""
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


class _Gather(argparse.Action):
    """Collects what a flag is given each time, in the place of its default."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), *values])


def _spellings(name: str, aliases: Sequence[str] = ()) -> list[str]:
    spelled = [s for n in (name, *aliases) for s in (n.replace("_", "-"), n.replace("-", "_"))]
    return [f"--{s}" for s in dict.fromkeys(spelled)]


def _add_field(parser: argparse._ActionsContainer, field: dataclasses.Field, annotation: Any) -> None:
    meta = field.metadata
    help_text = meta["help"].replace("%", "%%")
    if "positional" in meta:
        parser.add_argument(field.name, nargs="+" if _base_type(annotation)[1] else None, help=help_text)
        return
    if "legacy" in meta:
        arity = {"nargs": "?", "const": ""} if meta["takes_value"] else {"action": "store_const", "const": ""}
        parser.add_argument(*_spellings(field.name), dest=field.name, default=None, help=help_text, **arity)
        return
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default
    kind, is_list = _base_type(annotation)
    flags = _spellings(field.name, meta["aliases"])
    choices = meta["choices"]
    shared = {"dest": field.name, "default": default, "required": meta["required"]}
    if kind is bool:
        parser.add_argument(*flags, action="store_true", help=f"{help_text} (default: {default})", **shared)
        if default:
            negative = [f"--no{sep}{f[2:]}" for f in flags for sep in "-_"]
            parser.add_argument(*negative, dest=field.name, action="store_false", help=argparse.SUPPRESS)
        return
    notes = ["required"] if meta["required"] else []
    notes += [] if meta["within"] is None else [str(meta["within"])]
    if choices and len(choices) > _MOST_SHOWN:  # in braces they would be longer than a line
        notes.append(f"one of {', '.join(map(str, choices))}")
    if not meta["required"] and default is not None:
        notes.append(f"default: {default}")
    suffix = f" ({'; '.join(notes)})" if notes else ""
    parser.add_argument(
        *flags,
        type=kind,
        nargs="+" if is_list else None,
        action=_Gather if meta["repeats"] else None,
        choices=choices,
        metavar=None if choices and len(choices) <= _MOST_SHOWN else field.name.upper(),
        help=help_text + suffix,
        **shared,
    )


def build_parser(config_class: type) -> argparse.ArgumentParser:
    """The argparse parser of a config dataclass; every flag in kebab-case and snake_case."""
    examples = getattr(config_class, "EXAMPLES", "").strip("\n")
    fields = dataclasses.fields(config_class)
    required = [_spellings(f.name)[0] + " …" for f in fields if f.metadata.get("required")]
    if ways := getattr(config_class, "ONE_OF", ()):
        required.append(f"({' | '.join(' '.join(f'{_spellings(n)[0]} …' for n in way) for way in ways)})")
    words = [f"{f.name}{_more(f)}" for f in fields if "positional" in f.metadata]
    parser = Parser(
        prog=Path(sys.argv[0]).name,
        usage=" ".join(["%(prog)s", *words, *required, "[further flags]"]),
        description=(config_class.__doc__ or "").strip().split("\n")[0],
        epilog=f"{EXAMPLES_TITLE}{examples}" if examples else None,
        allow_abbrev=False,
        add_help=False,
        formatter_class=Help,
    )
    annotations = typing.get_type_hints(config_class)
    for title, members in _topics(config_class):
        group = parser.add_argument_group(title)
        for field in members:
            _add_field(group, field, annotations[field.name])
    group = parser.add_argument_group("help and settings")
    group.add_argument("-h", "--help", action="help", help="show this manual and end")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="YAML of settings, as runs write it; flags beside it win; names may have _ in the place of -",
    )
    return parser


def _topics(config_class: type) -> list[tuple[str, list[dataclasses.Field]]]:
    """The groups of the manual: what one gives, then topic by topic, then flags without effect.

    First come positional words, what is required and what the class's `NEEDED` names, in its order.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    needed = [name for name, f in fields.items() if {"positional"} & f.metadata.keys()]
    needed += [name for name, f in fields.items() if f.metadata.get("required")]
    needed = dict.fromkeys([*needed, *getattr(config_class, "NEEDED", ())])
    titles = {k: v for c in reversed(config_class.__mro__) for k, v in vars(c).get("TOPICS", {}).items()}
    topics = [("what it needs", [fields[name] for name in needed]), ("further flags", [])]
    for name, field in fields.items():
        if name in titles:
            topics.append((titles[name], []))
        if name not in needed and "legacy" not in field.metadata:
            topics[-1][1].append(field)
    without_effect = [field for field in fields.values() if "legacy" in field.metadata]
    return [*topics, ("published flags that have no effect here", without_effect)]


def _more(field: dataclasses.Field) -> str:
    return " …" if str(field.type).startswith("list") else ""


def read_settings(config_class: type, file: str) -> dict[str, Any]:
    """The settings in a config file, as the flags of `config_class` would read and check them.

    Raises:
      UserError: names the file, the line, the setting and what is wanted.
    """
    annotations = typing.get_type_hints(config_class)
    fields = {f.name: f for f in dataclasses.fields(config_class) if "positional" not in f.metadata}
    settings: dict[str, Any] = {}
    for entry in read_entries(file):
        name = entry.key.replace("-", "_")
        if name not in fields:
            raise UserError(f"{entry.where}: {entry.key!r} is no setting of this command; --help lists them")
        if name in settings:
            raise UserError(f"{entry.where}: {entry.key!r} stands in the file twice: leave one")
        settings[name] = _read_setting(entry, fields[name], annotations[name])
    return {name: value for name, value in settings.items() if value is not None}


def _read_setting(entry: Entry, field: dataclasses.Field, annotation: Any) -> Any:
    """The value of a field; None where the file leaves it to the default."""
    meta = field.metadata
    kind, is_list = (str, False) if "legacy" in meta else _base_type(annotation)
    if "legacy" in meta and not meta["takes_value"]:
        return "" if entry.read(bool) else None
    value = entry.read_list(kind) if is_list else entry.read(kind)
    for part in value if isinstance(value, list) else [value]:
        if part is not None and meta.get("choices") and part not in meta["choices"]:
            raise UserError(f"{entry.title} {part!r}: choose from {', '.join(map(str, meta['choices']))}")
    if meta.get("within") is not None:
        meta["within"].check(entry.title, value)
    return value


def check_ranges(config_class: type, values: Mapping[str, Any]) -> None:
    """Raises UserError for a number outside its flag's range; for configs that Python code makes, too.

    Args:
      config_class: a dataclass whose fields were made by `option`.
      values: {field: value}, as `vars(config)`.
    """
    for field in dataclasses.fields(config_class):
        if (allowed := field.metadata.get("within")) is not None:
            allowed.check(_spellings(field.name)[0], values[field.name])


def parse(config_class: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Reads a command line into `config_class`; unknown flags and abbreviations end the program.

    Args:
      config_class: a dataclass whose fields were made by `option` and `legacy`.
      argv: the words after the program's name; None takes `sys.argv`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(config_class)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    file = finder.parse_known_args(argv)[0].config
    if file:
        _take_defaults(parser, read_settings(config_class, file))
    values = vars(parser.parse_args(argv))
    del values["config"]
    for field in dataclasses.fields(config_class):
        if "legacy" in field.metadata and values[field.name] is not None:
            flag = _spellings(field.name)[0]
            print(f"note: {flag} has no effect: {field.metadata['legacy']}", file=sys.stderr)
    check_ranges(config_class, values)
    ways = getattr(config_class, "ONE_OF", ())
    if ways and not any(all(values[name] for name in way) for way in ways):
        parser.error(f"the following arguments are required: {_or(ways)}")
    return config_class(**values)


def _or(ways: Sequence[Sequence[str]]) -> str:
    """Groups of flags, one of which is to be given."""
    return ", or ".join(" and ".join(_spellings(name)[0] for name in way) for way in ways)


def _take_defaults(parser: argparse.ArgumentParser, settings: Mapping[str, Any]) -> None:
    """Settings of a file stand where a flag isn't given, without argparse, which takes `-x` for a flag."""
    parser.set_defaults(**settings)
    for action in parser._actions:
        if action.dest in settings:
            action.required = False


def dump_config(config: Any, folder: str | Path) -> None:
    """Writes the settings of a run to `<folder>/config.yaml`, for `--config`."""
    values = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if not {"legacy", "positional"} & field.metadata.keys()
    }
    text = dump_settings(values, comment=command_line())
    write_text(Path(folder) / "config.yaml", text)


def command_line() -> str:
    """The words that started this program, as a shell takes them; a command of `nep` is several words."""
    program, *words = sys.argv
    program = program if program.startswith("nep ") else shlex.quote(program)
    return " ".join([program, *map(shlex.quote, words)])
