"""The decoding engine: rows of prompts in, codes out. Letters as in `sequence.layout`.

A model is weights and a forward; all that decoding needs besides belongs to an `Engine`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from autoregressive.decoding.batch import Batch
from autoregressive.decoding.int8_linear import quantize_linears, require_movable
from autoregressive.decoding.packed_linear import PackedLinear, pack_linears, unpack_linears
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.attention import KVCache
from autoregressive.models.gpt import Transformer
from autoregressive.sequence.layout import Prompt, SequenceLayout

MOST_STEP_SHAPES = 64  # numbers of lanes, times lengths of the cache in steps of `CachePool.STEP`
WINDOW = 16
"""Cells a pass may settle where nothing else is asked for and slots cost little: few lanes, or a GPU."""
CPU_SLOTS = 32
"""Lanes times window on CPUs, where more slots cost more than the passes that they save; measured with
`scripts/checks/measure_passes.py`."""

OnPass = Callable[[Tensor, list[int]], None]
"""Called after each pass with (B, K) codes and how many of each row are settled; the others are guesses."""


@dataclass(frozen=True)
class Drawn:
    """What `Engine.generate` gives.

    Attributes:
      codes: (B, K); what stands beyond a row's count means nothing, see `place`.
      num_passes: of each row, the prompt's included.
    """

    codes: Tensor
    num_passes: list[int]


class Engine:
    """Decodes with one model: owns the memory of keys and values, the compiled step, the packed weights.

    Several threads may use one engine, and a callback may generate again: each call borrows its own cache.
    """

    def __init__(self, model: Transformer, *, pack: bool = False) -> None:
        """
        Args:
          pack: on CPUs, keep the model's linear weights in the layout that decoding reads fastest: for models
            that are not trained; see `packed_linear`.
        """
        self.model = model
        self.caches = CachePool()
        self._step: Callable[..., Tensor] = model
        self._compiled_for: tuple | None = None
        if pack:
            pack_linears(model)

    def __getstate__(self) -> dict:
        """For `pickle` and `deepcopy`: a copy is not compiled, as the compiled step is the original's."""
        return self.__dict__ | {"_step": self.model, "_compiled_for": None}

    def move(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> None:
        """Moves the model, and packs it anew where it was packed or can be now.

        Raises:
          UserError: to a GPU or to another type, of weights that were made 8 bits for a CPU.
        """
        require_movable(self.model, device, dtype)
        unpack_linears(self.model)
        self.model.to(device=device, dtype=dtype)
        self.release()
        if not self.compiled:
            pack_linears(self.model)

    def quantize(self) -> None:
        """Gives the model's linear layers weights of 8 bits, for good; see `int8_linear`.

        Raises:
          UserError: what it needs is not here.
        """
        unpack_linears(self.model)
        quantize_linears(self.model, self.model.device)

    def borrow_cache(self, num_lanes: int, length: int) -> AbstractContextManager[KVCache]:
        """A cache of `length` key slots for each lane, for the time of a `with` block."""
        config = self.model.config
        shape = config.n_layer, 2, num_lanes, config.n_head, length, config.dim // config.n_head
        return self.caches.borrow(shape, self.model.tok_embeddings.weight)

    def release(self) -> None:
        """Gives the memory of caches back that no call uses now."""
        self.caches.clear()

    @property
    def packed(self) -> bool:
        """Whether linear weights are packed."""
        return any(isinstance(module, PackedLinear) for module in self.model.modules())

    @property
    def compiled(self) -> bool:
        """Whether decoding steps are compiled."""
        return self._compiled_for is not None

    def compile_steps(self) -> None:
        """Compiles the decoding steps, on GPUs to CUDA graphs; a minute for each number of rows.

        To keep their shapes, the rows of a batch become fewer by halves only. On CPUs they are slower than
        plain steps with packed weights.
        """
        model = self.model
        unpack_linears(model)  # an opaque weight is no part of a graph
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_STEP_SHAPES)
        mode = "reduce-overhead" if model.device.type == "cuda" else None
        self._step = torch.compile(model.forward, fullgraph=True, dynamic=False, mode=mode)
        self._compiled_for = model.device, model.dtype

    def step(self, layout: SequenceLayout, text: Tensor, cache: KVCache) -> Tensor:
        """The forward of a pass behind a prompt, (lanes, W) slots; compiled after `compile_steps`."""
        if self.compiled and self._compiled_for != (self.model.device, self.model.dtype):
            self.compile_steps()  # anew, for where the weights are now
        return self._step(layout, text, cache)

    @property
    def steps_see_whole_cache(self) -> bool:
        """Whether decoding steps attend to slots not yet filled too, through the mask, instead of a slice.

        Compiled steps must keep their shapes; products in bfloat16 on CPUs would copy a slice.
        """
        return self.compiled or (self.model.device.type == "cpu" and self.model.dtype == torch.bfloat16)

    @contextmanager
    def batch(
        self, max_lanes: int, max_prompt: int, max_cells: int, window: int | None = None
    ) -> Iterator[Batch]:
        """An empty batch for the time of a `with` block, with a cache of its own.

        Args:
          max_lanes: rows that may be in it together; those with guidance count twice.
          max_prompt, max_cells: slots of the longest prompt, cells of the largest row.
          window: cells a pass may settle; by default what is fast here.
        """
        limited = window is None and self.model.device.type == "cpu"
        window = window or WINDOW
        with self.borrow_cache(max_lanes, max_prompt + max_cells + window) as cache:
            yield Batch(
                self.model,
                self.step,
                cache,
                max_cells=max_cells,
                window=window,
                max_slots=CPU_SLOTS if limited else None,
                fixed_shapes=self.compiled,
                whole_cache=self.steps_see_whole_cache,
            )

    @torch.inference_mode()
    def generate(
        self,
        prompt: Prompt,
        text: Tensor,
        orders: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        counts: Sequence[int] | None = None,
        guesses: Tensor | None = None,
        on_pass: OnPass | None = None,
    ) -> Drawn:
        """Draws the codes of the cells in `orders`, in that order.

        Args:
          prompt: P rows of what is given, each for the next B / P rows of `orders`: samples of one prompt
            share its prefill. The last slot predicts the first cell.
          text: (P, T, C) caption features.
          orders: (B, K) cells to generate.
          seeds: B, which decide the draws.
          sampling: guidance, truncation and window.
          counts: how many of its K cells each row needs, at least 1; K for all by default.
          guesses: (B, K) first guesses; by default as `sampling.guesses` says, of "last" and "independent".
        Returns:
          Codes, of which `NOT_FINITE` is the caller's to look for, and passes.
        """
        num_rows, num_new = orders.shape
        num_prompts, length = prompt.cells.shape
        if num_rows % num_prompts:
            raise ValueError(f"{num_rows} rows cannot share {num_prompts} prompts evenly")
        counts = [num_new] * num_rows if counts is None else list(counts)
        with self.batch(num_rows * sampling.num_lanes, length, num_new, sampling.window) as batch:
            rows = batch.join(prompt, text, orders, seeds, sampling, counts, guesses)
            places = {id(row): number for number, row in enumerate(rows)}
            codes = torch.zeros_like(orders)
            while True:
                if on_pass is not None:
                    for row, so_far in batch.codes():
                        codes[places[id(row)], : row.count] = so_far
                    on_pass(codes.clone(), [row.num_settled for row in rows])
                for row in batch.leave():
                    codes[places[id(row)], : row.count] = row.codes
                if not batch.rows:
                    return Drawn(codes, [row.num_passes for row in rows])
                batch.step()


def place(codes: Tensor, orders: Tensor, counts: Tensor, onto: Tensor) -> Tensor:
    """Puts generated codes on the grid.

    Args:
      codes, orders: (B, K) from `generate`.
      counts: (B,) how many of a row's codes are meant; later ones are ignored.
      onto: (B, N) raster codes that stay elsewhere.
    Returns:
      (B, N) raster codes.
    """
    meant = torch.arange(codes.shape[1], device=codes.device) < counts[:, None]
    return onto.scatter(1, orders, torch.where(meant, codes, onto.gather(1, orders)))


def guesses_of(sampling: Sampling, before: Tensor, orders: Tensor) -> Tensor | None:
    """The first guesses of `generate`: codes that are there already, where `sampling` asks for those.

    Args:
      before: (B, N) raster codes of the picture that is edited or revised.
      orders: (B, K) the cells to draw.
    Returns:
      (B, K) codes; None leaves the guesses to `generate`.
    """
    return before.gather(1, orders) if sampling.guesses == "source" else None


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
    def borrow(self, shape: tuple[int, ...], like: Tensor) -> Iterator[KVCache]:
        """A cache of the type and on the device of `like`.

        It is the caller's alone until the block ends: another thread, or an edit inside a progress callback,
        borrows other memory meanwhile.

        Args:
          shape: as the store of a `KVCache`; there may be more slots.
        """
        *before, length, head_dim = shape
        with self._lock:
            memory, self._idle = self._idle or _Memory(), None
        try:
            yield memory.cache((*before, -(-length // self.STEP) * self.STEP, head_dim), like)
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
