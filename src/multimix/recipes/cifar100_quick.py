"""CIFAR-100 on a CPU: a small network and a part of the data, to compare methods within a fixed budget.

Ours, not the paper's. A PreActResNet-18 with a quarter of the channels of the original would still take hours on two
cores; this one has an eighth (first stage 8 channels), and sees 100 images of every class for 30 epochs. What it finds
holds for small networks and short schedules.

Command:  multimix compare cifar100-quick
Hardware: two CPU cores
Time:     to be measured
Expected: to be measured
"""

from ..training.config import Config

config = Config(
    data="cifar100",
    model="preactresnet18-w8",
    method="multimix",
    per_class=100,
    augment="crop-flip",
    epochs=30,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup_epochs=1,
)
