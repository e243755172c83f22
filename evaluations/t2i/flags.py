"""The flags of the text-to-image evaluator, and what they choose from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.config import check_ranges, option
from runtime.errors import UserError
from runtime.flags import scoring, shared
from runtime.flags.ranges import COUNT, COUNT_OR_NEVER, SIZE, THREADS

COCO = "coco2014"
VIT_B, VIT_G, WITHOUT = "ViT-B/32", "ViT-G/14", "WO"
WHOLE = -1  # eval_bottom: all rows


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
    batch_size: int = shared.batch_size(8, "images at once")
    num_workers: int = shared.num_workers(2, "threads that read images", within=THREADS)
    fid: bool = scoring.fid(True, "measure FID")
    fid_cache: str = option("results/fid_statistics", help="folder for the references' statistics")
    clip_ckpt: str | None = scoring.clip_ckpt()
    inception_ckpt: str | None = scoring.inception_ckpt()
    device: str = shared.device("where the networks run", choices=("auto", "cpu", "cuda", "mps"))

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
