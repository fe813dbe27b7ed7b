"""Out-of-distribution detection: how well a score tells test images from images of another kind.

Every score is higher for what looks more in-distribution. Legend: N images.

>>> import torch
>>> scores_in, scores_out = max_softmax(torch.tensor([[9.0, 0.0]])), max_softmax(torch.tensor([[1.0, 0.5]]))
>>> ood_metrics(scores_in, scores_out)["auroc"]
1.0
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..functional._checks import check_tensor

METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95", "detection_accuracy")
"""The keys of `ood_metrics`."""


def ood_metrics(scores_in: Tensor, scores_out: Tensor) -> dict[str, float]:
    """The measures of the ODIN lineage (Liang et al., ICLR 2018), exact and with ties, as fractions.

    An image is accepted as in-distribution when its score is at least a threshold; TPR is the share of
    in-distribution images that are accepted, FPR that of the others. All distinct scores are tried as threshold.

    - `auroc`: probability that an in-distribution image scores higher than another one; ties count half.
    - `aupr_in`, `aupr_out`: average precision, sum over thresholds of (R_k - R_k-1) P_k, with in- or
      out-of-distribution images as positives. Unlike the others they depend on the ratio of the two counts (ODIN's
      program takes rates for counts, as if there were as many of both).
    - `fpr95`: the smallest FPR at a TPR of at least 95 %; lower is better. In-distribution images are the positives,
      as in ODIN; pytorch-ood's FPR95TPR has outliers as positives and is another number.
    - `detection_accuracy`: 1 - min over thresholds of (FNR + FPR) / 2.

    Args:
        scores_in: (N,) scores of in-distribution images, higher = more in-distribution.
        scores_out: (M,) scores of out-of-distribution images.

    Raises:
        ValueError: no scores, scores of another shape, or NaN.

    >>> found = ood_metrics(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0]))
    >>> found["auroc"], found["fpr95"], found["detection_accuracy"]
    (0.875, 0.5, 0.75)
    """
    counts = _count(scores_in, scores_out)
    reversed_counts = _Counts(counts.out_N.flip(0), counts.in_N.flip(0))
    tpr, fpr = counts.rates()
    return {
        # Trapezoids between neighbouring points of the ROC curve give a tie its half.
        "auroc": torch.trapezoid(tpr, fpr).item(),
        "aupr_in": _average_precision(counts),
        "aupr_out": _average_precision(reversed_counts),
        "fpr95": fpr[tpr >= 0.95].min().item(),
        "detection_accuracy": (1 - ((1 - tpr + fpr) / 2).min()).item(),
    }


def roc_curve(scores_in: Tensor, scores_out: Tensor) -> tuple[Tensor, Tensor]:
    """FPR and TPR at all distinct thresholds, the strictest first: both (K + 1,), from (0, 0) to (1, 1).

    Args and errors as in `ood_metrics`.

    >>> fpr, tpr = roc_curve(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0]))
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    tpr, fpr = _count(scores_in, scores_out).rates()
    return fpr, tpr


def max_softmax(logits: Tensor) -> Tensor:
    """The largest softmax probability (Hendrycks and Gimpel, ICLR 2017) of logits (N, c): (N,)."""
    # In float32 all confident predictions would tie at 1.
    return _logits(logits).softmax(dim=1).amax(dim=1)


def max_logit(logits: Tensor) -> Tensor:
    """The largest logit (Hendrycks et al., ICML 2022) of logits (N, c): (N,)."""
    return _logits(logits).amax(dim=1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The negative free energy T log sum_c exp(logit_c / T) (Liu et al., NeurIPS 2020) of logits (N, c): (N,).

    Raises:
        ValueError: a temperature that is not positive.

    >>> round(energy(torch.zeros(1, 4)).item(), 4)
    1.3863
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return temperature * (_logits(logits) / temperature).logsumexp(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """The negative entropy of the softmax, sum_c p_c log p_c, of logits (N, c): (N,), at most 0.

    It is negated so that, as for all scores here, higher is more in-distribution.

    >>> round(entropy(torch.zeros(1, 4)).item(), 4)
    -1.3863
    """
    log_p = _logits(logits).log_softmax(dim=1)
    return torch.xlogy(log_p.exp(), log_p.exp()).sum(dim=1)


class _Counts(NamedTuple):
    """How many images have each distinct score, the highest score first."""

    in_N: Tensor
    out_N: Tensor

    def rates(self) -> tuple[Tensor, Tensor]:
        start = self.in_N.new_zeros(1)
        tpr = torch.cat([start, self.in_N.cumsum(0)]) / self.in_N.sum()
        fpr = torch.cat([start, self.out_N.cumsum(0)]) / self.out_N.sum()
        return tpr, fpr


def _count(scores_in: Tensor, scores_out: Tensor) -> _Counts:
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        check_tensor(name, scores)
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name} must have shape (N,) with N >= 1, got {tuple(scores.shape)}")
        if bool(scores.isnan().any()):
            raise ValueError(
                f"{name} must not contain NaN, got {int(scores.isnan().sum())} among {len(scores)}: "
                "check that the model gives finite logits"
            )
    scores = torch.cat([scores_in.detach().cpu().double(), scores_out.detach().cpu().double()])
    values, inverse = scores.unique(return_inverse=True)
    inside, outside = inverse[: len(scores_in)], inverse[len(scores_in) :]
    return _Counts(*(torch.bincount(part, minlength=len(values)).flip(0).double() for part in (inside, outside)))


def _average_precision(counts: _Counts) -> float:
    positives, negatives = counts
    hits = positives.cumsum(0)
    precision = hits / (hits + negatives.cumsum(0))
    return ((positives / positives.sum()) * precision).sum().item()


def _logits(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(f"logits must have shape (N, c) with N, c >= 1, got {tuple(logits.shape)}")
    return logits.detach().double()
