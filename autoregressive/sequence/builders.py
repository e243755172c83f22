"""Layouts of training and of prompts. Letters as in `autoregressive.sequence.layout`."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from autoregressive.sequence.layout import TEXT, Prompt, TrainingLayout
from autoregressive.sequence.orders import raster_edit_order


def t2i_layout(
    codes: Tensor, orders: Tensor, text_valid: Tensor, sample_valid: Tensor | None = None
) -> TrainingLayout:
    """Text-to-image training: text · codes in `orders`; every cell is predicted.

    Args:
      codes: (B, N) raster codes.
      orders: (B, N) cells in generation order.
      text_valid: (B, T) bool, padding at the left.
      sample_valid: (B,) bool; False gives a sample no weight.
    """
    ordered = codes.gather(1, orders)
    weight = torch.ones_like(ordered, dtype=torch.float32)
    return _teacher_forced(ordered, orders, text_valid, ordered, weight, sample_valid)


def editing_layout(
    source: Tensor,
    target: Tensor,
    edit_mask: Tensor,
    text_valid: Tensor,
    vocab_size: int,
    *,
    marks: bool = True,
    orders: Tensor | None = None,
    sample_valid: Tensor | None = None,
    supervise_marks: bool = False,
) -> TrainingLayout:
    """Editing training: text · source codes · marks · edited codes; the edited cells are predicted.

    Full regeneration is an `edit_mask` of all True. Rows with fewer edited cells than the batch's largest
    number go on with kept cells, which have no weight.

    Args:
      source, target: (B, N) raster codes before and after the edit.
      edit_mask: (B, N) bool raster, at least one True a row.
      text_valid: (B, T) bool, padding at the left.
      vocab_size: V; the marks are V (keep) and V+1 (edit).
      marks: False leaves the marks out ("w/o ERC" in the paper).
      orders: (B, N) cells, edited ones first; raster order by default.
      sample_valid: (B,) bool; False gives a sample no weight.
      supervise_marks: the edited cells are predicted a first time by the slots in front of their marks,
        where no edited code is known that could tell what the edit is about.
    """
    orders = raster_edit_order(edit_mask) if orders is None else orders
    counts = edit_mask.sum(1)
    num = max(int(counts.max()), 1)  # a batch of nothing but bad samples still needs a shape
    ids, cells = _editing_context(source, edit_mask, vocab_size, marks)
    edited = target.gather(1, orders[:, :num])
    targets, weight = edited, (torch.arange(num, device=counts.device) < counts[:, None]).float()
    if supervise_marks:
        targets, weight = torch.cat([target, edited], dim=1), torch.cat([edit_mask.float(), weight], dim=1)
    return _teacher_forced(
        torch.cat([ids, edited], dim=1),
        torch.cat([cells, orders[:, :num]], dim=1),
        text_valid,
        targets,
        weight,
        sample_valid,
    )


def infill_layout(codes: Tensor, edit_mask: Tensor, orders: Tensor, text_valid: Tensor) -> TrainingLayout:
    """Zero-shot edits and, where all cells are edited, text to image, in training: as `infill_prompt`.

    Text · kept codes · edited codes in `orders`; the edited cells have weight.

    Args:
      codes: (B, N) raster codes.
      edit_mask: (B, N) bool raster, at least one True a row.
      orders: (B, N) cells, edited ones first, the kept ones in raster order.
      text_valid: (B, T) bool, padding at the left.
    """
    num_cells = codes.shape[1]
    counts = edit_mask.sum(1, keepdim=True)
    places = torch.arange(num_cells, device=codes.device)
    ordered = orders.gather(1, (places + counts) % num_cells)  # kept ones first
    most = int(counts.max())
    weight = (places >= num_cells - counts)[:, num_cells - most :].float()
    ids = codes.gather(1, ordered)
    return _teacher_forced(ids, ordered, text_valid, ids[:, num_cells - most :], weight, None)


def t2i_prompt(orders: Tensor, text_valid: Tensor) -> Prompt:
    """Text only; the last text slot predicts the first cell of `orders` (B, N)."""
    empty = orders[:, :0]
    return Prompt(**_sequence(empty, empty, orders[:, :1], text_valid, 1))


def editing_prompt(
    source: Tensor,
    edit_mask: Tensor,
    orders: Tensor,
    text_valid: Tensor,
    vocab_size: int,
    *,
    marks: bool = True,
) -> Prompt:
    """Text · source codes · marks; the last slot predicts the first cell of `orders`. As `editing_layout`."""
    ids, cells = _editing_context(source, edit_mask, vocab_size, marks)
    return Prompt(**_sequence(ids, cells, orders[:, :1], text_valid, 1))


def infill_prompt(codes: Tensor, edit_mask: Tensor, orders: Tensor, text_valid: Tensor) -> Prompt:
    """Text · kept codes in raster order; the last slot predicts the first cell of `orders`.

    With a text-to-image model this is zero-shot editing and revision. Rows keep different numbers of cells:
    all padding goes to the left of the text, so that every row's last slot is its last content.

    Args:
      codes: (B, N) raster codes; only the kept ones are read.
      edit_mask: (B, N) bool raster; rows may be all True (then it is text-to-image).
      orders: (B, N) cells, edited ones first.
      text_valid: (B, T) bool.
    """
    cells, kept = right_aligned(~edit_mask)
    plain = Prompt(**_sequence(codes.gather(1, cells), cells, orders[:, :1], text_valid, 1))
    return pad_left(dataclasses.replace(plain, key_valid=torch.cat([text_valid, kept], dim=1)))


def right_aligned(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Raster numbers of the True cells in (B, N) `chosen`, in that order, at the right ends of (B, M) rows.

    Returns:
      The numbers, and (B, M) bool which of them are chosen ones; M is the most that a row has.
    """
    num_chosen = chosen.sum(1)
    longest = int(num_chosen.max())
    # Raster order of [others | chosen]: the last entries of a row are what is wanted.
    cells = raster_edit_order(~chosen)[:, chosen.shape[1] - longest :]
    return cells, torch.arange(longest, device=cells.device) >= longest - num_chosen[:, None]


def pad_left(layout: Prompt) -> Prompt:
    """Moves the slots that are not valid to the left: every row's last slot is its last content.

    What that slot predicts stays; every other slot predicts the one after it.
    """
    index = torch.argsort(layout.key_valid.to(torch.uint8), dim=1, stable=True)
    cells = layout.cells.gather(1, index)
    return dataclasses.replace(
        layout,
        cells=cells,
        next_cells=torch.cat([cells[:, 1:], layout.next_cells[:, -1:]], dim=1),
        key_valid=layout.key_valid.gather(1, index),
        content_index=index,
    )


def _editing_context(
    source: Tensor, edit_mask: Tensor, vocab_size: int, marks: bool
) -> tuple[Tensor, Tensor]:
    raster = torch.arange(source.shape[1], device=source.device).expand_as(source)
    segments = [source, vocab_size + edit_mask.long()] if marks else [source]
    return torch.cat(segments, dim=1), torch.cat([raster] * len(segments), dim=1)


def _teacher_forced(
    ids: Tensor,
    cells: Tensor,
    text_valid: Tensor,
    targets: Tensor,
    weight: Tensor,
    sample_valid: Tensor | None,
) -> TrainingLayout:
    """A layout whose last slots predict `targets` (B, K); the last id of all is none but a target."""
    if sample_valid is not None:
        weight = weight * sample_valid[:, None].float()
    return TrainingLayout(
        **_sequence(ids[:, :-1], cells[:, :-1], cells[:, -1:], text_valid, targets.shape[1]),
        targets=targets,
        loss_weight=weight,
        supervised=weight.flatten().nonzero().flatten(),
    )


def _sequence(
    ids: Tensor, cells: Tensor, last_next_cell: Tensor, text_valid: Tensor, num: int
) -> dict[str, Any]:
    """The fields of a layout: text, then `ids` on `cells`, each predicting the cell after it."""
    text_cells = torch.full(text_valid.shape, TEXT, dtype=cells.dtype, device=cells.device)
    all_cells = torch.cat([text_cells, cells], dim=1)
    return {
        "token_ids": ids,
        "cells": all_cells,
        "next_cells": torch.cat([all_cells[:, 1:], last_next_cell], dim=1),
        "key_valid": torch.cat([text_valid, torch.ones_like(cells, dtype=torch.bool)], dim=1),
        "slots": torch.arange(all_cells.shape[1], device=cells.device).expand_as(all_cells),
        "num_predictions": num,
    }
