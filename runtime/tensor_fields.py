"""Dataclasses of tensors: moved, pinned and handed between processes as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 18  # bytes; larger tensors go between processes through shared memory
Fields = TypeVar("Fields", bound="TensorFields")


class TensorFields:
    """A frozen dataclass some of whose fields are tensors, tuples of tensors or again of this kind."""

    def map_tensors(self: Fields, change: Callable[[Tensor], Tensor]) -> Fields:
        """The same with each tensor changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, TensorFields):
                return value.map_tensors(change)
            if isinstance(value, tuple) and value and all(isinstance(part, Tensor) for part in value):
                return tuple(map(change, value))
            return value

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return type(self)(**{name: changed(value) for name, value in values.items()})

    def to(self: Fields, device: torch.device | str, *, non_blocking: bool = True) -> Fields:
        """The same with its tensors on `device`; nothing waits for the copies of pinned ones."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: Fields) -> Fields:
        """Called by `DataLoader(pin_memory=True)`."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())

    def __getstate__(self) -> dict[str, Any]:
        """Between processes every tensor costs a file: small ones go in the message."""
        return {name: _message(value) for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in state.items()
        })  # fmt: skip


def _message(value: Any) -> Any:
    small = isinstance(value, Tensor) and value.nbytes <= SMALL and value.dtype != torch.bfloat16
    return value.numpy() if small else value
