"""What the methods that mix linearly share: one partner for every example and one factor for the mini-batch, (3)-(5),
or, beyond pairs and beyond the mini-batch, any n combinations of m examples, (6)-(7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import random
from ..functional import sample_weights
from ..functional._checks import (
    Alpha,
    as_probabilities,
    check_alpha,
    check_count,
    check_pixels,
    check_some_images,
    check_targets,
    check_tensor,
)
from ..functional.interpolation import mix
from ..models import SplitModel
from .base import Mixed, Mixer


class Pairing(NamedTuple):
    """lambda ~ Beta(alpha, alpha), drawn once per mini-batch, and the partner of every example, a permutation (b,)."""

    lam: float
    partner: Tensor

    @classmethod
    def draw(cls, b: int, alpha: float, generator: torch.Generator, device: torch.device) -> Pairing:
        """Drawn on the host, so that the same generator mixes alike on every device."""
        lam = draw_beta(alpha, generator)
        partner = torch.randperm(b, generator=generator, device="cpu")
        return cls(lam, partner.to(device, non_blocking=True))

    def mix(self, x: Tensor) -> Tensor:
        """lam x + (1 - lam) x[partner], for images, features or probabilities alike."""
        check_pixels(x)
        return torch.lerp(x[self.partner], x, self.lam)


class Combination(NamedTuple):
    """n convex combinations of the mini-batch: `lam` (n, b), rows on the simplex, drawn independently."""

    lam: Tensor

    def mix(self, x: Tensor) -> Tensor:
        """(b, ...) -> (n, ...), for images, features or probabilities alike."""
        check_pixels(x)
        return mix(x, self.lam)


class LinearMixing(NamedTuple):
    """How a method mixes linearly: the published pairs, or n combinations of m examples with Dirichlet weights."""

    alpha: Alpha
    n: int | None
    m: int

    @classmethod
    def checked(cls, alpha: Alpha, n: int | None, m: int) -> LinearMixing:
        """Raises ValueError or TypeError for what is not a concentration or a count."""
        check_alpha(alpha)
        return cls(alpha, None if n is None else check_count("n", n), check_count("m", m))

    def draw(self, b: int, generator: torch.Generator, device: torch.device) -> Pairing | Combination:
        """Drawn on the host, so that the same generator mixes alike on every device."""
        if self.n is None and self.m == 2 and not isinstance(self.alpha, (tuple, list)):
            return Pairing.draw(b, self.alpha, generator, device)
        lam = sample_weights(b if self.n is None else self.n, b, min(self.m, b), self.alpha, generator=generator)
        return Combination(lam.to(device, non_blocking=True))


class InputMethod(Mixer):
    """Base of the methods that only mix inputs: they can be used as a collate function too, through `mix`."""

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mixed images (b, channels, h, w) and soft targets (b, c), from images in any range and targets that are class
        indices (b,), with `num_classes` c, or probabilities (b, c). Several labels of an image, one number of 0 or 1
        each, are mixed likewise, for a binary cross entropy."""
        raise NotImplementedError(f"{type(self).__name__} must define mix")

    def mixed(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> Mixed:
        mixed, soft = self.mix(images, targets, model.num_classes, generator)
        return Mixed(mixed, 0, soft)


@random.eager
def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha)."""
    return sample_weights(1, 2, alpha=alpha, generator=generator, dtype=torch.float64)[0, 0].item()


def host(generator: torch.Generator | None) -> torch.Generator:
    """The generator for decisions that are taken on the host."""
    return random.fork(generator, "cpu")


def probabilities(images: Tensor, targets: Tensor, num_classes: int | None) -> Tensor:
    """Checked targets of a mini-batch as probabilities (b, num_classes)."""
    check_some_images(images)
    check_tensor("targets", targets)
    if num_classes is None:
        if not targets.is_floating_point() or targets.ndim != 2:
            raise ValueError(
                f"of targets {tuple(targets.shape)}, {targets.dtype}, the number of classes cannot be told: give "
                "num_classes, or probabilities (b, classes)"
            )
        num_classes = targets.shape[1]
    check_count("num_classes", num_classes)
    check_targets(targets, images.shape[0], num_classes, beside=images)
    dtype = targets.dtype if targets.is_floating_point() else torch.float32
    return as_probabilities(targets, num_classes, dtype)
