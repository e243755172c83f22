"""The flags of what measures reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.config import option
from runtime.flags.ranges import COUNT, THREADS


@dataclass(frozen=True)
class JudgeFlags:
    """The flags of the judges that need weights; naming a weight file asks for its judge."""

    lpips: bool = option(False, help="measure LPIPS too (VGG16)")
    vgg_ckpt: str | None = option(
        None, help="torchvision's VGG16 weights, else searched in pretrained_models and torch's cache"
    )
    lpips_ckpt: str | None = option(
        None, help="LPIPS's linear layers, else pretrained_models/vgg.pth or the lpips package's"
    )
    fid: bool = option(False, help="measure the Fréchet inception distance of the two sets too")
    inception_ckpt: str | None = option(
        None, help="TorchScript Inception, else pretrained_models/inception-2015-12-05.pt"
    )


@dataclass(frozen=True)
class TokenizerEvalConfig(JudgeFlags):
    """Scores reconstructed images: PSNR, SSIM, LPIPS, FID."""

    generated_path: str = option(help="folder of reconstructions")
    gt_path: str = option(help="folder of originals, with the same names")
    save_path: str | None = option(
        None, help="folder for the scores (default: scores, beside generated_path)"
    )
    batch_size: int = option(16, within=COUNT, help="pairs at once")
    num_workers: int = option(2, within=THREADS, help="threads that read and compare images")
    device: str = option("auto", help="where LPIPS and Inception run", choices=("auto", "cpu", "cuda"))
