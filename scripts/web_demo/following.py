"""Work in a thread of its own, followed while it draws."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

from autoregressive.editing.results import Drawing, Progress
from runtime.logging import get_logger

log = get_logger("demo")
_PATIENCE_S = 1.0


class _LeftError(Exception):
    """Ends work that nobody waits for any more."""


def follow(
    work: Callable[[Progress], Any], cancel: Callable[[], None]
) -> Generator[Drawing | None, None, Any]:
    """Runs `work` in a thread, yields what it draws while it draws it, and returns its result.

    Closed before its end, as when a visitor leaves, it ends the work too.

    Args:
      work: gets a function to tell its progress to. Steps that come faster than they are taken are left out.
      cancel: ends the work where it waits for its turn; harmless once it is done.
    Yields:
      The drawing so far; None from time to time while there is none.
    """
    told: queue.Queue = queue.Queue()
    left = threading.Event()

    def note(drawing: Drawing) -> None:
        if left.is_set():
            raise _LeftError
        told.put(drawing.copy())

    def run() -> None:
        try:
            told.put((work(note), None))
        except BaseException as error:
            told.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    begun = False
    try:
        while True:
            try:
                news = told.get(timeout=_PATIENCE_S)
            except queue.Empty:
                if not begun:
                    yield None
                continue
            while not told.empty() and isinstance(news, Drawing):
                news = told.get()
            if isinstance(news, Drawing):
                begun = True
                yield news
                continue
            result, error = news
            if error is not None:
                raise error
            return result
    except GeneratorExit:
        log.info("a visitor has left; what was drawn for them ends")
        raise
    finally:
        left.set()
        cancel()
