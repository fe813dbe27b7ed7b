"""ImageNet with ViT-S/16 and TransMix (Chen et al., CVPR 2022).

The optimisation is that of imagenet-vit-s16; TransMix's own also has RandAugment, a moving average of the weights and
20 epochs of warm-up. As its configuration asks for, a fifth of the mini-batches is input mixup with alpha = 0.8
(docs/methods/transmix.md).

Command:  torchrun --nproc-per-node 8 -m multimix train imagenet-vit-s16-transmix --data-root DIR
Hardware: eight GPUs
Time:     not measured by us
Expected: 75.1 (% validation accuracy, Table 3 of the MultiMix paper, by another recipe; not reproduced by us)
"""

from dataclasses import replace

from .imagenet_vit_s16 import config as base

config = replace(base, method="either(transmix, input-mixup(alpha=0.8), p=0.8)")
