"""The flags of the sampling programs, without PyTorch: they are read before it is imported."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autoregressive.editing.auto_mask_settings import AutoMaskSettings
from autoregressive.editing.choices import AUTO, COMPOSITES, CROPS, MODES
from autoregressive.sample.models.flags import ModelFlags
from autoregressive.scaling.choices import METHODS, REGIONS, REWARDS
from autoregressive.sequence.order_kinds import ORDER_KINDS, resolve_order
from dataset.choices import LANGUAGES, RULES
from runtime.config import REQUIRED, check_ranges, option
from runtime.errors import UserError
from runtime.files import path_sha256, require_place
from runtime.flags import drawing, models, scoring, shared
from runtime.flags.ranges import COUNT
from runtime.pictures import require_saveable

if TYPE_CHECKING:
    from language.t5 import T5Encoder

TURNS = ("both", "single", "multi")
"""Edits of a session: each alone, one after the other, or both."""
BENCHMARKS = ("gedit", "imgedit")
"""Those whose own programs judge the results."""
# Flags that change no result, in any program: where weights and test sets are (their content is hashed), what
# to make and where, what must be as the models are, and what has no effect.
NOT_SETTINGS = (
    *("model", "model_name", "vq_ckpt", "gpt_ckpt", "adapter", "t5_path", "t5_model_type"),
    *("magicbrush_path", "allow_outside_root", "emu_path", "valid_list", "split", "prompt_csv"),
    *("benchmark", "data_path", "edit_json", "languages"),
    *("turns", "num_fid_samples", "output_dir", "sample_dir", "write_ceiling", "device", "batch_size"),
    "save_rounds",
    *("t5_feature_dim", "cls_token_num", "codebook_size", "codebook_embed_dim", "downsample_size"),
    *("gpt_type", "num_classes", "no_left_padding"),
    *("window", "guesses"),  # the same codes in fewer passes
)


def _require_crop(crop: str, padding: int | None) -> None:
    """Raises `UserError` for a padding of no crop."""
    if padding is not None and crop == "none":
        raise UserError(f"--crop-padding {padding} without a crop: give --crop auto or region too")


@dataclass(frozen=True)
class SampleConfig(ModelFlags):
    """Flags of every sampling program."""

    TOPICS: ClassVar[dict[str, str]] = {"device": "running"}

    device: str = shared.device()
    precision: str = models.decoding_precision()
    adapter: str | None = option(
        None,
        help="LoRA on the transformer: a folder of peft's, or a checkpoint of a training with --lora-rank",
    )
    seed: int = shared.seed("of the draws", aliases=["global_seed"])
    batch_size: int = shared.batch_size(32, "images at a time", aliases=["per_proc_batch_size"])
    compile: bool = shared.compile("the decoding steps, on GPUs: slow to start, then faster")

    def __post_init__(self) -> None:
        self.take_model()
        check_ranges(type(self), vars(self))
        self.sampling()  # checks its values

    def settings(self, text_encoder: T5Encoder | None) -> dict[str, Any]:
        """What the results depend on: the flags, with hashes of the weights and of the text encoder."""
        settings = {k: v for k, v in asdict(self).items() if k not in NOT_SETTINGS}
        for name in ("vq_ckpt", "gpt_ckpt"):
            settings[f"{name}_sha256"] = path_sha256(getattr(self, name))
        if self.adapter is not None:
            settings["adapter_sha256"] = path_sha256(self.adapter)
        return settings | {"text_encoder": text_encoder and text_encoder.fingerprint()}


@dataclass(frozen=True)
class EditSampleConfig(SampleConfig):
    """Flags of the editing programs."""

    TOPICS: ClassVar[dict[str, str]] = {"mode": "which cells, and how they are put back"}

    mode: str | None = drawing.mode(MODES)
    full_mask: bool = option(False, help="regenerate every cell", aliases=["enforce_fake_masking"])
    mask_rule: str = shared.mask_rule(RULES, of_model=True)
    mask_error: int = shared.mask_error()
    order: str = drawing.order("in which the edited cells are drawn", ORDER_KINDS)
    random_order: bool = option(False, help="the same as --order random")
    composite: str = option("cells", help="which pixels come from the decoder", choices=COMPOSITES)
    crop: str = shared.crop(CROPS)
    crop_padding: int | None = shared.crop_padding()
    auto_mask: bool = option(False, help="find the cells to edit from the prompt, whatever the masks say")
    auto_mask_settings: str | None = option(
        None, help="how to find them: the .json of scripts/calibrate_auto_mask.py; else the defaults"
    )

    @property
    def wants_drawing(self) -> bool:
        return self.mode == "zero_shot"

    def __post_init__(self) -> None:
        if self.mask_error is None and (self.full_mask or self.auto_mask):
            object.__setattr__(self, "mask_error", 0)  # there are no masks: a model's own widens nothing
        super().__post_init__()
        if self.auto_mask and self.full_mask:
            raise UserError("--auto-mask finds the region, --full-mask takes every cell: give one of them")
        self._order()  # checks that the two flags agree
        if self.mask_error and (self.full_mask or self.auto_mask):
            raise UserError("--mask-error moves the outline of masks: leave out --full-mask and --auto-mask")
        _require_crop(self.crop, self.crop_padding)

    def settings(self, text_encoder: T5Encoder | None) -> dict[str, Any]:
        """As `SampleConfig.settings`; with the values of the file in place of its name, and one order."""
        settings = super().settings(text_encoder)
        del settings["random_order"]
        if self.crop == "none":  # results made before there were crops stay good
            del settings["crop"], settings["crop_padding"]
        return settings | {"order": self._order(), "auto_mask_settings": self._auto_mask().to_dict()}

    def _order(self) -> str:
        return resolve_order(self.order, self.random_order)

    def _auto_mask(self) -> AutoMaskSettings:
        path = self.auto_mask_settings
        return AutoMaskSettings() if path is None else AutoMaskSettings.load(path)

    def edit_options(self) -> dict[str, Any]:
        """The keyword arguments of `EditingPipeline.edit` that the flags decide."""
        return {
            "sampling": self.sampling(),
            "mode": self.mode,
            "mask_rule": self.mask_rule,
            "mask_error": self.mask_error,
            "order": self._order(),
            "composite": self.composite,
            "auto_mask": self._auto_mask(),
            "crop": self.crop,
            "crop_padding": self.crop_padding,
        }


@dataclass(frozen=True)
class DrawConfig(SampleConfig):
    """Flags of the programs that draw from texts, LlamaGen's among them."""

    @property
    def wants_drawing(self) -> bool:
        return True

    order: str = drawing.order("in which cells are drawn; all but raster need an R-GPT model", ORDER_KINDS)
    t5_feature_max_len: int | None = models.t5_feature_max_len(
        "most text tokens; default: as many as the model reads"
    )
    t5_feature_dim: int | None = models.t5_feature_dim("width of the text features; must be the model's")
    cls_token_num: int | None = models.cls_token_num(None, "text slots; must be the model's")
    codebook_size: int | None = models.codebook_size()
    codebook_embed_dim: int | None = models.codebook_embed_dim()
    downsample_size: int | None = models.downsample_size()

    gpt_type: str = models.gpt_type()
    num_classes: str = models.num_classes()
    no_left_padding: bool = models.no_left_padding()


@dataclass(frozen=True)
class PictureFlags(EditSampleConfig):
    """Flags of the programs that edit single pictures."""

    TOPICS: ClassVar[dict[str, str]] = {"comparison": "pictures beside the result"}

    comparison: str | None = option(None, help="also write source, region and result side by side here")
    save_crop: str | None = option(
        None, help="also write here what the model saw, with its cells outlined; several crops side by side"
    )

    def written(self, output: str | None) -> dict[str, str]:
        """The pictures that are asked for, by the flags that name them."""
        named = {"--output": output, "--comparison": self.comparison, "--save-crop": self.save_crop}
        return {flag: path for flag, path in named.items() if path is not None}

    def require_outputs(self, output: str | None, image: str | None, mask: str | None) -> None:
        """Raises `UserError` for pictures that cannot be written, or that would be written over another file.

        The output alone may take the place of the picture that is edited.
        """
        taken = {
            os.path.abspath(path): what for path, what in ((mask, "--mask"), (image, "the picture")) if path
        }
        for flag, path in self.written(output).items():
            require_saveable(path)
            require_place(path)
            place, edited = os.path.abspath(path), image and os.path.abspath(image)
            if place in taken and not (flag == "--output" and place == edited):
                raise UserError(f"{flag} {path} would be written over {taken[place]}: give another name")
            taken[place] = flag


@dataclass(frozen=True)
class SampleEditing(PictureFlags):
    """Edits one image (--image --mask --prompt --output), a list of them (--list), or own pairs (--data)."""

    NEEDED: ClassVar[tuple[str, ...]] = ("model", "image", "mask", "prompt", "output")
    TOPICS: ClassVar[dict[str, str]] = {"image": "many edits"}
    EXAMPLES: ClassVar[str] = """
  nep sample editing --model shapes --image photo.png --mask region.png \\
      --prompt "make the circle blue" --output edited.png
  python autoregressive/sample/sample_editing.py --vq-ckpt VQ.pt --gpt-ckpt NEP.pt --t5-path T5_FOLDER \\
      --image photo.png --mask region.png --prompt "a red hat on the cat" --output edited.png
"""

    image: str | None = option(None, help="image to edit")
    mask: str | None = shared.mask(None)
    prompt: str | None = option(None, help="what to do (zero-shot: what the result shows)")
    output: str = option(
        "edited.png", help="where the result goes; the suffix says the format: .png, .webp, .bmp (or .jpg)"
    )
    list: str | None = option(
        None, help="a .jsonl of edits with the keys image, mask, prompt, output (paths relative to it)"
    )
    data: str | None = shared.data("their sources are edited, to be compared with the edited ones")
    output_dir: str | None = shared.output_dir(None, "of --data: gets a picture for each pair, by its name")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask == AUTO and self.full_mask:
            raise UserError("--mask auto finds the region, --full-mask takes every cell: give one of them")
        own = ("image", "mask", "prompt", "output", "comparison", "save_crop")
        given = [
            f"--{name.replace('_', '-')}"
            for name in own
            if getattr(self, name) != getattr(SampleEditing, name)
        ]
        for flag, value in (("--list", self.list), ("--data", self.data)):
            if value is not None and given:
                raise UserError(
                    f"{flag} {value} says itself what to edit, with which masks: leave out {', '.join(given)}"
                )
        if self.list is not None and self.data is not None:
            raise UserError(f"--list {self.list} and --data {self.data} both say what to edit: give one")
        if (self.data is None) != (self.output_dir is None):
            raise UserError("--data and --output-dir go together: the pairs, and where their results go")
        self.require_outputs(self.output, self.image, self.mask)


@dataclass(frozen=True)
class SampleMagicBrush(EditSampleConfig):
    """Edits a test set in MagicBrush's format."""

    TOPICS: ClassVar[dict[str, str]] = {"magicbrush_path": "the test set"}

    magicbrush_path: str = shared.magicbrush_path(REQUIRED, "test set: edit_sessions.json and images/")
    output_dir: str = shared.output_dir()
    turns: str = option("both", help="which edits to make", choices=TURNS)
    text: str = shared.text(["instruction", "global", "local"])
    with_t5_prompt: bool = shared.with_t5_prompt()
    allow_outside_root: bool = shared.allow_outside_root("the test set name files outside its folder")
    write_ceiling: bool = shared.write_ceiling("true outputs")

    @property
    def from_features(self) -> bool:
        return self.with_t5_prompt and self.text == "instruction"


@dataclass(frozen=True)
class SampleEmuEdit(EditSampleConfig):
    """Edits the Emu Edit test set."""

    TOPICS: ClassVar[dict[str, str]] = {"emu_path": "the test set"}

    emu_path: str = option(
        REQUIRED,
        help="folder of the hub's parquet files, or of images/ or images_valid/",
        aliases=["emu_data_file"],
    )
    valid_list: str | None = shared.valid_list(
        "emu_test_data.json: which items; without it all that the parquet files hold",
        aliases=["valid_emuedit_test_data"],
    )
    text: str = shared.text(["instruction", "global"], " (output_caption)")
    split: str = shared.split("which parquet files")
    output_dir: str = shared.output_dir()
    write_ceiling: bool = shared.write_ceiling("sources")


@dataclass(frozen=True)
class SampleJudged(EditSampleConfig):
    """Edits GEdit-Bench or ImgEdit-Bench for their own judges."""

    TOPICS: ClassVar[dict[str, str]] = {"benchmark": "the test set"}

    benchmark: str = option(REQUIRED, help="which one", choices=BENCHMARKS)
    data_path: str = option(
        REQUIRED, help="gedit: folder of the hub's parquet files; imgedit: folder of the pictures"
    )
    edit_json: str | None = option(
        None, help="imgedit: its list, such as basic_edit.json; default: singleturn.json in --data-path"
    )
    languages: list[str] = option(
        ["en"], choices=LANGUAGES, help="gedit: of the instructions; FLAN-T5 reads no Chinese"
    )
    output_dir: str = shared.output_dir()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.benchmark == "gedit" and self.edit_json is not None:
            raise UserError(
                f"--edit-json {self.edit_json} is a list of imgedit; gedit has parquet files alone"
            )


@dataclass(frozen=True)
class SampleT2I(DrawConfig):
    """Draws images from texts: --prompts, --prompt-file with one per line, or some of its own."""

    TOPICS: ClassVar[dict[str, str]] = {"prompts": "what to draw"}
    EXAMPLES: ClassVar[str] = """
  python autoregressive/sample/sample_t2i.py --vq-ckpt VQ.pt --gpt-ckpt RLlamaGen.pt --t5-path T5_FOLDER \\
      --prompts "a cat on a sofa" --output-dir samples
"""

    prompts: list[str] | None = drawing.prompts()
    prompt_file: str | None = option(None, help="file with one text a line")
    output_dir: str = shared.output_dir("samples", "gets 0000.png, 0001.png, …")


@dataclass(frozen=True)
class SampleT2IDDP(DrawConfig):
    """Draws an image for each caption of a list."""

    TOPICS: ClassVar[dict[str, str]] = {"prompt_csv": "what to draw"}

    prompt_csv: str = option(REQUIRED, help="tab-separated file with the column Prompt")
    sample_dir: str = option("samples_parti", help="gets a folder for this model, list and settings")
    num_fid_samples: int = option(30000, within=COUNT, help="most captions to draw, from the first")
    precision: str = models.decoding_precision("bf16")


@dataclass(frozen=True)
class SampleScaled(SampleConfig):
    """Draws images (--prompts) or edits (--list), then improves them by a reward."""

    TOPICS: ClassVar[dict[str, str]] = {"prompts": "what to draw", "reward": "the search"}

    prompts: list[str] | None = drawing.prompts()
    task_list: str | None = option(
        None,
        help="a .jsonl with the keys prompt, image (to edit), mask, caption (of the result, for the reward), "
        "all but prompt optional (paths relative to it), the caption not for models that read instructions",
        aliases=["list"],
    )
    output_dir: str = shared.output_dir("scaled", "gets 0000.png, 0001.png, …, strips/ and trace.json")
    reward: str = drawing.reward("clip", REWARDS)
    method: str = option(
        "search",
        help="best_of_n: the baseline, whole images for as many codes as a search may draw",
        choices=tuple(METHODS),
    )
    rounds: int = drawing.rounds()
    candidates: int = drawing.candidates()
    cells: int | None = option(
        None, within=COUNT, help="cells that a round draws again; default: a quarter of the free"
    )
    region: str = option(
        "lowest",
        help="how they are chosen: lowest by the reward's token scores, by the model's own likelihood, or at "
        "random",
        choices=REGIONS,
    )
    token_budget: int | None = option(
        None, within=COUNT, help="codes that one image may cost in all, the first included"
    )
    mode: str | None = drawing.mode(MODES)
    mask_rule: str = shared.mask_rule(RULES, of_model=True)
    crop: str = shared.crop(CROPS)
    crop_padding: int | None = shared.crop_padding()
    save_rounds: bool = option(
        False, help="also write the image kept after each round: rounds/<number>/images/, and captions.txt"
    )
    clip_model: str | None = scoring.clip_model(None, "--reward clip")
    clip_ckpt: str | None = scoring.clip_ckpt()

    @property
    def wants_drawing(self) -> bool:
        return self.mode in (None, "zero_shot")  # such a model draws, and edits what a list names

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_crop(self.crop, self.crop_padding)
