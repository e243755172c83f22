"""Makes one folder for `EditingPipeline.from_pretrained` out of checkpoints, ours or published.

    python scripts/convert_checkpoint.py --vq-ckpt vq_ds16_t2i.pt --gpt-ckpt NEP.pt --gpt-model R-GPT-XL \\
        --output-dir nep-xl            # add --precision bf16 for half the size

Run it again with another --gpt-ckpt and --model to put a second transformer beside the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from autoregressive.models.config import GPT_MODELS
from dataset.choices import RULES
from language.published import DEFAULT_T5
from runtime.config import option, parse
from runtime.errors import UserError, run_command
from runtime.flags import drawing, models, shared


@dataclass(frozen=True)
class ConvertCheckpoint:
    """Makes one folder for --model, or from_pretrained, out of checkpoints."""

    NEEDED: ClassVar[tuple[str, ...]] = ("gpt_ckpt", "like", "vq_ckpt", "t5_path", "output_dir")
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = (("like",), ("vq_ckpt",))
    EXAMPLES: ClassVar[str] = """
  nep convert --like shapes --gpt-ckpt results/mine/checkpoints/0000100.pt --output-dir my_model
  nep convert --vq-ckpt vq_ds16_t2i.pt --gpt-ckpt NEP.pt --gpt-model R-GPT-XL --t5-path T5 --output-dir nep-xl
"""

    gpt_ckpt: str = models.gpt_ckpt()
    like: str | None = option(
        None, help="take tokenizer, text encoder and defaults of this folder of models, such as shapes"
    )
    vq_ckpt: str | None = models.vq_ckpt(more=", in the place of --like")
    output_dir: str = shared.output_dir(what="the folder to write, or to add to")
    model: str = option("transformer", help="the transformer's name in the folder")
    t5_path: str | None = models.t5_path()
    t5_model_type: str = models.t5_model_type(DEFAULT_T5)
    text_encoder: bool = option(
        True, help="after --no-text-encoder the folder has none, and from_pretrained needs a t5_path"
    )
    copy_text_encoder: bool = option(False, help="put its weights into the folder too, not its hub id only")
    vq_model: str = models.vq_model()
    gpt_model: str | None = models.gpt_model(None, sorted(GPT_MODELS))
    image_size: int | None = models.image_size(None, "the model's images, for files that do not hold it")
    precision: str = models.precision("the transformer's weights")
    cfg_scale: float | None = drawing.cfg_scale("default guidance; 1 for none", of_model=True)
    temperature: float | None = drawing.temperature("default of the draws", of_model=True)
    top_k: int | None = drawing.top_k("default: likeliest codes kept", of_model=True)
    mask_rule: str | None = shared.mask_rule(RULES, "default: pixel mask to cells", of_model=True)

    def __post_init__(self) -> None:
        if self.like is not None and self.vq_ckpt is not None:
            raise UserError(
                f"--like {self.like} and --vq-ckpt {self.vq_ckpt} both bring a tokenizer: give one"
            )


def main() -> None:
    config = parse(ConvertCheckpoint)
    # PyTorch is imported once the flags are right.
    from autoregressive.editing.model_folders import (
        Defaults,
        choose_model,
        find_files,
        find_folder,
        read_config,
    )
    from autoregressive.editing.pipeline import EditingPipeline
    from runtime.devices import PRECISIONS

    files = {"vq_ckpt": config.vq_ckpt, "t5_path": config.t5_path, "t5_model_type": config.t5_model_type}
    folder = None if config.like is None else find_folder(config.like)
    if folder is not None:
        files |= find_files(folder, None, t5_path=config.t5_path)[0]
    files |= {"gpt_ckpt": config.gpt_ckpt} | ({} if config.text_encoder else {"with_text_encoder": False})
    pipeline = EditingPipeline.load(
        **files,
        vq_model=config.vq_model,
        gpt_model=config.gpt_model,
        image_size=config.image_size,
        dtype=PRECISIONS[config.precision],
    )
    defaults = Defaults()
    if folder is not None:
        known, draws = read_config(folder), not pipeline.transformer.config.mask_in_context
        defaults = known.models[choose_model(folder, known, draws=draws)].defaults
    given = {name: getattr(config, name) for name in ("cfg_scale", "temperature", "top_k")}
    sampling = replace(defaults.sampling, **{k: v for k, v in given.items() if v is not None})
    rule = config.mask_rule or defaults.mask_rule
    pipeline.defaults = replace(defaults, sampling=sampling, mask_rule=rule)
    copy = config.copy_text_encoder or None if folder is not None else config.copy_text_encoder
    pipeline.save_pretrained(config.output_dir, config.model, copy_text_encoder=copy)
    print(f"{config.output_dir}: EditingPipeline.from_pretrained({config.output_dir!r}, {config.model!r})")


if __name__ == "__main__":
    run_command(main)
