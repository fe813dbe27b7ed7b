"""CIFAR-100 with PreActResNet-18 and OptTransMix.

The training settings are those of recipe cifar100, so that the two compare; there is no public code. The images of
CIFAR-100 do not have the clean background that the method is made for.

Command:  multimix train cifar100-opttransmix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from dataclasses import replace

from . import cifar100

config = replace(cifar100.config, method="opttransmix")
