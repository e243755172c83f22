"""The training of the image tokenizer: the work of vq_train.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset.data_order import ResumableBatchSampler
from dataset.image_folder import ImageDataset, collate_images, list_images
from runtime.config import dump_config
from runtime.distributed import Distributed
from runtime.logging import get_logger, progress
from runtime.stopping import LateReading, Loading, StopSignals, leave_signals_to_the_trainer
from runtime.training.checkpoints import due
from runtime.training.checks import require_few_bad, require_few_skipped
from runtime.training.dry_run import Plan, measure, report
from runtime.training.meter import TrainingMeter
from runtime.training.resume import resume_point
from tokenizer.tokenizer_image.pictures import save_pairs
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_state import VQTrainState
from tokenizer.tokenizer_image.vq_trainer import Trainer

log = get_logger(__name__)

KMEANS_IMAGES = 256
PREVIEW_IMAGES = 8

# Of each step the gradient's norm by network, the same on all ranks, and the place of its batch.
Norms = dict[int, tuple[dict[str, Tensor], int, int]]


class Batches:
    """The training images as (B, 3, S, S) float batches in the sampler's order, from disk or from memory."""

    def __init__(self, config: VQTrainConfig, paths: list[Path], ranks: Distributed) -> None:
        self.config = config
        self.dataset = ImageDataset(paths, config.image_size, config.augment)
        self.sampler = ResumableBatchSampler(
            len(paths),
            config.global_batch_size,
            ranks.rank,
            ranks.world_size,
            config.global_seed,
            micro_batches=config.gradient_accumulation_steps,
        )
        self.problems: list[str] = []  # of this rank, not yet settled
        self.cache = self._decode_all() if config.cache_images else None

    def first(self, count: int) -> Tensor:
        """The first images, the same in every run."""
        return torch.stack([self.dataset[i, 0].image for i in range(min(count, len(self.dataset)))])

    def __iter__(self) -> Iterator[Tensor]:
        return self._from_disk() if self.cache is None else self._from_memory(self.cache)

    def _from_memory(self, cache: Tensor) -> Iterator[Tensor]:
        for keys in self.sampler:
            yield cache[[index for index, _ in keys]].float() / 127.5 - 1

    def _from_disk(self) -> Iterator[Tensor]:
        for images, problems in self._loader(self.sampler):
            self._report(problems)
            yield images

    def _loader(self, batch_sampler: ResumableBatchSampler | Sequence) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate_images,
            num_workers=self.config.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_the_trainer,
        )

    def _decode_all(self) -> Tensor:
        keys = [
            [(i, 0) for i in range(at, min(at + 64, len(self.dataset)))]
            for at in range(0, len(self.dataset), 64)
        ]
        cached = []
        for images, problems in progress(self._loader(keys), desc="reading images", unit="batch"):
            self._report(problems)
            cached.append(((images + 1) * 127.5).round().to(torch.uint8))
        return torch.cat(cached)

    def _report(self, problems: list[str]) -> None:
        for problem in problems:
            log.warning("left out: %s", problem)
        self.problems += problems

    def files_at(self, epoch: int, consumed: int) -> list[str]:
        """The files of the global batch at that place."""
        return [str(self.dataset.paths[index]) for index in self.sampler.indices_at(epoch, consumed)]


def find_images(config: VQTrainConfig) -> list[Path]:
    """The images to train on, in a fixed order."""
    accepted = (config.allow_outside_root, config.absolute_paths)
    paths = list_images(config.data_path, *accepted)
    if config.data_face_path:
        paths += list_images(config.data_face_path, *accepted, preferred="*_face.jsonl")
    return paths[: config.max_images]


def train(config: VQTrainConfig, ranks: Distributed) -> None:
    """Runs the training that `config` describes, from the start or from its checkpoint."""
    paths = find_images(config)
    config = replace(config, steps=config.num_steps(len(paths) // config.global_batch_size), epochs=None)
    config.check_length()
    if config.dry_run:  # measures a step in which everything takes part
        config = replace(config, quantize_after=0, disc_start=0)
    state = VQTrainState(config, ranks)
    batches = Batches(config, paths, ranks)
    begin(config, state, batches, ranks)
    settle({}, batches, state, ranks)  # --cache-images has met every image by now
    trainer = Trainer(config, state, ranks)
    if config.dry_run:
        dry_run(trainer, batches)
        return
    trainer.warm_up(batches.first(1).repeat(batches.sampler.micro_batch_size, 1, 1, 1))
    parameters = sum(p.numel() for p in state.model.parameters())
    log.info("%s: %.2f M parameters, %d images", config.vq_model, parameters / 1e6, len(batches.dataset))
    if ranks.is_main:
        dump_config(config, config.results_dir)
    with (
        StopSignals() as signals,
        TrainingMeter(config.results_dir, state.step, config.steps, ranks, desc="tokenizer") as meter,
        Loading(batches) as stream,
        state.checkpoints,
    ):
        stepping = Stepping(trainer, batches, meter, signals)
        while state.step < config.steps:
            stepping.take_step(stream)
    ranks.barrier()


def begin(config: VQTrainConfig, state: VQTrainState, batches: Batches, ranks: Distributed) -> None:
    """Takes the state or the weights of the checkpoint that the flags name, if they do."""
    found = resume_point(
        None if config.finetune else config.vq_ckpt,
        config.results_dir,
        ranks,
        newest=config.auto_resume,
        saves_nothing=config.dry_run,
    )
    if found is not None:
        batches.sampler.load_state_dict(state.resume(found), found)
    elif config.finetune:
        state.load_weights(config.vq_ckpt)


class Stepping:
    """The steps of a training, one after the other, and what has to happen after each."""

    def __init__(
        self, trainer: Trainer, batches: Batches, meter: TrainingMeter, signals: StopSignals
    ) -> None:
        self.trainer, self.batches, self.meter, self.signals = trainer, batches, meter, signals
        self.config, self.state, self.ranks = trainer.config, trainer.state, trainer.ranks
        self._norms: Norms = {}
        self._stops = LateReading()

    def take_step(self, stream: Loading) -> None:
        """One optimizer step; logs and saves where that is due.

        Raises:
          SystemExit: a signal came, on any rank; the state is saved.
        """
        config, state = self.config, self.state
        self._train_on(stream)
        last = state.step == config.steps
        stopped = self._stops.read(self.signals.heard_by(self.ranks)) > 0
        saves = last or stopped or due(config.ckpt_every, state.step)
        logs = last or stopped or state.step % config.log_every == 0
        if saves or logs:
            settle(self._norms, self.batches, state, self.ranks)
        if logs:
            self._log()
        if saves:
            save(config, state, self.batches, self.ranks)
        if stopped and not last:
            self.ranks.barrier()
            self.signals.end_run(state.step)

    def _train_on(self, stream: Loading) -> None:
        config, state, sampler = self.config, self.state, self.batches.sampler
        if config.quantize_after and state.step == config.quantize_after:
            self.trainer.start_codes(self.batches.first(KMEANS_IMAGES))
        micro_batches = [
            stream.next().to(self.ranks.device, non_blocking=True, memory_format=torch.channels_last)
            for _ in range(config.gradient_accumulation_steps)
        ]
        by_network = self.trainer.train_step(micro_batches)
        self._norms[state.step] = (by_network, sampler.epoch, sampler.consumed)
        sampler.advance()
        self.meter.count_step()

    def _log(self) -> None:
        """Writes the means over the steps since the last line; all ranks must call it."""
        numbers = self.trainer.read_metrics()
        speed = self.meter.read_speed(self.state.step, self.config.global_batch_size)
        numbers["samples_per_second"] = round(speed.samples_per_second, 2)
        numbers["eta_seconds"] = round(speed.seconds_left, 1)
        self.meter.write(self.state.step, **numbers)
        self.meter.bar.set_postfix(psnr=f"{numbers['psnr']:.2f}", usage=f"{numbers['codebook_usage']:.2f}")


def dry_run(trainer: Trainer, batches: Batches) -> None:
    """Prints what the run would take, and writes `first_batch.png`; every rank must call it.

    Raises:
      UserError: a step does not fit into the GPU's memory.
    """
    config, state, ranks = trainer.config, trainer.state, trainer.ranks
    micro_batches = [
        images.to(ranks.device, memory_format=torch.channels_last)
        for images in islice(batches, config.gradient_accumulation_steps)
    ]
    picture = Path(config.results_dir) / "first_batch.png"
    draw_pairs(picture, lambda: micro_batches[0][:PREVIEW_IMAGES], state, ranks)

    def step() -> None:
        norms = trainer.train_step(micro_batches)
        norms["tokenizer"].item()  # waits for the device

    cost = measure(
        step, ranks, "a smaller --global-batch-size, more --gradient-accumulation-steps or more ranks"
    )
    if ranks.is_main:
        plan = Plan(
            model=config.vq_model,
            modules=tuple(filter(None, (state.model, state.ema, state.discriminator))),
            optimizers=tuple(filter(None, (state.optimizers, state.disc_optimizers))),
            steps=config.steps,
            samples=len(batches.dataset),
            global_batch_size=config.global_batch_size,
            ckpt_every=config.ckpt_every,
            epoch_saves=False,
            max_checkpoints=config.max_checkpoints,
            results_dir=config.results_dir,
        )
        report(plan, cost, config.global_batch_size, "images", ranks)
        log.info("first batch      %s: originals and what the first weights make of them", picture)
    ranks.barrier()


def settle(norms: Norms, batches: Batches, state: VQTrainState, ranks: Distributed) -> None:
    """Counts what went wrong since the last call; all ranks count the same and raise alike.

    Args:
      norms: of the steps since then; emptied.
    Raises:
      UserError: too many unreadable images, which it names, or too many skipped steps.
    """
    found = sum(ranks.gather_objects(batches.problems), state.bad_images)
    state.bad_images = list(dict.fromkeys(found))  # an image is met once an epoch and counts once
    batches.problems.clear()
    budget, num_images = batches.config.bad_sample_budget, len(batches.dataset)
    require_few_bad(len(state.bad_images), "unreadable images", budget, num_images, state.bad_images)
    if not state.scaler.is_enabled():  # an enabled one finds its scale by meeting infinities
        state.num_skipped += name_skipped(norms, batches)
    norms.clear()
    require_few_skipped(state.num_skipped, "lower --lr")


def name_skipped(norms: Norms, batches: Batches) -> int:
    """Names the images of the steps with a gradient that was not finite; returns how many steps."""
    num_skipped = 0
    for step, (by_network, *place) in norms.items():
        bad = [f"{norm.item()} ({name})" for name, norm in by_network.items() if not torch.isfinite(norm)]
        if bad:
            what = f"step {step} skipped: the gradient norm is {', '.join(bad)}; its samples: "
            log.warning("%s", what + ", ".join(batches.files_at(*place)))
            num_skipped += 1
    return num_skipped


def save(config: VQTrainConfig, state: VQTrainState, batches: Batches, ranks: Distributed) -> None:
    """Writes the checkpoint of this step and a picture of original | reconstruction pairs; all ranks must
    call it."""
    state.checkpoints.save(state.step, state.checkpoint(batches.sampler.state_dict()))
    picture = Path(config.results_dir) / "previews" / f"{state.step:07d}.png"
    draw_pairs(picture, partial(batches.first, PREVIEW_IMAGES), state, ranks)


def draw_pairs(path: Path, first: Callable[[], Tensor], state: VQTrainState, ranks: Distributed) -> None:
    """Writes a picture of `first()`, (B, 3, S, S) images, beside what the weights make of them.

    The main rank does, with the weights of all.
    """
    with state.final_model() as model:
        if not ranks.is_main:
            return
        images = first()
        model.eval()
        reconstructed = model.decode_ids(model.encode_ids(images.to(state.device))).cpu()
        model.train()
    save_pairs(path, images.cpu(), reconstructed)
