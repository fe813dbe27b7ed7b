"""The protocol of every training method: one call from a model and a batch to a loss.

What the protocol carries, and how:

- *input gradients* (PuzzleMix, Co-Mixup, SaliencyMix): the method has the model and the images, so it can run
  `torch.autograd.grad` on a forward pass of its own; only gradients in the images are taken, which does not
  trigger the hooks of distributed training;
- *a frozen teacher* (SuperMix, TokenMix): held in a tuple attribute, so that it is neither trained nor saved;
- *parameters and a momentum encoder* (AutoMix): a method is an `nn.Module`; `setup` builds what depends on the
  model, the trainer optimises and saves it with the model, and `after_step` moves the momentum encoder;
- *the attention of a ViT* (TransMix): asked of the `SplitModel`, which knows its own blocks;
- *several source domains* (DAML): `needs` names further per-example tensors of the data set, and the trainer
  passes them as keyword arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models import SplitModel


class MethodOutput(NamedTuple):
    """What a method returns: the scalar `loss`, and the `logits` (b, c) of the clean batch where the method has
    computed them anyway (for an honest training accuracy), else None."""

    loss: Tensor
    logits: Tensor | None


class Mixed(NamedTuple):
    """A mixed mini-batch: what a `Mixer` makes of the clean one."""

    features: Tensor
    """(n, ...): mixed outputs of stage `layer` of the model."""
    layer: int
    """The mixing layer: 0 for images, k for the output of stage k."""
    targets: Tensor
    """(n, c) probabilities."""


class Method(nn.Module):
    """Base of all methods: `out = method(model, images, targets, generator=None)`.

    `images` (b, channels, height, width), pixels in [0, 1] (the model normalises), `targets` (b,) class indices
    or (b, c) probabilities. Neither is modified. `generator` may be on any device; a CPU generator never causes
    a device synchronisation.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of further per-example tensors that the data set must provide as keyword arguments: by default those of
        the methods within. A method that needs some itself may say so in a class attribute."""
        return tuple(dict.fromkeys(name for part in self._parts() for name in part.needs))

    def wanted(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the further tensors of a batch that it needs.

        Raises:
            ValueError: one of them is not there.
        """
        if missing := [name for name in self.needs if name not in extras]:
            raise ValueError(
                f"{type(self).__name__} needs {' and '.join(missing)} for every example, which these data do not have: "
                "choose other data, or another method"
            )
        return {name: extras[name] for name in self.needs}

    @property
    def keeps_graph(self) -> bool:
        """Whether a pass of the model is differentiated a second time, which a compiled model must know before."""
        return False

    @property
    def gathers(self) -> bool:
        """Whether it mixes the examples of all processes: then all of them have to give it equal generators, so that
        they choose alike."""
        return any(part.gathers for part in self._parts())

    def choices(self) -> list[tuple[float, Method]]:
        """The methods among which this one chooses for every mini-batch, with their probabilities: mostly itself."""
        return [(1.0, self)]

    def setup(self, model: SplitModel) -> None:
        """Called once with the model, on its device, before the optimiser is made; passed on to the methods within.

        Initial weights follow `torch.initial_seed()`, which is the same on every rank of a run, and leave the global
        generator alone: `with random.initialising(random.make_generator(torch.initial_seed(), "name")): ...`
        """
        for part in self._parts():
            part.setup(model)

    def check_extras(self, extras: Mapping[str, Tensor]) -> None:
        """Called once before training with the further tensors (N, ...) of the whole training set, on the host.

        Raises:
            ValueError: a value that the method cannot train on. In a step, looking at values would stall a GPU.
        """
        for part in self._parts():
            part.check_extras(extras)

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def after_step(self, model: SplitModel) -> None:
        """Called after every optimiser step with the model as it then is; passed on to the methods within."""
        for part in self._parts():
            part.after_step(model)

    def _parts(self) -> list[Method]:
        """The methods within, each once."""
        return [part for part in self.children() if isinstance(part, Method)]

    def __call__(self, model: SplitModel, *args: Any, **kwargs: Any) -> MethodOutput:
        if not (hasattr(model, "pool") and hasattr(model, "classifier")):  # a wrapper of one will do
            raise TypeError(
                f"model must be a multimix.models.SplitModel, got {type(model).__name__}: multimix.models.split(model) "
                "makes one of a network"
            )
        out: MethodOutput = super().__call__(model, *args, **kwargs)
        return out


class Mixer(Method):
    """Base of the methods that train with cross entropy on mixed images or features.

    They define `mixed`; what becomes of the mixed mini-batch is the same for all, and can be exchanged for all
    (`DenseLoss`).
    """

    def mixed(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> Mixed:
        """The mixed mini-batch, from the arguments of `forward`."""
        raise NotImplementedError(f"{type(self).__name__} must define mixed")

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        features, layer, soft = self.mixed(model, images, targets, generator, **extras)
        logits = model.head(model.features(features, start=layer))
        return MethodOutput(nn.functional.cross_entropy(logits, soft), None)
