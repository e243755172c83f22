"""Trains the image tokenizer, on one process or under torchrun.

python tokenizer/tokenizer_image/vq_train.py --data-path images/ --vq-model VQ-8-small --image-size 72 ...
torchrun --nproc_per_node 8 tokenizer/tokenizer_image/vq_train.py --data-path images/ --vq-model VQ-16 ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset.image_folder import ImageDataset, collate_images, list_images
from dataset.sampler import ResumableBatchSampler
from runtime.checkpoint import prune_checkpoints, resume_point, save_checkpoint
from runtime.config import dump_config, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.logging import MetricsLog, get_logger, progress
from runtime.stopping import LateReading, Loading, StopSignals, leave_signals_to_the_trainer
from tokenizer.tokenizer_image.pictures import save_pairs
from tokenizer.tokenizer_image.vq_config import VQTrainConfig
from tokenizer.tokenizer_image.vq_state import VQTrainState
from tokenizer.tokenizer_image.vq_trainer import Trainer

log = get_logger(__name__)

KMEANS_IMAGES = 256
PREVIEW_IMAGES = 8
MAX_SKIPPED_STEPS = 10


class Batches:
    """The training images as (B, 3, S, S) float batches in the sampler's order, from disk or from memory."""

    def __init__(self, config: VQTrainConfig, paths: list[Path], dist: Distributed) -> None:
        self.config = config
        self.dataset = ImageDataset(paths, config.image_size, config.augment)
        self.sampler = ResumableBatchSampler(
            len(paths),
            config.global_batch_size,
            dist.rank,
            dist.world_size,
            config.global_seed,
            micro_batches=config.gradient_accumulation_steps,
        )
        self.problems: list[str] = []
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
        self.problems += [problem for problem in problems if problem not in self.problems]
        if len(self.problems) > self.config.bad_sample_budget * len(self.dataset):
            raise UserError(
                f"{len(self.problems)} unreadable images, more than --bad-sample-budget "
                f"{self.config.bad_sample_budget} of {len(self.dataset)}; mend the data or raise it:\n  "
                + "\n  ".join(self.problems)
            )

    def files_at(self, epoch: int, consumed: int) -> list[str]:
        """The files of the global batch at that place."""
        return [str(self.dataset.paths[index]) for index in self.sampler.indices_at(epoch, consumed)]


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(VQTrainConfig, argv)
    config.check()
    with distributed(config.device) as dist:
        train(config, dist)


def find_images(config: VQTrainConfig) -> list[Path]:
    """The images to train on, in a fixed order."""
    paths = list_images(config.data_path, config.allow_outside_root)
    if config.data_face_path:
        paths += list_images(config.data_face_path, config.allow_outside_root)
    return paths[: config.max_images]


def train(config: VQTrainConfig, dist: Distributed) -> None:
    """Runs the training that `config` describes, from the start or from its checkpoint."""
    paths = find_images(config)
    config = replace(config, steps=config.num_steps(len(paths) // config.global_batch_size), epochs=None)
    state = VQTrainState(config, dist.device)
    batches = Batches(config, paths, dist)
    own = resume_point(None, config.results_dir, dist, newest=config.auto_resume)
    if own is None and config.vq_ckpt and config.finetune:
        state.load_weights(config.vq_ckpt)
    elif own or config.vq_ckpt:
        ckpt = own or resume_point(config.vq_ckpt, config.results_dir, dist)
        batches.sampler.load_state_dict(state.resume(ckpt))
    trainer = Trainer(config, state, dist)
    parameters = sum(p.numel() for p in state.model.parameters())
    log.info("%s: %.2f M parameters, %d images", config.vq_model, parameters / 1e6, len(batches.dataset))
    if dist.is_main:
        dump_config(config, config.results_dir)
    metrics = MetricsLog(config.results_dir, enabled=dist.is_main, resume_step=state.step)
    bar = progress(
        total=config.steps, initial=state.step, desc="tokenizer", unit="step", disable=not dist.is_main
    )
    clock, logged_step = time.perf_counter(), state.step
    stops, norms, skipped = LateReading(), {}, 0
    with StopSignals() as signals, Loading(batches) as stream:
        while state.step < config.steps:
            if config.quantize_after and state.step == config.quantize_after:
                trainer.start_codes(batches.first(KMEANS_IMAGES))
            micro_batches = [
                stream.next().to(dist.device, non_blocking=True, memory_format=torch.channels_last)
                for _ in range(config.gradient_accumulation_steps)
            ]
            norm = trainer.train_step(micro_batches)
            norms[state.step] = (norm, batches.sampler.epoch, batches.sampler.consumed)
            batches.sampler.advance()
            bar.update()
            last = state.step == config.steps
            received = torch.tensor(int(signals.received > 0)).to(dist.device, non_blocking=True)
            stopped = stops.read(dist.all_reduce_sum(received)) > 0
            if state.step % config.log_every == 0 or last or stopped:
                skipped += name_skipped(norms, batches)
                if skipped > MAX_SKIPPED_STEPS:
                    raise UserError(f"{skipped} steps had a gradient that is not finite; lower --lr")
                numbers = trainer.read_metrics()
                seconds = (time.perf_counter() - clock) / (state.step - logged_step)
                clock, logged_step = time.perf_counter(), state.step
                numbers["samples_per_second"] = round(config.global_batch_size / seconds, 2)
                numbers["eta_seconds"] = round(seconds * (config.steps - state.step), 1)
                metrics.write(state.step, **numbers)
                bar.set_postfix(psnr=f"{numbers['psnr']:.2f}", usage=f"{numbers['codebook_usage']:.2f}")
            if (state.step % config.ckpt_every == 0 or last or stopped) and dist.is_main:
                save(config, state, batches)
            if stopped and not last:
                dist.barrier()
                log.warning("stopped by a signal at step %d; --auto-resume goes on from there", state.step)
                raise SystemExit(signals.exit_status())
    bar.close()
    dist.barrier()


def name_skipped(norms: dict[int, tuple[Tensor, int, int]], batches: Batches) -> int:
    """Names the images of the steps whose gradient was not finite, and forgets all; returns their number.

    Args:
      norms: of each step the gradient's norm, the same on all ranks, and the place of its batch.
    """
    skipped = [step for step, (norm, *_) in norms.items() if not torch.isfinite(norm)]
    for step in skipped:
        norm, *place = norms[step]
        what = f"step {step} skipped: the gradient norm is {norm.item()}; its samples: "
        log.warning("%s", what + ", ".join(batches.files_at(*place)))
    norms.clear()
    return len(skipped)


def save(config: VQTrainConfig, state: VQTrainState, batches: Batches) -> None:
    """Writes the checkpoint of this step and a picture of original | reconstruction pairs."""
    folder = Path(config.results_dir)
    path = folder / "checkpoints" / f"{state.step:07d}.pt"
    save_checkpoint(path, state.checkpoint(batches.sampler.state_dict()))
    prune_checkpoints(path.parent, config.max_checkpoints)
    images = batches.first(PREVIEW_IMAGES)
    model = state.final_model.eval()
    reconstructed = model.decode_ids(model.encode_ids(images.to(state.device))).cpu()
    model.train()
    save_pairs(folder / "previews" / f"{state.step:07d}.png", images, reconstructed)
    log.info("wrote %s", path)


if __name__ == "__main__":
    run_command(main)
