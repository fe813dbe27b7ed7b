"""SaliencyMix (Uddin et al., ICLR 2021): CutMix with the box where the pasted image is salient."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..extras import require
from ..functional._checks import check_images, check_pixels, check_positive
from .pairs import InputMethod, Pairing, host, probabilities


class SaliencyMix(InputMethod):
    """CutMix, the box centred on the partner's saliency peak: OpenCV's fine-grained static saliency.

    One lambda ~ Beta(alpha, alpha) and one permutation per mini-batch; the box has sides sqrt(1 - lambda) of the
    image's and is clipped at the border. Targets are mixed by the share of pixels that each image keeps. The
    authors apply it with probability 0.5 (`Either(SaliencyMix(), Erm(), p=0.5)`).

    The saliency is computed on the CPU, in as many threads as PyTorch uses (`torch.set_num_threads`); images on another
    device are copied there.

    Args:
        alpha: default 1.0, as in the authors' code.
        per_image: every partner has a box at its own peak. False: the authors' code, one box for the mini-batch at
            the peak of the first image's partner.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = SaliencyMix().mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def __init__(self, alpha: float = 1.0, *, per_image: bool = True) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)
        self.per_image = per_image

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `InputMethod.mix`, with pixels in [0, 1]."""
        check_images(images)
        soft = probabilities(images, targets, num_classes)
        pairing = Pairing.draw(images.shape[0], self.alpha, host(generator), images.device)
        salient = images[pairing.partner if self.per_image else pairing.partner[:1]]
        peaks = saliency_peaks(salient).to(images.device, non_blocking=True)
        rows = _interval(images.shape[-2], peaks[:, 0], pairing.lam)
        columns = _interval(images.shape[-1], peaks[:, 1], pairing.lam)
        box = rows[:, None, :, None] & columns[:, None, None, :]
        mixed = torch.where(box, images[pairing.partner], images)
        kept = 1 - box.double().mean((1, 2, 3)).to(soft.dtype)[:, None]
        return mixed, torch.lerp(soft[pairing.partner], soft, kept)


def saliency_peaks(images: Tensor) -> Tensor:
    """Row and column (b, 2) of the largest fine-grained static saliency (Montabone and Soto, 2010) of every image
    (b, channels, height, width) with pixels in [0, 1]; the first in row-major order among equals.

    Three channels are red, green and blue; any other number is averaged to grey.

    Raises:
        ImportError: there is no OpenCV, or one without its saliency module.
        ValueError: the pixels are clearly not in [0, 1], which would make the saliency of the 8-bit images senseless.

    >>> image = torch.full((1, 1, 16, 16), 0.5)
    >>> image[..., 5, 9] = 1
    >>> saliency_peaks(image)
    tensor([[5, 9]])
    """
    cv2 = require("cv2", "methods")
    if not hasattr(cv2, "saliency"):  # another OpenCV package installed over the one with the extra modules
        raise ImportError(
            "SaliencyMix needs OpenCV's saliency module, which this cv2 lacks: keep only opencv-contrib-python-headless"
        )
    check_pixels(images)
    low, high = torch.stack(images.aminmax()).tolist()
    # Resampling may overshoot a little; images that a data loader has normalised go much further.
    if not (low > -0.5 and high < 1.5):
        raise ValueError(
            f"SaliencyMix needs pixels in [0, 1], got [{low:.3g}, {high:.3g}]: leave the normalisation to the model"
        )
    grey = images.shape[1] != 3
    pixels = images.mean(1, keepdim=True) if grey else images.flip(1)  # OpenCV's order is blue, green, red
    bytes_BHWC = (pixels.detach() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def peak(index: int) -> int:
        # A detector of its own for every image: they hold scratch state, so threads cannot share one.
        image = bytes_BHWC[index, ..., 0] if grey else bytes_BHWC[index]
        return int(cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(image)[1].argmax())

    with ThreadPoolExecutor(min(len(bytes_BHWC), torch.get_num_threads())) as pool:
        flat = torch.tensor(list(pool.map(peak, range(len(bytes_BHWC)))), device="cpu")
    width = images.shape[-1]
    return torch.stack((flat // width, flat % width), 1)


def _interval(size: int, centres: Tensor, lam: float) -> Tensor:
    """One side of the boxes (b, size): True from centre - half to centre + half, the latter excluded."""
    half = int(size * math.sqrt(1 - lam)) // 2
    offset = torch.arange(size, device=centres.device) - centres[:, None]
    return (offset >= -half) & (offset < half)
