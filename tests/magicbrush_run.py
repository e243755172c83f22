"""A perfect run on shapes scenes, and settings of the MagicBrush evaluator for it and the recorded one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.shapes.edits import ShapesConfig, random_session
from dataset.shapes.scenes import render
from evaluations.editing.flags import ImageEvalConfig

REFERENCE = Path(__file__).parent / "reference" / "magicbrush_eval"
TURNS = (1, 3)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def make_run(tmp_path: Path) -> Path:
    """A perfect run, one session of one turn and one of three, with every side file."""
    shapes, captions, instructions, samples = {}, {}, {}, {}
    for index, turns in enumerate(TURNS):
        name = str(index + 1)
        session = random_session((5, index), ShapesConfig(), turns)
        shapes[name] = [example.to_dict() for example in session]
        captions[name], instructions[name] = {}, []
        gt, generated, regions = (tmp_path / folder / name for folder in ("gt", "out/images", "out/regions"))
        save(gt / f"{name}-input.png", render(session[0].before, 72))
        previous, previous_generated = f"{name}-input.png", gt / f"{name}-input.png"
        for k, example in enumerate(session, start=1):
            target = render(example.after, 72)
            save(gt / f"{name}-output{k}.png", target)
            save(tmp_path / "ceiling" / name / f"{name}-output{k}.png", target)
            for kind in ("inde", "iter"):
                file = f"{name}_1.png" if k == 1 else f"{name}_{kind}_{k}.png"
                save(generated / file, target)
                save(regions / file, example.edit.region(72))
                edited = gt / previous if kind == "inde" else previous_generated
                samples[f"{name}/{file}"] = {"input": str(edited), "tokens": 9, "seconds": 0.1}
            captions[name][f"{name}-output{k}.png"] = example.edit.local_description
            instructions[name].append({"input": previous, "mask": f"{name}-mask{k}.png",
                                       "output": f"{name}-output{k}.png",
                                       "instruction": example.edit.instruction})  # fmt: skip
            previous, previous_generated = f"{name}-output{k}.png", generated / file
    side_files = {
        "shapes.json": shapes,
        "local_descriptions.json": captions,
        "edit_sessions.json": instructions,
        "out/samples.json": {"edits": samples},
    }
    for file, content in side_files.items():
        (tmp_path / file).write_text(json.dumps(content))
    return tmp_path


def config(root: Path, **changes) -> ImageEvalConfig:
    settings = {
        "generated_path": root / "out" / "images",
        "gt_path": root / "gt",
        "caption_path": root / "local_descriptions.json",
        "sessions_json": root / "edit_sessions.json",
        "regions_path": root / "out" / "regions",
        "samples_json": root / "out" / "samples.json",
        "shapes_json": root / "shapes.json",
        "ceiling_path": root / "ceiling",
        "save_path": root / "scores",
        "metric": "l1,l2",
    } | changes
    paths = {key: str(value) for key, value in settings.items() if isinstance(value, Path)}
    return ImageEvalConfig(**{**settings, **paths})


def reference_config(tmp_path: Path, **changes) -> ImageEvalConfig:
    settings = {
        "generated_path": [str(REFERENCE / "generated")],
        "gt_path": str(REFERENCE / "gt"),
        "caption_path": str(REFERENCE / "local_descriptions.json"),
        "save_path": str(tmp_path / "scores"),
        "metric": "l1,l2",
    }
    return ImageEvalConfig(**(settings | changes))
