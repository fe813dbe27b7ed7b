"""PreAct-ResNet for small images (He et al., "Identity mappings in deep residual networks", ECCV 2016).

There are several of that name. This is the one of AlignMixup (Venkataramanan et al., CVPR 2022), from which the
paper quotes its baselines: the stem is conv-BN-ReLU, every shortcut is taken after the block's first BN-ReLU, the
identity ones too, and no BN-ReLU follows the last block, so that features have both signs. Manifold mixup's has a
bare convolution as stem and true identity shortcuts; He's own ends in BN-ReLU. The initialisation is PyTorch's
default, as in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .pool import GlobalAveragePool
from .split_model import SplitModel

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Blocks of each stage, by depth."""


class PreActBlock(nn.Module):
    """BN-ReLU-conv, BN-ReLU-conv, plus the shortcut of the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(self.conv1(x))))
        out: Tensor = residual + self.shortcut(x)
        return out


def preactresnet(
    depth: int = 18,
    *,
    num_classes: int,
    width: int = 64,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SplitModel:
    """PreAct-ResNet of 4 stages: stem and layer1, layer2, layer3, layer4, so that mixing layers 0 to 4 are those of
    the paper's Figure 4(a).

    Args:
        depth: 10, 18 or 34.
        num_classes: c.
        width: channels of the first stage; every further stage has twice as many. The paper's is 64.
        channels: of the images.
        mean, std: as in `SplitModel`.

    Returns:
        features (b, 8 width, h/8, w/8): 512x4x4 for CIFAR's 32x32 images, 512x8x8 for TinyImageNet's 64x64.

    Raises:
        ValueError: another depth, or a width below 1.

    >>> import torch
    >>> preactresnet(18, num_classes=10, width=4).features(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 32, 4, 4])
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth of a PreAct-ResNet must be one of {', '.join(map(str, BLOCKS))}, got {depth}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    stem = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    stages, inputs = [], width
    for k, count in enumerate(BLOCKS[depth]):
        outputs = width * 2**k
        layers: list[nn.Module] = list(stem) if k == 0 else []
        for i in range(count):
            layers.append(PreActBlock(inputs, outputs, stride=2 if i == 0 and k > 0 else 1))
            inputs = outputs
        stages.append(nn.Sequential(*layers))
    return SplitModel(stages, GlobalAveragePool(), nn.Linear(inputs, num_classes), mean=mean, std=std)
