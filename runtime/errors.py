"""Errors meant for the person at the keyboard."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Collection


class UserError(ValueError):
    """A mistake in the input or the call; the message names the file, the value and the fix."""


def require_known(name: str, value: object, known: Collection[str]) -> None:
    """
    Raises:
      UserError: `value`, which is called `name`, is none of `known`; lists these.
    """
    if value not in known:
        raise UserError(f"{name} {value!r} is not known; use one of {', '.join(known)}")


def run_command(main: Callable[[], None]) -> None:
    """Runs a program: a `UserError` becomes one line on stderr and exit status 2, without a traceback.

    So it is with Ctrl-C, and with a pipe that nobody reads any more. What is printed may name files whose
    names are no UTF-8: their bytes are written as they are.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        if sys.flags.optimize > 1:
            raise UserError("python -OO strips docstrings that transformers reads; use python or python -O")
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; at its end Python would flush into nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as a shell reports programs that such a pipe has ended
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
