"""AlignMixup (Venkataramanan et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._checks import check_count, check_positive
from ..models import SplitModel
from ..models.pool import GlobalAveragePool
from .base import Mixed, Mixer
from .pairs import Pairing, host, probabilities
from .sinkhorn import sinkhorn, squared_distances


class AlignMixup(Mixer):
    """Mix features of the last stage position by position, after one image's positions are moved onto the other's.

    A coin flip for every mini-batch decides between lam F1 + (1 - lam) F2 R', which keeps the pose of the first image,
    and lam F1 R + (1 - lam) F2, which keeps that of the second. R = r P is the optimal transport plan between
    the r positions, one for both, see `align`. Tokens that are not patches have no position and are mixed as they are.

    The authors train half of the mini-batches with it and half with input mixup:
    `Either(AlignMixup(), InputMixup(alpha=2.0), p=0.5)`, which is `alignmixup` on the command line.

    Args:
        alpha: of Beta(alpha, alpha); default 2.0, as in the authors' code.
        eps: of the entropy in the transport, in squared units of the features; default 0.1, theirs.
        max_iter: Sinkhorn iterations at most; default 100, theirs.

    >>> method = AlignMixup()
    """

    def __init__(self, alpha: float = 2.0, *, eps: float = 0.1, max_iter: int = 100) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)
        self.eps = check_positive("eps", eps)
        self.max_iter = check_count("max_iter", max_iter)

    def mixed(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> Mixed:
        soft = probabilities(images, targets, model.num_classes)
        generator = host(generator)
        pairing = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        keep_first = bool(torch.randint(2, (), generator=generator, device="cpu"))
        features = model.features(images)
        if features.ndim < 3:
            raise ValueError(f"AlignMixup aligns positions, but this model's features have none: {features.shape}")
        # What is averaged as channels by positions is that, also where a network in one dimension has (b, d, t).
        channels_first = features.ndim > 3 or isinstance(model.pool, GlobalAveragePool)
        tokens = features.flatten(2).mT if channels_first else features
        prefix, tokens = tokens.split([model.prefix_tokens, tokens.shape[1] - model.prefix_tokens], dim=1)
        other = tokens[pairing.partner]
        tokens, other = align(tokens, other, self.eps, keep_first=keep_first, max_iter=self.max_iter)
        mixed = torch.lerp(other, tokens, pairing.lam)
        mixed = mixed.mT.reshape(features.shape) if channels_first else torch.cat([pairing.mix(prefix), mixed], dim=1)
        return Mixed(mixed, model.depth, pairing.mix(soft))


def align(
    tokens: Tensor, other: Tensor, eps: float = 0.1, *, keep_first: bool = True, max_iter: int = 100
) -> tuple[Tensor, Tensor]:
    """Both (b, r, d), the positions of `other` moved onto those of `tokens`, or with `keep_first=False` the reverse.

    Every moved position becomes a convex combination of the positions of its image, with the weights of its row, or
    column, of the entropic transport plan between the two feature maps (cost: squared distance, uniform marginals),
    normalised. No gradient flows through the plan.

    >>> tokens = torch.eye(3)[None] * 5
    >>> _, moved = align(tokens, tokens[:, [2, 0, 1]])
    >>> torch.allclose(moved, tokens)
    True
    """
    plan = sinkhorn(squared_distances(tokens.detach(), other.detach()), eps, max_iter=max_iter)
    return (tokens, _moved(plan, other)) if keep_first else (_moved(plan.mT, tokens), other)


def _moved(plan: Tensor, positions: Tensor) -> Tensor:
    # The plan's rows sum to 1/r in the limit of many iterations only.
    weights = plan / plan.sum(2, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    with torch.autocast(positions.device.type, enabled=False):  # the result is mixed with features of this type
        return weights.to(positions.dtype) @ positions
