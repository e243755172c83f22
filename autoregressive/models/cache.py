"""Keys and values of slots already seen, as an argument of the forward."""

from __future__ import annotations

import torch
from torch import Tensor


class NoCache:
    """Training and teacher forcing: the keys are the sequence's own."""

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return key, value


class KVCache:
    """Keys and values of all layers, allocated once and filled slot by slot."""

    def __init__(
        self, n_layer: int, batch: int, n_head: int, length: int, head_dim: int, like: Tensor
    ) -> None:
        """
        Args:
          length: key slots to make room for.
          like: a tensor whose dtype and device the cache takes.
        """
        self._store = torch.zeros(
            n_layer, 2, batch, n_head, length, head_dim, dtype=like.dtype, device=like.device
        )
        self.live = 0

    def update(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (B, H, L, head_dim) keys and values at `slots` (L,); returns those of the live slots.

        `live` is set by the decoding loop, which knows the length without asking the device.
        """
        keys, values = self._store[layer]
        keys.index_copy_(2, slots, key.to(keys.dtype))
        values.index_copy_(2, slots, value.to(values.dtype))
        return keys[:, :, : self.live], values[:, :, : self.live]
