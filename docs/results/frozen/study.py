"""Heads on frozen embeddings: does mixing help where the encoder is not trained?

    python docs/results/frozen/study.py embeddings --seeds 10

EMBEDDINGS holds NAME.npz for each data set, as embed.py writes them. One line of results is kept for each run in
runs.csv; the same command continues where it stopped. Every seed draws other training and validation sentences,
weights, order and mixing.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import multimix as mm
from multimix.evaluation import expected_calibration_error
from multimix.random import make_generator

FILE = Path(__file__).parent / "runs.csv"
SETS = ("trec", "sst5", "subj", "ag")
HEADS = {"linear": 1e-2, "mlp": 1e-3}
"""With their learning rates."""
DECAYS = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0)
PER_CLASS, VALIDATION, STEPS, B = 20, 50, 300, 64

Loss = Callable[[Tensor, Tensor, nn.Linear, torch.Generator], Tensor]
Split = tuple[Tensor, Tensor]


def pairs(z: Tensor, y: Tensor, head: nn.Linear, generator: torch.Generator) -> Tensor:
    """Mixup of embeddings: each with another one, lambda ~ U[0, 1] for each pair."""
    lam = torch.rand(len(z), 1, generator=generator)
    other, soft = torch.randperm(len(z), generator=generator), F.one_hot(y, head.out_features).float()
    return F.cross_entropy(head(lam * z + (1 - lam) * z[other]), lam * soft + (1 - lam) * soft[other])


def multimix(alpha: float | tuple[float, float]) -> Loss:
    criterion = mm.MultiMix(alpha=alpha)
    return lambda z, y, head, generator: criterion(z, y, head, generator=generator)


def half(z: Tensor, y: Tensor, head: nn.Linear, generator: torch.Generator) -> Tensor:
    mixing = multimix(mm.SMALL_ALPHA) if torch.rand((), generator=generator) < 0.5 else pairs
    return mixing(z, y, head, generator)


LOSSES: dict[str, Loss] = {
    "cross entropy": lambda z, y, head, _: F.cross_entropy(head(z), y),
    "label smoothing": lambda z, y, head, _: F.cross_entropy(head(z), y, label_smoothing=0.1),
    "mixup of pairs": pairs,
    "MultiMix, the paper's alpha": multimix((0.5, 2.0)),
    "MultiMix, small alpha": multimix(mm.SMALL_ALPHA),
    "MultiMix, small alpha, half and half with pairs": half,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(*run[:3], float(run[3]), int(run[4])) for run in (tuple(row.values()) for row in read())}
    wanted = [
        (name, kind, loss, decay, seed)
        for seed in range(options.seeds)
        for name in SETS
        for kind in HEADS
        for loss in LOSSES
        for decay in DECAYS
    ]
    wanted = [run for run in wanted if run not in done]
    start = time.monotonic()
    for number, run in enumerate(wanted, 1):
        name, kind, loss, decay, seed = run
        splits = load(options.embeddings / f"{name}.npz", seed)
        row = dict(zip(("set", "head", "loss", "decay", "seed"), run, strict=True))
        row |= train(splits, kind, LOSSES[loss], decay, seed)
        with FILE.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, row, lineterminator="\n")
            if not stream.tell():
                writer.writeheader()
            writer.writerow(row)
        if number % 60 == 0:
            left = (time.monotonic() - start) / number * (len(wanted) - number) / 60
            print(f"{number}/{len(wanted)}; {left:.0f} min left", flush=True)


def read() -> list[dict[str, str]]:
    """The runs so far."""
    if not FILE.exists():
        return []
    with FILE.open(newline="") as stream:
        return list(csv.DictReader(stream))


def load(file: Path, seed: int) -> dict[str, Split]:
    """Training, validation and test embeddings, standardised by those to train on."""
    with np.load(file) as arrays:
        x, y = torch.from_numpy(arrays["train_x"]), torch.from_numpy(arrays["train_y"]).long()
        test = (torch.from_numpy(arrays["test_x"]), torch.from_numpy(arrays["test_y"])) if "test_x" in arrays else None
    generator = make_generator(seed, "subset")
    order = torch.randperm(len(y), generator=generator)
    by_class = [order[y[order] == c] for c in range(int(y.max()) + 1)]
    train = torch.cat([of_class[:PER_CLASS] for of_class in by_class])
    held_out = torch.cat([of_class[PER_CLASS : PER_CLASS + VALIDATION] for of_class in by_class])
    rest = torch.cat([of_class[PER_CLASS + VALIDATION :] for of_class in by_class])
    mean, std = x[train].mean(0), x[train].std(0)
    found = {"train": (x[train], y[train]), "val": (x[held_out], y[held_out]), "test": test or (x[rest], y[rest])}
    return {split: ((z - mean) / std, labels) for split, (z, labels) in found.items()}


def train(splits: dict[str, Split], kind: str, loss: Loss, decay: float, seed: int) -> dict[str, float]:
    x, y = splits["train"]
    classes = int(y.max()) + 1
    began = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = nn.Identity() if kind == "linear" else nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU())
        head = nn.Linear(x.shape[1] if kind == "linear" else 256, classes)
    rate = HEADS[kind]
    optimizer = torch.optim.AdamW([*hidden.parameters(), *head.parameters()], lr=rate, weight_decay=decay)
    order, mixing = make_generator(seed, "order"), make_generator(seed, "mix")
    queue = torch.empty(0, dtype=torch.long)
    for step in range(STEPS):
        while len(queue) < B:
            queue = torch.cat([queue, torch.randperm(len(x), generator=order)])
        chosen, queue = queue[:B], queue[B:]
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        value = loss(hidden(x[chosen]), y[chosen], head, mixing)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    found = {"seconds": round(time.monotonic() - began, 2)}
    for split, (z, labels) in splits.items():
        with torch.no_grad():
            logits = head(hidden(z))
        found[f"{split}_accuracy"] = round(float((logits.argmax(1) == labels).float().mean()), 5)
        found[f"{split}_nll"] = round(float(F.cross_entropy(logits, labels)), 5)
        found[f"{split}_ece"] = round(float(expected_calibration_error(logits.softmax(1), labels)), 5)
    return found


if __name__ == "__main__":
    main()
