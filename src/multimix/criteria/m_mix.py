"""m-Mix (Zhang et al., KDD 2022): contrastive learning with embeddings that are mixed with all similar ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from .embeddings import check_embeddings


class MMix(nn.Module):
    """The loss of SimCLR (NT-Xent) on two views of a mini-batch, embeddings mixed with all similar ones of their view.

    With unit embeddings z_i of one view, the weights are the similarities above the threshold:
    a_ij = s_ij [s_ij >= threshold] / sum_k s_ik [s_ik >= threshold], s_ij = z_i' z_j, and z~_i = sum_j a_ij z_j, made
    unit again. A similar example is part of z~_i, and so a hard negative. Nothing is drawn. NT-Xent of the 2b
    embeddings is the mean over i of -log(exp(z~_i' z~_p(i) / tau) / sum_k!=i exp(z~_i' z~_k / tau)), p(i) being the
    other view of i.

    Args:
        temperature: tau.
        threshold: cosine similarity, in (0, 1], from which two embeddings are similar. At 1 nothing is mixed and the
            loss is NT-Xent.
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
        for name, value in (("temperature", temperature), ("threshold", threshold)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if threshold > 1:
            raise ValueError(
                f"threshold must be a cosine similarity, at most 1, got {threshold!r}: at 1 nothing is mixed"
            )
        self.temperature, self.threshold = float(temperature), float(threshold)
        self.detach_weights = detach_weights

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss, a scalar, of the embeddings (b, d) of two views; row i of both is the same example."""
        check_embeddings(first, "first")
        check_embeddings(second, "second")
        if first.shape != second.shape:
            raise ValueError(f"the two views must agree in shape, got {tuple(first.shape)} and {tuple(second.shape)}")
        b = len(first)
        with torch.autocast(first.device.type, enabled=False):
            z = torch.cat([self.mix(first), self.mix(second)])
            logits = z @ z.mT / self.temperature
            logits = logits.masked_fill(torch.eye(2 * b, dtype=torch.bool, device=z.device), -torch.inf)
            return nnf.cross_entropy(logits, (torch.arange(2 * b, device=z.device) + b) % (2 * b))

    def mix(self, embeddings: Tensor) -> Tensor:
        """The mixed embeddings (b, d) of one view, of length 1, in float32 or better."""
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        z = nnf.normalize(embeddings.to(dtype), dim=1)
        if self.threshold == 1:
            return z
        s = z @ z.mT
        # An embedding is always similar to itself, whatever rounding makes of its length.
        similar = (s >= self.threshold) | torch.eye(len(z), dtype=torch.bool, device=z.device)
        weights = s * similar
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        return nnf.normalize((weights.detach() if self.detach_weights else weights) @ z, dim=1)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, threshold={self.threshold}, detach_weights={self.detach_weights}"
