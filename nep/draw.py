"""`nep draw "a red circle at the top left"`: a picture from words, with the models that come along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from autoregressive.sample.flags import DrawConfig
from nep.edit import require_new, take_shipped
from runtime.config import argument, option, parse
from runtime.errors import run_command
from runtime.files import require_place
from runtime.flags import shared
from runtime.flags.ranges import COUNT
from runtime.pictures import require_saveable


@dataclass(frozen=True)
class DrawPicture(DrawConfig):
    """Draws a picture from words."""

    NEEDED: ClassVar[tuple[str, ...]] = ("output", "model", "num_samples", "seed")
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = ()
    EXAMPLES: ClassVar[str] = """
  nep draw "a large red circle at the top left and a small green star at the center, gray background"
  nep draw "a cat on a sofa" --model FOLDER --num-samples 4
"""

    prompt: str = argument("what the picture shows, in quotes")
    output: str = option("drawn.png", help="where it goes; several get numbers: drawn-1.png, drawn-2.png, …")
    overwrite: bool = shared.overwrite()
    num_samples: int = option(1, within=COUNT, help="pictures of it, by seeds one after the other")

    def __post_init__(self) -> None:
        take_shipped(self)
        super().__post_init__()
        for path in self.paths():
            require_saveable(path)
            require_place(path)
            require_new(path, self.overwrite)

    def paths(self) -> list[Path]:
        """Where the pictures go."""
        path = Path(self.output)
        if self.num_samples == 1:
            return [path]
        return [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, self.num_samples + 1)]


def main() -> None:
    config = parse(DrawPicture)
    # PyTorch is imported once the flags are right.
    from autoregressive.sample.drawing import DrawJob, draw_jobs
    from autoregressive.sample.loading import load_pipeline
    from language.caption_cleaning import require_words
    from runtime.distributed import distributed

    require_words(config.prompt, "the prompt")
    jobs = [DrawJob(config.prompt, config.seed + n, path) for n, path in enumerate(config.paths())]
    with distributed(config.device) as ranks:
        draw_jobs(load_pipeline(config, ranks.device), jobs, config, ranks)
    print(*(job.path for job in jobs), sep="\n")


if __name__ == "__main__":
    run_command(main)
