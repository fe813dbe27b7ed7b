"""CIFAR-100 on a CPU: a small network and a part of the data, to compare methods within a fixed budget.

Ours, not the paper's. A PreActResNet of half the depth and an eighth of the width of the paper's (8 channels first)
sees 50 images of every class for 20 epochs. What it finds holds for small networks, few images and short schedules.

Command:  multimix compare cifar100-quick --data-root FOLDER --seeds 3
          --methods erm,input-mixup,manifold-mixup,cutmix,multimix,dense-multimix
Hardware: two CPU cores
Time:     30 minutes for six methods and three seeds, on a shared machine
Expected: test accuracy after the last epoch, mean of 3 seeds: erm 21.1 %, input-mixup 17.3 %, manifold-mixup 15.8 %,
          cutmix 15.4 %, multimix 10.7 %, dense-multimix 10.5 % (docs/results.md): too short to need regularisation
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet10-w8",
    method="multimix",
    per_class=50,
    augment="crop-flip",
    epochs=20,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup_epochs=1,
)
