"""ImageNet with ResNet-50: Table 3 of the paper.

The schedule is AlignMixup's public code, from which the paper quotes its baselines: batches of 1024 over eight GPUs, so
that each mixes the paper's b = 128; on fewer GPUs `--accumulate` keeps it (8 on one GPU). Our choice, for speed, are
bfloat16 and channels-last (`--precision 32-true` for the original).

Command:  torchrun --nproc-per-node 8 -m multimix train imagenet-resnet50 --data-root DIR --method dense-multimix
Hardware: eight GPUs
Time:     not measured by us; the paper's Table 3: 1.17 (baseline), 1.16 (multimix), 0.95 (dense-multimix) thousand
          images a second on a V100
Expected: baseline 76.32, multimix 78.81, dense-multimix 79.42
          (% validation accuracy, the paper's Table 3; not reproduced by us)
"""

from ..training.config import Config

config = Config(
    data="imagenet",
    model="resnet50",
    method="dense-multimix",
    image_size=224,
    augment="random-resized-crop-color",
    epochs=300,
    batch_size=1024,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    schedule="step",
    milestones=(75,),
    precision="bf16-mixed",
    channels_last=True,
    workers=8,
    checkpoint_minutes=15,
)
