"""CIFAR-100 with PreActResNet-18 and SuperMix (Dabouei et al., CVPR 2021), mixed during training.

The optimisation is that of cifar100, for fewer epochs: SuperMix's own trains other networks for 240 epochs, on sets
that are mixed in advance, by distillation. The teacher is an ERM model: train it first,
`multimix train cifar100 --method erm --epochs 240 --out runs/cifar100/erm/seed0`.

Command:  multimix train cifar100-supermix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known for this network and schedule
"""

from dataclasses import replace

from .cifar100 import config as base

config = replace(
    base,
    method='supermix(teacher="runs/cifar100/erm/seed0", width=8)',
    epochs=240,
    milestones=(150, 180, 210),
)
