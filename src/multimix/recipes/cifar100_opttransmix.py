"""CIFAR-100 with PreActResNet-18 and OptTransMix.

The training settings are those of recipe cifar100, so that the two compare; there is no public code. The images of
CIFAR-100 do not have the clean background that the method is made for.

Command:  multimix train cifar100-opttransmix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="opttransmix",
    augment="crop-flip",
    epochs=2000,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    weight_decay=0.0001,
    schedule="multistep",
    milestones=(500, 1000, 1500),
)
