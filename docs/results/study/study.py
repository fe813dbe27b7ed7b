"""Train the settings of the study and keep one line of results for each run.

    python docs/results/study/study.py digits map --seeds 5
    python docs/results/study/study.py cifar20 map --seeds 3 --data-root cifar20.npz

Settings are chosen on a validation split of the training images; `final` and `confirm` alone look at the test set.
The same command continues where it stopped. Every seed draws other training and validation images, weights, order and
mixing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from plan import BASES, ON_TEST, settings
from torch.nn import functional as F

from multimix import data, methods, models
from multimix.evaluation import expected_calibration_error, fgsm
from multimix.random import derive_seed, make_generator
from multimix.training import Config
from multimix.training.optimizers import learning_rate, make_optimizer
from multimix.training.setting import load_splits, train_loader

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", choices=BASES, help="data set and network")
    parser.add_argument("part", help="part of the study: a name in plan.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = HERE / f"{options.base}-{options.part}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["setting"], row["seed"]) for row in rows}
    chosen = settings(options.part, options.base)
    wanted = [(name, seed) for seed in range(options.first, options.first + options.seeds) for name in chosen]
    wanted = [pair for pair in wanted if pair not in done]
    start = time.monotonic()
    for k, (name, seed) in enumerate(wanted, 1):
        method, changes = chosen[name]
        config = replace(BASES[options.base], seed=seed, subset_seed=seed, data_root=options.data_root, **changes)
        row = {"setting": name, "seed": seed} | run(config, method(), test=options.part in ON_TEST)
        with file.open("a") as stream:
            stream.write(json.dumps(finite(row), allow_nan=False) + "\n")
        left = (time.monotonic() - start) / k * (len(wanted) - k) / 60
        print(f"{k}/{len(wanted)} {name} seed {seed}: {row['accuracy']:.4f}; {left:.0f} min left", flush=True)


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """With null for what is not a number, since JSON has neither NaN nor infinity: the run diverged."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def run(config: Config, method: methods.Method, *, test: bool) -> dict[str, float | None]:
    splits = load_splits(config)
    train = train_loader(config, splits)
    model = models.build(
        config.model, num_classes=splits.num_classes, image_size=splits.image_size, mean=splits.mean,
        std=splits.std, generator=make_generator(config.seed, "model"),
    )  # fmt: skip
    method.setup(model)
    optimizer = make_optimizer(model, config, device=torch.device("cpu"))
    steps = config.epochs * len(train)
    started = time.monotonic()
    step, losses = 0, []
    model.train()
    for epoch in range(config.epochs):
        for images, targets, _ in train.batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, len(train))
            for part in method.modules():
                part.progress = step / steps
            out = method(model, images, targets, make_generator(config.seed, step, "mix"))
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            step += 1
            if epoch == config.epochs - 1:
                losses.append(float(out.loss.detach()))
    seconds = time.monotonic() - started
    model.eval()
    held_out = splits.test if test else splits.val
    assert held_out is not None
    found = measure(model, held_out, config)
    diverged = math.isinf(found["nll"])
    return {
        "seconds": round(seconds, 2),
        "train_loss": sum(losses) / len(losses),
        "train_accuracy": measure(model, splits.train, config)["accuracy"],
        **found,
        "fgsm_accuracy": found["accuracy"] if diverged else attacked(model, held_out, config),
    }


def measure(model: torch.nn.Module, split: data.ArrayDataset, config: Config) -> dict[str, float]:
    images, labels = whole(split, config)
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.split(500)])
    accuracy = float((logits.argmax(1) == labels).float().mean())
    if not logits.isfinite().all():  # diverged
        return {"accuracy": accuracy, "nll": math.inf, "ece": math.nan}
    nll = float(F.cross_entropy(logits, labels))
    return {"accuracy": accuracy, "nll": nll, "ece": float(expected_calibration_error(logits.softmax(1), labels))}


def attacked(model: torch.nn.Module, split: data.ArrayDataset, config: Config) -> float:
    images, labels = (tensor[:500] for tensor in whole(split, config, shuffled=True))
    adversarial = fgsm(model, images, labels, 8 / 255)
    with torch.no_grad():
        return float((model(adversarial).argmax(1) == labels).float().mean())


def whole(split: data.ArrayDataset, config: Config, *, shuffled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    batches = data.loader(split, batch_size=len(split), train=False, image_size=config.image_size).batches(0)
    images, labels, _ = next(iter(batches))
    if shuffled:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed("attacked") % 2**31))
        images, labels = images[order], labels[order]
    return images, labels


if __name__ == "__main__":
    main()
