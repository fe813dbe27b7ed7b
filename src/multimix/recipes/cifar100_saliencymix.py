"""CIFAR-100 with PreActResNet-18 and SaliencyMix.

Half of the mini-batches, epochs, learning rate, momentum and weight decay as in the authors' code
(afm-shahab-uddin/SaliencyMix), which uses a ResNet-18 of another kind; saliency per image, where theirs is one per
mini-batch.

Command:  multimix train cifar100-saliencymix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method="either(saliencymix, erm, p=0.5)",
    augment="crop-flip",
    epochs=200,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0005,
    schedule="multistep",
    milestones=(60, 120, 160),
    gamma=0.2,
)
