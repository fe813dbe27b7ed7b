"""Wasserstein barycenters of images with entropic regularisation (Solomon et al., SIGGRAPH 2015; Benamou et al., 2015),
without their blur if wanted (Janati et al., ICML 2020), for any number of problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..functional._checks import check_positive


def check_reg(reg: float) -> float:
    """A `reg` for which the kernel between opposite borders, exp(-1 / reg), does not underflow in float64."""
    if not check_positive("reg", reg) >= 1 / 650:
        raise ValueError(f"reg must be at least 1/650 = {1 / 650:.5f} of the squared longer side, got {reg!r}")
    return float(reg)


def convolutional_barycenter(
    histograms: Tensor, weights: Tensor, *, reg: float, iterations: int, debiased: bool = False
) -> Tensor:
    """argmin_a sum_i weights_i W_reg(a, histograms_i), where W_reg is the entropic transport cost for squared distances
    on a grid whose longer side is 1.

    Iterative Bregman projections, on logarithms. The kernel exp(-distance^2 / reg) is separable, so it is applied
    as one matrix product for each axis; the largest value of every line is divided out before, which keeps the
    products in the range of float64 however far apart the masses are.

    Args:
        histograms: (k, ..., height, width), each of the k images non-negative with sum 1.
        weights: (k,), on the simplex.
        reg: the width of the kernel is sqrt(reg / 2) of the longer side.
        iterations: fixed, so that nothing waits for a device; mass is conserved only in the limit.
        debiased: minimise the sum of Sinkhorn divergences instead, which has no entropic blur: the
            barycenter of copies of an image is that image.

    Returns:
        (..., height, width), float64.

    Raises:
        ValueError: `reg` is smaller than 1/650.

    >>> left, right = torch.eye(9)[[1, 7]].view(2, 1, 9)  # two points
    >>> middle = convolutional_barycenter(torch.stack((left, right)), torch.tensor([0.5, 0.5]), reg=0.01, iterations=50)
    >>> middle.argmax()
    tensor(4)
    """
    blur = _log_blur(histograms, check_reg(reg))
    log_histograms = (histograms.double() + 1e-30).log()
    weights = weights.to(log_histograms).view(-1, *[1] * (histograms.ndim - 1))
    potential = torch.zeros_like(log_histograms)
    barycenter = correction = torch.zeros_like(log_histograms[0])
    for _ in range(iterations):
        marginals = blur(log_histograms - blur(potential))
        barycenter = (weights * marginals).sum(0) + correction
        potential = barycenter - marginals
        if debiased:
            correction = (correction + barycenter - blur(correction)) / 2
    return barycenter.exp()


def _log_blur(like: Tensor, reg: float) -> Callable[[Tensor], Tensor]:
    """log(K exp(x)) for x (..., height, width), K the Gaussian kernel of the grid."""
    longest = max(*like.shape[-2:], 2) - 1

    def kernel(size: int) -> Tensor:
        position = torch.arange(size, dtype=torch.float64, device=like.device) / longest
        return (-((position[:, None] - position) ** 2) / reg).exp()

    rows, columns = kernel(like.shape[-2]), kernel(like.shape[-1])

    def along_last(x: Tensor, kernel: Tensor) -> Tensor:
        largest = x.amax(-1, keepdim=True)
        return ((x - largest).exp() @ kernel).log() + largest

    return lambda x: along_last(along_last(x, columns).mT, rows).mT
