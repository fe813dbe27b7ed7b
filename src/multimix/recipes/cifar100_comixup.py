"""CIFAR-100 with PreActResNet-18 and Co-Mixup.

Epochs, milestones, batch size and the method's options are those of the authors' public code (snu-mllab/Co-Mixup).
Their learning rate of 0.2 belongs to a binary cross entropy; with cross entropy, as here, it diverges: 0.1 instead.

Command:  multimix train cifar100-comixup --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known for this loss; 80.19 % test accuracy published for the authors' checkpoint
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="comixup",
    augment="crop-flip",
    epochs=300,
    batch_size=100,
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="multistep",
    milestones=(100, 200),
)
