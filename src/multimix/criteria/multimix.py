"""MultiMix (section 3.2) as a loss on embeddings.

Legend: R positions, B examples, C classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import distributed, random
from ..functional import attend, expected_mixed_cross_entropy, mixed_cross_entropy, rescaling_factor, sample_weights
from ..functional._checks import (
    Alpha,
    as_probabilities,
    check_alpha,
    check_choice,
    check_count,
    check_floating,
    check_targets,
    mixing_dtype,
)
from ..functional._transforms import has_values, is_shape, needs_formula, refuse_transforms, without_autocast
from ..functional.closed_form import check_spread_weight, relative_attention
from ..functional.interpolation import mix
from ..functional.loss import MASKED
from ..kernels.ops import sampled_cross_entropy
from .classifiers import Classifier, apply_linear, call_mixed, called, check_callable, is_linear
from .criterion import Criterion


class MultiMix(Criterion):
    """Cross entropy of `n` random convex combinations of the embeddings of a mini-batch, (6)-(8).

    Args:
        n: mixed examples per mini-batch. `math.inf`: their expectation, approximately and without sampling
            (linear classifier only; see `expected_mixed_cross_entropy`).
        m: examples per mixture; default and at most the whole mini-batch.
        alpha: Dirichlet concentration, or a range of which it is drawn uniformly for every mixed example. The default
            is the paper's; `multimix.SMALL_ALPHA` is this project's preset for short schedules (docs/study.md).
        implementation: of a linear classifier's loss. "auto": block by block through the clean logits. "triton":
            kernels on an NVIDIA GPU, with draws of their own (docs/numerics.md, and docs/closed_form.md for n=math.inf;
            not measured on a device yet).
            "reference": every tensor of the equations in memory, for checking.
        rescale: multiply the loss by `multimix.functional.rescaling_factor`, so that the gradient that tells examples
            apart is about as large as cross entropy's. For factors up to about five (docs/study.md); at the paper's
            alpha it is near m, which multiplies the gradient of the mean prediction too, and training fails.
        spread_weight: with n=math.inf, what multiplies the part of the loss that tells examples apart, and not the loss
            at the batch mean; see `expected_mixed_cross_entropy`.
        gather: mix the examples of all processes together, as one device would with the whole mini-batch (the cost of
            the loss is then the whole mini-batch's on each). All have to call the criterion equally often.

    >>> head = torch.nn.Linear(16, 10)
    >>> embeddings, labels = torch.randn(8, 16, requires_grad=True), torch.arange(8)
    >>> loss = MultiMix()(embeddings, labels, head)
    >>> loss.backward()
    >>> embeddings.grad.shape
    torch.Size([8, 16])
    """

    _looked = False  # for `_warn_where_uneven`

    def __init__(
        self,
        n: int | float = 1000,
        m: int | None = None,
        alpha: Alpha = (0.5, 2.0),
        *,
        implementation: str = "auto",
        rescale: bool = False,
        spread_weight: float = 1.0,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.gather = gather
        self.n = n
        self.alpha = alpha
        self.m = None if m is None else check_count("m", m)
        if n == math.inf:
            _warn_where_poor(self.alpha[0], m, None)
        self.rescale = rescale
        self.spread_weight = check_spread_weight(spread_weight)
        if n != math.inf and self.spread_weight != 1:
            raise ValueError(
                f"spread_weight={spread_weight} needs the closed form, n=math.inf; got n={n}, whose mixtures are not "
                "split into a mean and a spread"
            )
        self.implementation = check_choice("implementation", implementation, ("auto", "triton", "reference"))

    @property
    def n(self) -> int | float:
        """The number of mixtures. It may be set between steps."""
        return self._n

    @n.setter
    def n(self, n: int | float) -> None:
        self._n = check_n(n)

    @property
    def alpha(self) -> tuple[float, float]:
        """The range (low, high) of the Dirichlet concentration. A number or a range may be set between steps."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: Alpha) -> None:
        self._alpha = check_alpha(alpha)

    def forward(
        self,
        embeddings: Tensor,
        targets: Tensor,
        classifier: Classifier,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            embeddings: (b, d); for a classifier that is not linear (the rest of a network, say) any (b, ...).
            targets: class indices (b,) or probabilities (b, c).
            classifier: g_W. A linear layer or 1x1 convolution takes the exact path through the clean logits; anything
                else is called on the mixed embeddings (n, ...) and must return logits (n, c).
            generator: source of randomness, on any device; default: a private stream that follows
                `torch.manual_seed` without touching the global RNG.
        """
        check_floating(embeddings=embeddings)
        check_callable(classifier)
        # A process without examples of its own has to take part all the same.
        if embeddings.ndim < 2 or (embeddings.shape[0] == 0 and not self.gather):
            raise ValueError(
                f"embeddings must be (b, d) with at least one example, got shape {tuple(embeddings.shape)}"
            )
        if not is_linear(classifier):
            return self._through_classifier(embeddings, targets, classifier, generator)
        if embeddings.ndim != 2:
            pooled = math.prod(embeddings.shape[2:]) == 1
            fix = "embeddings.flatten(1)" if pooled else "pool over the positions first, or use DenseMultiMix"
            raise ValueError(f"embeddings must be (b, d) for a linear classifier, got {tuple(embeddings.shape)}: {fix}")
        return self.from_logits(apply_linear(classifier, embeddings), targets, generator)

    def from_logits(self, logits: Tensor, targets: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The same loss from clean logits (b, c) of a linear classifier, where the caller has them already."""
        check_floating(logits=logits)
        if logits.ndim != 2:
            raise ValueError(f"logits must be (b, c), got {tuple(logits.shape)}")
        logits, targets = self.of_all(logits, targets)
        return loss_from_logits(self, logits[None], targets, None, "position", generator)

    def _through_classifier(
        self, embeddings: Tensor, targets: Tensor, classifier: Classifier, generator: torch.Generator | None
    ) -> Tensor:
        embeddings, targets = self.of_all(embeddings, targets)
        b = embeddings.shape[0]
        check_some(b, embeddings)
        check_targets(targets, b, beside=embeddings)
        n = finite(self.n, classifier)
        lam = draw_weights(self, n, b, None, embeddings, generator)
        fix = "If it pools or picks a token, do that before, and give what comes after"
        what = "MultiMix called the classifier with mixed embeddings (n, ...)"
        logits = call_mixed(classifier, mix(embeddings, lam), what, fix)
        if logits.ndim != 2 or logits.shape[0] != n:
            raise ValueError(f"the classifier must return logits ({n}, classes), got {tuple(logits.shape)}")
        return self.scale(b) * soft_cross_entropy(logits, targets, lam)

    def of_all(self, *examples: Tensor) -> list[Tensor]:
        """The examples that are mixed together: of this process, or with `gather` of all."""
        return [distributed.gather(part) for part in examples] if self.gather else list(examples)

    def scale(self, b: int) -> float:
        """What the loss of a mini-batch of size b is multiplied by."""
        return rescaling_factor(b, self.points(b), self.alpha) if self.rescale else 1.0

    def points(self, b: int) -> int | None:
        """m, for a mini-batch of size b: a smaller one has fewer examples to mix."""
        return None if self.m is None else min(self.m, b)

    def extra_repr(self) -> str:
        text = f"n={self.n}, m={self.m}, alpha={self.alpha}"
        text += f", spread_weight={self.spread_weight}" if self.spread_weight != 1 else ""
        text += ", gather=True" if self.gather else ""
        return f"{text}, rescale=True" if self.rescale else text


_USUAL_BATCH, _FEWEST_EFFECTIVE = 128, 20
"""Below so many effective examples in a mixture, the gradient of the closed form is more than a quarter off where
logits are as large as a trained classifier's (docs/closed_form.md)."""

_FEWEST_ATTENDED, _UNEVEN = 10, 0.1
"""The same at a position, of uneven attention: ordinary maps by ReLU have about 20 there, and are a tenth off. And the
share of the loss from which on such positions spoil its gradient."""


def _effective(alpha: float, m: int | None, b: float) -> float:
    """Examples in a mixture of m of b, by the second moment of their weights; with one example nothing is mixed."""
    if m == 1 or b == 1:
        return math.inf
    return b * alpha if m is None or m >= b else m * alpha / (1 + alpha)


def _warn_where_poor(alpha: float, m: int | None, b: int | None) -> None:
    """When a criterion is made (`b` not known yet), and for a mini-batch so small that only now it is known."""
    before = _effective(alpha, m, math.inf if m else _USUAL_BATCH)
    effective = before if b is None else _effective(alpha, m, b)
    if effective >= _FEWEST_EFFECTIVE or (b is not None and before < _FEWEST_EFFECTIVE):
        return
    size = f"m={m}" if m is not None and m < (b or math.inf) else f"mini-batches of {b or _USUAL_BATCH}"
    warnings.warn(
        f"n=math.inf is inaccurate for alpha={alpha:g} and {size}: with about {effective:.2g} effective examples "
        f"in a mixture (fewer than {_FEWEST_EFFECTIVE}) the expansion around the batch mean is poor once logits "
        "are large. Use a finite n, such as n=1000, or a larger alpha, m or mini-batch",
        stacklevel=3 if b is None else 2,
    )


@torch.no_grad()
def _warn_where_uneven(criterion: MultiMix, a_BR: Tensor, normalize: str) -> None:
    """Once for a criterion: where few examples are attended, few carry a mixture, however large the mini-batch is.

    On an accelerator, which would have to be waited for, only the first mini-batch is looked at.
    """
    b = a_BR.shape[0]
    even = _effective(criterion.alpha[0], criterion.m, b)
    if criterion._looked or even < _FEWEST_EFFECTIVE or not has_values(a_BR):
        return
    pi_RB, weight_R = relative_attention(a_BR.mT.to(mixing_dtype(a_BR.dtype)), normalize == "global")
    effective_R = even / (b * pi_RB.square().sum(1))
    share = float(weight_R[effective_R < _FEWEST_ATTENDED].sum())
    criterion._looked = share > _UNEVEN or a_BR.device.type != "cpu"
    if share > _UNEVEN:
        warnings.warn(
            f"n=math.inf is inaccurate for attention as uneven as this: {share:.0%} of the loss comes from positions "
            f"where fewer than {_FEWEST_ATTENDED} effective examples make a mixture: few are attended to there (or all "
            "others are padding). Use a finite n, such as n=1000; with a mask, normalize='global' may be enough",
            stacklevel=3,
        )


def check_n(n: int | float) -> int | float:
    """A positive whole number, or infinity."""
    return n if n == math.inf else check_count("n", n)  # type: ignore[arg-type]


def check_classes(c: int) -> None:
    """Of one class the loss is 0, whatever the network does."""
    if c == 1:
        raise ValueError(
            "the classifier has one class, got logits (..., 1): the loss is cross entropy after a softmax, which takes "
            "two logits for two classes"
        )


def check_some(b: int, mixed: Tensor) -> None:
    """At least one example, of all processes together."""
    if b == 0:
        raise ValueError(f"no examples cannot be mixed, got shape {tuple(mixed.shape)}")


def finite(n: int | float, classifier: Classifier) -> int:
    """`n`, which only a linear classifier allows to be infinite."""
    if isinstance(n, int):
        return n
    raise ValueError(
        f"n=math.inf needs a linear classifier (nn.Linear or a 1x1 convolution), got {called(classifier)}: "
        "use a finite n, such as n=1000"
    )


def loss_from_logits(
    criterion: MultiMix,
    logits_RBC: Tensor,
    targets: Tensor,
    attention_BR: Tensor | None,
    normalize: str,
    generator: torch.Generator | None,
    positions: Sequence[int] = (),
) -> Tensor:
    """The loss of either criterion from the clean logits at every position.

    Args:
        positions: as for `check_targets`.
    """
    # No operation on tensors before the seed is drawn: torch.compile would compile it, and anew for every alpha.
    r, b, c = logits_RBC.shape
    check_classes(c)
    check_some(b, logits_RBC)
    check_targets(targets, b, c, beside=logits_RBC, positions=positions)
    scale = criterion.scale(b)
    if criterion.n == math.inf:
        if not torch.compiler.is_compiling():
            _warn_where_poor(criterion.alpha[0], criterion.m, b)
            if attention_BR is not None:
                _warn_where_uneven(criterion, attention_BR.detach(), normalize)
        return scale * expected_mixed_cross_entropy(
            logits_RBC,
            targets,
            attention_BR,
            criterion.alpha,
            normalize,
            m=criterion.points(b),
            spread_weight=criterion.spread_weight,
            implementation=criterion.implementation,
        )
    n = int(criterion.n)
    needs_weights = targets.requires_grad or (attention_BR is not None and attention_BR.requires_grad)
    if criterion.implementation == "triton" and needs_weights:
        raise ValueError(
            "implementation='triton' has no gradient in targets or attention: detach them, or use implementation='auto'"
        )
    by_formula = needs_formula(logits_RBC, targets, attention_BR)
    if criterion.implementation == "triton" and by_formula:
        refuse_transforms("triton")
    if criterion.implementation != "reference" and not (needs_weights or by_formula):
        m, chosen = criterion.points(b), criterion.implementation
        drawn = seed_and_alpha(criterion, generator)
        return scale * sampled_cross_entropy(
            logits_RBC, targets, attention_BR, *drawn, n=n, m=m, normalize=normalize, implementation=chosen
        )
    lam, s = draw_weights(criterion, n, b, r, logits_RBC, generator), None
    if attention_BR is not None:
        lam, s = attend(lam, attention_BR)
    return scale * mixed_cross_entropy(logits_RBC, targets, lam, s, normalize, criterion.implementation)


@random.eager
def seed_and_alpha(criterion: MultiMix, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """What the sampled loss takes from the host. Read in a compiled region, every alpha would compile it again."""
    low, high = torch.tensor(criterion.alpha, dtype=torch.float64, device="cpu")
    return random.draw_seed(generator), low, high


@random.eager
def draw_weights(
    criterion: MultiMix, n: int, b: int, positions: int | None, like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """The weights that the fused loss, unless by Triton, draws from the same generator."""
    if is_shape(like):
        shape = (n, b) if positions is None else (positions, n, b)
        return like.new_empty(shape, dtype=mixing_dtype(like.dtype))
    seed = random.draw_seed(generator)
    if torch._C._functorch.is_batchedtensor(seed):
        raise ValueError(
            "torch.func.vmap with randomness='different' cannot draw mixtures here: use randomness='same', or "
            "draw lam by multimix.functional.sample_weights outside and map mixed_cross_entropy(logits, labels, lam)"
        )
    spawned = torch.Generator(like.device).manual_seed(int(seed))
    return sample_weights(
        n, b, criterion.points(b), criterion.alpha, positions, spawned, like.device, mixing_dtype(like.dtype)
    )


def soft_cross_entropy(logits: Tensor, targets: Tensor, lam: Tensor) -> Tensor:
    """Mean cross entropy of mixed logits (n, c) against targets mixed by lam (n, b)."""
    c = logits.shape[-1]
    check_classes(c)
    check_targets(targets, lam.shape[-1], c)
    with without_autocast(logits):
        dtype = mixing_dtype(logits.dtype, lam.dtype)
        log_p = logits.to(dtype).clamp(min=MASKED).log_softmax(-1)
        return -(lam.to(dtype) @ as_probabilities(targets, c, dtype) * log_p).sum(-1).mean()
