"""Makes one folder for `EditingPipeline.from_pretrained` out of checkpoints, ours or published.

    python scripts/convert_checkpoint.py --vq-ckpt vq_ds16_t2i.pt --gpt-ckpt NEP.pt --gpt-model R-GPT-XL \\
        --output-dir nep-xl            # add --precision bf16 for half the size

Run it again with another --gpt-ckpt and --model to put a second transformer beside the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoregressive.models.config import GPT_MODELS
from dataset.choices import RULES
from language.published import DEFAULT_T5
from runtime.config import REQUIRED, option, parse
from runtime.errors import run_command
from runtime.flags import drawing, models, shared


@dataclass(frozen=True)
class ConvertCheckpoint:
    """Makes one folder for from_pretrained out of checkpoints."""

    vq_ckpt: str = models.vq_ckpt(REQUIRED)
    gpt_ckpt: str = models.gpt_ckpt()
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
    cfg_scale: float = drawing.cfg_scale("default guidance; 1 for none")
    temperature: float = drawing.temperature("default of the draws")
    top_k: int = drawing.top_k("default: likeliest codes kept")
    mask_rule: str = shared.mask_rule(RULES, "default: pixel mask to cells")


def main() -> None:
    config = parse(ConvertCheckpoint)
    # PyTorch is imported once the flags are right.
    from autoregressive.decoding.sampling_settings import Sampling
    from autoregressive.editing.model_folders import Defaults
    from autoregressive.editing.pipeline import EditingPipeline
    from runtime.precision import PRECISIONS

    pipeline = EditingPipeline.load(
        config.vq_ckpt,
        config.gpt_ckpt,
        config.t5_path,
        config.t5_model_type,
        vq_model=config.vq_model,
        gpt_model=config.gpt_model,
        image_size=config.image_size,
        with_text_encoder=config.text_encoder,
        dtype=PRECISIONS[config.precision],
    )
    sampling = Sampling(config.cfg_scale, temperature=config.temperature, top_k=config.top_k)
    pipeline.defaults = Defaults(sampling, config.mask_rule)
    copy = config.copy_text_encoder
    pipeline.save_pretrained(config.output_dir, config.model, copy_text_encoder=copy)
    print(f"{config.output_dir}: EditingPipeline.from_pretrained({config.output_dir!r}, {config.model!r})")


if __name__ == "__main__":
    run_command(main)
