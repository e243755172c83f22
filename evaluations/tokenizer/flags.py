"""The flags of what measures reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import option
from runtime.flags import scoring, shared
from runtime.flags.ranges import THREADS


@dataclass(frozen=True)
class JudgeFlags:
    """The flags of the judges that need weights; naming a weight file asks for its judge."""

    lpips: bool = option(False, help="measure LPIPS too (VGG16)")
    vgg_ckpt: str | None = scoring.vgg_ckpt()
    lpips_ckpt: str | None = scoring.lpips_ckpt()
    fid: bool = scoring.fid(False, "measure the Fréchet inception distance of the two sets too")
    inception_ckpt: str | None = scoring.inception_ckpt()


@dataclass(frozen=True)
class TokenizerEvalConfig(JudgeFlags):
    """Scores reconstructed images: PSNR, SSIM, LPIPS, FID."""

    generated_path: str = option(help="folder of reconstructions")
    gt_path: str = option(help="folder of originals, with the same names")
    save_path: str | None = scoring.save_path("generated_path")
    batch_size: int = shared.batch_size(16, "pairs at once")
    num_workers: int = shared.num_workers(2, "threads that read and compare images", within=THREADS)
    device: str = shared.device("where LPIPS and Inception run", choices=("auto", "cpu", "cuda", "mps"))
