"""CIFAR-100 with PreActResNet-18 and AugMix.

Epochs, learning rate, schedule, momentum and weight decay are the defaults of the authors' code
(google-research/augmix), which uses other networks. What it is for shows under corruption: see multimix evaluate.

Command:  multimix train cifar100-augmix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="augmix",
    augment="crop-flip",
    epochs=100,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0005,
    schedule="cosine",
)
