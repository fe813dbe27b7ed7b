"""CIFAR-100 with StyleMix (CVPR 2021), after the authors' settings, on PreActResNet-18.

Epochs, batch size, optimiser, the share of the mini-batches and the options of the method are those of the authors'
code (alsdml/StyleMix), whose network is PyramidNet-200. Put the AdaIN weights vgg_normalised.pth and decoder.pth into
the working directory, or name other files with --method.

Command:  multimix train cifar100-stylemix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known for this network
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18",
    method='either(stylemix(encoder="vgg_normalised.pth", decoder="decoder.pth"), erm, p=0.2)',
    augment="crop-flip",
    epochs=300,
    batch_size=64,
    lr=0.25,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    schedule="multistep",
    milestones=(150, 225),
)
