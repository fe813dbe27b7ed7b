"""Which classifiers are linear, so that mixing can go through the clean logits, and how to apply them densely."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Classifier = Callable[[Tensor], Tensor]

_BATCH_NORMS = (nn.BatchNorm1d, nn.SyncBatchNorm)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_CAST_FOR_TORCHSCRIPT = "timm.layers.linear.Linear"
"""A linear layer with a forward of its own, which is that of `nn.Linear` but in TorchScript under autocast."""


def is_linear(classifier: Classifier) -> bool:
    """Whether the classifier is an affine map of each embedding: a linear layer, a 1x1 convolution, or a chain.

    >>> is_linear(nn.Linear(8, 3)), is_linear(nn.Conv2d(8, 3, 1)), is_linear(nn.Conv2d(8, 3, 3))
    (True, True, False)
    """
    # A chain of layers of several kinds cannot be called on features of any one shape.
    kinds = {_kind(layer) for layer in _layers(classifier)} - {nn.Identity}
    return len(kinds) <= 1 and None not in kinds


def apply_linear(classifier: Classifier, tokens: Tensor, given: Tensor | None = None) -> Tensor:
    """A linear classifier at every position: tokens (b, r, d) -> logits (b, r, c), or embeddings (b, d) -> (b, c).

    It is called as a whole, so that hooks run: those of its user, and of what shards, offloads or adapts it.

    Args:
        given: the features that the tokens are of, for the error.
    """
    classifier = _unwrapped(classifier)
    first = next((layer for layer in _layers(classifier) if not isinstance(layer, nn.Identity)), None)
    takes = getattr(first, "in_channels" if isinstance(first, CONVOLUTIONS) else "in_features", 0)
    if takes not in (0, tokens.shape[-1]):  # lazy layers and nn.Identity take any
        given = tokens if given is None else given
        fix = "give what the classifier is given in the network (model.dense(features), for a model of multimix.models)"
        if given.ndim == 3 and given.shape[1] == takes:
            fix = "give features (b, d, t) of a 1-D convolution as (b, t, d), features.mT"
        elif given.ndim > 3 and given.shape[-1] == takes:
            fix = "give features with the channels last as (b, r, d), features.flatten(1, -2)"
        raise ValueError(
            f"the classifier takes embeddings of {takes} numbers, got {tokens.shape[-1]} from embeddings or features "
            f"{tuple(given.shape)}: {fix}"
        )
    if isinstance(first, CONVOLUTIONS):
        if tokens.ndim == 2:
            return apply_linear(classifier, tokens[:, None])[:, 0]
        spatial = (tokens.shape[1],) + (1,) * (len(first.kernel_size) - 1)
        return as_logits(classifier(tokens.mT.unflatten(2, spatial))).flatten(2).mT
    return as_logits(classifier(tokens))


def check_callable(classifier: object) -> None:
    """A layer or function; of networks with several heads, one of them."""
    if not callable(classifier):
        raise TypeError(f"the classifier must be a layer or a function, got {type(classifier).__name__}")


def as_logits(found: object) -> Tensor:
    """What a classifier returned, if it is a tensor."""
    if isinstance(found, Tensor):
        return found
    picked = "[0]" if isinstance(found, (tuple, list)) and not hasattr(found, "logits") else ".logits"
    raise TypeError(
        f"the classifier must return logits, got {type(found).__name__}: pass a function that picks them out, such as "
        f"lambda z: classifier(z){picked}"
    )


def call_mixed(classifier: Classifier, mixed: Tensor, what: str, fix: str) -> Tensor:
    """Logits of a classifier that is not linear; where it fails, a note says what it was given, and the fix."""
    if torch.compiler.is_compiling():  # a graph cannot be broken within `try`
        return as_logits(classifier(mixed))
    try:
        found = classifier(mixed)
    except Exception as error:
        error.add_note(f"{what} of shape {tuple(mixed.shape)}. {fix}")
        raise
    return as_logits(found)


def _unwrapped(classifier: Any) -> Any:
    """What `torch.compile` wraps."""
    return getattr(classifier, "_orig_mod", classifier)


def _layers(classifier: Classifier) -> Iterator[Any]:
    """The layers that a classifier applies one after the other: itself, or those of a chain."""
    classifier = _unwrapped(classifier)
    if isinstance(classifier, nn.Sequential) and _runs(classifier, nn.Sequential):
        for part in classifier:
            yield from _layers(part)
    else:
        yield classifier


def _kind(layer: Any) -> type[nn.Module] | None:
    """Which layer this is, None if it is not known to be affine at each position."""
    kind = next((kind for kind in (nn.Linear, nn.Identity, *CONVOLUTIONS) if isinstance(layer, kind)), None)
    if kind is None or not _runs(layer, kind):
        return None
    if isinstance(layer, CONVOLUTIONS):
        pointwise = all(k == 1 for k in layer.kernel_size) and all(s == 1 for s in layer.stride)
        unpadded = layer.padding in ("valid", "same") or not any(layer.padding)
        return kind if pointwise and unpadded else None
    return kind


def _runs(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the forward is that of `kind`: a subclass, or an instance by itself, may well normalise."""
    own = type(module)
    known = own.forward is kind.forward or f"{own.__module__}.{own.__qualname__}" == _CAST_FOR_TORCHSCRIPT
    inner = ("__call__", "_call_impl", "_conv_forward")
    known = known and all(getattr(own, name, None) is getattr(kind, name, None) for name in inner)
    return known and "forward" not in vars(module)


def called(classifier: Classifier) -> str:
    """How an error calls a classifier, such that no other layer's namesake is taken for PyTorch's.

    >>> class ReLU(nn.Module): ...
    >>> called(nn.ReLU()), called(ReLU())
    ('ReLU', 'multimix.criteria.classifiers.ReLU')
    """
    kind = classifier if hasattr(classifier, "__qualname__") else type(classifier)
    name: str = kind.__qualname__
    return name if getattr(nn, name, kind) is kind else f"{kind.__module__}.{name}"


def wants_tokens(classifier: Classifier) -> bool:
    """Whether a chain begins with a layer for the last dimension, where maps (n, d, *spatial) have no channels.

    >>> wants_tokens(nn.Sequential(nn.Dropout(), nn.Linear(3, 5))), wants_tokens(nn.Sequential(nn.Conv2d(3, 5, 3)))
    (True, False)
    """
    passing = (nn.Identity, nn.modules.dropout._DropoutNd)
    first = next((layer for layer in _layers(classifier) if not isinstance(layer, passing)), None)
    # LayerNorm2d, of torchvision and timm, is a subclass that normalises the channels of maps.
    of_maps = isinstance(first, nn.LayerNorm) and type(first).__name__.removesuffix("Fp32").endswith("2d")
    return isinstance(first, (nn.Linear, nn.LayerNorm, nn.BatchNorm1d)) and not of_maps


def normalizes_rows(classifier: Classifier) -> bool:
    """Whether a chain has batch normalisation of embeddings (b, d), which would take positions (b, r, d) for channels.

    >>> normalizes_rows(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))), normalizes_rows(nn.Linear(3, 5))
    (True, False)
    """
    return any(isinstance(layer, _BATCH_NORMS) for layer in _layers(classifier))


def class_weights(classifier: Classifier, *, gradient: bool = False) -> Tensor:
    """The weight (c, d) of a linear layer or 1x1 convolution, for attention by class (CAM).

    Args:
        gradient: attached to the classifier; a weight that is sharded over processes (FSDP) cannot be.
    """
    classifier = _unwrapped(classifier)
    if not isinstance(classifier, (nn.Linear, *CONVOLUTIONS)) or not is_linear(classifier):
        kind = type(classifier).__name__
    elif getattr(classifier, "groups", 1) > 1:
        kind = f"one of {classifier.groups} groups"
    else:
        weight = classifier.weight if gradient else classifier.weight.detach()
        if not hasattr(weight, "full_tensor"):
            return weight.flatten(1)
        if not gradient:
            return weight.full_tensor().flatten(1)
        raise ValueError(
            "attention='cam' with detach_attention=False takes a gradient in the classifier's weight, which is sharded "
            "over processes here and would not be averaged over them: use detach_attention=True"
        )
    raise ValueError(
        f"attention='cam' needs a classifier that is one nn.Linear or 1x1 convolution, got {kind}: "
        "use attention='gap' or 'uniform'"
    )
