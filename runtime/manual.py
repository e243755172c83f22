"""argparse as this project shows it: what one needs comes first, and slips are told the near flag."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence

EXAMPLES_TITLE = "examples:\n"
_FLAG = re.compile(r"--?[A-Za-z][^\s=]+(?==|$)")


class Parser(argparse.ArgumentParser):
    """Refuses flags that it does not know before it looks at anything else, and names the nearest ones."""

    def parse_args(self, args: Sequence[str], namespace: argparse.Namespace | None = None):  # noqa: ANN201
        words = args[: args.index("--")] if "--" in args else args
        unknown = [found[0] for word in words if (found := _FLAG.match(word)) and not self._knows(found[0])]
        if unknown:
            self.error("unrecognized arguments: " + "; ".join(map(self._with_near, unknown)))
        return super().parse_args(args, namespace)

    def _knows(self, flag: str) -> bool:
        return flag in self._option_string_actions

    def _with_near(self, flag: str) -> str:
        """The flag, and those that may have been meant, in the spelling with dashes."""
        known = [name.lstrip("-") for name in folded(self._option_string_actions)]
        meant = flag.lstrip("-").replace("_", "-").lower()
        near = [f"--{name}" for name in difflib.get_close_matches(meant, known, n=2)]
        return f"{flag} (did you mean {' or '.join(near)}?)" if near else f"{flag} (--help lists the flags)"


def folded(spellings: Iterable[str]) -> list[str]:
    """Spellings of flags without those with an underscore that have a twin with a dash."""
    spellings = list(spellings)
    return [s for s in spellings if "_" not in s or s.replace("_", "-") not in spellings]


class Help(argparse.HelpFormatter):
    """Shows one spelling of each name and its value once; leaves the lines of examples as they are."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flags = ", ".join(folded(action.option_strings))
        if action.nargs == 0:
            return flags
        return f"{flags} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES_TITLE) else super()._fill_text(text, width, indent)
