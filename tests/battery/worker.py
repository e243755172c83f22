"""A training that does to itself what its plan says: `python -m tests.battery.worker PLAN.json flags…`.

The plan (JSON) may hold:

  stage     "t2i" or "editing"
  log       folder; `batches<rank>.jsonl` gets a line a step: step, samples, hash of the weights before it
  halt      the step before which every rank kills itself
  signals   [{phase, target, times, step}]: SIGTERM, in the phase "step", "save" or "evaluation" of that
            step, to the "agent" or to a rank, sent by rank 0
  poison    {place, value, step, rank}: a number that is not finite, in "loss", "gradient", "pixels", "text"
  crash     [{step, rank, how, attempt}]: "sigkill", "exit", "exception", "abort", or "write", a SIGKILL while
            the folder of that step is written; attempt: of torchrun
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from autoregressive.models.loss import SupervisedLoss
from autoregressive.train import stages
from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.inputs import Inputs, Prepared
from language.text_features import TextFeatures
from runtime import checkpoint
from runtime.config import parse
from runtime.distributed import distributed, restart_count
from runtime.errors import run_command
from runtime.sharding.tensors import own_part
from runtime.training import checkpoints

STAGES = {
    "t2i": (T2IConfig, stages.train_t2i, "t2i_inputs"),
    "editing": (EditingConfig, stages.train_editing, "editing_inputs"),
}


class WatchedInputs:
    """A stage's inputs that tell the plan of every micro-batch."""

    def __init__(self, plan: Plan, inputs: Inputs) -> None:
        self.plan, self.inputs = plan, inputs

    def preparation(self):
        prepare = self.inputs.preparation()
        return lambda batch, step: prepare(self.plan.poison_batch(batch, step), step)

    def finish(self, prepared: Prepared):
        self.plan.begin(prepared, prepared.step)
        return self.inputs.finish(prepared)

    def __call__(self, batch, step: int):
        return self.finish(self.preparation()(batch, step))


class Plan:
    """What is to happen, and where this process is."""

    def __init__(self, values: dict) -> None:
        self.values = values
        self.rank = int(os.environ.get("RANK", 0))
        self.step = -1
        self.model = None

    def install(self) -> None:
        """Puts the plan's traps into the training program."""
        _, _, inputs_name = STAGES[self.values["stage"]]
        self._wrap(stages, inputs_name, self._watch_inputs)
        self._wrap(checkpoint.torch, "save", self._watch_save)
        self._wrap(checkpoints, "manifest_lines", self._watch_parts)
        self._wrap(stages, "editing_preview", self._watch_preview)
        self._wrap(SupervisedLoss, "forward", self._poison_loss)

    def _wrap(self, owner: object, name: str, wrapper) -> None:
        setattr(owner, name, wrapper(getattr(owner, name)))

    def _watch_inputs(self, build):
        def built(model, encoders, config, device):
            self.model = model
            model.norm.weight.register_hook(self._poison_gradient)
            inputs = build(model, encoders, config, device)
            return WatchedInputs(self, inputs)

        return built

    def begin(self, batch: Prepared, step: int) -> None:
        self.step = step
        weights = hashlib.sha256()
        for parameter in self.model.parameters():
            weights.update(own_part(parameter.detach()).numpy().tobytes())
        line = {"step": step, "samples": list(zip(batch.origins, batch.seeds, strict=True))}
        line["weights"] = weights.hexdigest()
        with open(Path(self.values["log"]) / f"batches{self.rank}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        if step == self.values.get("halt"):
            os.kill(os.getpid(), signal.SIGKILL)
        for how in self._crashes(step):
            if how != "write":
                _crash(how)
        self._signal("step", step)

    def _crashes(self, step: int) -> list[str]:
        """How this process is to end at a step."""
        here = (step, self.rank, restart_count())
        planned = self.values.get("crash", [])
        return [crash["how"] for crash in planned if (crash["step"], crash["rank"], crash["attempt"]) == here]

    def _watch_parts(self, describe):
        def watched(folder, pattern):
            """In a thread, once the parts are written and before the folder has its name."""
            if "write" in self._crashes(int(folder.name.strip(".").split(".")[0])):
                _crash("sigkill")
            return describe(folder, pattern)

        return watched

    def _watch_save(self, save):
        def watched(content, file, **more):
            if not (isinstance(content, dict) and "steps" in content):
                return save(content, file, **more)  # what ranks send each other
            file.write(b"half")  # the file is there, and not whole, while the signal comes
            file.flush()
            self._signal("save", content["steps"])
            file.seek(0)
            file.truncate()
            return save(content, file, **more)

        return watched

    def _watch_preview(self, build):
        def built(*args):
            draw = build(*args)

            def watched(step):
                self._signal("evaluation", step)
                return draw(step)

            return watched

        return built

    def _signal(self, phase: str, step: int | None) -> None:
        if self.rank != 0:
            return
        for planned in self.values.get("signals", []):
            if (planned["phase"], planned["step"]) == (phase, step):
                for _ in range(planned["times"]):
                    os.kill(self._target(planned["target"]), signal.SIGTERM)

    def _target(self, target: str | int) -> int:
        if target == "agent":
            return os.getppid()
        return int((Path(self.values["log"]) / f"pid{target}").read_text())

    def _due(self, place: str, step: int | None = None) -> bool:
        poison = self.values.get("poison", {})
        mine = (poison.get("place"), poison.get("step"), poison.get("rank"))
        return mine == (place, self.step if step is None else step, self.rank)

    def poison_batch(self, batch, step: int):
        value = float(self.values.get("poison", {}).get("value", 0))
        if self._due("pixels", step):
            name = "image" if hasattr(batch, "image") else "source"
            images = getattr(batch, name).clone()
            images[0, 0, 0, 0] = value
            return replace(batch, **{name: images})
        if self._due("text", step):
            features = torch.randn(3, 16)
            features[1, 2] = value
            features = TextFeatures(features, torch.ones(3, dtype=torch.bool))
            return replace(batch, texts=[features, *batch.texts[1:]])
        return batch

    def _poison_gradient(self, gradient):
        if not self._due("gradient"):
            return None
        poisoned = gradient.clone()
        poisoned[0] = float(self.values["poison"]["value"])
        return poisoned

    def _poison_loss(self, forward):
        def poisoned(network, layout, text):
            loss = forward(network, layout, text)
            return loss + float(self.values["poison"]["value"]) if self._due("loss") else loss

        return poisoned


def _crash(how: str) -> None:
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(1)
    raise RuntimeError("a crash as planned")


def main() -> None:
    values = json.loads(Path(sys.argv[1]).read_text())
    plan = Plan(values)
    plan.install()
    (Path(values["log"]) / f"pid{plan.rank}").write_text(str(os.getpid()))
    config_class, train, _ = STAGES[values["stage"]]
    config = parse(config_class, sys.argv[2:])
    with distributed(config.device) as ranks:
        train(config, ranks)


if __name__ == "__main__":
    run_command(main)
