"""CIFAR-100 on a CPU: a small network and a part of the data, to compare methods within a fixed budget.

Ours, not the paper's. A PreActResNet of half the depth and an eighth of the width of the paper's (8 channels first)
sees 50 images of every class for 20 epochs. What it finds holds for small networks, few images and short schedules.

Command:  multimix compare cifar100-quick
Hardware: two CPU cores
Time:     to be measured
Expected: to be measured
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
