"""`TrainingStep`: model and method in one module, so that whatever wraps it sees the whole computation of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..methods.base import Method
from ..models import SplitModel
from .config import Config

__all__ = ["TrainingStep", "begin_pass", "compiled_stages"]


class TrainingStep(nn.Module):
    """The loss of one micro-batch, as one forward pass.

    Distributed training synchronises gradients in the forward pass of the module it wraps. A method calls parts
    of the model (`features`, `classifier`) and may have parameters of its own, so the wrapped module has to hold
    both; calling the parts from outside would bypass the wrapper.

    Args:
        model: the network.
        method: the training method; its `setup` has been called.
    """

    def __init__(self, model: SplitModel, method: Method) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(
        self,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The scalar loss, and the number of clean images classified correctly (None: the method has not computed
        clean logits), for images (b, channels, h, w) in [0, 1] and targets (b,).

        `extras` holds the further tensors (b, ...) that the method names in `needs`.
        """
        out = self.method(self.model, images, targets, generator, **(extras or {}))
        if out.logits is None:
            return out.loss, None
        return out.loss, (out.logits.detach().argmax(dim=1) == targets).sum()


@contextmanager
def compiled_stages(step: TrainingStep, config: Config) -> Iterator[None]:
    """Compile the stages one by one, since methods enter and leave the network between them."""
    import torch._dynamo
    import torch._functorch.config

    model = step.model
    once = not any(isinstance(part, Method) and part.keeps_graph for part in step.method.modules())
    with (
        # Stages share one cache, of eight graphs by default: too few for all of them in training and evaluation.
        torch._dynamo.config.patch(recompile_limit=8 * (1 + model.depth)),
        # The backward pass may use the memory of what it reads, unless it comes twice.
        torch._functorch.config.patch(donated_buffer=once and torch._functorch.config.donated_buffer),
    ):
        for stage in model.stages:
            stage.compile(mode="reduce-overhead" if config.cuda_graphs else None)
        yield


def begin_pass(config: Config) -> None:
    """Say that a step, or the evaluation of a mini-batch, begins.

    With CUDA graphs, whatever the stages returned in the pass before may now be overwritten; without this, every stage
    called without a gradient would overwrite the one before. Once graphs are replayed nothing tells of reading what has
    been overwritten: a method must not keep an output of a stage from one step to the next, but a copy.
    """
    if config.cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()
