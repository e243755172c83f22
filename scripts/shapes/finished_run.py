"""What a finished training of small models has left, and the folder that ships of it but for its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoregressive.editing.model_folders import About, Defaults, FolderConfig, Member
from autoregressive.editing.pretrained import TEXT_ENCODER, TOKENIZER, arithmetic_note
from autoregressive.models.arithmetic import configuration
from evaluations.report.curves import read_metrics
from runtime.checkpoint import load_checkpoint, manifest_path
from runtime.errors import UserError
from runtime.files import file_sha256, path_sha256
from runtime.training.checkpoints import list_checkpoints

Models = Mapping[str, tuple[Sequence[str], str]]
"""Name of a file of weights -> the folders of its trainings, one after the other, and what it is."""


@dataclass(frozen=True)
class FinishedRun:
    """A results folder.

    Attributes:
      program: what writes it, for messages.
    """

    root: Path
    program: str

    def file(self, name: str) -> Path:
        """A file of it.

        Raises:
          UserError: it is not there.
        """
        path = self.root / name
        if not path.is_file():
            raise UserError(f"{path} does not exist; let {self.program} run to its end first")
        return path

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of it; raises as `file`."""
        return json.loads(self.file(name).read_text())

    @property
    def psnr(self) -> float:
        """Of the tokenizer on held-out images, in decibels."""
        return self.read("reconstructions/reconstruction.json")["psnr"]

    def copy_models(self, output: Path, models: Models) -> list[str]:
        """Copies weights and text encoder, draws the curves; returns a card's table of the weights."""
        output.mkdir(parents=True, exist_ok=True)
        lines = ["| file | what | size | steps | SHA-256 |", "|---|---|---|---|---|"]
        for name, (folders, words) in models.items():
            path = output / f"{name}.safetensors"
            shutil.copyfile(self.file(f"weights/{name}/{path.name}"), path)
            digest = file_sha256(path)
            manifest_path(path).write_text(f"{digest}  {path.name}\n")
            millions = sum(tensor.numel() for tensor in load_checkpoint(path)["model"].values()) / 1e6
            steps = " + ".join(str(self._steps(folder)) for folder in self._trained(folders)) or "taken over"
            if name == "t2i" and (began := self._began_with(folders[0])):
                steps = f"{steps}, from `{began}`"
            size = f"{millions:.2f} M, {path.stat().st_size / 1e6:.1f} MB"
            lines.append(f"| `{path.name}` | {words} | {size} | {steps} | `{digest}` |")
        shutil.copytree(
            self.root / "t5", output / TEXT_ENCODER, copy_function=shutil.copyfile, dirs_exist_ok=True
        )
        self.draw_curves(output / "curves.png", models)
        return lines

    def write_config(self, output: Path, defaults: Mapping[str, Defaults], knows: str) -> None:
        """Says in the folder what is in it: how each transformer is used, and what they have seen."""
        members = {name: Member(f"{name}.safetensors", how) for name, how in defaults.items()}
        about = About(knows, round(self.psnr, 1))
        FolderConfig(TOKENIZER, members, TEXT_ENCODER, about).write(output)

    def draw_curves(self, path: Path, models: Models) -> None:
        """The training losses of the models that were trained, side by side."""
        trainings = {name: self._trained(folders) for name, (folders, _) in models.items()}
        trainings = {name: folders for name, folders in trainings.items() if folders}
        figure = Figure(figsize=(4 * len(trainings), 3.2), layout="constrained")
        (panels,) = figure.subplots(1, len(trainings), squeeze=False)
        for axes, (name, folders) in zip(panels, trainings.items(), strict=True):
            start, points = 0, []
            for folder in folders:
                losses = read_metrics(self.root / folder / "metrics.jsonl", ["loss"])["loss"]
                points += [(start + step, loss) for step, loss in losses]
                start += self._steps(folder)
            axes.plot(*zip(*points, strict=True), color="#1f6fb4", linewidth=1)
            axes.set(title=name, xlabel="step", ylabel="loss")
            axes.grid(alpha=0.3)
        FigureCanvasAgg(figure).print_png(path)

    def _trained(self, folders: Sequence[str]) -> list[str]:
        """Those of the folders that hold a training: a tokenizer may have been taken over."""
        return [folder for folder in folders if (self.root / folder / "metrics.jsonl").is_file()]

    def _began_with(self, folder: str) -> str | None:
        """The weights that a training went on from, as their hash's first digits; None for fresh ones."""
        path = yaml.safe_load((self.root / folder / "config.yaml").read_text()).get("init_gpt_ckpt")
        return path and f"{Path(path).name} {path_sha256(path)[:12]}"

    def _steps(self, folder: str) -> int:
        """How many steps a training took."""
        return int(list_checkpoints(self.root / folder / "checkpoints")[-1].stem)


def note_of(folder: Path) -> list[str]:
    """The lines of a card on what is to be known before the editor of `folder` is used elsewhere."""
    editing = folder / "editing.safetensors"
    return arithmetic_note(configuration(load_checkpoint(editing), editing))
