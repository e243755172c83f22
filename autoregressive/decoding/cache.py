"""Keys and values of slots already seen, as an argument of the forward."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all layers, written slot by slot in the lanes that run; a lane is one sequence's.

    `lanes` (which of them run) and `live` (slots in sight) are set by the decoding loop, which knows them
    without asking the device.
    """

    def __init__(self, store: Tensor) -> None:
        """
        Args:
          store: (layers, 2, lanes, H, M, head_dim), whatever it holds.
        """
        self._store = store
        self.live = 0
        self.lanes = slice(None)

    @property
    def length(self) -> int:
        """Slots there are, live or not."""
        return self._store.shape[4]

    @property
    def num_lanes(self) -> int:
        """Lanes there are, running or not."""
        return self._store.shape[2]

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (R, H, L, head_dim) keys and values of the running lanes at (R, L) `slots`.

        Returns:
          Those of the live slots.
        """
        keys, values = self._store[layer][:, self.lanes]
        if slots.shape[1] == 1 and len(slots) == 1:
            keys.index_copy_(2, slots[0], key.to(keys.dtype))
            values.index_copy_(2, slots[0], value.to(values.dtype))
        else:
            lanes = torch.arange(len(slots), device=slots.device)[:, None]
            keys[lanes, :, slots] = key.transpose(1, 2).to(keys.dtype)
            values[lanes, :, slots] = value.transpose(1, 2).to(values.dtype)
        return keys[:, :, : self.live], values[:, :, : self.live]

    def blank_from(self, slot: int) -> None:
        """Zeroes the running lanes from a slot on: what is masked counts nothing, unless it is NaN."""
        self._store[:, :, self.lanes, :, slot:].zero_()

    def spread(self, source: Tensor) -> None:
        """Running lane i becomes what running lane `source[i]` was, in the live slots."""
        for layer in self._store[
            :, :, self.lanes, :, : self.live
        ]:  # one by one: a copy of the whole may not fit
            layer.copy_(layer[:, source])

    def move(self, source: int, target: int) -> None:
        """Lane `target` becomes a copy of lane `source`."""
        self._store[:, :, target].copy_(self._store[:, :, source])


class CachePool:
    """Memory for caches that serves call after call; callers at the same time get memory of their own."""

    STEP = 64  # lengths are rounded up to this, so that edits of different size share

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: _Memory | None = None

    def __reduce__(self) -> tuple:
        """A copy or a pickle of a pool is an empty one."""
        return CachePool, ()

    @contextmanager
    def borrow(
        self, n_layer: int, num_lanes: int, n_head: int, length: int, head_dim: int, like: Tensor
    ) -> Iterator[KVCache]:
        """A cache of `num_lanes` lanes of at least `length` slots, of the type and on the device of `like`.

        It is the caller's alone until the block ends: another thread, or an edit inside a progress callback,
        borrows other memory meanwhile.
        """
        with self._lock:
            memory, self._idle = self._idle or _Memory(), None
        try:
            yield memory.cache(
                (n_layer, 2, num_lanes, n_head, -(-length // self.STEP) * self.STEP, head_dim), like
            )
        finally:
            with self._lock:  # of several only the largest is kept
                self._idle = max(filter(None, (self._idle, memory)), key=_Memory.numel)

    def clear(self) -> None:
        """Gives the memory back that nobody uses now."""
        with self._lock:
            self._idle = None


class _Memory:
    """One allocation and the caches that it was cut into."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self._caches: dict[tuple[int, ...], KVCache] = {}

    def numel(self) -> int:
        return 0 if self.buffer is None else self.buffer.numel()

    def cache(self, shape: tuple[int, ...], like: Tensor) -> KVCache:
        numel = torch.Size(shape).numel()
        if self.buffer is None or self.buffer.numel() < numel or not _alike(self.buffer, like):
            self.buffer = None  # given back before the new one is made
            self._caches.clear()
            self.buffer = torch.zeros(numel, dtype=like.dtype, device=like.device)
        if shape not in self._caches:
            store = self.buffer[:numel].view(shape)
            torch._dynamo.mark_static_address(store)  # a compiled step may keep where it is
            self._caches[shape] = KVCache(store)
        cache = self._caches[shape]
        cache.live, cache.lanes = 0, slice(None)
        return cache


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device
