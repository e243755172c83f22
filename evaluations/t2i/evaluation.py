"""Text-to-image quality on COCO: FID against all of val2014, and the CLIP score.

    python evaluations/t2i/evaluation.py --fake_dir samples/coco30k --ref_dir data/coco --eval_res 256

`<fake_dir>/images/*.png` are the generated images and `<fake_dir>/captions.txt` their captions, a line each,
the first for 000000.png (or 0.png); `<ref_dir>/val2014` holds the references (with another --ref_data
`<ref_dir>/<ref_type>`, without captions).

Writes `score.txt` (as published), `score.json`, `score_items.json` and `score_items.html` (the worst and best
images by CLIP score) into `<fake_dir>`. The statistics of the references are kept in `--fid_cache`, where an
interrupted run goes on too. Under torchrun the ranks share the work.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluations.editing.measure import GENERATED
from evaluations.encoders import ClipEncoder
from evaluations.fid import (
    FolderSettings,
    ScriptedInception,
    folder_gaussian,
    frechet_distance,
    load_inception,
)
from evaluations.folders import list_images
from evaluations.item_page import write_item_page
from evaluations.t2i.clip_score import VIT_B, VIT_G, WITHOUT, clip_scores, load_clip
from evaluations.t2i.pictures import WHOLE, cut_picture, list_generated, read_captions
from runtime.config import check_ranges, option, parse
from runtime.distributed import Distributed, distributed
from runtime.errors import UserError, run_command
from runtime.files import file_sha256, write_atomic
from runtime.logging import get_logger
from runtime.ranges import COUNT, COUNT_OR_NEVER, SIZE, THREADS

log = get_logger(__name__)

COCO = "coco2014"
_FEW_IMAGES = 10_000


@dataclass(frozen=True)
class T2IEvalConfig:
    """Scores generated images: FID and CLIP score."""

    fake_dir: str = option(help="folder with images/<line>.png and captions.txt")
    ref_dir: str | None = option(None, help="folder with the references, val2014/ for COCO")
    ref_data: str = option(COCO, help="coco2014; another name has no captions and takes --ref_type")
    ref_type: str | None = option(None, help="folder of references below --ref_dir, for another --ref_data")
    how_many: int = option(
        30000, within=COUNT, help="images that the CLIP score takes, from the first; FID takes all"
    )
    clip_model4eval: str = option(VIT_B, help="WO: no CLIP score", choices=(VIT_B, VIT_G, WITHOUT))
    eval_res: int = option(256, within=SIZE, help="side of the square images that are compared")
    eval_bottom: int = option(
        WHOLE, within=COUNT_OR_NEVER, help="compare only so many rows from below; -1: all"
    )
    batch_size: int = option(8, within=COUNT, help="images at once")
    num_workers: int = option(2, within=THREADS, help="threads that read images")
    fid: bool = option(True, help="measure FID")
    fid_cache: str = option("results/fid_statistics", help="folder for the references' statistics")
    clip_ckpt: str | None = option(None, help="CLIP's weights, else pretrained_models or the user's caches")
    inception_ckpt: str | None = option(
        None, help="TorchScript Inception, else pretrained_models/inception-2015-12-05.pt"
    )
    device: str = option("auto", help="where the networks run", choices=("auto", "cpu", "cuda"))

    def check(self) -> None:
        """Raises UserError for settings that cannot work together."""
        if self.eval_bottom != WHOLE and not 0 < self.eval_bottom <= self.eval_res:
            raise UserError(
                f"--eval_bottom {self.eval_bottom}: between 1 and --eval_res {self.eval_res}, or -1"
            )
        check_ranges(type(self), vars(self))
        if self.fid and not self.ref_dir:
            raise UserError("give --ref_dir, the folder with the references, or do without FID: --no-fid")
        if self.fid and self.ref_data != COCO and not self.ref_type:
            raise UserError(f"--ref_data {self.ref_data}: give --ref_type, the folder below {self.ref_dir}")
        if not self.fid and not self.scores_captions:
            raise UserError("nothing to measure: neither FID nor a CLIP score was asked for")

    @property
    def scores_captions(self) -> bool:
        return self.ref_data == COCO and self.clip_model4eval != WITHOUT

    @property
    def ref_path(self) -> Path:
        return Path(self.ref_dir) / ("val2014" if self.ref_data == COCO else self.ref_type)

    @property
    def prepared(self) -> str:
        rows = "all" if self.eval_bottom == WHOLE else self.eval_bottom
        return f"centre square, Lanczos to {self.eval_res}, {rows} rows from below"


def evaluate_run(config: T2IEvalConfig, world: Distributed) -> dict[str, Any]:
    """Scores a folder of generated images and writes the scores into it.

    Returns:
      The content of `score.json`: "clip_score" and "fid" (None where not asked for), and "info".
    Raises:
      UserError: for missing weights, unreadable files, and images that captions.txt has no line for.
    """
    config.check()
    fakes = list_generated(config.fake_dir)
    captions = read_captions(config.fake_dir, fakes) if config.scores_captions else []
    # References and weights are looked for before anything is computed.
    references = list_images(config.ref_path) if config.fid else []
    inception = load_inception(config.inception_ckpt, "--no-fid") if config.fid else None
    clip = (
        load_clip(config.clip_model4eval, config.clip_ckpt, world.device) if config.scores_captions else None
    )

    scores = _score_captions(config, clip, fakes, captions, world) if clip else []
    fid = _measure_fid(config, inception, fakes, references, world) if inception else None
    networks = {"clip": clip, "inception": inception}
    info = {key: value for key, value in dataclasses.asdict(config).items() if value is not None} | {
        "prepared": config.prepared,
        "num_generated": len(fakes),
        "num_references": len(references),
        "num_clip_pairs": len(scores),
        "weights": {name: network.describe() for name, network in networks.items() if network},
    }
    if clip:
        info["captions_sha256"] = file_sha256(Path(config.fake_dir) / "captions.txt")
    mean = math.fsum(scores) / len(scores) if scores else None
    result = {"clip_score": mean, "fid": fid, "info": info}
    if world.is_main:
        _write(config, result, [_item(*found) for found in zip(fakes, captions, scores, strict=False)])
    return result


def format_scores(result: dict[str, Any]) -> str:
    """The lines of the published score.txt, of what was measured."""
    lines = []
    if result["clip_score"] is not None:
        lines.append(f"CLIP score: {result['clip_score']}")
    if result["fid"] is not None:
        lines.append(f"FID_{result['info']['eval_res']}px: {result['fid']}")
    return "\n".join(lines)


def main() -> None:
    config = parse(T2IEvalConfig)
    with distributed(config.device) as world:
        result = evaluate_run(config, world)
        if world.is_main:
            print(format_scores(result))


def _score_captions(
    config: T2IEvalConfig, clip: ClipEncoder, fakes: list[Path], captions: list[str], world: Distributed
) -> list[float]:
    chosen = slice(config.how_many)
    return clip_scores(
        clip,
        fakes[chosen],
        captions[chosen],
        world,
        cut=partial(cut_picture, side=config.eval_res, bottom=config.eval_bottom),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )


def _measure_fid(
    config: T2IEvalConfig,
    inception: ScriptedInception,
    fakes: list[Path],
    references: list[Path],
    world: Distributed,
) -> float:
    if world.is_main and min(len(fakes), len(references)) < _FEW_IMAGES:
        log.warning(
            "FID of %d images against %d: it grows as images get fewer; compare it only at equal numbers "
            "(published figures: 30,000)", len(fakes), len(references)
        )  # fmt: skip
    settings = FolderSettings(
        prepare=partial(cut_picture, side=config.eval_res, bottom=config.eval_bottom),
        prepared=config.prepared,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )
    cached = dataclasses.replace(settings, cache_dir=config.fid_cache)
    reference = folder_gaussian(references, inception, world, cached)
    return frechet_distance(folder_gaussian(fakes, inception, world, settings), reference)


def _item(path: Path, caption: str, score: float) -> dict[str, Any]:
    return {
        "row": GENERATED,
        "protocol": COCO,
        "session": None,
        "turn": None,
        "instruction": caption,
        "caption": None,
        "generated": str(path),
        "target": None,
        "source": None,
        "metrics": {"clip-t": score},
    }


def _write(config: T2IEvalConfig, result: dict[str, Any], items: list[dict[str, Any]]) -> None:
    folder = Path(config.fake_dir)
    texts = {
        "score.txt": format_scores(result) + "\n",
        "score.json": json.dumps(result, indent=1, allow_nan=False) + "\n",
    }
    if items:
        texts["score_items.json"] = json.dumps(items, indent=1, allow_nan=False) + "\n"
        write_item_page(folder / "score_items.html", items)
    for name, text in texts.items():
        write_atomic(folder / name, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
