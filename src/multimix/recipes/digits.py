"""Handwritten digits, small data: the demonstration that runs anywhere in seconds.

scikit-learn's digits (8 x 8 pixels, ten classes, part of scikit-learn, no download): 51 training images of every class,
the other 1287 as test set. Ours, not the paper's: the set is small enough to train on one core, and hard enough, with
so few examples, that methods differ.

Command:  multimix train digits --method multimix --seed 0
Hardware: one CPU core
Time:     to be measured
Expected: to be measured
"""

from ..training.config import Config

config = Config(
    data="digits",
    model="smallnet",
    method="multimix",
    per_class=51,
    epochs=60,
    batch_size=128,
    augment="none",
    lr=0.1,
    weight_decay=5e-4,
    nesterov=True,
    schedule="cosine",
    warmup_epochs=2,
)
