"""The models that a server has, each behind a queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoregressive.editing.edit_queue import EditQueue
from autoregressive.editing.pipeline import EditingPipeline
from integrations.server.errors import bad_request, model_not_found
from runtime.devices import DECODING_PRECISIONS, pick_device
from runtime.errors import UserError


def load_pipelines(
    name: str, device: str = "auto", precision: str = "none", t5_path: str | None = None
) -> dict[str, EditingPipeline]:
    """All transformers of a folder, which share its tokenizer and its text encoder.

    Args:
      name: "shapes", a folder, or a hub id.
      device, precision, t5_path: as the flags.
    Raises:
      UserError: no such folder or hub model, or one that is damaged or has no text encoder.
    """
    options = {"device": pick_device(device), "dtype": DECODING_PRECISIONS[precision], "t5_path": t5_path}
    return EditingPipeline.all_from_pretrained(name, **options)


def load_adapters(pipelines: dict[str, EditingPipeline], places: dict[str, str]) -> None:
    """Loads each adapter into the models that it was made for.

    Args:
      places: folders or checkpoints by the names that requests ask for.
    Raises:
      UserError: one that is missing or damaged, or made for none of the models.
    """
    for name, place in places.items():
        problems = []
        for pipeline in pipelines.values():
            try:
                pipeline.load_adapter(place, name)
            except UserError as problem:
                problems.append(problem)
        if len(problems) == len(pipelines):
            raise problems[0]


def can_edit(pipeline: EditingPipeline) -> bool:
    """Whether it changes parts of pictures."""
    return pipeline.transformer.config.any_order


def can_draw(pipeline: EditingPipeline) -> bool:
    """Whether it makes pictures from text alone."""
    return not pipeline.transformer.config.mask_in_context


class Served:
    """Pipelines by name, each with an open queue."""

    def __init__(self, name: str, pipelines: dict[str, EditingPipeline], max_lanes: int) -> None:
        """
        Args:
          name: of all together; as a model's name it means the one that fits.
          max_lanes: of each queue.
        """
        self.name = Path(name).absolute().name
        self.queues = {
            model: EditQueue(pipeline, max_lanes=max_lanes) for model, pipeline in pipelines.items()
        }
        self._since = int(time.time())

    def find(self, wanted: str | None, *, draws: bool, adapter: str | None = None) -> tuple[str, EditQueue]:
        """The model that is asked for; by default the first that draws, or the one that edits best.

        Args:
          adapter: that it must have.
        Raises:
          ApiError: there is no such model, or it cannot do that, or has no such adapter.
        """
        if wanted is not None and wanted not in (self.name, *self.queues):
            raise model_not_found(wanted, self.names())
        fits = can_draw if draws else can_edit
        fitting = [name for name, queue in self.queues.items() if fits(queue.pipeline)]
        # With marks before zero-shot.
        fitting.sort(key=lambda name: can_draw(self.queues[name].pipeline))
        does = "draws from text alone" if draws else "edits pictures"
        if not fitting:
            raise bad_request(f"no model here {does}", "model", "unsupported_model")
        if wanted in self.queues and wanted not in fitting:
            others = f"; {', '.join(fitting)} does"
            raise bad_request(
                f"the model {wanted!r} is none that {does}{others}", "model", "unsupported_model"
            )
        named = [wanted] if wanted in fitting else fitting
        having = [n for n in named if adapter is None or adapter in self.queues[n].pipeline.adapters]
        if not having:
            there = sorted({a for n in named for a in self.queues[n].pipeline.adapters})
            words = f"there are {', '.join(there)}" if there else "it has none"
            message = f"the model {named[0]!r} has no adapter {adapter[:80]!r}; {words}"
            raise bad_request(message, "adapter", "adapter_not_found")
        return having[0], self.queues[having[0]]

    def names(self) -> list[str]:
        """What may be asked for."""
        return list(dict.fromkeys([self.name, *self.queues]))

    def cards(self) -> list[dict[str, Any]]:
        """What `/v1/models` lists."""
        return [self._card(name, [self.queues[name]]) for name in self.queues if name != self.name] + [
            self._card(self.name, list(self.queues.values()))
        ]

    def close(self) -> None:
        """Returns when all open requests are done."""
        for queue in self.queues.values():
            queue.close()

    def _card(self, name: str, queues: Sequence[EditQueue]) -> dict[str, Any]:
        pipelines = [queue.pipeline for queue in queues]
        side = pipelines[0].image_size
        return {
            "id": name,
            "object": "model",
            "created": self._since,
            "owned_by": "nep",
            "edits": any(map(can_edit, pipelines)),
            "draws": any(map(can_draw, pipelines)),
            "size": f"{side}x{side}",
            "adapters": sorted({adapter for pipeline in pipelines for adapter in pipeline.adapters}),
        }
