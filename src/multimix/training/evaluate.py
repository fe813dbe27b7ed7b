"""The metrics of one epoch on one split."""

from __future__ import annotations

import torch
from torch import nn

from .. import evaluation
from ..evaluation.inference import Loader
from .devices import Ranks

__all__ = ["evaluate_model"]


def evaluate_model(model: nn.Module, loader: Loader, *, ranks: Ranks | None = None) -> dict[str, float | None]:
    """Evaluate a classifier on every example of `loader`.

    Args:
        model: images (b, channels, h, w) in [0, 1] -> logits (b, c). Its training mode is restored.
        loader: a loader of `multimix.data`, or any iterable of (images, labels, ...).
        ranks: with several processes, each with its share of the examples; all of them get the result.

    Returns:
        `loss` (negative log-likelihood), `accuracy`, `top5` (None with five classes or fewer) and `ece` (15 bins);
        fractions in [0, 1].

    Raises:
        FloatingPointError: a logit is not finite.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> sorted(evaluate_model(net, [(torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64))]))
    ['accuracy', 'ece', 'loss', 'top5']
    """
    logits, labels = evaluation.predict(model, loader)
    if ranks is not None and ranks.size > 1:
        shares = ranks.gather((logits.cpu(), labels.cpu()))
        logits, labels = (torch.cat(parts) for parts in zip(*shares, strict=True))
    if logits.device.type == "mps":  # which has no float64
        logits, labels = logits.cpu(), labels.cpu()
    if not logits.isfinite().all():
        raise FloatingPointError("the model's logits are not finite")
    return {
        "loss": evaluation.negative_log_likelihood(logits, labels),
        "accuracy": evaluation.accuracy(logits, labels),
        "top5": evaluation.accuracy(logits, labels, k=5) if logits.shape[1] > 5 else None,
        "ece": evaluation.expected_calibration_error(logits.double().softmax(dim=1), labels),
    }
