"""The mixed embeddings of a training method, for any method that mixes.

Legend: B examples, R positions, D channels, N mixtures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .. import methods
from ..criteria.dense import as_tokens
from ..criteria.multimix import draw_weights
from ..functional import attend
from ..functional._checks import as_probabilities
from ..functional.interpolation import mix
from ..methods.soft_targets import OtherTargets
from ..models import SplitModel


class MixedEmbeddings(NamedTuple):
    """`embeddings` (n, d), just before the classifier, and `targets` (n, c), the weight of every class in them."""

    embeddings: Tensor
    targets: Tensor


def mixings(method: methods.Method) -> dict[str, methods.Method]:
    """What a method mixes with, by the name of the class: what `Either` chooses from, the mixer under `DenseLoss`, and
    the method under `SoftTargets` or `LabelSmoothing`, which mixes in the same way whatever the targets.

    Of several parts of one class the second is `CutMix 2`, say.

    >>> list(mixings(methods.parse("multimix")))
    ['MultiMix', 'InputMixup']
    >>> mixings(methods.parse("erm"))
    {}
    """
    found: dict[str, methods.Method] = {}
    for part in _mixing_parts(method):
        same = sum(type(other) is type(part) for other in found.values())
        found[f"{type(part).__name__} {same + 1}" if same else type(part).__name__] = part
    return found


def _mixing_parts(method: methods.Method) -> list[methods.Method]:
    if isinstance(method, methods.DenseLoss):
        return _mixing_parts(method.mixer)
    if isinstance(method, OtherTargets):
        return _mixing_parts(method.method)
    if isinstance(method, methods.Mixer | methods.MultiMix | methods.DenseMultiMix):
        return [method]
    return [part for _, choice in method.choices() if choice is not method for part in _mixing_parts(choice)]


def mixed_embeddings(
    method: methods.Method,
    model: SplitModel,
    images: Tensor,
    targets: Tensor,
    generator: torch.Generator | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> MixedEmbeddings:
    """What `method` makes of a mini-batch, as embeddings.

    Mixed images and features go through the rest of the network, in the model's own mode. MultiMix gives Z Lambda
    (6), with n = b where its n is infinite. Dense MultiMix gives the mean over positions of its mixed features and of
    their class weights.

    Args:
        method: a `Mixer`, `MultiMix` or `DenseMultiMix`; take other methods apart with `mixings`.
        images: (b, channels, height, width), pixels in [0, 1].
        targets: (b,) class indices.
        generator: as in the method.
        extras: the further tensors that the method `needs`, by name.

    Raises:
        ValueError: a method that does not mix, or that needs what `extras` lack; Dense MultiMix where embeddings are
            not the mean over positions.

    >>> from torch import nn
    >>> from multimix.models import SplitModel
    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(4, 3))
    >>> method = methods.MultiMix(n=100)
    >>> found = mixed_embeddings(method, net, torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]))
    >>> found.embeddings.shape, found.targets.shape
    (torch.Size([100, 4]), torch.Size([100, 3]))
    """
    if isinstance(method, methods.Mixer):
        mixed = method.mixed(model, images, targets, generator, **method.wanted(extras or {}))
        with torch.no_grad():
            return MixedEmbeddings(_embed(model, mixed.features.detach(), mixed.layer), mixed.targets.detach())
    with torch.no_grad():
        y = as_probabilities(targets, model.num_classes, torch.float32)
        if isinstance(method, methods.MultiMix):
            layer = model.depth if method.layer is None else method.layer
            x = model.embed(images) if method.layer is None else model.features(images, stop=layer)
            lam = draw_weights(method.criterion, _count(method, x), len(x), None, x, generator)
            z = mix(x, lam)
            return MixedEmbeddings(z if method.layer is None else _embed(model, z, layer), mix(y, lam))
        if isinstance(method, methods.DenseMultiMix):
            return _dense(method, model, images, y, targets, generator)
    raise ValueError(
        f"{type(method).__name__} has no mixed embeddings: expected a method that mixes images, features or embeddings"
    )


def _dense(
    method: methods.DenseMultiMix,
    model: SplitModel,
    images: Tensor,
    y: Tensor,
    targets: Tensor,
    generator: torch.Generator | None,
) -> MixedEmbeddings:
    if method.layer is not None:
        raise ValueError(f"mixed embeddings of Dense MultiMix are defined at the last layer, got layer={method.layer}")
    features = model.features(images)
    tokens_BRD = as_tokens(model.dense(features))
    if not torch.allclose(tokens_BRD.mean(1), model.pool(features), rtol=1e-3, atol=1e-4):
        raise ValueError(
            "mixed embeddings of Dense MultiMix need a model whose embeddings are the mean over positions, got "
            f"{type(model.pool).__name__}"
        )
    a_BR = method.criterion.attend_to(tokens_BRD, targets, method.criterion.class_weights(model.classifier))
    b, r, _ = tokens_BRD.shape
    lam = draw_weights(method.criterion, _count(method, tokens_BRD), b, r, tokens_BRD, generator)
    lam_RNB, _ = attend(lam, a_BR)
    # Where no example is attended, weights are 0 and position j mixes nothing: it is left out of the mean.
    attended_N = lam_RNB.sum(dim=(0, 2)).clamp(min=1e-12)[:, None]
    with torch.autocast(tokens_BRD.device.type, enabled=False):
        z = torch.einsum("rnb,brd->nd", lam_RNB, tokens_BRD.to(lam_RNB.dtype)) / attended_N
    return MixedEmbeddings(z.to(tokens_BRD.dtype), mix(y, lam_RNB.sum(0) / attended_N))


def _embed(model: SplitModel, features: Tensor, layer: int) -> Tensor:
    embeddings: Tensor = model.pool(model.features(features, start=layer))
    return embeddings


def _count(method: methods.MultiMix | methods.DenseMultiMix, batch: Tensor) -> int:
    n = method.criterion.n
    return n if isinstance(n, int) else len(batch)
