"""CIFAR-100 with PreActResNet-18 and SuperMix (Dabouei et al., CVPR 2021), mixed during training.

Epochs, learning rate and weight decay are the authors' code for students, who are other networks and learn by
distillation, from sets that are mixed in advance. The teacher is an ERM model: train it first,
`multimix train cifar100 --method erm --epochs 2000 --out runs/cifar100/erm/seed0`, or for less long.

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
    epochs=550,
    milestones=(150, 250, 350, 450),
    weight_decay=5e-4,
)
