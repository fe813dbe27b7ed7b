"""Calibration: does a confidence of 0.8 mean being right eight times in ten?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .classification import check_predictions


class Reliability(NamedTuple):
    """A reliability diagram: one entry for each bin of confidence, all (bins,) float64."""

    confidences: Tensor
    """Mean confidence of the examples in the bin; NaN when the bin is empty."""
    accuracies: Tensor
    """Fraction of the examples in the bin that are right; NaN when the bin is empty."""
    counts: Tensor
    """Number of examples in the bin."""


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Sort the examples by the confidence of their prediction into equal-width bins ((k-1)/bins, k/bins].

    Args:
        probabilities: (N, c), rows on the simplex.
        labels: (N,) class indices.
        bins: at least 1.

    Raises:
        ValueError: no examples, shapes that do not fit, labels outside [0, c), rows that are not
            probabilities (pass `logits.softmax(1)`, not logits), or bins < 1.

    >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
    >>> diagram = reliability(sure, torch.tensor([0, 1, 1]), bins=2)
    >>> diagram.counts.tolist(), diagram.accuracies[1].item()
    ([0.0, 3.0], 0.6666666666666666)
    """
    check_predictions(probabilities, labels, name="probabilities")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    p = probabilities.double()
    # Half precision rounds every entry, so that a row may miss 1 by about c * 2**-9.
    if not ((p >= 0).all() and ((p.sum(dim=1) - 1).abs() < 1e-2).all()):
        raise ValueError(
            "probabilities must have rows that are non-negative and sum to 1, got values from "
            f"{p.min().item():.4g} to {p.max().item():.4g} and row sums from {p.sum(1).min().item():.4g} to "
            f"{p.sum(1).max().item():.4g}: pass logits.softmax(dim=1)"
        )
    confidence, predicted = p.max(dim=1)
    right = (predicted == labels).double()
    edges = torch.arange(1, bins, dtype=p.dtype, device=p.device) / bins
    bin_of = torch.bucketize(confidence, edges)

    def total(values: Tensor) -> Tensor:
        return torch.bincount(bin_of, weights=values, minlength=bins)

    counts = total(torch.ones_like(confidence))
    return Reliability(total(confidence) / counts, total(right) / counts, counts)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The mean over examples of |accuracy - confidence| of their bin (Guo et al., ICML 2017; l1).

    Args and errors as in `reliability`.

    Returns:
        A fraction in [0, 1]; 0 is perfectly calibrated.

    >>> always_sure = torch.tensor([[1.0, 0.0]]).expand(10, 2)
    >>> round(expected_calibration_error(always_sure, torch.tensor([0] * 7 + [1] * 3)), 6)
    0.3
    """
    confidences, accuracies, counts = reliability(probabilities, labels, bins)
    gaps = (accuracies - confidences).abs().nan_to_num()
    return (gaps * counts / counts.sum()).sum().item()
