"""SuperMix as a training method."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...functional import sample_weights
from ...functional._checks import check_count, check_images, check_not_negative, check_pixels, check_positive
from ...models import SplitModel
from ..pairs import InputMethod, host, probabilities
from ..teacher import Teacher
from .masks import optimise_masks


class Supermixed(NamedTuple):
    """Mixed images (b, channels, h, w), their targets (b, c), and whether the teacher confirms each mixture (b,)."""

    images: Tensor
    targets: Tensor
    reached: Tensor


class SuperMix(InputMethod):
    """Mix K images with masks that keep of each what a frozen teacher recognises it by.

    For every mixed image, weights of K images are drawn from a Dirichlet distribution, and masks are optimised so that
    the teacher's prediction on the mixture approaches these weights on the classes that it sees in the images, see
    `optimise_masks`. Its target has the drawn weights on the given targets of the images. Where the optimisation
    has not succeeded within `max_iter` steps, it has the pixel shares of the masks instead (`build_set` leaves such
    mixtures out, as the authors do).

    Args:
        teacher: a module that maps pixels in [0, 1] to logits, of which a frozen copy is kept; or the folder of a run.
        k: images per mixture; default 2. The authors also use 3.
        alpha: of the Dirichlet distribution; default 3.
        width: side of the grid on which masks are optimised; default 16, for small images 8.
        lambda_s: weight of the sparsity of the masks; default 25.
        max_iter: optimisation steps at most; default 50. Each costs a forward and a backward pass of the teacher.
        sigma: of the smoothing of gradients, in cells of the grid; default 1.

    Raises:
        TypeError, ValueError: no teacher, or an argument out of its range.

    >>> teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = SuperMix(teacher, width=4).mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        teacher: nn.Module | str | os.PathLike[str] | None = None,
        k: int = 2,
        alpha: float = 3.0,
        *,
        width: int = 16,
        lambda_s: float = 25.0,
        max_iter: int = 50,
        sigma: float = 1.0,
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError(
                "SuperMix needs a teacher, trained on the same classes: SuperMix(teacher=model), "
                'or on the command line supermix(teacher="runs/erm/seed0")'
            )
        self.teacher = Teacher(teacher)
        self.k = check_count("k", k, least=2)
        self.alpha = check_positive("alpha", alpha)
        self.width = check_count("width", width)
        self.max_iter = check_count("max_iter", max_iter)
        self.lambda_s, self.sigma = check_not_negative("lambda_s", lambda_s), check_not_negative("sigma", sigma)

    def setup(self, model: SplitModel) -> None:
        self.teacher.on(next(model.parameters()).device)  # so that a folder that is no run is reported at once

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        mixed, soft, _ = self.supermix(images, targets, num_classes, generator)
        return mixed, soft

    @torch.no_grad()
    def supermix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> Supermixed:
        """What `mix` returns, and for which mixtures the optimisation has succeeded."""
        check_images(images)
        check_pixels(images)
        soft = probabilities(images, targets, num_classes)
        (b, c), generator, device = soft.shape, host(generator), images.device
        K = min(self.k, b)
        if K == 1:
            return Supermixed(images.clone(), soft.clone(), torch.ones(b, dtype=torch.bool, device=device))
        chosen = _sets(b, K, generator).to(device, non_blocking=True)
        lam = sample_weights(b, K, alpha=self.alpha, generator=generator).to(device, non_blocking=True)
        teacher = self.teacher.on(device, images.dtype)
        seen = teacher(images)
        if seen.shape != (b, c):
            raise ValueError(f"the teacher must give logits ({b}, {c}), got {tuple(seen.shape)}")
        seen = F.one_hot(seen.argmax(1), c).to(lam.dtype)
        stacks = images[chosen]
        masks, reached = optimise_masks(
            teacher, stacks, _weighted(lam, seen[chosen]), width=self.width, lambda_s=self.lambda_s, sigma=self.sigma,
            max_iter=self.max_iter,
        )  # fmt: skip
        weights = torch.where(reached[:, None], lam, masks.mean((2, 3)))
        mixed = (masks[:, :, None].to(images.dtype) * stacks).sum(1)
        return Supermixed(mixed, _weighted(weights.to(soft.dtype), soft[chosen]), reached)


def _sets(b: int, K: int, generator: torch.Generator) -> Tensor:
    """K different images for every mixture (b, K), the i-th with image i first: neighbours in a random circle."""
    order = torch.randperm(b, generator=generator, device="cpu")
    circle = order[(torch.arange(b, device="cpu")[:, None] + torch.arange(K, device="cpu")) % b]
    return circle[order.argsort()]


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """(b, K) and (b, K, c) -> (b, c)."""
    return (weights[..., None] * values).sum(1)
