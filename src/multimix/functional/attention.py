"""Attention over spatial positions, and interpolation weights scaled by it: (9), (10), (11), (14)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import as_probabilities, check_choice, check_targets, check_tensor, mixing_dtype
from ._transforms import without_autocast
from .loss import counted, or_one


def attention_map(
    features: Tensor,
    by: str = "gap",
    nonlinearity: str = "relu",
    targets: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The attention map a = h(z' u) of every example (9): confidence in its label at each spatial position.

    Args:
        features: (b, r, d).
        by: the vector u: "gap", the mean feature of the example; "cam", the classifier's weight vector of the
            target class, u = W y (needs `targets` and `weight`); "uniform", no attention, a = 1/r.
        nonlinearity: h: "relu" (then l1 normalisation) or "softmax".
        targets: for "cam": class indices (b,) or probabilities (b, c).
        weight: for "cam": the linear classifier's weight (c, d), as `nn.Linear` holds it.
        mask: (b, r) bool, True where the position is real (not padding). Others get 0 and do not count in the mean.

    Returns:
        (b, r) in float32 or better, non-negative, every row sums to 1. A row that ReLU leaves all zero becomes
        uniform over its real positions; a row without real positions is 0.

    >>> features = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]])
    >>> attention_map(features)
    tensor([[0.2500, 0.7500, 0.0000]])
    >>> attention_map(features, by="uniform", mask=torch.tensor([[True, True, False]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    check_choice("by", by, ("gap", "cam", "uniform"))
    check_choice("nonlinearity", nonlinearity, ("relu", "softmax"))
    check_tensor("features", features)
    if features.ndim != 3:
        raise ValueError(
            f"features must be (b, r, d), got {tuple(features.shape)}; for (b, d, h, w) use features.flatten(2).mT"
        )
    b, r, d = features.shape
    if r == 0:
        raise ValueError(f"features must have at least one position, got shape {tuple(features.shape)}")
    if mask is not None and (check_tensor("mask", mask).shape != (b, r) or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool of shape ({b}, {r}), got {mask.dtype} of shape {tuple(mask.shape)}")
    dtype = mixing_dtype(features.dtype)
    real = torch.ones(b, r, device=features.device, dtype=dtype) if mask is None else mask.to(dtype)
    count = real.sum(1, keepdim=True).clamp(min=1)
    if by == "uniform":
        return real / count
    with without_autocast(features):
        features = features.to(dtype)
        if mask is not None:  # padding may hold anything, also NaN
            features = features.masked_fill(~mask[..., None], 0)
        u = features.sum(1) / count if by == "gap" else _class_vectors(targets, weight, b, d, dtype)
        # Scores of a vector of scale 1 neither over- nor underflow.
        scale = u.detach().abs().amax(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        scores = torch.einsum("brd,bd->br", features, u / scale)
    if nonlinearity == "softmax":
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        # A row that is all masked would be 0/0; it is zeroed by `real` below.
        scores = scores - scores.amax(1, keepdim=True).clamp(min=torch.finfo(dtype).min).detach()
        positive = (scores * scale).exp() * real
    else:  # the scale cancels in the normalisation
        positive = scores.relu() * real
        # Dividing by the largest first keeps tiny (or huge) scores from vanishing in the sum.
        positive = positive / positive.amax(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny).detach()
    total = positive.sum(1, keepdim=True)
    empty = total == 0
    return torch.where(empty, real / count, positive / torch.where(empty, torch.ones_like(total), total))


def attend(lam: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Scale interpolation weights by attention and normalise them back onto the simplex: (10), (11), and s of (14).

    Args:
        lam: (r, n, b), rows on the simplex.
        a: attention (b, r).

    Returns:
        lam_hat (r, n, b), the columns of M-hat (11) as rows, and s (r, n), the l1 norms of the columns of M (10),
        which weight the loss (14), both in float32 or better. Where s is 0, or so small that its reciprocal nearly
        overflows (1e-35 in float32), both are 0.

    >>> lam = torch.tensor([[[0.5, 0.5]]])
    >>> lam_hat, s = attend(lam, torch.tensor([[0.1], [0.3]]))
    >>> lam_hat, s
    (tensor([[[0.2500, 0.7500]]]), tensor([[0.2000]]))
    """
    check_tensor("lam", lam)
    check_tensor("a", a)
    if lam.ndim != 3 or a.ndim != 2 or a.shape != (lam.shape[2], lam.shape[0]):
        raise ValueError(f"lam must be (r, n, b) and a (b, r), got {tuple(lam.shape)} and {tuple(a.shape)}")
    lam = lam.to(mixing_dtype(lam.dtype))  # sums of 1/r are next to nothing in float16
    M = lam * a.mT[:, None, :].to(lam.dtype)
    s = counted(M.sum(-1))
    # Second derivatives divide by the sum three times, which of small ones would overflow: it is made 1 before.
    scale = torch.where(s > 0, or_one(s.detach()).reciprocal(), 0)
    return M * scale[..., None] / or_one(s * scale)[..., None], s


def _class_vectors(targets: Tensor | None, weight: Tensor | None, b: int, d: int, dtype: torch.dtype) -> Tensor:
    """u = W y (b, d)."""
    if targets is None or weight is None:
        raise ValueError("by='cam' needs targets and the linear classifier's weight (c, d): pass both")
    if check_tensor("weight", weight).ndim != 2 or weight.shape[1] != d:
        raise ValueError(f"weight must be (c, {d}) for features with {d} channels, got {tuple(weight.shape)}")
    c = weight.shape[0]
    check_targets(targets, b, c, beside=weight)
    if targets.is_floating_point():
        return as_probabilities(targets, c, dtype) @ weight.to(dtype)
    return weight.to(dtype)[targets.long()]
