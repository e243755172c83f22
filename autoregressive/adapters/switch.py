"""What a pipeline does with adapters: holds several, works with one of them, or with one a call.

An adapter is a transformer of its own that shares all base weights, with an engine of its own. So calls with
different adapters never meet, and what is merged is left by letting go of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from typing_extensions import Self

from autoregressive.adapters.adapted import adapted_copy
from autoregressive.adapters.files import Adapter, read_adapter
from autoregressive.models.gpt import Transformer
from runtime.errors import UserError


class Editor(Protocol):
    """What works with a transformer: `TokenEditor`."""

    transformer: Transformer

    def with_transformer(self, transformer: Transformer) -> Self:
        """The same with another transformer: packed and compiled as this one's is."""


class AdapterSwitch:
    """A part of `EditingPipeline`; `transformer` and `token_editor` are those in use."""

    transformer: Transformer
    token_editor: Editor

    def __init__(self, editor: Editor) -> None:
        """
        Args:
          editor: that of the model without an adapter, which is in use first.
        """
        self._base = editor
        self._adapters: dict[str, tuple[Adapter, Editor]] = {}
        self._active: str | None = None
        self._merged = False
        self._use(editor)

    @property
    def adapters(self) -> list[str]:
        """The names of those that are loaded."""
        return list(self._adapters)

    @property
    def active_adapter(self) -> str | None:
        """The name of the one in use."""
        return self._active

    def load_adapter(self, path: str | Path, name: str = "default") -> None:
        """Reads an adapter; `set_adapter` puts it to use.

        Args:
          path: a folder in peft's format, or a checkpoint of a training with LoRA.
          name: to call it by; one of that name is replaced.
        Raises:
          UserError: it is missing, damaged or of an unknown kind; it was made for a model of another size or
            for other weights; the model's weights are of 8 bits.
        """
        if not isinstance(name, str) or not name:
            raise UserError(f"adapter name {name!r}: give a word")
        adapter = read_adapter(path)
        editor = self._editor(adapter)
        again = self._active == name and not self._merged
        self._adapters[name] = adapter, editor
        if again:
            self.set_adapter(name)

    def delete_adapter(self, name: str) -> None:
        """Forgets one; the model is without it if it was in use.

        Raises:
          UserError: there is none of that name.
        """
        self._find(name)
        if self._active == name:
            self.set_adapter(None)
        del self._adapters[name]

    def set_adapter(self, name: str | None) -> None:
        """All later calls work with that adapter; None: with none.

        Raises:
          UserError: there is none of that name.
        """
        self._use(self._base if name is None else self._find(name)[1])
        self._active, self._merged = name, False

    def with_adapter(self, name: str | None) -> Self:
        """This pipeline with an adapter in use, as another object that shares all models with it.

        Raises:
          UserError: there is none of that name.
        """
        other = self.as_it_is()
        other.set_adapter(name)
        return other

    def as_it_is(self) -> Self:
        """This pipeline with the adapter in use, merged or not, as another object that shares all models with
        it: `set_adapter` of this one changes nothing there.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def merge_adapter(self) -> None:
        """Computes with matrices that hold the adapter in use: as fast as without it, and another copy of
        these matrices in memory, until `unmerge_adapter`, `set_adapter` or `to`.

        Raises:
          UserError: no adapter is in use.
        """
        if self._active is None:
            raise UserError("no adapter is in use: call set_adapter first")
        if not self._merged:
            self._use(self._editor(self._adapters[self._active][0], merged=True))
            self._merged = True

    def unmerge_adapter(self) -> None:
        """Takes `merge_adapter` back: the base weights were never changed."""
        self.set_adapter(self._active)

    @contextmanager
    def _adapters_aside(self) -> Iterator[None]:
        """The model without adapters, which are made anew afterwards: it moves meanwhile."""
        active, merged = self._active, self._merged
        loaded = {name: adapter for name, (adapter, _) in self._adapters.items()}
        self.set_adapter(None)
        self._adapters.clear()  # what they share is freed as it moves
        try:
            yield
        finally:
            self._adapters.update(
                (name, (adapter, self._editor(adapter))) for name, adapter in loaded.items()
            )
            self.set_adapter(active)
            if merged:
                self.merge_adapter()

    def _require_plain_weights(self) -> None:
        if self._active is not None and not self._merged:
            raise UserError(
                f"the adapter {self._active!r} is in use: call merge_adapter to save it with the model, or "
                "set_adapter(None) to save the model without it"
            )

    def _editor(self, adapter: Adapter, *, merged: bool = False) -> Editor:
        with torch.inference_mode(False):
            return self._base.with_transformer(adapted_copy(self._base.transformer, adapter, merged=merged))

    def _find(self, name: str) -> tuple[Adapter, Editor]:
        if name not in self._adapters:
            there = (
                f"there are {', '.join(self._adapters)}" if self._adapters else "load it with load_adapter"
            )
            raise UserError(f"adapter {name!r} is not loaded; {there}")
        return self._adapters[name]

    def _use(self, editor: Editor) -> None:
        self.token_editor, self.transformer = editor, editor.transformer
