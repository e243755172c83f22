"""CLIP and DINO numbers of both editing evaluators against plain computations, on any ranks and batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_program
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_networks import TINY_CLIP, PlainFeatures, plain_cosine, write_networks

from evaluations.editing import emu_scores, magicbrush_scores
from evaluations.editing.flags import EmuEvalConfig, ImageEvalConfig
from evaluations.editing.tables import format_tables
from runtime.errors import UserError

PROGRAM = """
import json, sys
import open_clip
from evaluations.editing import emu_scores, magicbrush_scores
from evaluations.editing.flags import EmuEvalConfig, ImageEvalConfig
from runtime.distributed import distributed
open_clip.add_model_config(sys.argv[1])
brush, emu = json.loads(sys.argv[2])
with distributed("cpu") as world:
    magicbrush_scores.evaluate_run(ImageEvalConfig(**brush), world)
    emu_scores.evaluate_run(EmuEvalConfig(**emu), world)
"""
TURNS = {"7": 3, "3": 1}
EMU = {4: ("a dark sky", "a bright sky"), 0: ("a cat", "a cat"), 11: ("two dogs on a field", None),
       2: ("a house", "a house " + "with a very red door " * 30), 8: ("snow", "sand and sea")}  # fmt: skip


def scene(path: Path, seed: int) -> Path:
    """Smooth stripes of several colours, not square: crops and resizes show."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:40, 0:56] / 40
    waves = [
        np.sin(random.uniform(2, 9) * x + random.uniform(2, 9) * y + random.uniform(0, 6)) for _ in range(3)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((127 * (np.stack(waves, -1) + 1)).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """MagicBrush results, Emu Edit results, and tiny networks."""
    root = tmp_path_factory.mktemp("data")
    seed, captions = 0, {}
    for session, turns in TURNS.items():
        captions[session] = {}
        scene(root / "gt" / session / f"{session}-input.png", seed := seed + 1)
        for turn in range(1, turns + 1):
            names = [f"{session}_1"] if turn == 1 else [f"{session}_{k}_{turn}" for k in ("inde", "iter")]
            for name in names:
                scene(root / "images" / session / f"{name}.png", seed := seed + 1)
            scene(root / "gt" / session / f"{session}-output{turn}.png", seed := seed + 1)
            captions[session][f"{session}-output{turn}.png"] = f"the {turn}. picture of {session}"
    (root / "local.json").write_text(json.dumps(captions))
    for idx in EMU:
        scene(root / "sources" / f"{idx}_gt.png", seed := seed + 1)
        scene(root / "samples" / f"{idx}.png", seed := seed + 1)
    entries = [{"idx": idx, "input_caption": before, "output_caption": after, "edit_instruction": "edit"}
               for idx, (before, after) in EMU.items()]  # fmt: skip
    (root / "list.json").write_text(json.dumps(entries))
    write_networks(root)
    return root


def settings(root: Path, save_path: Path, **changes) -> tuple[dict, dict]:
    shared = {
        "clip_model": TINY_CLIP,
        "clip_ckpt": str(root / "clip.safetensors"),
        "dino_ckpt": str(root / "dino.pth"),
        "device": "cpu",
    } | changes
    brush = {
        "generated_path": [str(root / "images")],
        "gt_path": str(root / "gt"),
        "caption_path": str(root / "local.json"),
        "save_path": str(save_path / "brush"),
    }
    emu = {
        "generated_path": [str(root / "samples")],
        "gt_path": str(root / "sources"),
        "caption_path": str(root / "list.json"),
        "save_path": str(save_path / "emu"),
    }
    return brush | shared, emu | shared


def read(folder: Path) -> tuple[dict, dict]:
    return tuple(
        json.loads((folder / name / "evaluation_metrics.json").read_text()) for name in ("brush", "emu")
    )


@pytest.fixture(scope="module")
def single(data, tmp_path_factory) -> Path:
    """Both evaluations on one rank, eight images at a time."""
    folder = tmp_path_factory.mktemp("single")
    brush, emu = settings(data, folder, batch_size=8)
    magicbrush_scores.evaluate_run(ImageEvalConfig(**brush))
    emu_scores.evaluate_run(EmuEvalConfig(**emu))
    return folder


def pair_names(protocol: str) -> list[tuple[str, str, int, str]]:
    pairs = []
    for session, turns in TURNS.items():
        for turn in [turns] if protocol == "final_turn" else range(1, turns + 1):
            kind = "iter" if protocol == "final_turn" else "inde"
            pairs.append((session, f"{session}_1" if turn == 1 else f"{session}_{kind}_{turn}", turn,
                          f"the {turn}. picture of {session}"))  # fmt: skip
    return pairs


def test_magicbrush_numbers_are_those_of_open_clip_and_timm(data, single):
    plain, (written, _) = PlainFeatures(), read(single)
    for protocol, count in (("all_turn", 4), ("final_turn", 2)):
        expected = {key: [] for key in ("clip-i", "dino", "clip-t", "clip-t_oracle")}
        for session, name, turn, caption in pair_names(protocol):
            ours = data / "images" / session / f"{name}.png"
            truth = data / "gt" / session / f"{session}-output{turn}.png"
            text = plain.clip_text(caption)
            expected["clip-i"].append(plain_cosine(plain.clip_image(ours), plain.clip_image(truth)))
            expected["dino"].append(plain_cosine(plain.dino_image(ours), plain.dino_image(truth)))
            expected["clip-t"].append(plain_cosine(plain.clip_image(ours), text))
            expected["clip-t_oracle"].append(plain_cosine(plain.clip_image(truth), text))
        assert len(expected["dino"]) == count
        for key, values in expected.items():
            assert np.ptp(values) > 1e-3, f"{key} is the same for every pair: the test sees nothing"
            assert written[protocol][key] == pytest.approx(np.mean(values), abs=1e-6), (protocol, key)
        assert list(written[protocol]) == ["l1", "l2", "clip-i", "dino", "clip-t", "clip-t_oracle"]


def test_emu_numbers_are_those_of_open_clip_and_timm(data, single):
    plain, (_, written) = PlainFeatures(), read(single)
    expected = {key: {} for key in ("clip-i", "dino", "clip-out", "clip-dir")}
    for idx, (before, after) in EMU.items():
        ours, source = data / "samples" / f"{idx}.png", data / "sources" / f"{idx}_gt.png"
        image, start = plain.clip_image(ours), plain.clip_image(source)
        expected["clip-i"][idx] = plain_cosine(image, start)
        expected["dino"][idx] = plain_cosine(plain.dino_image(ours), plain.dino_image(source))
        if after:
            expected["clip-out"][idx] = plain_cosine(image, plain.clip_text(after))
        if after and after != before:
            direction = plain.clip_text(after) - plain.clip_text(before)
            expected["clip-dir"][idx] = plain_cosine(image - start, direction)
    final = written["final_turn"]
    assert list(final) == ["l1", "l2", "clip-i", "dino", "clip-out", "clip-dir"]
    for key, values in expected.items():
        assert final[key] == pytest.approx(np.mean(list(values.values())), abs=1e-6), key
        assert written["info"]["num_pairs_defined"]["final_turn"][key] == len(values)
    assert len(expected["clip-out"]) == 4 and len(expected["clip-dir"]) == 3
    for file, key in (("clip_t_score_by_idx.json", "clip-out"), ("clip_dir_score_by_idx.json", "clip-dir")):
        by_idx = json.loads((single / "emu" / file).read_text())
        assert list(by_idx) == [str(idx) for idx in EMU]
        for idx in EMU:
            assert by_idx[str(idx)] == (
                pytest.approx(expected[key][idx], abs=1e-6) if idx in expected[key] else None
            )


def test_undefined_and_cut_are_said(data, single):
    _, emu = read(single)
    copied = emu["copy_source"]["final_turn"]
    assert copied["clip-dir"] is None and copied["clip-i"] == pytest.approx(1, abs=1e-12)
    assert copied["clip-out"] is not None
    assert emu["info"]["num_captions_cut"] == 1
    table = (single / "emu" / "evaluation_table.txt").read_text()
    assert "clip-dir is undefined for 2 of 5 pairs (final_turn)" in table
    assert "1 captions were cut to CLIP's 77 tokens" in table
    assert table.strip() == format_tables(emu)


def test_a_result_that_is_its_source_counts_as_no_change(data, single, tmp_path):
    shutil.copytree(data / "samples", tmp_path / "samples")
    shutil.copy(data / "sources" / "4_gt.png", tmp_path / "samples" / "4.png")
    _, emu = settings(data, tmp_path, metric="clip-t", batch_size=2)
    emu_scores.evaluate_run(EmuEvalConfig(**emu | {"generated_path": [str(tmp_path / "samples")]}))
    before, after = (
        json.loads((folder / "emu" / "clip_dir_score_by_idx.json").read_text())
        for folder in (single, tmp_path)
    )
    assert before["4"] != 0 == after["4"] and after["0"] is None  # item 0 has equal captions
    scores = json.loads((tmp_path / "emu" / "evaluation_metrics.json").read_text())
    assert scores["info"]["num_pairs_defined"]["final_turn"]["clip-dir"] == 3
    expected = (before["2"] + before["8"]) / 3
    assert scores["final_turn"]["clip-dir"] == pytest.approx(expected, abs=1e-6)
    assert scores["copy_source"]["final_turn"]["clip-dir"] is None


def test_the_report_names_weights(data, single):
    weights = read(single)[0]["info"]["weights"]
    assert set(weights) == {"clip", "dino"} and weights["clip"]["model"] == TINY_CLIP
    assert weights["dino"]["path"] == str(data / "dino.pth") and len(weights["dino"]["sha256"]) == 64


def test_ranks_and_batches_do_not_matter(data, single, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run_program(
        program, data / "configs", json.dumps(settings(data, tmp_path / "two", batch_size=3)), ranks=2
    )
    brush, emu = settings(data, tmp_path / "one", batch_size=1, num_workers=1)
    magicbrush_scores.evaluate_run(ImageEvalConfig(**brush))
    emu_scores.evaluate_run(EmuEvalConfig(**emu))
    for folder in (tmp_path / "two", tmp_path / "one"):
        for ours, theirs, name in zip(read(folder), read(single), ("brush", "emu"), strict=True):
            for row in ({}, "copy_source"):
                for protocol in ("all_turn", "final_turn") if name == "brush" else ("final_turn",):
                    found, wanted = ((r[row] if row else r)[protocol] for r in (ours, theirs))
                    assert found == {k: v and pytest.approx(v, abs=1e-6) for k, v in wanted.items()}
            items = [json.loads((f / name / "evaluation_items.json").read_text()) for f in (folder, single)]
            for mine, other in zip(*items, strict=True):
                metrics = other.pop("metrics")
                assert mine.pop("metrics") == {
                    k: v and pytest.approx(v, abs=2e-6) for k, v in metrics.items()
                }
                assert mine == other


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_features_without_a_direction_name_the_pair(data, tmp_path, value):
    state = load_file(data / "clip.safetensors")
    state["visual.proj"].fill_(value)
    save_file(state, tmp_path / "broken.safetensors")
    changes = {"clip_ckpt": str(tmp_path / "broken.safetensors"), "metric": "l1,clip-i"}
    brush, emu = settings(data, tmp_path, **changes)
    with pytest.raises(UserError, match="clip-i of generated, final_turn 7 turn 3 .*7_iter_3.png.* is nan"):
        magicbrush_scores.evaluate_run(ImageEvalConfig(**brush))
    with pytest.raises(UserError, match="clip-i of generated, final_turn 4 turn 1 .*4.png.* is nan"):
        emu_scores.evaluate_run(EmuEvalConfig(**emu))
    assert not (tmp_path / "brush").exists() and not (tmp_path / "emu").exists()


def test_plain_vit_b_32_is_refused(data, tmp_path):
    for evaluator, config in zip(
        (magicbrush_scores, emu_scores), settings(data, tmp_path, clip_model="ViT-B-32"), strict=True
    ):
        kind = ImageEvalConfig if evaluator is magicbrush_scores else EmuEvalConfig
        with pytest.raises(UserError, match="'ViT-B-32' has another activation.*take ViT-B-32-quickgelu"):
            evaluator.evaluate_run(kind(**config))


def test_the_variant_of_instructpix2pix(data, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluations.metrics.encoders.CLIP_L14_MODEL", TINY_CLIP)
    _, emu = settings(data, tmp_path, metric="clip-dir-l14", clip_l14_ckpt=str(data / "clip.safetensors"))
    del emu["clip_ckpt"], emu["dino_ckpt"]
    emu_scores.evaluate_run(EmuEvalConfig(**emu))
    items = json.loads((tmp_path / "emu" / "evaluation_items.json").read_text())
    plain = PlainFeatures()

    def unit(features: np.ndarray) -> np.ndarray:
        return torch.nn.functional.normalize(torch.from_numpy(features), dim=0).numpy()

    image, start = (
        unit(plain.clip_image(data / "samples" / "4.png")),
        unit(plain.clip_image(data / "sources" / "4_gt.png")),
    )
    before, after = (unit(plain.clip_text(text)) for text in EMU[4])
    assert items[0]["metrics"]["clip-dir-l14"] == pytest.approx(
        plain_cosine(image - start, after - before), abs=1e-6
    )
