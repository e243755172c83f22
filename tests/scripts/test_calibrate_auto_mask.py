"""The calibration of auto masks: the sweep finds a score that is right, the program writes what it chose."""

from __future__ import annotations

import json
import sys

import torch

from autoregressive.editing.auto_mask_settings import AutoMaskSettings


def test_calibration(shapes, vq_ckpt, gpt_ckpts, t5_dir, tmp_path, monkeypatch):
    from scripts import calibrate_auto_mask
    from scripts.checks import auto_mask

    words = [
        "calibrate_auto_mask.py",
        "--magicbrush-path",
        shapes / "test",
        "--output",
        tmp_path / "auto.json",
    ]
    words += ["--vq-ckpt", vq_ckpt, "--gpt-ckpt", gpt_ckpts["edit"], "--t5-path", t5_dir, "--device", "cpu"]
    words += [
        "--mask-rule",
        "exact",
        "--thresholds",
        "0.1",
        "0.5",
        "1",
        "--growths",
        "0",
        "3",
        "--batch-size",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    calibrate_auto_mask.main()
    content = json.loads((tmp_path / "auto.json").read_text())
    assert content["edits"] == 7 and len(content["table"]) == 3 * 8 * 2
    assert content["iou"] == max(row["iou"] for row in content["table"])
    # Grown by 3 every cell is chosen: the intersection over union is the share of the true cells.
    everything = next(row for row in content["table"] if row["growth"] == 3)
    assert everything["cells"] == 9 and 0 < everything["iou"] < 1
    assert AutoMaskSettings.load(tmp_path / "auto.json").to_dict() == content["settings"]

    # A score that is high exactly where the edit is must be found out.
    true = torch.eye(9, dtype=torch.bool)
    best = auto_mask.sweep(
        true * 3.0, true, 3, [AutoMaskSettings(t, 0, g) for t in (0.0, 1.0) for g in (0, 1)]
    )[0]
    assert (best["threshold"], best["growth"], best["iou"]) == (1.0, 0, 1.0)
