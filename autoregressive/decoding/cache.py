"""Keys and values of slots already seen, as an argument of the forward."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all layers, filled slot by slot; attention sees the live slots of the live rows.

    `live` (slots) and `rows` are set by the decoding loop, which knows them without asking the device.
    """

    def __init__(self, store: Tensor) -> None:
        """
        Args:
          store: (layers, 2, B, H, M, head_dim), whatever it holds.
        """
        self._store = store
        self.live = 0
        self.rows = slice(None)

    @property
    def length(self) -> int:
        """Slots there are, live or not."""
        return self._store.shape[4]

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (R, H, L, head_dim) keys and values of the live rows at `slots`; returns the live ones."""
        keys, values = self._store[layer][:, self.rows]
        keys.index_copy_(2, slots, key.to(keys.dtype))
        values.index_copy_(2, slots, value.to(values.dtype))
        return keys[:, :, : self.live], values[:, :, : self.live]

    def blank_rest(self) -> None:
        """Zeroes the slots that are not live: masked ones count nothing, unless they hold NaN or infinity."""
        self._store[..., self.live :, :].zero_()

    def copy_rows(self, source: Tensor) -> None:
        """Row i of all the rows becomes what row `source[i]` was, in the live slots."""
        for layer in self._store[..., : self.live, :]:  # one by one: a copy of the whole may not fit
            layer.copy_(layer[:, source])


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
        self, n_layer: int, batch: int, n_head: int, length: int, head_dim: int, like: Tensor
    ) -> Iterator[KVCache]:
        """A cache for `batch` rows of at least `length` slots, of the type and on the device of `like`.

        It is the caller's alone until the block ends: another thread, or an edit inside a progress callback,
        borrows other memory meanwhile.
        """
        with self._lock:
            memory, self._idle = self._idle or _Memory(), None
        try:
            yield memory.cache(
                (n_layer, 2, batch, n_head, -(-length // self.STEP) * self.STEP, head_dim), like
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
        cache.live, cache.rows = 0, slice(None)
        return cache


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device
