"""Saliency from the gradient of the loss in the pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import random
from ..functional._checks import as_probabilities, as_target, check_images, check_not_negative, check_pixels
from ..models import SplitModel
from ..models.modes import keeping_modes
from .base import MethodOutput, Mixed, Mixer
from .pairs import probabilities


class CleanPass(NamedTuple):
    """What a pass of the clean mini-batch leaves for mixing and for the loss."""

    saliency: Tensor
    """(b, h, w), detached."""
    loss: Tensor
    """Mean cross entropy of the clean mini-batch."""
    logits: Tensor
    """(b, c)."""


def input_saliency(model: SplitModel, images: Tensor, targets: Tensor) -> Tensor:
    """sqrt(mean over channels of squared d loss / d pixel), (b, h, w), in units of loss per pixel value.

    The loss is the cross entropy of each image, as PuzzleMix and Co-Mixup have it. The pass runs in evaluation mode,
    so that it neither updates nor uses batch statistics, and leaves no gradient on any parameter; the modes of all
    modules are as before afterwards. Also under autocast to float16, where the gradient of an image that is classified
    well would be too small for a number, it is that of float32 but for rounding.

    Args:
        images: (b, channels, h, w) in [0, 1].
        targets: (b,) class indices or (b, c) probabilities.

    >>> from multimix.models import SplitModel
    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(12, 3))
    >>> input_saliency(net, torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])).shape
    torch.Size([4, 2, 2])
    """
    check_pixels(images)
    with keeping_modes(model):
        model.eval()
        probe = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(probe)
            losses = nn.functional.cross_entropy(logits, as_target(targets), reduction="none")
            # In this mode images do not see each other: each can have a gradient of its own size on the way back.
            with torch.no_grad():
                errors = logits.float().softmax(1) - as_probabilities(targets, logits.shape[1])
                size = errors.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            (gradient,) = torch.autograd.grad((losses / size).sum(), probe)
        return _over_channels(gradient) * size[:, None, None]


def _over_channels(gradient: Tensor) -> Tensor:
    return gradient.float().square().mean(1).sqrt()


def clean_pass(model: SplitModel, images: Tensor, targets: Tensor) -> CleanPass:
    """The saliency of the clean mini-batch, in the model's present mode, with the loss it was computed from, which can
    still be differentiated in the parameters, so that one forward pass serves both."""
    check_pixels(images)
    probe = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(probe)
        # The sum, not the mean, over images: the scale of their gradients must not depend on b in low precision.
        total = nn.functional.cross_entropy(logits, as_target(targets), reduction="sum")
        (gradient,) = torch.autograd.grad(total, probe, retain_graph=True)
    return CleanPass(_over_channels(gradient), total / images.shape[0], logits)


class SaliencyMixer(Mixer):
    """Base of the methods that mix images by their saliency: they define `mix_salient`.

    Args:
        clean_lam: weight of the clean images' cross entropy. At 0 the saliency is computed in evaluation mode, so that
            batch statistics are updated by the mixed images only; above 0 one training pass of the clean images gives
            the saliency and their loss.
    """

    def __init__(self, clean_lam: float) -> None:
        super().__init__()
        self.clean_lam = check_not_negative("clean_lam", clean_lam)

    @property
    def keeps_graph(self) -> bool:
        return self.clean_lam > 0

    def mix_salient(self, images: Tensor, soft: Tensor, saliency: Tensor, generator: torch.Generator | None) -> Mixed:
        """The mixed mini-batch, from images (b, channels, h, w), probabilities (b, c) and saliency (b, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} must define mix_salient")

    @random.eager  # what NumPy and graph cuts do cannot be traced
    def _mix(self, images: Tensor, soft: Tensor, saliency: Tensor, generator: torch.Generator | None) -> Mixed:
        # The optimisation is the host's, whatever the default device; and pixels and targets are mixed in their own
        # precision, also under autocast.
        with torch.device("cpu"), torch.autocast(images.device.type, enabled=False):
            return self.mix_salient(images, soft, saliency, generator)

    def mixed(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> Mixed:
        check_images(images)
        soft = probabilities(images, targets, model.num_classes)
        return self._mix(images, soft, input_saliency(model, images, targets), generator)

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        if not self.clean_lam:
            return super().forward(model, images, targets, generator, **extras)
        check_images(images)
        soft = probabilities(images, targets, model.num_classes)
        clean = clean_pass(model, images, targets)
        mixed = self._mix(images, soft, clean.saliency, generator)
        loss = nn.functional.cross_entropy(model(mixed.features), mixed.targets)
        return MethodOutput(loss + self.clean_lam * clean.loss, clean.logits)
