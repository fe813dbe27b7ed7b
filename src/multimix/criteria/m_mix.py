"""m-Mix (Zhang et al., KDD 2022): contrastive learning with embeddings that are mixed with all similar ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ..functional._checks import check_positive
from ..functional._transforms import without_autocast
from .criterion import Criterion
from .embeddings import check_embeddings


class MMix(Criterion):
    """The loss of SimCLR (NT-Xent) on two views of a mini-batch, the first view's embeddings mixed with similar ones.

    With unit embeddings z_i of the first view and z'_i of the second, z~_i = sum_j a_ij z_j, where the weights
    a_ij = softmax_j(s_ij) run over j with s_ij = z_i' z_j >= threshold, i itself among them. The similar examples z'_j
    of the second view, which stays as it is, are then hard negatives of z~_i: in part it is them. Nothing is drawn.
    NT-Xent of the 2b embeddings u = (z~, z') is the mean over i of
    -log(exp(u_i' u_p(i) / tau) / sum_k!=i exp(u_i' u_k / tau)), p(i) being the other view of i.

    Args:
        temperature: tau.
        threshold: cosine similarity, in (0, 1], from which two embeddings are similar. At 1 nothing is mixed and the
            loss is NT-Xent. The authors use 0.9 to 0.95.
        detach_weights: no gradient through the mixing weights a.

    Raises:
        ValueError: temperature or threshold is out of its range.

    >>> first, second = torch.randn(8, 16, requires_grad=True), torch.randn(8, 16)
    >>> loss = MMix()(first, second)
    >>> loss.backward()
    >>> first.grad.shape
    torch.Size([8, 16])
    """

    def __init__(self, temperature: float = 0.4, threshold: float = 0.9, *, detach_weights: bool = True) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.threshold = check_positive("threshold", threshold)
        if threshold > 1:
            raise ValueError(
                f"threshold must be a cosine similarity, at most 1, got {threshold!r}: at 1 nothing is mixed"
            )
        self.detach_weights = detach_weights

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss, a scalar, of the embeddings (b, d) of two views; row i of both is the same example."""
        check_embeddings(first, "first")
        check_embeddings(second, "second")
        if first.shape != second.shape:
            raise ValueError(f"the two views must agree in shape, got {tuple(first.shape)} and {tuple(second.shape)}")
        b = len(first)
        with without_autocast(first):
            u = torch.cat([self.mix(first), _unit(second)])
            logits = u @ u.mT / self.temperature
            logits = logits.masked_fill(torch.eye(2 * b, dtype=torch.bool, device=u.device), -torch.inf)
            return nnf.cross_entropy(logits, (torch.arange(2 * b, device=u.device) + b) % (2 * b))

    def mix(self, embeddings: Tensor) -> Tensor:
        """The mixed embeddings z~ (b, d), no longer than 1, in float32 or better."""
        z = _unit(embeddings)
        if self.threshold == 1:
            return z
        s = z @ z.mT
        # An embedding is always similar to itself, whatever rounding makes of its length.
        similar = (s >= self.threshold) | torch.eye(len(z), dtype=torch.bool, device=z.device)
        weights = s.masked_fill(~similar, -torch.inf).softmax(dim=1)
        return (weights.detach() if self.detach_weights else weights) @ z

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, threshold={self.threshold}, detach_weights={self.detach_weights}"


def _unit(embeddings: Tensor) -> Tensor:
    return nnf.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=1)
