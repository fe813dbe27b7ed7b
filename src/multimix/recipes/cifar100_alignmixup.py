"""CIFAR-100 with PreActResNet-18 and AlignMixup (Venkataramanan et al., CVPR 2022).

Everything is AlignMixup's public code: 2000 epochs of batches of 128, SGD with momentum 0.9 and weight decay 1e-4,
learning rate 0.1 divided by ten at epochs 500, 1000 and 1500, shifted crops and flips, alpha = 2. The published figure
is the best epoch's test accuracy; the authors' log has 81.54 for the last one.

Command:  multimix train cifar100-alignmixup --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: 81.71 (% test accuracy, AlignMixup's paper; not reproduced by us)
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="alignmixup",
    augment="crop-flip",
    epochs=2000,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="multistep",
    milestones=(500, 1000, 1500),
)
