"""Metric learning losses as functions of similarities, of one form, so that mixed examples fit into all of them.

Legend: A anchors, B examples, K examples that an anchor is compared with, s cosine similarities.

Every anchor a has a loss sigma+(sum_k y_k rho+(s_k)) + sigma-(sum_k (1 - y_k) rho-(s_k)), where y_k is 1 for a positive
and 0 for a negative (Venkataramanan et al., ICLR 2022, Table 1). For a mixed example y_k lies between.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from .. import random
from ..functional._checks import check_positive, check_targets
from ..functional._transforms import without_autocast
from .criterion import Criterion
from .embeddings import check_embeddings


class Anchors(NamedTuple):
    """What the examples of a mini-batch are compared with: unit vectors, and which examples are positive for each."""

    vectors_AD: Tensor
    positive_AB: Tensor
    negative_AB: Tensor


class MetricLoss(Criterion):
    """Base of the losses: `loss(embeddings, labels)`, embeddings (b, d) of any length and labels (b,) class indices."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, in float32 or better."""
        z = unit(embeddings, labels)
        with without_autocast(z):
            anchors = self.anchors(z, labels)
            s_AB = anchors.vectors_AD @ z.mT
            return self.reduce(s_AB, anchors.positive_AB.to(s_AB.dtype), s_AB, anchors.negative_AB.to(s_AB.dtype))

    def anchors(self, z: Tensor, labels: Tensor) -> Anchors:
        """Every example is an anchor for all others."""
        same = labels[:, None] == labels
        return Anchors(z, same & ~torch.eye(len(z), dtype=torch.bool, device=z.device), ~same)

    def reduce(self, s_positive: Tensor, y_AK: Tensor, s_negative: Tensor, not_y_AL: Tensor) -> Tensor:
        """The mean over anchors of the losses of their positives and negatives.

        Args:
            s_positive, y_AK: similarities (A, K) and how positive each is; 0 leaves it out.
            s_negative, not_y_AL: similarities (A, L) and how negative each is.
        """
        raise NotImplementedError(f"{type(self).__name__} must define reduce")


class Contrastive(MetricLoss):
    """rho+(s) = -s, rho-(s) = [s - margin]+, sigma the mean over the pairs of an anchor.

    Args:
        margin: similarity up to which a negative costs nothing; 0.5 as in the public code of Metrix.

    >>> loss = Contrastive()(torch.eye(4), torch.tensor([0, 0, 1, 1]))  # positives and negatives are orthogonal
    >>> round(float(loss), 4)
    0.0
    """

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def reduce(self, s_positive: Tensor, y_AK: Tensor, s_negative: Tensor, not_y_AL: Tensor) -> Tensor:
        pull = -s_positive * y_AK
        push = (s_negative - self.margin).relu() * not_y_AL
        per_anchor = sum(part.sum(1) / (w > 0).sum(1).clamp(min=1) for part, w in ((pull, y_AK), (push, not_y_AL)))
        assert isinstance(per_anchor, Tensor)
        return per_anchor.mean()

    def extra_repr(self) -> str:
        return f"margin={self.margin}"


class MultiSimilarity(MetricLoss):
    """rho+(s) = exp(-beta (s - margin)), rho-(s) = exp(gamma (s - margin)), sigma+(x) = log(1 + x) / beta, sigma-(x) =
    log(1 + x) / gamma. Wang et al., CVPR 2019, without its mining of pairs.

    Args:
        beta, gamma: scales of positives and negatives; 2 and 50 as published.
        margin: 0.5 as in pytorch-metric-learning, which the public code of Metrix builds on; published: 1.

    >>> loss = MultiSimilarity(beta=2, margin=0.5)(torch.eye(2), torch.tensor([0, 0]))  # log(1 + e) / 2
    >>> round(float(loss), 4)
    0.6566
    """

    def __init__(self, beta: float = 2.0, gamma: float = 50.0, margin: float = 0.5) -> None:
        super().__init__()
        self.beta, self.gamma, self.margin = check_positive("beta", beta), check_positive("gamma", gamma), margin

    def reduce(self, s_positive: Tensor, y_AK: Tensor, s_negative: Tensor, not_y_AL: Tensor) -> Tensor:
        pull = log1p_sum_exp(-self.beta * (s_positive - self.margin), y_AK) / self.beta
        push = log1p_sum_exp(self.gamma * (s_negative - self.margin), not_y_AL) / self.gamma
        return (pull + push).mean()

    def extra_repr(self) -> str:
        return f"beta={self.beta}, gamma={self.gamma}, margin={self.margin}"


class ProxyAnchor(MetricLoss):
    """Learned proxies of the classes as anchors: rho+(s) = exp(-scale (s - margin)), rho-(s) = exp(scale (s + margin)),
    sigma(x) = log(1 + x). Kim et al., CVPR 2020.

    The positive part is a mean over the proxies with positives in the mini-batch, the negative part over all.

    Args:
        num_classes, dim: of the proxies (c, d), which are trained: give them to the optimiser.
        scale, margin: 32 and 0.1, as published.
        generator: draws the proxies, N(0, 2 / c) as in the authors' code; they are used at length 1.

    >>> loss = ProxyAnchor(num_classes=3, dim=16)
    >>> loss(torch.randn(8, 16), torch.arange(8) % 3).shape, loss.proxies.shape
    (torch.Size([]), torch.Size([3, 16]))
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        scale: float = 32.0,
        margin: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.margin = check_positive("scale", scale), margin
        proxies = torch.randn(num_classes, dim, generator=random.fork(generator, "cpu"), device="cpu")
        self.proxies = nn.Parameter(proxies * (2 / num_classes) ** 0.5)

    def anchors(self, z: Tensor, labels: Tensor) -> Anchors:
        c, d = self.proxies.shape
        if z.shape[1] != d:
            raise ValueError(f"embeddings must be (b, {d}) like the proxies, got {tuple(z.shape)}")
        check_targets(labels, len(z), c)
        positive = torch.arange(c, device=z.device)[:, None] == labels
        return Anchors(nnf.normalize(self.proxies.to(z.dtype), dim=1), positive, ~positive)

    def reduce(self, s_positive: Tensor, y_AK: Tensor, s_negative: Tensor, not_y_AL: Tensor) -> Tensor:
        pull = log1p_sum_exp(-self.scale * (s_positive - self.margin), y_AK)
        push = log1p_sum_exp(self.scale * (s_negative + self.margin), not_y_AL)
        # A proxy without positives adds log(1 + 0) = 0.
        return pull.sum() / (y_AK > 0).any(dim=1).sum().clamp(min=1) + push.mean()

    def extra_repr(self) -> str:
        return f"num_classes={len(self.proxies)}, scale={self.scale}, margin={self.margin}"


def unit(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Checked embeddings at length 1, in float32 or better."""
    check_embeddings(embeddings)
    if labels.is_floating_point():
        raise TypeError(f"labels must be class indices (b,), got {labels.dtype} of shape {tuple(labels.shape)}")
    check_targets(labels, len(embeddings))
    return nnf.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=1)


def log1p_sum_exp(x: Tensor, weight: Tensor) -> Tensor:
    """log(1 + sum_k weight_k exp(x_k)) of each row, without overflow; weights are constants of at least 0."""
    x = torch.cat([torch.zeros_like(x[:, :1]), x + weight.detach().log()], dim=1)
    return x.logsumexp(dim=1)
