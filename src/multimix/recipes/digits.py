"""Handwritten digits, small data: the demonstration that runs anywhere in seconds.

scikit-learn's digits (8 x 8 pixels, ten classes, part of scikit-learn, no download): 51 training images of every class
and 870 test images. Ours, not the paper's: small enough to train on one core, and with so few examples that methods can
differ, though hardly beyond the spread over seeds. The best epoch is chosen on the test set; look at the last.

Command:  multimix train digits --method multimix --seed 0
Hardware: one CPU core
Time:     about 6 s a run with erm and multimix, 11 s with dense-multimix, two runs at a time on two cores
Expected: erm 98.0, input-mixup 98.3, manifold-mixup 98.7, cutmix 98.6, multimix 97.8, multimix-small-alpha 98.6,
          dense-multimix 97.9 (% test accuracy of the last epoch, mean of seeds 0 to 4, standard deviation 0.2 to 0.5;
          docs/results.md). Most differences are about as large as the spread over seeds
"""

from ..training.config import Config

config = Config(
    data="digits",
    model="smallnet",
    method="multimix",
    per_class=51,
    epochs=60,
    batch_size=64,
    augment="crop",
    lr=0.1,
    weight_decay=5e-4,
    nesterov=True,
    schedule="cosine",
    warmup_epochs=2,
)
