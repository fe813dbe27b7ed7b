"""AugMix (Hendrycks et al., ICLR 2020): consistent predictions under mixed chains of augmentations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..functional import sample_weights
from ..functional._checks import check_count, check_pixels, check_positive, mixing_dtype
from ..models import SplitModel
from .augmentations import augment_in_chains
from .base import Method, MethodOutput
from .pairs import host, probabilities


class AugMix(Method):
    """Cross entropy of the clean images, and 12 times the Jensen-Shannon divergence between the predictions for these
    and for two augmented views; all 3 b images in one forward pass.

    A view is (1 - m) x + m sum_k w_k chain_k(x), with m ~ Beta(alpha, alpha), w ~ Dir(alpha) and chains of
    random operations, all drawn for every image and view. The operations and their magnitudes are those
    of torchvision's v2 transform of the same name; here every operation is applied once to all images that need it.

    Args:
        severity: 1 to 10, the strength of the operations.
        mixture_width: number of chains.
        chain_depth: operations per chain; None: 1, 2 or 3 at random.
        alpha: of the Beta and the Dirichlet distribution.
        all_ops: brightness, colour, contrast and sharpness too; the authors leave these out by default because they
            overlap with the corruptions of CIFAR-10-C.
        consistency: weight of the Jensen-Shannon divergence.

    >>> views = AugMix().views(torch.rand(4, 3, 8, 8), torch.Generator().manual_seed(0))
    >>> views.shape  # two views of every image
    torch.Size([2, 4, 3, 8, 8])
    """

    def __init__(
        self,
        severity: int = 3,
        mixture_width: int = 3,
        chain_depth: int | None = None,
        alpha: float = 1.0,
        *,
        all_ops: bool = False,
        consistency: float = 12.0,
    ) -> None:
        super().__init__()
        self.severity = check_count("severity", severity, most=10)
        self.mixture_width = check_count("mixture_width", mixture_width)
        self.chain_depth = None if chain_depth is None else check_count("chain_depth", chain_depth)
        self.alpha = check_positive("alpha", alpha)
        self.all_ops = all_ops
        self.consistency = check_positive("consistency", consistency)

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        soft = probabilities(images, targets, model.num_classes)
        views = self.views(images, generator)
        clean, first, second = model(torch.cat((images, *views))).chunk(3)
        loss = cross_entropy(clean, soft) + self.consistency * jensen_shannon(clean, first, second)
        return MethodOutput(loss, clean)

    @torch.no_grad()
    def views(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Two augmented views (2, b, channels, height, width) of images (b, channels, height, width) in [0, 1] with one
        channel or three.

        Raises:
            TypeError: integer pixels.
            ValueError: images of another shape.
        """
        check_pixels(images)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"AugMix needs images (b, 1 or 3, height, width), got shape {tuple(images.shape)}")
        # Autocast would round the positions that images are sampled at.
        with torch.autocast(images.device.type, enabled=False):
            return self._views(images, host(generator))

    def _views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        b, k = len(images), self.mixture_width
        shares = sample_weights(2 * b, 2, alpha=self.alpha, generator=generator)
        weights = sample_weights(2 * b, k, alpha=self.alpha, generator=generator) * shares[:, 1:]
        chains = augment_in_chains(
            (images * 255).round().clamp(0, 255).byte().repeat(2 * k, 1, 1, 1),
            generator, severity=self.severity, depth=self.chain_depth, all_ops=self.all_ops,
        )  # fmt: skip
        weight_K2B111 = (weights.T / 255).to(images.device, images.dtype).view(k, 2, b, 1, 1, 1)
        views = images * shares[:, 0].to(images.device, images.dtype).view(2, b, 1, 1, 1)
        for weight, chain in zip(weight_K2B111, chains.view(k, *views.shape), strict=True):
            views.addcmul_(weight, chain.to(views.dtype))
        return views


def jensen_shannon(*logits: Tensor) -> Tensor:
    """Mean over the examples of the Jensen-Shannon divergence, in nats, between the predictions of several (b, c)
    logits: 1/k sum_i KL(p_i || 1/k sum_j p_j).

    Computed from log probabilities, so that no clamp is needed.

    >>> far_apart = jensen_shannon(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]]))
    >>> bool(torch.isclose(far_apart, torch.tensor(2.0).log()))
    True
    """
    # Of predictions that nearly agree it is a small difference, which bfloat16 has no digits for.
    log_p = torch.stack([each.to(mixing_dtype(each.dtype)).log_softmax(1) for each in logits])
    log_mixture = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mixture)).sum(2).mean()
