"""Twenty classes of CIFAR-100 as one .npz file, for the recipe cifar20-quick.

    python docs/results/cifar20.py cifar20.npz [--root CIFAR100_DIR]

One class of each superclass, the first by name; all 500 training and 100 test images of each.
"""

import argparse
from pathlib import Path

import numpy as np

from multimix import data

# fmt: off
CLASSES = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee",
    "bicycle", "bottle", "bridge", "camel", "clock", "cloud", "crab",
    "crocodile", "fox", "hamster", "lawn_mower", "maple_tree", "orchid",
]
# fmt: on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, help="where CIFAR-100 is, or is downloaded to")
    options = parser.parse_args()
    splits = data.load("cifar100", root=options.root)
    numbers = [splits.class_names.index(name) for name in CLASSES]
    arrays = {"class_names": np.array(CLASSES)}
    for name, dataset in (("train", splits.train), ("test", splits.test)):
        labels = dataset.labels.numpy()
        images = dataset.images.permute(0, 2, 3, 1).numpy()
        kept = np.concatenate([np.flatnonzero(labels == number) for number in numbers])
        arrays[f"{name}_images"] = images[kept]
        arrays[f"{name}_labels"] = np.repeat(np.arange(len(numbers)), len(kept) // len(numbers))
    np.savez_compressed(options.out, **arrays)


if __name__ == "__main__":
    main()
