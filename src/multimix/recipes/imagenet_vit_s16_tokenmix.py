"""ImageNet with ViT-S/16 and TokenMix (Liu et al., ECCV 2022).

The optimisation is that of imagenet-vit-s16; TokenMix's own is DeiT's with random erasing, stochastic depth and a
binary cross entropy. As there, half of the mini-batches are input mixup with alpha = 0.8. The teacher is a ResNet-50 of
ours: train it first, `multimix train imagenet-resnet50 --method erm --out runs/imagenet-resnet50/erm/seed0`.
TokenMix's published teacher is an NFNet trained on more data, whose maps are a download.

Command:  torchrun --nproc-per-node 8 -m multimix train imagenet-vit-s16-tokenmix --data-root DIR
Hardware: eight GPUs
Time:     not measured by us
Expected: 75.3 (% validation accuracy, Table 3 of the MultiMix paper, by another recipe; not reproduced by us)
"""

from dataclasses import replace

from .imagenet_vit_s16 import config as base

config = replace(
    base,
    method='either(tokenmix(teacher="runs/imagenet-resnet50/erm/seed0"), input-mixup(alpha=0.8), p=0.5)',
)
