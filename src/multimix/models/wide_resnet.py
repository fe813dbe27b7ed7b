"""Wide residual networks for small images (Zagoruyko and Komodakis, BMVC 2016).

As AlignMixup and manifold mixup build them: convolutions with biases, the stride in the second convolution of a
block, a projecting shortcut of the block's raw input, no dropout, PyTorch's default initialisation. One thing
differs: there the last batch normalisation has momentum 0.9, which in PyTorch keeps a tenth of the running
statistics at every step; it is the other frameworks' way of writing 0.1, and 0.1 is used here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .pool import GlobalAveragePool
from .split_model import SplitModel


class WideBlock(nn.Module):
    """BN-ReLU-conv, BN-ReLU-conv, plus the shortcut of the raw input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        out: Tensor = residual + self.shortcut(x)
        return out


def wide_resnet(
    depth: int = 16,
    widen: int = 8,
    *,
    num_classes: int,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SplitModel:
    """WRN-depth-widen of 3 stages: stem and group 1, group 2, group 3 with the final BN-ReLU.

    Args:
        depth: 6 k + 4.
        widen: the factor of the widths 16, 32, 64.
        num_classes: c.
        channels: of the images.
        mean, std: as in `SplitModel`.

    Returns:
        features (b, 64 widen, h/4, w/4): 512x8x8 for WRN-16-8 on CIFAR's 32x32 images.

    Raises:
        ValueError: another depth, or a factor below 1.

    >>> import torch
    >>> wide_resnet(10, 1, num_classes=10).features(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 64, 8, 8])
    """
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"depth of a wide ResNet must be 6 k + 4 (10, 16, 22, 28, ...), got {depth}")
    if widen < 1:
        raise ValueError(f"the widening factor must be at least 1, got {widen}")
    stages, inputs = [], 16
    for k in range(3):
        outputs = 16 * widen * 2**k
        layers: list[nn.Module] = [nn.Conv2d(channels, inputs, 3, padding=1)] if k == 0 else []
        for i in range((depth - 4) // 6):
            layers.append(WideBlock(inputs, outputs, stride=2 if i == 0 and k > 0 else 1))
            inputs = outputs
        if k == 2:
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        stages.append(nn.Sequential(*layers))
    return SplitModel(stages, GlobalAveragePool(), nn.Linear(inputs, num_classes), mean=mean, std=std)
