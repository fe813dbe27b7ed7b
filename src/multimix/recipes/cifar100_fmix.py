"""CIFAR-100 with PreActResNet-18 and FMix.

Epochs, learning rate, momentum and weight decay are the defaults of the authors' code (ecs-vlc/FMix), which uses a
ResNet-18 of another kind.

Command:  multimix train cifar100-fmix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="fmix",
    augment="crop-flip",
    epochs=200,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    weight_decay=0.0001,
    schedule="multistep",
    milestones=(100, 150),
)
