"""Accuracy and negative log-likelihood of logits against class labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._checks import check_tensor


def accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """The fraction of examples whose label is among the `k` largest logits.

    Args:
        logits: (N, c); probabilities will do as well, only their order matters.
        labels: (N,) class indices.
        k: between 1 and c.

    Returns:
        A fraction in [0, 1].

    Raises:
        TypeError: labels that are not integers.
        ValueError: no examples, shapes that do not fit, labels outside [0, c), NaN, or k outside [1, c].

    >>> logits, labels = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([0, 1])
    >>> accuracy(logits, labels), accuracy(logits, labels, k=2)
    (0.5, 1.0)
    """
    labels = check_predictions(logits, labels)
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"k must lie between 1 and the number of classes {classes}, got {k}")
    top = logits.argmax(dim=1, keepdim=True) if k == 1 else logits.topk(k, dim=1).indices
    return (top == labels[:, None]).any(dim=1).double().mean().item()


def per_class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The top-1 accuracy of every class, (c,) float64; NaN for a class with no examples.

    Args and errors as in `accuracy`.

    >>> per_class_accuracy(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([0, 1]))
    tensor([1., 0., nan], dtype=torch.float64)
    """
    labels = check_predictions(logits, labels)
    classes = logits.shape[1]
    hits = torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=classes)
    return hits.double() / torch.bincount(labels, minlength=classes)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """How many examples of every class (rows) are predicted as every class (columns): (c, c) int64.

    Args and errors as in `accuracy`.

    >>> confusion_matrix(torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 1, 1])).tolist()
    [[1, 0], [1, 1]]
    """
    labels = check_predictions(logits, labels)
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes**2).view(classes, classes)


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """The mean over examples of -log softmax(logits)[label], in nats; computed in float64.

    Args:
        logits: (N, c).
        labels: (N,) class indices.

    Raises:
        TypeError: labels that are not integers.
        ValueError: no examples, shapes that do not fit, labels outside [0, c), or NaN.

    >>> round(negative_log_likelihood(torch.zeros(4, 10), torch.arange(4)), 4)  # log 10
    2.3026
    """
    labels = check_predictions(logits, labels)
    return torch.nn.functional.cross_entropy(logits.double(), labels).item()


def check_predictions(scores: Tensor, labels: Tensor, name: str = "logits") -> Tensor:
    """The labels as int64, or one clear error when `scores` (N, c) and `labels` (N,) do not belong together."""
    check_tensor(name, scores)
    check_tensor("labels", labels)
    if scores.ndim != 2 or scores.shape[0] == 0 or scores.shape[1] == 0:
        raise ValueError(f"{name} must have shape (N, c) with N >= 1 and c >= 1, got {tuple(scores.shape)}")
    if labels.shape != scores.shape[:1]:
        raise ValueError(
            f"labels must have shape ({scores.shape[0]},) to fit {name} {tuple(scores.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    labels = class_indices(labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise ValueError(f"labels must lie in [0, {scores.shape[1]}), as {name} have columns, got {low} to {high}")
    if damaged := int(scores.isnan().any(dim=1).sum()):
        # The largest of a row would be the NaN, so that it would pass for a prediction.
        raise ValueError(
            f"{name} must be numbers, got NaN for {damaged} of {len(scores)} examples: check the images and the "
            "model's weights"
        )
    return labels


def class_indices(labels: Tensor) -> Tensor:
    """Labels of any integer type as int64, or a TypeError.

    Narrower ones overflow where they are multiplied, bytes are taken for a mask, and losses take neither.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be class indices of an integer type, got {labels.dtype}")
    return labels.long()
