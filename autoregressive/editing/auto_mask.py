"""Editing without a mask: which cells does the instruction speak of?

An editing model that is told to regenerate everything mostly copies its source. Where the instruction makes
it expect other codes than the source's, something has to change: these cells are the region.

Letters: B batch, N cells, T text slots, C caption width, V codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from autoregressive.models.gpt import Transformer, evaluating
from autoregressive.sequence.builders import editing_layout
from autoregressive.sequence.layout import SequenceLayout
from runtime.errors import UserError

_CORE = 0.7  # share of the highest score that makes a piece of the region count
_MOST_LOGITS = 2**26  # of one pass, a quarter of a gigabyte


def region_of(scores: Tensor, grid: int, threshold: float, smoothing: float, growth: int) -> Tensor:
    """The cells to edit, (B, N) bool: see `AutoMaskSettings.region`, which has these settings."""
    smooth = smooth_cells(scores.float().view(-1, 1, grid, grid), smoothing)
    highest = smooth.amax((2, 3), keepdim=True)
    cores = (smooth >= max(_CORE, threshold) * highest) | (smooth == highest)
    chosen = pieces_with(cores, (smooth >= threshold * highest) | cores)
    return grow_cells(fill_rectangles(chosen), growth).flatten(1)


def grow_cells(cells: Tensor, growth: int) -> Tensor:
    """(B, 1, G, G) bool cells and all within `growth` cells of one, in all eight directions."""
    return F.max_pool2d(cells.float(), 2 * growth + 1, 1, growth) > 0


def pieces_with(cores: Tensor, cells: Tensor) -> Tensor:
    """Those pieces of `cells`, connected in eight directions, that hold a core; all (B, 1, G, G) bool."""
    pieces = cores
    while not torch.equal(grown := grow_cells(pieces, 1) & cells, pieces):
        pieces = grown
    return pieces


def fill_rectangles(cells: Tensor) -> Tensor:
    """Adds cells of which two of the four neighbours are in, until there is none; (B, 1, G, G) bool."""
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], device=cells.device)[None, None]
    while not torch.equal(filled := cells | (F.conv2d(cells.float(), cross, padding=1) >= 2), cells):
        cells = filled
    return cells


def smooth_cells(values: Tensor, deviation: float) -> Tensor:
    """Gaussian averages of (B, 1, G, G) values; beyond the border there is nothing to average.

    Args:
      deviation: standard deviation in cells, ≥ 0.
    """
    if deviation == 0:
        return values
    places = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / deviation) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ values @ weights.T


def locating_layout(source: Tensor, text_valid: Tensor, vocab_size: int) -> SequenceLayout:
    """Text · source codes · marks, all "edit", with probes · source codes; predicts each cell twice.

    First as if it were the first cell of all: a probe stands for the last mark, is seen by no other slot, and
    has one of the cells as its next. Then as in training, after the source's codes of the cells before it:
    these tell that nothing was changed so far, so that of a change which is seen whole or not at all only the
    first cell stands out.

    Args:
      source: (B, N) raster codes.
      text_valid: (B, T) bool, padding at the left.
      vocab_size: V.
    Returns:
      A layout with 2N predictions: of all cells in raster order, twice.
    """
    everything = torch.ones_like(source, dtype=torch.bool)
    forced = editing_layout(source, source, everything, text_valid, vocab_size)
    num_cells = source.shape[1]
    raster = torch.arange(num_cells).expand_as(source)

    def with_probes(values: Tensor, probes: Tensor) -> Tensor:
        """Puts them before the last mark, with which the predictions of `forced` begin."""
        start = values.shape[1] - num_cells
        return torch.cat([values[:, :start], probes, values[:, start:]], dim=1)

    return SequenceLayout(
        token_ids=with_probes(forced.token_ids, torch.full_like(source, vocab_size + 1)),
        cells=with_probes(forced.cells, raster[:, -1:].expand_as(source)),
        next_cells=with_probes(forced.next_cells, raster),
        key_valid=with_probes(forced.key_valid, ~everything),
        slots=torch.arange(forced.cells.shape[1] + num_cells).expand(len(source), -1),
        num_predictions=2 * num_cells,
    )


@torch.inference_mode()
def edit_scores(model: Transformer, source: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
    """How much the instruction speaks for another code than the source's, in each cell.

    Two passes over the source, every cell marked "edit", give p(code | text) and, without the instruction,
    p(code). The score is the share of their Kullback-Leibler divergence that belongs to change: the sum of
    p(code | text) (log p(code | text) - log p(code)) over all codes but the source's. It is below 0 where the
    instruction makes a change less likely than it was; smoothed, that speaks against the cells around it too.
    Each cell is predicted twice, see `locating_layout`; the higher score counts.

    Args:
      model: an editing model with marks.
      source: (B, N) raster codes.
      text, text_valid: (B, T, C) and (B, T), left-padded.
    Returns:
      (B, N) float32 nats on the CPU; high = to be edited.
    Raises:
      UserError: the model has no marks.
    """
    if not model.config.mask_in_context:
        raise UserError(
            "locating an edit needs a model with edit/keep marks, this one has none; give a mask, or no mask "
            "to regenerate the whole image"
        )
    source = source.cpu()
    weight = model.tok_embeddings.weight
    vocab = model.config.vocab_size
    rows = max(1, _MOST_LOGITS // (2 * source.shape[1] * vocab))
    scores = []
    with evaluating(model):
        for codes, words, valid in zip(
            source.split(rows), text.to(weight).split(rows), text_valid.cpu().split(rows), strict=True
        ):
            layout = locating_layout(codes, valid, vocab).to(weight.device)
            told = model(layout, words).float().log_softmax(2)
            untold = model(layout, model.unconditional_text(words)).float().log_softmax(2)
            of_source = codes.repeat(1, 2)[..., None].to(weight.device)
            change = (told.exp() * (told - untold)).scatter(2, of_source, 0.0)
            scores.append(change.sum(2).unflatten(1, (2, -1)).amax(1).cpu())
    return torch.cat(scores)


def region_iou(found: Tensor, true: Tensor) -> Tensor:
    """Intersection over union of (B, N) bool regions: (B,) float32 in [0, 1]."""
    return (found & true).sum(1) / (found | true).sum(1).clamp(min=1)
