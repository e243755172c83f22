"""The steps of a row: train, prepare, sample, evaluate, by the programs that one would run by hand."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError
from runtime.texts import write_text
from runtime.training.checkpoints import newest_whole_checkpoint
from scripts.paper.config import ReproducePaper
from scripts.paper.rows import EDITORS, ROUNDS, Row
from scripts.paper.sources import hand_places
from scripts.rehearse.config import published_words
from scripts.shapes.step_runner import StepRunner

METRICS = "l1,l2,clip-i,dino"
KEPT = 3  # checkpoints of a training
_PART = 1000  # captions of a step of test-time scaling: what a stop can cost


@dataclass(frozen=True)
class RowMaker:
    """Makes rows.

    Attributes:
      files: `sources.HUB` name -> where it is.
    """

    config: ReproducePaper
    files: dict[str, Path]

    def make(self, row: Row) -> Path:
        """Makes a row, or what is not done of it; returns the file with its scores."""
        runner = StepRunner(self.config.root / row.folder)
        if row.weights in EDITORS:  # a file that somebody gives may become another
            runner = runner.branch(str(self.checkpoint(row.weights)))
        works = {
            "magicbrush": self._magicbrush,
            "emu": self._emu,
            "drawn": self._drawn,
            "scaled": self._scaled,
            "cost": self._cost,
        }
        return works[row.work](row, runner)

    def checkpoint(self, name: str) -> Path:
        """The transformer of a row: a download, one that a flag names, or one that is trained here."""
        if name not in EDITORS:
            return self.files[name]
        given = getattr(self.config, EDITORS[name].field)
        if given is not None:
            if not Path(given).exists():
                raise UserError(f"{EDITORS[name].flag} {given}: no such file")
            return Path(given).resolve()
        return self._train(name)

    def _train(self, name: str) -> Path:
        editor, config = EDITORS[name], self.config
        folder = config.root / f"training_{name}"
        values = {
            "--vq-ckpt": str(self.files["tokenizer"]),
            "--data-path": str(Path(config.ultraedit).resolve()),
            "--init-gpt-ckpt": str(self.checkpoint(editor.start)),
            "--results-dir": str(folder / "run"),
            "--image-size": str(config.image_size),
            "--gpt-model": config.gpt_model,
        }
        words = published_words("stage2_256", values)
        if not editor.marks:
            words.remove("--mask_in_context")
        steps = [] if editor.steps is None else ["--max-steps", str(editor.steps)]
        more = ["--t5-path", str(self.files["t5"]), "--text-field", _FIELDS[config.text], "--auto-resume"]
        more += ["--max-checkpoints", str(KEPT)]
        StepRunner(folder).run(
            "train",
            folder / "run",
            [*words, *editor.flags, *steps, *more, *config.more_training],
            num_ranks=config.num_ranks,
        )
        return newest_whole_checkpoint(folder / "run" / "checkpoints")

    def _models(self, row: Row) -> list[str]:
        """The flags that name a row's models."""
        flags = ["--vq-ckpt", str(self.files["tokenizer"]), "--t5-path", str(self.files["t5"])]
        return [*flags, "--gpt-ckpt", str(self.checkpoint(row.weights)), "--gpt-model", self.config.gpt_model]

    def _text(self, row: Row) -> list[str]:
        """Zero-shot, the model is told what the result shows."""
        return ["--text", self.config.text if row.weights in EDITORS else "global"]

    def _judges(self) -> list[str]:
        return ["--clip_ckpt", str(self.files["clip"]), "--dino_ckpt", str(self.files["dino"])]

    def _run(self, runner: StepRunner, name: str, output: Path, command: list[str]) -> None:
        runner.run(name, output, command, num_ranks=self.config.num_ranks)

    def _magicbrush(self, row: Row, runner: StepRunner) -> Path:
        test = Path(self.config.magicbrush_path).resolve()
        made, scores = runner.root / "samples", runner.root / "scores"
        sample = ["autoregressive/sample/sample_magicbrush.py", *self._models(row)]
        sample += ["--magicbrush-path", str(test), *self._text(row), "--write-ceiling"]
        sample += ["--output-dir", str(made), *row.flags, *self.config.more_sampling]
        self._run(runner, "sample", made, sample)
        evaluate = ["evaluations/editing/image_eval.py", "--generated_path", str(made / "images")]
        evaluate += ["--regions-path", str(made / "regions"), "--samples-json", str(made / "samples.json")]
        evaluate += ["--gt_path", str(test / "images"), "--ceiling-path", str(made / "ceiling")]
        evaluate += ["--caption_path", str(test / "local_descriptions.json")]
        evaluate += ["--sessions-json", str(test / "edit_sessions.json")]
        evaluate += ["--metric", METRICS, *self._judges()]
        self._run(runner, "evaluate", scores, [*evaluate, "--save_path", str(scores)])
        return scores / "evaluation_metrics.json"

    def _emu(self, row: Row, runner: StepRunner) -> Path:
        emu, made, scores = (runner.root / name for name in ("data", "samples", "scores"))
        prepare = ["dataset/prepare_emu_edit.py", "--data-path", str(self.files["emu_edit"])]
        runner.run("prepare", emu, [*prepare, "--output-dir", str(emu)])
        listing = str(emu / "emu_test_valid_list.json")
        sample = ["autoregressive/sample/sample_emu_edit.py", *self._models(row), "--emu-path", str(emu)]
        sample += ["--valid-list", listing, *self._text(row), "--write-ceiling"]
        sample += ["--output-dir", str(made), *row.flags, *self.config.more_sampling]
        self._run(runner, "sample", made, sample)
        evaluate = ["evaluations/editing/emuedit_eval.py", "--generated_path", str(made / "samples")]
        evaluate += ["--gt_path", str(emu / "images_valid"), "--caption_path", listing]
        evaluate += ["--ceiling-path", str(made / "ceiling")]
        evaluate += ["--metric", f"{METRICS},clip-t", *self._judges()]
        self._run(runner, "evaluate", scores, [*evaluate, "--save_path", str(scores)])
        return scores / "evaluation_metrics.json"

    def _cost(self, row: Row, runner: StepRunner) -> Path:
        measured = runner.root / "measured"
        test = str(Path(self.config.magicbrush_path).resolve())
        command = ["scripts/paper/edit_cost.py", *self._models(row), "--magicbrush-path", test]
        command += [*self._text(row), "--output-dir", str(measured), *self.config.more_sampling]
        runner.run("measure", measured, command)
        return measured / "cost.json"

    def _captions(self) -> Path:
        """COCO's captions, made once for all rows."""
        runner = StepRunner(self.config.root / "coco_captions")
        table = runner.root / "made" / "coco_captions.tsv"
        annotations = Path(self.config.coco).resolve() / "annotations" / "captions_val2014.json"
        prepare = ["dataset/prepare_coco.py", "--annotations", str(annotations), "--output", str(table)]
        runner.run("captions", table.parent, [*prepare, "--num-prompts", str(self.config.num_prompts)])
        return table

    def _evaluate_drawn(self, runner: StepRunner, name: str, folder: Path) -> Path:
        """Scores a folder of pictures, which gets them itself."""
        (inception,) = (path.resolve() for path in hand_places(self.config, "inception"))
        evaluate = ["evaluations/t2i/evaluation.py", "--fake_dir", str(folder), "--ref_data", "coco2014"]
        evaluate += ["--ref_dir", str(Path(self.config.coco).resolve()), "--ref_type", "val2014"]
        evaluate += ["--eval_res", "256", "--batch_size", "64", "--inception_ckpt", str(inception)]
        evaluate += ["--clip_ckpt", str(self.files["clip"])]
        evaluate += ["--fid_cache", str(self.config.root / "fid_statistics")]
        self._run(runner, name, runner.root / "none", evaluate)
        return folder / "score.json"

    def _drawn(self, row: Row, runner: StepRunner) -> Path:
        made, captions = runner.root / "samples", self._captions()
        runner = runner.branch(str(captions))
        models = self._models(row)
        if row.weights == "llamagen":  # raster order only, and a file that does not say its size
            models[-1] = self.config.gpt_model.removeprefix("R-")
            models += ["--image-size", str(self.config.image_size)]
        sample = ["autoregressive/sample/sample_t2i_ddp.py", *models, "--prompt-csv", str(captions)]
        sample += ["--sample-dir", str(made), "--num-fid-samples", str(self.config.num_prompts)]
        self._run(runner, "sample", made, [*sample, *row.flags, *self.config.more_sampling])
        (folder,) = (path.parent for path in made.glob("*/captions.txt"))
        return self._evaluate_drawn(runner, "evaluate", folder)

    def _scaled(self, row: Row, runner: StepRunner) -> Path:
        table = self._captions()
        runner = runner.branch(str(table))
        with table.open(encoding="utf-8", newline="") as file:
            captions = [line["Prompt"] for line in csv.DictReader(file, delimiter="\t")]
        for start in range(0, len(captions), _PART):
            self._scale(row, runner, start, captions[start : start + _PART])
        folder = _join(runner.root, row.round, len(captions))
        return self._evaluate_drawn(runner, f"evaluate_{row.round}", folder)

    def _scale(self, row: Row, runner: StepRunner, start: int, captions: list[str]) -> None:
        part, listing = runner.root / "parts" / f"{start:06d}", runner.root / "lists" / f"{start:06d}.jsonl"
        text = "".join(f"{json.dumps({'prompt': caption})}\n" for caption in captions)
        write_text(listing, text)
        scale = ["autoregressive/sample/sample_test_time_scaling.py", *self._models(row)]
        scale += ["--list", str(listing), "--output-dir", str(part), "--seed", str(start), "--save-rounds"]
        scale += ["--reward", self.config.reward, "--rounds", str(ROUNDS)]
        if self.config.reward == "clip":
            scale += ["--clip-ckpt", str(self.files["clip"])]
        self._run(runner, f"scale_{start:06d}", part, [*scale, *row.flags, *self.config.more_sampling])


_FIELDS = {"global": "target_caption", "instruction": "instruction"}


def _join(root: Path, number: int, count: int) -> Path:
    """Makes one folder of a round's pictures of all parts; they are linked where the disk can."""
    folder, captions = root / "rounds" / str(number), ""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for old in (folder / "images").iterdir():
        old.unlink()
    for start in range(0, count, _PART):
        part = root / "parts" / f"{start:06d}" / "rounds" / str(number)
        captions += (part / "captions.txt").read_text(encoding="utf-8")
        for picture in (part / "images").iterdir():
            target = folder / "images" / f"{start + int(picture.stem):06d}.png"
            try:
                os.link(picture, target)
            except OSError:
                shutil.copyfile(picture, target)
    write_text(folder / "captions.txt", captions)
    return folder
