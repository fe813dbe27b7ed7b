"""CIFAR-100 with a barycenter network, after the idea of AutoMix (ECCV 2020).

The paper has no public code and the method is our reading of it (docs/methods/automix-barycenter.md); training is that
of the recipe cifar100, so that the two compare.

Command:  multimix train cifar100-automix-barycenter --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from dataclasses import replace

from . import cifar100

config = replace(cifar100.config, method="automix-barycenter")
