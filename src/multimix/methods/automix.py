"""AutoMix (Liu et al., ECCV 2022): a mask that is learnt with the classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import random
from ..functional._checks import check_choice, check_count, check_not_negative, check_positive, check_share
from ..models import SplitModel
from .base import Method, MethodOutput
from .mix_block import MixBlock, feature_map
from .momentum import MomentumEncoder
from .pairs import Pairing, host, probabilities
from .probing import feature_channels


class AutoMix(Method):
    """Mix images by a mask that a small attention block finds in the features of a momentum encoder.

    L = H(y, f(x)) + H(y_lam, f(x_mask)) + H(y_lam', f_k(x_mask')) + w max(|mean(mask') - lam'| - margin, 0), with
    y_lam = lam y + (1 - lam) y', lam ~ Beta(alpha, alpha). f_k is the momentum encoder, through which the block is
    trained; the classifier f gets masks that are detached, of another lam and other partners. Targets hold the sampled
    lam: it is the mask that is trained to suit the targets.

    `setup(model)` builds the block (trained with the model) and the momentum encoder (not trained), `after_step` moves
    the latter. Both are in the state dictionary of the method.

    Args:
        alpha: of the Beta distribution.
        layer: the stage after which the block sees features; default: the last but one.
        lam_embedding: give lambda to the block, as the paper does; the authors' CIFAR settings do without.
        upsampling: of the mask, "nearest" or "bilinear".
        lam_margin: the classifier gets plain input mixup where lam or 1 - lam is at most this.
        mask_loss: w, weight of the mask's ratio loss.
        mask_margin: deviation of the mask's mean from lam that costs nothing.
        momentum, final_momentum, momentum_steps: of the momentum encoder, see `MomentumEncoder`; steps are optimiser
            steps, by default those of the authors' CIFAR-100 run.

    Raises:
        ValueError: an option is out of its range; `setup` has not been called.

    >>> from multimix.models import preactresnet
    >>> model = preactresnet(18, num_classes=10, width=4)
    >>> method = AutoMix()
    >>> method.setup(model)  # before the optimiser is made, which gets the parameters of both
    >>> out = method(model, torch.rand(4, 3, 16, 16), torch.tensor([1, 2, 3, 4]))
    >>> out.logits.shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        alpha: float = 2.0,
        *,
        layer: int | None = None,
        lam_embedding: bool = True,
        upsampling: str = "nearest",
        lam_margin: float = 0.08,
        mask_loss: float = 0.1,
        mask_margin: float = 0.1,
        momentum: float = 0.999,
        final_momentum: float = 0.999999,
        momentum_steps: int = 200_000,
    ) -> None:
        super().__init__()
        check_choice("upsampling", upsampling, ("nearest", "bilinear"))
        if check_not_negative("lam_margin", lam_margin) >= 0.5:
            raise ValueError(f"lam_margin must be in [0, 0.5), got {lam_margin}")
        if check_share("momentum", momentum) > check_share("final_momentum", final_momentum):
            raise ValueError(f"momentum <= final_momentum must hold, got {momentum} and {final_momentum}")
        self.alpha = check_positive("alpha", alpha)
        self.layer = None if layer is None else check_count("layer", layer)
        self.lam_embedding, self.upsampling = lam_embedding, upsampling
        self.lam_margin, self.mask_loss = float(lam_margin), check_not_negative("mask_loss", mask_loss)
        self.mask_margin = check_share("mask_margin", mask_margin)
        self.momentum, self.final_momentum = float(momentum), float(final_momentum)
        self.momentum_steps = check_count("momentum_steps", momentum_steps)
        self.block: MixBlock | None = None
        self.encoder: MomentumEncoder | None = None

    def setup(self, model: SplitModel) -> None:
        channels = feature_channels(model, self._layer_of(model))
        with random.initialising(random.make_generator(torch.initial_seed(), "automix")):
            block = MixBlock(channels, lam_embedding=self.lam_embedding, upsampling=self.upsampling)
        like = next(model.parameters())
        self.block = block.to(like.device, like.dtype)
        self.encoder = MomentumEncoder(model, start=self.momentum, end=self.final_momentum, steps=self.momentum_steps)

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        if self.block is None or self.encoder is None:
            raise ValueError("AutoMix has parameters of its own: call setup(model) before the optimiser is made")
        soft = probabilities(images, targets, model.num_classes)
        generator = host(generator)
        for_block = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        for_model = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        teacher = self.encoder.model
        with torch.no_grad():
            features = feature_map(teacher, images, self._layer_of(model))
            mixed, _ = self._mix(self.block, images, features, for_model, self.lam_margin)
        logits = model(images)
        loss = F.cross_entropy(logits, soft) + F.cross_entropy(model(mixed), for_model.mix(soft))
        mixed, mask = self._mix(self.block, images, features, for_block)
        loss = loss + F.cross_entropy(teacher(mixed), for_block.mix(soft))
        loss = loss + self.mask_loss * F.relu((mask.mean() - for_block.lam).abs() - self.mask_margin)
        return MethodOutput(loss, logits)

    def _layer_of(self, model: SplitModel) -> int:
        if self.layer is None:
            return max(1, model.depth - 1)
        return check_count("layer", self.layer, most=model.depth)

    @staticmethod
    def _mix(
        block: MixBlock, images: Tensor, features: Tensor, pairing: Pairing, lam_margin: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Mixed images and the mask, the share (b, 1, h, w) of the first image."""
        if min(pairing.lam, 1 - pairing.lam) <= lam_margin:
            mask = images.new_full((), pairing.lam)
        else:
            size = (images.shape[-2], images.shape[-1])
            mask = block(features, features[pairing.partner], pairing.lam, size=size).to(images.dtype)
        return torch.lerp(images[pairing.partner], images, mask), mask

    def after_step(self, model: SplitModel) -> None:
        if self.encoder is not None:
            self.encoder.follow(model)
