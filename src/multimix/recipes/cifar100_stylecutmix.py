"""CIFAR-100 with StyleCutMix (CVPR 2021), after the authors' settings, on PreActResNet-18.

As the recipe cifar100-stylemix, for half of the mini-batches. For the authors' automatic choice of gamma, add
distances="styles.pt" (docs/methods/stylecutmix.md says how to make the file).

Command:  multimix train cifar100-stylecutmix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: not known for this network
"""

from dataclasses import replace

from . import cifar100_stylemix

config = replace(
    cifar100_stylemix.config,
    method='either(stylecutmix(encoder="vgg_normalised.pth", decoder="decoder.pth"), erm, p=0.5)',
)
