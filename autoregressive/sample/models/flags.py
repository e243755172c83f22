"""Which models a sampling program uses and how they draw: a folder with its defaults, or files one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from autoregressive.decoding.sampling_settings import DRAWS, GUESSES, Sampling
from autoregressive.editing.model_folders import Defaults, find_files
from autoregressive.models.config import GPT_MODELS
from language.published import DEFAULT_T5
from runtime.config import option
from runtime.errors import UserError
from runtime.flags import drawing, models
from runtime.flags.ranges import COUNT, Range

WINDOW = Range(at_least=1, at_most=64)
# What a folder of models says itself.
_OF_FILES = ("vq_ckpt", "gpt_ckpt", "gpt_model", "image_size")


@dataclass(frozen=True)
class ModelFlags:
    """Flags of every sampling program; what is not given is what the folder says, or as published.

    `--model` is short for the flags of its files: once made, an object holds these in its place, and None is
    left where None means something.
    """

    NEEDED: ClassVar[tuple[str, ...]] = ("model",)
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = (("model",), ("vq_ckpt", "gpt_ckpt"))
    TOPICS: ClassVar[dict[str, str]] = {
        "model_name": "models, in the place of --model by their files",
        "cfg_scale": "how codes are drawn",
    }

    model: str | None = models.model()
    model_name: str | None = models.model_name("the first that fits")
    vq_ckpt: str | None = models.vq_ckpt()
    gpt_ckpt: str | None = models.gpt_ckpt(None)
    t5_path: str | None = models.t5_path()
    t5_model_type: str | None = models.t5_model_type(
        None, f"text encoder in that folder or cache; default: the one that --model names, or {DEFAULT_T5}"
    )
    vq_model: str = models.vq_model()
    gpt_model: str | None = models.gpt_model(None, sorted(GPT_MODELS))
    image_size: int | None = models.image_size(None, "the model's images, for files that do not hold it")

    cfg_scale: float = drawing.cfg_scale("guidance; 1 for none (small models want 1 to 1.5)", of_model=True)
    cfg_interval: int = drawing.cfg_interval(
        "k: guidance in the first k+1 decoding steps only", of_model=True
    )
    temperature: float = drawing.temperature(of_model=True)
    top_k: int = drawing.top_k(of_model=True)
    top_p: float = drawing.top_p(of_model=True)
    greedy: bool = option(False, help="always take the likeliest code")
    draw: str = option(
        None,
        help="gumbel: noise of each cell's own; inverse: the seed's i-th number for the i-th cell drawn; "
        "default: the model's own, gumbel for files",
        choices=DRAWS,
    )
    window: int | None = option(
        None, within=WINDOW, help="cells a pass may settle, guesses checked; 1: a pass a cell (default: fast)"
    )
    guesses: str = option(
        None,
        help="first guesses of a window; default: the model's own, independent for files",
        choices=tuple(GUESSES),
    )
    parallel: int = option(
        None,
        within=COUNT,
        help="cells of a pass drawn without knowing each other: faster, and less coherent; default: the "
        "model's own, 1 for files",
    )

    @property
    def wants_drawing(self) -> bool:
        """Whether the program needs a transformer that draws from text, not one with marks."""
        return False

    def sampling(self) -> Sampling:
        return Sampling(
            self.cfg_scale,
            self.cfg_interval,
            self.temperature,
            self.top_k,
            self.top_p,
            not self.greedy,
            self.draw,
            self.window,
            self.guesses,
            self.parallel,
        )

    def take_model(self) -> None:
        """Puts files and values in the place of `--model` and of flags that were not given.

        Raises:
          UserError: a folder that is missing or damaged, or given beside files.
        """
        defaults, files = Defaults(), {"t5_model_type": self.t5_model_type or DEFAULT_T5}
        if self.model is not None:
            defaults, files = self._read_folder()
        elif self.model_name is not None:
            raise UserError(
                f"--model-name {self.model_name} names a transformer of a folder: give --model too"
            )
        values = vars(defaults.sampling) | {
            "mask_rule": defaults.mask_rule,
            "mask_error": defaults.mask_error,
        }
        open_fields = {k: v for k, v in values.items() if hasattr(self, k) and getattr(self, k) is None}
        greedy = self.greedy or not defaults.sampling.sample_logits
        for name, value in {
            **files,
            **open_fields,
            "greedy": greedy,
            "model": None,
            "model_name": None,
        }.items():
            object.__setattr__(self, name, value)

    def _read_folder(self) -> tuple[Defaults, dict[str, Any]]:
        """The defaults of the folder's transformer, and the flags of its files."""
        if given := [name for name in _OF_FILES if getattr(self, name) is not None]:
            words = " and ".join(f"--{name.replace('_', '-')} {getattr(self, name)}" for name in given)
            raise UserError(f"--model {self.model} and {words} both say which models: give one of the two")
        wanted = {"draws": self.wants_drawing, "t5_path": self.t5_path}
        if self.t5_model_type is not None:
            wanted["t5_model_type"] = self.t5_model_type
        files, defaults, _ = find_files(self.model, self.model_name or None, **wanted)
        files.pop("with_text_encoder", None)  # a program that needs one looks for the published one
        files.setdefault("t5_model_type", DEFAULT_T5)
        texts = {key: str(value) for key, value in files.items()}
        return defaults, texts
