"""Composition: one method or the other, for every mini-batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import distributed, random
from ..functional._checks import check_share
from ..models import SplitModel
from .base import Method, MethodOutput
from .pairs import InputMethod, host


class Either(Method):
    """With probability `p` method `a`, otherwise method `b`, decided for every mini-batch (section 4.1).

    Args:
        a, b: methods.
        p: probability of the first.

    Where one of them has `gather=True`, all processes have to give generators with the same seed, to choose alike.

    >>> from multimix.methods import InputMixup, MultiMix
    >>> method = Either(MultiMix(), InputMixup(), p=0.5)  # the paper's regime
    """

    def __init__(self, a: Method, b: Method, p: float = 0.5) -> None:
        super().__init__()
        if not isinstance(a, Method) or not isinstance(b, Method):
            raise TypeError(f"a and b must be methods, got {type(a).__name__} and {type(b).__name__}")
        self.a, self.b, self.p = a, b, check_share("p", p)

    def choices(self) -> list[tuple[float, Method]]:
        """Both methods, or what they choose from; none with probability 0.

        >>> from multimix.methods import CutMix, Erm, InputMixup
        >>> method = Either(CutMix(), Either(Erm(), InputMixup()), p=0.2)
        >>> [(p, type(part).__name__) for p, part in method.choices()]
        [(0.2, 'CutMix'), (0.4, 'Erm'), (0.4, 'InputMixup')]
        """
        return [
            (share * weight, part)
            for share, side in ((self.p, self.a), (1 - self.p, self.b))
            for weight, part in side.choices()
            if share > 0
        ]

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        if generator is None and self.gathers and distributed.process_count() > 1:
            raise ValueError(
                "with gather=True every process must choose alike: give all of them a generator with the same seed, "
                "such as generator=random.make_generator(seed, step)"
            )
        generator = host(generator)
        return self.choose(generator)(model, images, targets, generator, **extras)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mixed images and soft targets, where both methods only mix inputs."""
        for method in (self.a, self.b):
            if not isinstance(method, InputMethod | Either):
                raise TypeError(f"mix needs two methods that only mix inputs, got {type(method).__name__}")
        generator = host(generator)
        chosen = self.choose(generator)
        assert isinstance(chosen, InputMethod | Either)
        return chosen.mix(images, targets, num_classes, generator)

    def choose(self, generator: torch.Generator) -> Method:
        """The method for this mini-batch."""
        return self.a if random.uniform(generator) < self.p else self.b
