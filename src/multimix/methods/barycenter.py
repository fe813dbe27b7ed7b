"""AutoMix (Zhu et al., ECCV 2020): a network that draws the barycenter of two images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import random
from ..functional._checks import check_count, check_not_negative, check_positive
from ..models import SplitModel
from .base import Method, MethodOutput
from .pairs import Pairing, host, probabilities
from .probing import image_channels


class BarycenterNetwork(nn.Module):
    """A small U-Net from two images and lambda to the image between them.

    x = sigmoid(logit(lam x1 + (1 - lam) x2) + u(x1, x2, lam)), where the last layer of u starts at zero: pixels stay in
    [0, 1], and the untrained network is input mixup.

    Args:
        channels: of the images.
        width: channels of the first level; the two others have 2 and 4 times as many. A multiple of 8.

    >>> images = torch.rand(2, 3, 9, 12)
    >>> BarycenterNetwork(3, width=8)(images, images.flip(0), 0.5).shape
    torch.Size([2, 3, 9, 12])
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [_layers(2 * channels + 1, width), _layers(width, 2 * width, 2), _layers(2 * width, 4 * width, 2)]
        )
        self.up = nn.ModuleList([_layers(6 * width, 2 * width), _layers(3 * width, width)])
        self.last = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, first: Tensor, second: Tensor, lam: float) -> Tensor:
        """Images (b, channels, h, w) in [0, 1], from two such batches and the share of the first."""
        x = torch.cat([first, second, torch.full_like(first[:, :1], lam)], dim=1)
        levels = []
        for layers in self.down:
            x = layers(x)
            levels.append(x)
        for layers, level in zip(self.up, reversed(levels[:-1]), strict=True):
            x = layers(torch.cat([F.interpolate(x, size=level.shape[-2:], mode="nearest"), level], dim=1))
        change = self.last(x).to(first.dtype)
        return torch.sigmoid(torch.logit(torch.lerp(second, first, lam), eps=1e-3) + change)


def _layers(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # Group normalisation, so that a batch of one works and no running statistics have to be kept.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()
    )


class BarycenterAutoMix(Method):
    """Train the classifier f and a generator g of mixed images together, on one cooperative objective.

    L = H(y, f(x)) + H(lam y + (1 - lam) y', f(x^)) + w D, with x^ = g(x, x', lam), lam ~ Beta(alpha, alpha), and e(x)
    the embedding of x in f, D = lam |e(x^) - e(x)|^2 + (1 - lam) |e(x^) - e(x')|^2 per embedding dimension: least where
    e(x^) is the barycenter. The embeddings of the clean images are detached. There is no public code, and the paper
    leaves choices open: the network, the distance and w are ours.

    `setup(model)` builds the generator, which is trained with the model and is in the method's state dictionary.

    Args:
        alpha: of the Beta distribution.
        weight: w, of the barycenter loss.
        width: of the generator, a multiple of 8.

    Raises:
        ValueError: an option is out of its range; `setup` has not been called.

    >>> from multimix.models import preactresnet
    >>> model = preactresnet(18, num_classes=10, width=4)
    >>> method = BarycenterAutoMix(width=8)
    >>> method.setup(model)  # before the optimiser is made, which gets the parameters of both
    >>> method(model, torch.rand(4, 3, 16, 16), torch.tensor([1, 2, 3, 4])).logits.shape
    torch.Size([4, 10])
    """

    def __init__(self, alpha: float = 1.0, *, weight: float = 1.0, width: int = 32) -> None:
        super().__init__()
        if check_count("width", width) % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}")
        self.alpha, self.weight = check_positive("alpha", alpha), check_not_negative("weight", weight)
        self.width = width
        self.generator: BarycenterNetwork | None = None

    def setup(self, model: SplitModel) -> None:
        like = next(model.parameters())
        with random.initialising(random.make_generator(torch.initial_seed(), "automix-barycenter")):
            network = BarycenterNetwork(image_channels(model), self.width)
        self.generator = network.to(like.device, like.dtype)

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        if self.generator is None:
            raise ValueError(
                "BarycenterAutoMix has parameters of its own: call setup(model) before the optimiser is made"
            )
        soft = probabilities(images, targets, model.num_classes)
        pairing = Pairing.draw(images.shape[0], self.alpha, host(generator), images.device)
        clean = model.embed(images)
        mixed = model.embed(self.generator(images, images[pairing.partner], pairing.lam))
        logits = model.classifier(clean)
        loss = F.cross_entropy(logits, soft) + F.cross_entropy(model.classifier(mixed), pairing.mix(soft))
        ends, between = clean.detach().float(), mixed.float()
        barycenter = pairing.lam * F.mse_loss(between, ends)
        barycenter = barycenter + (1 - pairing.lam) * F.mse_loss(between, ends[pairing.partner])
        return MethodOutput(loss + self.weight * barycenter, logits)
