"""CIFAR-100 with PreActResNet-18 and PuzzleMix.

Epochs, learning rate, its milestones, batch size and the method's options are those of the command for 1200 epochs in
the authors' public code (snu-mllab/PuzzleMix). Our loss is cross entropy, theirs binary cross entropy on the softmax.

Command:  multimix train cifar100-puzzlemix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known for this loss
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="puzzlemix(t_size=4)",
    augment="crop-flip",
    epochs=1200,
    batch_size=100,
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="multistep",
    milestones=(400, 800),
)
