"""CIFAR-10 with WRN16-8: Table 2 of the paper.

Epochs, learning rate, momentum, weight decay and augmentation are AlignMixup's public code, from which the paper quotes
its baselines; batch size 128 and the half-and-half regime with input mixup are the paper's (section 4.1). Run it with
seeds 0 to 4: the paper gives mean and standard deviation of five runs. Whether its accuracy is of the last or the best
epoch is not stated; metrics.jsonl has both.

Command:  multimix train cifar10-wrn16-8 --method dense-multimix --seed 0
Hardware: one GPU
Time:     not measured by us
Expected: baseline 94.93, multimix 97.06, dense-multimix 97.09
          (% test accuracy, the paper's Table 2; not reproduced by us)
"""

from ..training.config import Config

config = Config(
    data="cifar10",
    model="wrn16-8",
    method="dense-multimix",
    augment="crop-flip",
    epochs=2000,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="multistep",
    milestones=(500, 1000, 1500),
)
