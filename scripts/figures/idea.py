"""The figures of docs/idea.md: the work of draw_figures.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from autoregressive.editing.choices import AUTO
from autoregressive.editing.pictures import enlarge, grey_cells, outline_cells
from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.editing.results import Drawing
from autoregressive.sequence.builders import editing_layout, infill_prompt, t2i_layout
from autoregressive.sequence.layout import SequenceLayout, TrainingLayout
from autoregressive.sequence.orders import drawing_orders, raster_edit_order
from dataset.shapes.scenes import Background, Scene, SceneObject, box_to_pixels, place_box, render
from dataset.shapes.verifier import verify_scene
from runtime.logging import get_logger
from scripts.figures.config import DrawFigures

log = get_logger(__name__)
SCENE = Scene(
    (
        SceneObject("circle", "red", "large", "top left", 1 / 6, -1 / 6),
        SceneObject("star", "blue", "large", "center", -1 / 6, 1 / 6),
        SceneObject("square", "green", "large", "bottom right", 1 / 6, 1 / 6),
    ),
    Background("beige", "speckled", seed=3),
)
INSTRUCTION = "turn the large blue star into a circle"
ORDERS = ("raster", "spiral", "random")
NUM_DRAWS = 16
KINDS = {
    "text": "#d4d4d8",
    "source code": "#93c5fd",
    "keep": "#e5e7eb",
    "edit": "#f9a8d4",
    "drawn code": "#86efac",
}


def show(axes: Axes, picture: Image.Image | np.ndarray, title: str) -> None:
    axes.imshow(np.asarray(picture), interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.axis("off")


def row(pictures: Sequence[tuple[str, Image.Image | np.ndarray]], height: float = 3.0) -> Figure:
    figure = Figure(figsize=(2.3 * len(pictures), height), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, len(pictures)), pictures, strict=True):
        show(axes, picture, title)
    return figure


def edit_figure(editor: EditingPipeline, image: Image.Image, mask: np.ndarray) -> Figure:
    """Source, mask, tokens, cells, result."""
    result = editor.edit(image, INSTRUCTION, mask)[0]
    codes = editor.encode([image])[0].view(editor.grid, editor.grid)
    tokens = np.random.default_rng(0).integers(60, 256, (editor.tokenizer.config.codebook_size, 3))[
        codes.numpy()
    ]
    large = enlarge(image, 288)
    return row(
        [
            ("the image", large),
            (f"{editor.grid}×{editor.grid} tokens", tokens.astype(np.uint8)),
            ("the region, painted", np.where(mask[..., None], 255, np.asarray(image) // 3).astype(np.uint8)),
            (
                f"{int(result.edit_mask.sum())} cells to edit",
                outline_cells(large, result.edit_mask, editor.grid),
            ),
            (f'"{INSTRUCTION.replace(" into", chr(10) + "into")}"', enlarge(result.image, 288)),
        ]
    )


def sequence_figure() -> Figure:
    """What stands in a sequence, and what is predicted: read off the layouts themselves, 2×2 cells."""
    vocab, words = 64, torch.ones(1, 2, dtype=torch.bool)
    source, target = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 12, 13, 4]])
    mask = torch.tensor([[False, True, True, False]])
    order = torch.tensor([[2, 0, 3, 1]])
    uses = {
        "text to image,\nrandom order": t2i_layout(target, order, words),
        "zero-shot edit\nof cells 1 and 2": infill_prompt(source, mask, raster_edit_order(mask), words),
        "edit of\ncells 1 and 2": editing_layout(source, target, mask, words, vocab),
        "full\nregeneration": editing_layout(source, target, ~torch.zeros_like(mask), words, vocab),
    }
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for line, (name, layout) in enumerate(uses.items()):
        axes.text(-0.3, -1.6 * line, name, ha="right", va="center", fontsize=10)
        _boxes(axes, layout, -1.6 * line, vocab, editing=line > 1)
    axes.set(xlim=(-3, 17), ylim=(-6, 1))
    axes.axis("off")
    patches = [Patch(facecolor=color, edgecolor="#52525b", label=kind) for kind, color in KINDS.items()]
    axes.legend(handles=patches, ncols=len(KINDS), loc="upper center", frameon=False)
    axes.text(
        -0.3, -5.75, "In a box: the slot's cell. Below an arrow: the cell whose code it predicts.", fontsize=9
    )
    return figure


def _boxes(axes: Axes, layout: SequenceLayout, y: float, vocab: int, editing: bool) -> None:
    num_text = layout.cells.shape[1] - layout.token_ids.shape[1]
    num_slots, seen_marks = layout.cells.shape[1], False
    x = 0
    for slot in range(num_slots):
        if not layout.key_valid[0, slot]:
            continue
        token = int(layout.token_ids[0, slot - num_text]) if slot >= num_text else -1
        seen_marks |= token >= vocab
        if token < 0:
            kind = "text"
        elif token >= vocab:
            kind = ("keep", "edit")[token - vocab]
        else:
            trained = isinstance(layout, TrainingLayout)
            kind = "drawn code" if seen_marks or not editing and trained else "source code"
        axes.add_patch(Rectangle((x, y - 0.3), 0.9, 0.6, facecolor=KINDS[kind], edgecolor="#52525b"))
        cell, following = int(layout.cells[0, slot]), int(layout.next_cells[0, slot])
        axes.text(x + 0.45, y, "" if cell < 0 else str(cell), ha="center", va="center")
        if slot >= num_slots - layout.num_predictions:
            axes.annotate("", (x + 0.45, y - 0.62), (x + 0.45, y - 0.3), arrowprops={"arrowstyle": "->"})
            axes.text(
                x + 0.45, y - 0.8, str(following), ha="center", va="center", fontsize=9, color="#15803d"
            )
        x += 1


def orders_figure(painter: EditingPipeline) -> Figure:
    """One caption in three orders, as far as they are after some steps: of each the first draw that is right.

    How many draws are right stands beside it; where none is, the first is shown.
    """
    grid, num_cells = painter.grid, painter.grid**2
    stages = [round(num_cells * share) for share in (0.2, 0.5, 0.8, 1)]
    one_by_one = dataclasses.replace(painter.defaults.sampling, window=1)
    seeds, everything = list(range(NUM_DRAWS)), torch.ones(NUM_DRAWS, num_cells, dtype=torch.bool)
    figure = Figure(figsize=(2.2 * (len(stages) + 1), 2.4 * len(ORDERS)), layout="constrained")
    for line, name in zip(figure.subplots(len(ORDERS), len(stages) + 1), ORDERS, strict=True):
        orders = drawing_orders(name, seeds, everything)
        partly: list[tuple[torch.Tensor, torch.Tensor]] = []

        def note(drawing: Drawing, partly: list = partly) -> None:
            if drawing.step in stages:
                partly.append((drawing.codes.clone(), drawing.drawn.clone()))

        pictures = painter.draw(
            [SCENE.caption()],
            seeds=seeds,
            num_samples=NUM_DRAWS,
            orders=orders,
            sampling=one_by_one,
            progress=note,
        )
        right = [verify_scene(np.asarray(picture), SCENE).passed for picture in pictures]
        shown = right.index(True) if any(right) else 0
        title = f"{name}: dark first\n{sum(right)} of {NUM_DRAWS} draws are right"
        show(line[0], orders[shown].argsort().view(grid, grid).numpy(), title)
        for axes, (codes, drawn), count in zip(line[1:], partly, stages, strict=True):
            picture = grey_cells(painter.decode(codes[shown, None])[0], ~drawn[shown], grid)
            show(axes, picture, f"{count} tokens")
    return figure


def auto_mask_figure(editor: EditingPipeline, image: Image.Image) -> Figure:
    """Two instructions: scores and edits."""
    pictures: list[tuple[str, Image.Image | np.ndarray]] = [("the image", enlarge(image, 288))]
    codes = editor.encode([image])
    for words in (INSTRUCTION, "remove the large green square"):
        scores = editor.locate(codes, *editor.encode_texts([words]))[0]
        result = editor.edit(image, words, AUTO)[0]
        short = words.replace(" large", "\nlarge", 1)
        pictures.append(
            ("how much it asks\nto change each cell", scores.view(editor.grid, editor.grid).numpy())
        )
        pictures.append(
            (f'"{short}"', outline_cells(enlarge(result.image, 288), result.edit_mask, editor.grid))
        )
    return row(pictures)


def draw_all(config: DrawFigures) -> None:
    """Draws all figures."""
    editor = EditingPipeline.from_pretrained(config.model, "editing")
    painter = EditingPipeline.from_pretrained(config.model, "t2i")
    image = Image.fromarray(render(SCENE, editor.image_size))
    mask = np.zeros((editor.image_size, editor.image_size), bool)
    left, top, right, bottom = box_to_pixels(place_box("center"), editor.image_size)
    mask[top:bottom, left:right] = True
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "edit": edit_figure(editor, image, mask),
        "sequence": sequence_figure(),
        "orders": orders_figure(painter),
        "auto_mask": auto_mask_figure(editor, image),
    }
    for name, figure in figures.items():
        FigureCanvasAgg(figure).print_png(folder / f"{name}.png")
    log.info("%d figures in %s", len(figures), folder)
