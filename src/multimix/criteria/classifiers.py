"""Which classifiers are linear, so that mixing can go through the clean logits, and how to apply them densely."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Classifier = Callable[[Tensor], Tensor]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_linear(classifier: Classifier) -> bool:
    """Whether the classifier is an affine map of each embedding: a linear layer, a 1x1 convolution, or a chain of them.

    >>> is_linear(nn.Linear(8, 3)), is_linear(nn.Conv2d(8, 3, 1)), is_linear(nn.Conv2d(8, 3, 3))
    (True, True, False)
    """
    classifier = getattr(classifier, "_orig_mod", classifier)  # what torch.compile wraps
    if isinstance(classifier, nn.Sequential):
        return type(classifier).forward is nn.Sequential.forward and all(is_linear(part) for part in classifier)
    if isinstance(classifier, nn.Linear):
        return type(classifier).forward is nn.Linear.forward  # a subclass may well normalise
    if isinstance(classifier, _CONVOLUTIONS):
        pointwise = all(k == 1 for k in classifier.kernel_size) and all(s == 1 for s in classifier.stride)
        unpadded = classifier.padding in ("valid", "same") or not any(classifier.padding)
        return pointwise and unpadded and any(type(classifier).forward is kind.forward for kind in _CONVOLUTIONS)
    return isinstance(classifier, nn.Identity) and type(classifier).forward is nn.Identity.forward


def apply_linear(classifier: Classifier, tokens: Tensor) -> Tensor:
    """A linear classifier at every position: tokens (b, r, d) -> logits (b, r, c), or embeddings (b, d) -> (b, c)."""
    classifier = getattr(classifier, "_orig_mod", classifier)
    if isinstance(classifier, nn.Sequential):
        for part in classifier:
            tokens = apply_linear(part, tokens)
        return tokens
    takes = classifier.in_features if isinstance(classifier, nn.Linear) else getattr(classifier, "in_channels", 0)
    if takes not in (0, tokens.shape[-1]):  # lazy layers and nn.Identity take any
        raise ValueError(
            f"the classifier takes embeddings of {takes} numbers, got {tokens.shape[-1]} from embeddings or features "
            f"{tuple(tokens.shape)}: give what the classifier is given in the network (model.dense(features), for a "
            "model of multimix.models)"
        )
    if isinstance(classifier, _CONVOLUTIONS):
        if tokens.ndim == 2:
            return apply_linear(classifier, tokens[:, None])[:, 0]
        spatial = (tokens.shape[1],) + (1,) * (len(classifier.kernel_size) - 1)
        return classifier(tokens.mT.unflatten(2, spatial)).flatten(2).mT
    return classifier(tokens)


def class_weights(classifier: Classifier) -> Tensor:
    """The weight (c, d) of a linear layer or 1x1 convolution, for attention by class (CAM)."""
    classifier = getattr(classifier, "_orig_mod", classifier)
    if isinstance(classifier, (nn.Linear, *_CONVOLUTIONS)) and is_linear(classifier):
        return classifier.weight.flatten(1)
    kind = type(classifier).__name__
    raise ValueError(
        f"attention='cam' needs a classifier that is one nn.Linear or 1x1 convolution, got {kind}: "
        "use attention='gap' or 'uniform'"
    )
