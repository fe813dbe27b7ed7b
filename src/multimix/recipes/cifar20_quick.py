"""Twenty classes of CIFAR-100, 100 images each, and a thin PreActResNet-10: a comparison of many methods on CPU cores.

One class of each superclass, the first by name. Unlike in `cifar100-quick`, ERM comes near to fitting the training set
within the budget (900 steps), so that regularisation has room to help. Make the data once, from CIFAR-100:

    python docs/results/cifar20.py cifar20.npz --root CIFAR100_DIR

Command:  multimix compare cifar20-quick --data-root cifar20.npz --seeds 3
Hardware: one CPU core for each run
Time:     about two minutes a run for erm
Expected: test accuracy after the last epoch: erm 57.7 %, input-mixup 55.8 %, automix 59.7 %, multimix 44.9 %,
          multimix(alpha=0.02) 55.0 % (docs/results.md)
"""

from ..training.config import Config

config = Config(
    data="imagefolder",
    model="preactresnet10-w8",
    method="multimix",
    image_size=32,
    per_class=100,
    augment="crop-flip",
    epochs=60,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup_epochs=1,
)
