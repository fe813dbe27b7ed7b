"""Calibration: does a confidence of 0.8 mean being right eight times in ten?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..functional._checks import check_count
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
    p, labels = _check(probabilities, labels, bins)
    confidence, predicted = p.max(dim=1)
    right = (predicted == labels).double()
    edges = torch.arange(1, bins, dtype=p.dtype, device=p.device) / bins
    return _gathered(confidence, right, torch.bucketize(confidence, edges), bins)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The mean over examples of |accuracy - confidence| of their bin (Guo et al., ICML 2017; l1).

    Args and errors as in `reliability`.

    Returns:
        A fraction in [0, 1]; 0 is perfectly calibrated.

    >>> always_sure = torch.tensor([[1.0, 0.0]]).expand(10, 2)
    >>> round(expected_calibration_error(always_sure, torch.tensor([0] * 7 + [1] * 3)), 6)
    0.3
    """
    return _error(reliability(probabilities, labels, bins))


def adaptive_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The calibration error in bins that hold equally many examples each, up to one, instead of equal widths (Nguyen
    and O'Connor, EMNLP 2015): where nearly all predictions are confident, equal widths put them into one or two bins.

    Examples of equal confidence that lie on both sides of an edge all count with their mean accuracy, as nothing says
    which of them belong to which bin.

    Args and errors as in `reliability`; with fewer examples than `bins` every example is a bin.

    >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    >>> round(adaptive_calibration_error(p, torch.tensor([0, 0, 0, 1]), bins=2), 6)  # (0.15 + 0.1) / 2
    0.125
    """
    p, labels = _check(probabilities, labels, bins)
    confidence, predicted = p.max(dim=1)
    distinct, group = confidence.unique(return_inverse=True)
    right = _gathered(confidence, (predicted == labels).double(), group, len(distinct)).accuracies[group]
    order = confidence.argsort()
    bin_of = torch.arange(len(p), device=p.device) * bins // len(p)
    return _error(_gathered(confidence[order], right[order], bin_of, bins))


def classwise_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The calibration error of the probability of every class, predicted or not, averaged over the classes (Kull et
    al., NeurIPS 2019; Nixon et al., 2019, call it SCE).

    Args and errors as in `reliability`.

    >>> p = torch.tensor([[0.75, 0.25]]).expand(4, 2)
    >>> classwise_calibration_error(p, torch.tensor([0, 0, 1, 1]))  # both classes are 0.25 off
    0.25
    """
    p, labels = _check(probabilities, labels, bins)
    edges = torch.arange(1, bins, dtype=p.dtype, device=p.device) / bins
    errors = []
    for number, column in enumerate(p.T):
        bin_of = torch.bucketize(column.contiguous(), edges)
        errors.append(_error(_gathered(column, (labels == number).double(), bin_of, bins)))
    return sum(errors) / len(errors)


def _check(probabilities: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The probabilities in float64 and the labels in int64, or one clear error."""
    labels = check_predictions(probabilities, labels, name="probabilities")
    check_count("bins", bins)
    p = probabilities.double()
    # Half precision rounds every entry, so that a row may miss 1 by about c * 2**-9.
    if not ((p >= 0).all() and ((p.sum(dim=1) - 1).abs() < 1e-2).all()):
        raise ValueError(
            "probabilities must have rows that are non-negative and sum to 1, got values from "
            f"{p.min().item():.4g} to {p.max().item():.4g} and row sums from {p.sum(1).min().item():.4g} to "
            f"{p.sum(1).max().item():.4g}: pass logits.softmax(dim=1)"
        )
    return p, labels


def _gathered(confidence: Tensor, right: Tensor, bin_of: Tensor, bins: int) -> Reliability:
    def total(values: Tensor) -> Tensor:
        # Not bincount, which has no deterministic kernel on a GPU.
        return values.new_zeros(bins).index_add_(0, bin_of, values)

    counts = total(torch.ones_like(confidence))
    return Reliability(total(confidence) / counts, total(right) / counts, counts)


def _error(diagram: Reliability) -> float:
    gaps = (diagram.accuracies - diagram.confidences).abs().nan_to_num()
    return (gaps * diagram.counts / diagram.counts.sum()).sum().item()
