"""Dense MultiMix (section 3.3) as a loss on features.

Legend: R positions, N mixtures, B examples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import attend, attention_map
from ..functional._checks import (
    Alpha,
    as_probabilities,
    by_position,
    check_choice,
    check_floating,
    check_targets,
    check_tensor,
    mixing_dtype,
)
from ..functional._transforms import without_autocast
from ..functional.interpolation import mix
from ..functional.loss import MASKED, normalized_weights, or_one
from .classifiers import (
    Classifier,
    apply_linear,
    call_mixed,
    check_callable,
    class_weights,
    is_linear,
    normalizes_rows,
    wants_tokens,
)
from .multimix import MultiMix, check_classes, check_some, draw_weights, finite, loss_from_logits


class DenseMultiMix(MultiMix):
    """MultiMix at every spatial position, with weights scaled by attention and a dense loss, (9)-(14).

    Args:
        n, m, alpha, implementation, rescale, spread_weight, gather: as in `MultiMix`; fresh weights are drawn for every
            position.
        attention: "gap", "cam" or "uniform", u of (9).
        nonlinearity: "relu" (then l1 normalisation) or "softmax", h of (9).
        detach_attention: take no gradient through the attention map.
        normalize: "position": (14) at each position, then the mean over positions; "global": one weighted mean. With a
            mask take "global": a last position that one long example alone has weighs as much as the first otherwise.

    >>> head = nn.Linear(16, 10)
    >>> features, labels = torch.randn(8, 16, 4, 4), torch.arange(8)
    >>> loss = DenseMultiMix(n=100)(features, labels, head)
    >>> loss.shape
    torch.Size([])
    """

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
        implementation: str = "auto",
        rescale: bool = False,
        spread_weight: float = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__(
            n, m, alpha, implementation=implementation, rescale=rescale, spread_weight=spread_weight, gather=gather
        )
        self.attention = check_choice("attention", attention, ("gap", "cam", "uniform"))
        self.nonlinearity = check_choice("nonlinearity", nonlinearity, ("relu", "softmax"))
        self.detach_attention = detach_attention
        self.normalize = check_choice("normalize", normalize, ("position", "global"))

    def forward(  # type: ignore[override]
        self,
        features: Tensor,
        targets: Tensor,
        classifier: Classifier,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            features: (b, d, *spatial), or (b, r, d) when 3-D, as transformers emit them.
            targets: class indices (b,) or probabilities (b, c), inherited by every position; or dense targets, of every
                position its own: indices (b, *spatial) or (b, r), probabilities (b, c, *spatial), or (b, r, c) for 3-D
                features. Dense targets need attention that knows no classes ("gap", "uniform").
            classifier: a linear layer or 1x1 convolution takes the exact path through the clean logits; anything
                else is called on mixed features (n, d, *spatial) or (n, r, d) and must return logits (n, c, *spatial')
                or (n, r, c); a chain that begins with a linear layer, LayerNorm or BatchNorm1d always gets (n, r, d),
                or with batch normalisation in it the rows of that. Where spatial' is smaller, targets and weights are
                averaged down to it.
            mask: bool (b, r) or (b, *spatial), True where the position is real; padding is left out.
            generator: as in `MultiMix`.
        """
        check_floating(features=features)
        check_callable(classifier)
        if features.ndim < 3 or (features.shape[0] == 0 and not self.gather):
            raise ValueError(
                f"features must be (b, d, *spatial) or (b, r, d) with at least one example, got {tuple(features.shape)}"
            )
        tokens = as_tokens(features)
        if mask is not None:
            if not isinstance(mask, Tensor):
                raise TypeError(f"mask must be a bool tensor, got {type(mask).__name__}: pass generator=... by name")
            b, r, _ = tokens.shape
            grid = (b, r) if features.ndim == 3 else (b, *features.shape[2:])
            if mask.dtype != torch.bool or tuple(mask.shape) not in ((b, r), grid):
                fix = ": mask.bool(), if it is 1 where the position is real" if mask.dtype != torch.bool else ""
                raise ValueError(
                    f"mask must be bool of shape {(b, r)}, one value for each position of features "
                    f"{tuple(features.shape)}, got {mask.dtype} of shape {tuple(mask.shape)}{fix}"
                )
            mask = mask.flatten(1)
            tokens = tokens.masked_fill(~mask[..., None], 0)  # padding may hold anything, also NaN
        # First: weight and spectral normalisation compute the weight when the classifier is called.
        logits = apply_linear(classifier, tokens, features) if is_linear(classifier) else None
        if logits is not None:
            _refuse_one_hot(targets, logits.shape[-1])
        given = targets
        if by_position(given):
            targets = self._as_tokens_of(given, features, mask)
            a = self.attend_to(tokens, None, None, mask)
        else:
            a = self.attend_to(tokens, targets, self.class_weights(classifier), mask)
        if logits is not None:
            return self._from_logits(logits, targets, a, generator)
        spatial = features.shape[2:] if features.ndim > 3 else None
        return self._through_dense_classifier(tokens, spatial, targets, given, classifier, a, generator)

    def class_weights(self, classifier: Classifier) -> Tensor | None:
        """The classifier's weight (c, d) where the attention is by class, as `attend_to` takes it."""
        return class_weights(classifier, gradient=not self.detach_attention) if self.attention == "cam" else None

    def attend_to(
        self, tokens: Tensor, targets: Tensor | None = None, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The attention map (b, r) that the loss uses for tokens (b, r, d)."""
        if self.detach_attention:
            tokens, weight = tokens.detach(), None if weight is None else weight.detach()
        a = attention_map(tokens, self.attention, self.nonlinearity, targets, weight, mask)
        return a.detach() if self.detach_attention else a  # soft targets may need a gradient too

    def from_logits(  # type: ignore[override]
        self, logits: Tensor, targets: Tensor, a: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The same loss from clean logits (b, r, c) and attention (b, r), where the caller has them already; targets as
        there, dense ones (b, r) or (b, r, c). `attend_to` computes the attention; without one it is uniform."""
        check_floating(logits=logits)
        if logits.ndim != 3 or logits.shape[1] == 0:
            raise ValueError(f"logits must be (b, r, c) with at least one position, got {tuple(logits.shape)}")
        if isinstance(a, torch.Generator):
            raise TypeError("attention must be a tensor, got Generator: pass generator=... by name")
        if a is not None and check_tensor("attention", a).shape != logits.shape[:2]:
            raise ValueError(f"attention must be {tuple(logits.shape[:2])} for these logits, got {tuple(a.shape)}")
        _refuse_one_hot(targets, logits.shape[-1])
        return self._from_logits(logits, targets, a, generator)

    def _from_logits(
        self, logits: Tensor, targets: Tensor, a: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        logits, targets = self._of_all(logits, targets)
        a = None if a is None else self.of_all(a)[0]
        r = logits.shape[1]
        return loss_from_logits(self, logits.transpose(0, 1), targets, a, self.normalize, generator, positions=(r,))

    def _of_all(self, examples: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The examples that are mixed together, and their targets: of every position with the positions in front."""
        examples, targets = self.of_all(examples, targets)
        return examples, targets.transpose(0, 1) if by_position(targets) else targets

    def _as_tokens_of(self, targets: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        """Dense targets as (b, r) or (b, r, c); what is masked may be anything, such as 255."""
        b, spatial = features.shape[0], features.shape[1:2] if features.ndim == 3 else features.shape[2:]
        grid, soft = (b, *spatial), targets.is_floating_point()
        if self.attention == "cam":
            raise ValueError("attention='cam' is by the class of an image: use 'gap' or 'uniform' for dense targets")
        at = (*targets.shape[:1], *targets.shape[2:]) if soft and features.ndim > 3 else targets.shape[: len(grid)]
        whole = targets.ndim == len(grid) + soft
        if not (whole and tuple(at) == grid) and not (not soft and tuple(targets.shape) == (b, math.prod(spatial))):
            wanted = f"({', '.join(map(str, (b, 'c', *spatial) if features.ndim > 3 else (*grid, 'c')))})"
            raise ValueError(
                f"dense targets for features {tuple(features.shape)} must be class indices {grid} or probabilities "
                f"{wanted}, got {targets.dtype} of shape {tuple(targets.shape)}: {_fix(targets, grid)}"
            )
        found = as_tokens(targets) if soft else targets.flatten(1)
        if mask is None:
            return found
        return found.masked_fill(~(mask[..., None] if soft else mask), 0)

    def _through_dense_classifier(
        self,
        tokens: Tensor,
        spatial: torch.Size | None,
        targets: Tensor,
        given: Tensor,
        classifier: Classifier,
        a: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        tokens, targets = self._of_all(tokens, targets)
        (a,) = self.of_all(a)
        b, r = a.shape
        check_some(b, tokens)
        check_targets(targets, b, beside=tokens, positions=(r,))
        if wants_tokens(classifier):
            spatial = None
        n = finite(self.n, classifier)
        lam, s = attend(draw_weights(self, n, b, r, tokens, generator), a)
        mixed = mix(tokens.transpose(0, 1), lam)
        # What has no weight may be anything, but not 0, which a classifier that normalises makes NaN.
        mixed = torch.where(s[..., None] > 0, mixed, 1.0).transpose(0, 1)
        if spatial is None:
            if normalizes_rows(classifier):  # by statistics in which what has no weight does not belong
                real_NR = s.mT > 0
                found = self._call(classifier, mixed[real_NR], "(rows, d)")
                logits = found.new_zeros(n, r, found.shape[-1])
                logits[real_NR] = found
            else:
                logits = self._call(classifier, mixed, "(n, r, d)")
            wanted, fits = f"(n, {r}, classes)", logits.ndim == 3 and logits.shape[1] == r
        else:
            logits = self._call(classifier, mixed.mT.unflatten(2, spatial), "(n, d, *spatial)")
            wanted = "(n, classes, *spatial)"
            fits = logits.ndim == 2 + len(spatial)
        if not fits or logits.shape[0] != n:
            raise ValueError(
                f"the classifier must keep the positions and return logits {wanted} with n={n}, "
                f"got {tuple(logits.shape)}: leave out its pooling, or use MultiMix"
            )
        logits_RNC = as_tokens(logits).transpose(0, 1)
        check_classes(logits_RNC.shape[-1])
        _refuse_one_hot(given, logits_RNC.shape[-1])
        check_targets(targets, b, logits_RNC.shape[-1], positions=(r,))
        return self.scale(b) * _dense_loss(
            logits_RNC, targets, lam, s, spatial or (r,), logits.shape[2:], self.normalize
        )

    def _call(self, classifier: Classifier, mixed: Tensor, layout: str) -> Tensor:
        fix = (
            "It has to keep the positions: give only what comes after the pooling, and apply what comes before to the "
            "features first. A linear layer is applied at every position where it is given itself, not in a function"
        )
        return call_mixed(classifier, mixed, f"DenseMultiMix called the classifier with mixed features {layout}", fix)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, attention={self.attention!r}, nonlinearity={self.nonlinearity!r}"
        text += "" if self.detach_attention else ", detach_attention=False"
        return text if self.normalize == "position" else f"{text}, normalize={self.normalize!r}"


def _fix(targets: Tensor, grid: tuple[int, ...]) -> str:
    """What makes dense targets of those that do not fit."""
    if targets.ndim == 2:
        return "for labels of images, indices are (b,) and one-hot ones floating point"
    if tuple(targets.shape[:-1]) == grid and targets.ndim > 3:
        return "give the classes as the second dimension, targets.movedim(-1, 1), in floating point"
    return "resize the maps to the features"


def _refuse_one_hot(targets: Tensor, c: int) -> None:
    """Integers (b, c) may be one-hot labels, which would pass for an index of each of c positions."""
    if by_position(targets) and targets.ndim == 2 and targets.shape[1] == c:
        raise ValueError(
            f"integer targets {tuple(targets.shape)} for {c} classes may be one-hot labels, or an index for each "
            "position: give labels as targets.argmax(1), and positions as maps (b, *spatial) or probabilities (b, r, c)"
        )


def as_tokens(features: Tensor) -> Tensor:
    """(b, d, *spatial) or (b, r, d) -> (b, r, d)."""
    return features if features.ndim == 3 else features.flatten(2).mT


def _dense_loss(
    logits_RNC: Tensor,
    targets: Tensor,
    lam_RNB: Tensor,
    s_RN: Tensor,
    spatial: Sequence[int],
    to: Sequence[int],
    normalize: str,
) -> Tensor:
    """(14) for given mixed logits; targets and weights follow the positions where the classifier has strides."""
    c = logits_RNC.shape[-1]
    with without_autocast(logits_RNC):
        dtype = mixing_dtype(logits_RNC.dtype, lam_RNB.dtype)
        lam_RNB, s_RN = lam_RNB.to(dtype), s_RN.to(dtype)
        y_RNC = lam_RNB @ as_probabilities(targets, c, dtype)
        if logits_RNC.shape[0] != lam_RNB.shape[0]:
            weighted = _pool(y_RNC * s_RN[..., None], spatial, to)
            s_RN = _pool(s_RN[..., None], spatial, to)[..., 0]
            y_RNC = weighted / or_one(s_RN)[..., None]
        w_RN = normalized_weights(lam_RNB, s_RN, normalize)
        terms_RN = -(y_RNC * logits_RNC.to(dtype).clamp(min=MASKED).log_softmax(-1)).sum(-1)
        return (w_RN * terms_RN).sum()


def _pool(maps_RNC: Tensor, spatial: Sequence[int], to: Sequence[int]) -> Tensor:
    """Average (r, n, c) over the positions of a grid down to a smaller grid."""
    if len(spatial) != len(to) or not 1 <= len(to) <= 3:
        raise ValueError(f"the classifier turned positions {tuple(spatial)} into {tuple(to)}, which cannot be matched")
    pools = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    maps_NCR = maps_RNC.permute(1, 2, 0).unflatten(2, spatial)
    return pools[len(to) - 1](tuple(to))(maps_NCR).flatten(2).permute(2, 0, 1)
