"""Metrix (Venkataramanan et al., ICLR 2022): mixup for metric learning losses.

Legend: A anchors, B examples as positives, C the same examples as negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import random
from ..functional import sample_weights
from ..functional._checks import check_choice, check_not_negative, check_positive
from ..functional._transforms import without_autocast
from .criterion import Criterion
from .metric import MetricLoss, unit


class Metrix(Criterion):
    """A metric learning loss plus `weight` times the same loss on mixed examples: L(clean) + w L(mixed).

    For each anchor a, pairs of a positive p and a negative n (or of the anchor itself and a negative) are mixed,
    v = lambda z_p + (1 - lambda) z_n with lambda ~ Beta(alpha, alpha). Its label is y = lambda: it adds
    lambda rho+(s(a, v)) to the sum over positives of the loss and (1 - lambda) rho-(s(a, v)) to that over negatives.
    All pairs of the mini-batch are mixed; lambda is drawn for each and shared by the anchors. The similarities to v
    follow from those to p and n, so no mixed embedding is ever held: the memory is that of anchors x b x b numbers,
    whatever the size of the embeddings.

    Args:
        loss: `Contrastive`, `MultiSimilarity`, `ProxyAnchor`, or another `MetricLoss`.
        alpha: of Beta(alpha, alpha).
        weight: w, the strength of the mixed loss.
        pairs: "positive-negative", "anchor-negative", or "either" with equal probability for every mini-batch.

    >>> from multimix.criteria import Contrastive
    >>> embeddings, labels = torch.randn(8, 16, requires_grad=True), torch.arange(8) % 3
    >>> loss = Metrix(Contrastive())(embeddings, labels)
    >>> loss.backward()
    >>> embeddings.grad.shape
    torch.Size([8, 16])
    """

    def __init__(self, loss: MetricLoss, alpha: float = 2.0, weight: float = 0.4, pairs: str = "either") -> None:
        super().__init__()
        if not isinstance(loss, MetricLoss):
            raise TypeError(f"loss must be a MetricLoss such as Contrastive(), got {type(loss).__name__}")
        self.loss, self.alpha = loss, check_positive("alpha", alpha)
        self.weight = check_not_negative("weight", weight)
        self.pairs = check_choice("pairs", pairs, ("either", "positive-negative", "anchor-negative"))

    def forward(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss, a scalar, of embeddings (b, d) of any length and class indices (b,).

        `generator` may be on any device; default: a private stream that follows `torch.manual_seed` without touching
        the global RNG.
        """
        clean = self.loss(embeddings, labels)
        if not self.weight:
            return clean
        generator = random.fork(generator, "cpu")
        pairs = self.pairs
        if pairs == "either":
            pairs = "positive-negative" if random.uniform(generator) < 0.5 else "anchor-negative"
        z = unit(embeddings, labels)
        with without_autocast(z):
            mix = self._positive_negative if pairs == "positive-negative" else self._anchor_negative
            return clean + self.weight * mix(z, labels, generator)

    def _positive_negative(self, z: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        anchors = self.loss.anchors(z, labels)
        s_AB = anchors.vectors_AD @ z.mT
        lam_BC = self._draw(len(z), len(z), generator, z)
        s_ABC = similarity(s_AB[:, :, None], s_AB[:, None, :], (z @ z.mT)[None], lam_BC[None])
        pair_ABC = anchors.positive_AB[:, :, None] & anchors.negative_AB[:, None, :]
        y, not_y = (torch.where(pair_ABC, part, 0).flatten(1) for part in (lam_BC, 1 - lam_BC))
        s = s_ABC.flatten(1)
        return self.loss.reduce(s, y, s, not_y)

    def _anchor_negative(self, z: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        anchors = self.loss.anchors(z, labels)
        s_AB = anchors.vectors_AD @ z.mT
        lam_AB = self._draw(len(s_AB), len(z), generator, z)
        s = similarity(torch.ones_like(s_AB), s_AB, s_AB, lam_AB)
        y, not_y = (torch.where(anchors.negative_AB, part, 0) for part in (lam_AB, 1 - lam_AB))
        return self.loss.reduce(s, y, s, not_y)

    def _draw(self, rows: int, columns: int, generator: torch.Generator, like: Tensor) -> Tensor:
        """lambda (rows, columns), drawn on the host, so that the same generator mixes alike on every device."""
        lam = sample_weights(rows * columns, 2, alpha=self.alpha, generator=generator, dtype=like.dtype)[:, 0]
        return lam.view(rows, columns).to(like.device, non_blocking=True)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, weight={self.weight}, pairs={self.pairs!r}"


def similarity(s_ap: Tensor, s_an: Tensor, s_pn: Tensor, lam: Tensor) -> Tensor:
    """Cosine similarity of an anchor a with v = lam p + (1 - lam) n, from the similarities of the unit vectors a, p, n.

    |v|^2 = lam^2 + (1 - lam)^2 + 2 lam (1 - lam) s_pn, by which v is made unit again.
    """
    squared = lam**2 + (1 - lam) ** 2 + 2 * lam * (1 - lam) * s_pn
    return (lam * s_ap + (1 - lam) * s_an) * squared.clamp(min=torch.finfo(lam.dtype).eps).rsqrt()
