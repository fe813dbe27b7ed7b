"""Run a model over a whole data set, in evaluation mode and without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..models import SplitModel
from ..models.modes import keeping_modes


class BatchSource(Protocol):
    """What `multimix.data.loader` returns."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]: ...


Loader = BatchSource | Iterable[Any]


def predict(model: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """The logits (N, c), float32, and labels (N,) of all examples, on the model's device.

    Args:
        model: maps images (b, channels, height, width) to logits (b, c). Its training mode is restored.
        loader: a loader of `multimix.data`, or any iterable of (images, labels, ...) such as a DataLoader.

    Raises:
        ValueError: the loader yields nothing.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> logits, labels = predict(net, [(torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64))])
    >>> logits.shape, labels.shape, net.training
    (torch.Size([5, 3]), torch.Size([5]), True)
    """
    return _run(model, model, loader)


def embeddings(model: SplitModel, loader: Loader) -> tuple[Tensor, Tensor]:
    """The embeddings (N, d), float32, just before the classifier, and the labels (N,), on the model's device.

    Args and errors as in `predict`, but `model` is a `multimix.models.SplitModel`.

    >>> from multimix.models import SplitModel
    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(4, 3))
    >>> embeddings(net, [(torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64))])[0].shape
    torch.Size([5, 4])
    """
    return _run(model, model.embed, loader)


def _run(model: nn.Module, function: Callable[[Tensor], Tensor], loader: Loader) -> tuple[Tensor, Tensor]:
    outputs, labels = [], []
    with evaluating(model):
        for images, batch in images_of(loader, model):
            outputs.append(function(images).float())
            labels.append(batch[1].to(images.device))
    return torch.cat(outputs), torch.cat(labels)


def images_of(loader: Loader, model: nn.Module) -> Iterator[tuple[Tensor, Any]]:
    """The images of every batch of a loader, on the model's device, each with its batch.

    Raises:
        TypeError: a tensor, whose first dimension would be taken for batches.
        ValueError: the loader yields nothing.
    """
    if isinstance(loader, Tensor):
        raise TypeError(
            "the loader must yield batches of images and labels, got a tensor of shape "
            f"{tuple(loader.shape)}: pass [(images, labels)]"
        )
    batch = None
    for batch in loader.batches(0) if hasattr(loader, "batches") else loader:
        yield batch[0].to(next((p.device for p in model.parameters()), batch[0].device)), batch
    if batch is None:
        raise ValueError("the loader yields no batch: the data set is empty, or the iterator is used up")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own training mode is restored afterwards."""
    with keeping_modes(model), torch.inference_mode():
        model.eval()
        yield
