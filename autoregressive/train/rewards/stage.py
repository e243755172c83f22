"""A training by rewards, put together from what the flags say."""

from __future__ import annotations

from dataclasses import replace

from autoregressive.editing.pipeline import EditingPipeline
from autoregressive.models.config import identity_of, model_name
from autoregressive.scaling.choices import split_weight
from autoregressive.scaling.weighted import Judges, RewardSpec
from autoregressive.train.components import begin_adapter
from autoregressive.train.loop import count_steps, make_sampler
from autoregressive.train.rewards.config import RewardsConfig
from autoregressive.train.rewards.learner import Learner, ReferenceModel
from autoregressive.train.rewards.loop import fit
from autoregressive.train.rewards.prompts import DrawPrompts, EditPrompts, Prompts
from autoregressive.train.rewards.rollout import Editing, Infilling, Rollouts, Task
from autoregressive.train.rewards.saving import require_same_start, saved_start
from autoregressive.train.state import new_state
from dataset.build import build_dataset
from runtime.config import dump_config
from runtime.distributed import Distributed
from runtime.errors import UserError
from runtime.training.resume import resume_point


def train_rewards(config: RewardsConfig, ranks: Distributed) -> None:
    """Trains a model by rewards."""
    found = resume_point(config.gpt_ckpt, config.results_dir, ranks, newest=config.auto_resume)
    if ranks.is_main:
        dump_config(config, config.results_dir)
    pipeline = load_pipeline(config, ranks)
    model = pipeline.transformer
    begin_adapter(model, config)
    gpt_model = config.gpt_model or model_name(identity_of(model.config))
    config = replace(config, gpt_ckpt=found, gpt_model=gpt_model)
    task = make_task(config, pipeline)
    prompts = read_prompts(config, pipeline)
    reference = ReferenceModel(model, config.temperature, config.group_size)
    near_to = None if found is None else saved_start(found)
    sampler = make_sampler(prompts, config, ranks)
    state = new_state(model, sampler, config, ranks)
    if near_to is not None:
        require_same_start(found, near_to, reference.fingerprint, config.init_gpt_ckpt)
    rollouts = Rollouts(pipeline, task, config.temperature, config.orders)
    judges = Judges(reward_spec(config, ranks), config.reward_workers)
    learner = Learner(state, reference, task, config, ranks)
    fit(state, prompts, rollouts, learner, judges, count_steps(config, sampler))


def load_pipeline(config: RewardsConfig, ranks: Distributed) -> EditingPipeline:
    """The frozen encoders, and the transformer that is trained: in float32, never with dropout."""
    return EditingPipeline.load(
        config.vq_ckpt,
        config.init_gpt_ckpt,
        config.t5_path,
        config.t5_model_type,
        vq_model=config.vq_model,
        gpt_model=config.gpt_model,
        image_size=config.image_size,
        device=ranks.device,
        pack=False,
    )


def make_task(config: RewardsConfig, pipeline: EditingPipeline) -> Task:
    """
    Raises:
      UserError: a model that cannot do the task, or cannot draw in the orders asked for.
    """
    model = pipeline.transformer.config
    if config.task == "editing":
        if "found" in config.regions and not model.mask_in_context:
            raise UserError(f"--regions found needs a model with marks; {config.init_gpt_ckpt} has none")
        return Editing(model.vocab_size, model.mask_in_context)
    if model.mask_in_context:
        raise UserError(
            f"--task {config.task} needs a text-to-image model; {config.init_gpt_ckpt} is an editor, "
            "of which --task editing is trained"
        )
    if not model.any_order and (config.orders != ["raster"] or config.task == "infill"):
        raise UserError(
            f"{config.init_gpt_ckpt} draws whole images in raster order only: give --task t2i --orders raster"
        )
    return Infilling()


def read_prompts(config: RewardsConfig, pipeline: EditingPipeline) -> Prompts:
    """The lists that the flags name, as what is asked of the model."""
    width, size = pipeline.text_encoder.width, pipeline.image_size
    paths = {"allow_outside_root": config.allow_outside_root, "absolute_paths": config.absolute_paths}
    if config.task == "t2i":
        return DrawPrompts(build_dataset("t2i_cc12m", config.data_path, size, width, **paths), pipeline.grid)
    dataset = build_dataset(
        "editing_ultraedit",
        config.data_path,
        size,
        width,
        grid=pipeline.grid,
        text_field=config.text_field,
        mask_rule=config.mask_rule,
        center_crop=True,
        **paths,
    )
    return EditPrompts(dataset, config.regions, config.mask_error)


def reward_spec(config: RewardsConfig, ranks: Distributed) -> RewardSpec:
    """What judges, and where: beside the model that is trained, or on CPUs in processes of their own."""
    files = None
    if "likelihood" in [split_weight(word)[0] for word in config.rewards]:
        files = (config.vq_ckpt, config.reward_gpt_ckpt, config.t5_path, config.t5_model_type)
    device = "cpu" if config.reward_workers else str(ranks.device)
    return RewardSpec(tuple(config.rewards), device, config.clip_model, config.clip_ckpt, files)
