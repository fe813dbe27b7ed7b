"""MultiMix and Dense MultiMix (sections 3.2, 3.3) as training methods, at any layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import criteria
from ..criteria.classifiers import CONVOLUTIONS, apply_linear, is_linear
from ..criteria.dense import as_tokens
from ..functional._checks import Alpha, check_count
from ..models import SplitModel
from .base import Method, MethodOutput
from .class_token import warn_of_class_token


class MultiMix(Method):
    """`n` convex combinations of the mini-batch, mixed just before the classifier or at any other layer, (6)-(8).

    The paper trains half of the mini-batches with it and half with input mixup:
    `Either(MultiMix(), InputMixup(), p=0.5)`.

    Args:
        n, m, alpha, rescale, spread_weight, gather: as in `multimix.MultiMix`.
        layer: None: the embeddings, just before the classifier (the paper's default). k: the output of stage k, 0
            being the input; then `n` examples go through the rest of the network, so choose `n` near b (Figure 4(a)).
    """

    def __init__(
        self,
        n: int | float = 1000,
        m: int | None = None,
        alpha: Alpha = (0.5, 2.0),
        *,
        layer: int | None = None,
        rescale: bool = False,
        spread_weight: float = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.criterion = criteria.MultiMix(n, m, alpha, rescale=rescale, spread_weight=spread_weight, gather=gather)
        self.layer = check_layer(layer, n)

    @property
    def gathers(self) -> bool:
        return self.criterion.gather

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        if self.layer is not None:
            start = self.layer
            features = model.features(images, stop=start)
            loss = self.criterion(features, targets, lambda z: model.head(model.features(z, start=start)), generator)
            return MethodOutput(loss, None)
        embeddings = model.pool(model.features(images))
        if not is_linear(model.classifier):
            return MethodOutput(self.criterion(embeddings, targets, model.classifier, generator), None)
        logits = model.classifier(embeddings)
        return MethodOutput(self.criterion.from_logits(logits, targets, generator), logits)


class DenseMultiMix(Method):
    """MultiMix at every spatial position of the features, weighted by attention, with a dense loss, (9)-(14).

    Args:
        n, m, alpha, attention, nonlinearity, detach_attention, normalize, rescale, spread_weight, gather: as in
            `multimix.DenseMultiMix`.
        layer: None: the features of the last stage (patch tokens for transformers). k: the output of stage k, 0
            being the input, of networks without tokens; all tokens of a transformer are positions. `n` examples go
            through the rest of the network, and attention is "gap" or "uniform": "cam" is of the classifier's weights.
    """

    _looked = False  # for `warn_of_class_token`

    def __init__(
        self,
        n: int | float = 1000,
        m: int | None = None,
        alpha: Alpha = (0.5, 2.0),
        attention: str = "gap",
        nonlinearity: str = "relu",
        detach_attention: bool = True,
        normalize: str = "position",
        *,
        layer: int | None = None,
        rescale: bool = False,
        spread_weight: float = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.criterion = criteria.DenseMultiMix(
            n,
            m,
            alpha,
            attention,
            nonlinearity,
            detach_attention,
            normalize,
            rescale=rescale,
            spread_weight=spread_weight,
            gather=gather,
        )
        self.layer = check_layer(layer, n)
        if layer is not None and attention == "cam":
            raise ValueError(
                f"attention='cam' takes the features that the classifier is given, got layer={layer}: use 'gap' or "
                "'uniform' there, or leave out layer"
            )

    @property
    def gathers(self) -> bool:
        return self.criterion.gather

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        if self.layer is not None:
            start = self.layer
            features = model.features(images, stop=start)
            loss = self.criterion(
                features, targets, lambda z: _classify_positions(model, z, start), generator=generator
            )
            return MethodOutput(loss, None)
        features = model.features(images)
        warn_of_class_token(self, model)
        dense = model.dense(features)
        tokens = as_tokens(dense)
        if not is_linear(model.classifier):
            if any(isinstance(part, CONVOLUTIONS) for part in model.classifier.modules()):  # it takes maps
                loss = self.criterion(dense, targets, model.classifier, generator=generator)
            else:
                loss = self.criterion(tokens, targets, lambda z: _classify_tokens(model, z), generator=generator)
            return MethodOutput(loss, None)
        a = self.criterion.attend_to(tokens, targets, self.criterion.class_weights(model.classifier))
        loss = self.criterion.from_logits(apply_linear(model.classifier, tokens), targets, a, generator)
        with torch.no_grad():
            return MethodOutput(loss, model.head(features))


def check_layer(layer: int | None, n: int | float) -> int | None:
    """A mixing layer; before the last, only finitely many mixed examples can go through the rest."""
    if layer is not None:
        check_count("layer", layer, least=0)
        if n == math.inf:
            raise ValueError(f"n=math.inf is defined just before the classifier only, got layer={layer}")
    return layer


def _classify_tokens(model: SplitModel, tokens: Tensor) -> Tensor:
    """Logits (n, r, c) of tokens (n, r, d)."""
    if is_linear(model.classifier):
        return apply_linear(model.classifier, tokens)
    logits: Tensor = model.classifier(tokens.flatten(0, 1))
    return logits.unflatten(0, tokens.shape[:2])


def _classify_positions(model: SplitModel, mixed: Tensor, start: int) -> Tensor:
    """Logits at every position of the last stage's output, in its own layout, from the output of stage `start`."""
    dense = model.dense(model.features(mixed, start=start), patches_only=False)
    if dense.ndim == 3 < mixed.ndim:
        raise ValueError(
            f"layer={start} mixes maps {tuple(mixed.shape[1:])}, and this network ends with tokens "
            f"{tuple(dense.shape[1:])}, which are no smaller grid of them: mix at a later layer, whose output is "
            "tokens, or use MultiMix"
        )
    logits = _classify_tokens(model, as_tokens(dense))
    return logits if dense.ndim == 3 else logits.mT.unflatten(2, dense.shape[2:])
