"""CIFAR-100 with PreActResNet-18 and zeta-mixup.

The training settings are those of recipe cifar100, so that the two compare; the authors' code
(kakumarabhishek/zeta-mixup) has none.

Command:  multimix train cifar100-zeta-mixup --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from dataclasses import replace

from . import cifar100

config = replace(cifar100.config, method="zeta-mixup")
