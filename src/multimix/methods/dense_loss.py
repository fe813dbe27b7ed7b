"""A dense loss on top of any mixer: (14) where the mixing itself is not dense."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import criteria
from ..criteria.classifiers import apply_linear, is_linear
from ..criteria.dense import as_tokens
from ..functional.loss import normalized_weights
from ..models import SplitModel
from .base import Method, MethodOutput, Mixer
from .class_token import warn_of_class_token


class DenseLoss(Method):
    """Classify every position of a mixer's mixed examples, each loss weighted by attention, (9) and (14).

    L = 1/r sum_j sum_k a_kj H(y~_k, g(z~_kj)) / sum_k a_kj, where z~_kj is the feature of mixed example k at position
    j, a_k its attention map and y~_k its mixed target, inherited by every position. Dense MultiMix is more than this:
    it draws fresh weights for every position.

    Args:
        mixer: a method that mixes images or features: `InputMixup()`, `CutMix()`, `ManifoldMixup()`, `PuzzleMix()`.
        attention, nonlinearity, detach_attention, normalize: as in `multimix.DenseMultiMix`.

    Raises:
        TypeError: `mixer` is a method of another kind.

    >>> from multimix.methods import CutMix
    >>> method = DenseLoss(CutMix())
    """

    _looked = False  # for `warn_of_class_token`

    def __init__(
        self,
        mixer: Mixer,
        attention: str = "gap",
        nonlinearity: str = "relu",
        detach_attention: bool = True,
        normalize: str = "position",
    ) -> None:
        super().__init__()
        if not isinstance(mixer, Mixer):
            raise TypeError(f"mixer must be a method that mixes images or features, got {type(mixer).__name__}")
        self.mixer = mixer
        # It is asked for attention maps only: they are those of Dense MultiMix, options and checks included.
        self.criterion = criteria.DenseMultiMix(
            attention=attention, nonlinearity=nonlinearity, detach_attention=detach_attention, normalize=normalize
        )

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        if not is_linear(model.classifier):
            raise ValueError(f"a dense loss needs a linear classifier, got {type(model.classifier).__name__}")
        mixed, layer, soft = self.mixer.mixed(model, images, targets, generator, **extras)
        warn_of_class_token(self, model)
        tokens = as_tokens(model.dense(model.features(mixed, start=layer)))
        a_KR = self.criterion.attend_to(tokens, soft, self.criterion.class_weights(model.classifier))
        logits_KRC = apply_linear(model.classifier, tokens)
        with torch.autocast(images.device.type, enabled=False):
            log_p = logits_KRC.to(a_KR.dtype).log_softmax(-1)
            losses_RK = -torch.einsum("krc,kc->rk", log_p, soft.to(a_KR.dtype))
            w_RK = normalized_weights(losses_RK, a_KR.mT, self.criterion.normalize)
            return MethodOutput((w_RK * losses_RK).sum(), None)
