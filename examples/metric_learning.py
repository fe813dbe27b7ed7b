"""Metrix on a metric learning loss, on scikit-learn's handwritten digits: `python examples/metric_learning.py`.

Needs torch and scikit-learn. Embeddings are trained on the digits 0 to 4 with the multi-similarity loss, with and
without Metrix, and judged on digits never trained on: Recall@1 of 5 to 9, the share of images whose nearest other
image has their label. It shows the loop; as a benchmark it is too small: the raw pixels reach 0.991.

Measured with `--seed 0`, 1 and 2, mean and standard deviation, on one core of a Xeon, torch 2.15: 0.777 +- 0.043 clean,
0.858 +- 0.034 with Metrix, which is higher with each of the three seeds. The longer it trains, the worse it does on
unseen classes, clean more so: after one epoch (seed 0) both are at 0.89, clean slightly ahead.
"""

import argparse

import torch
from torch import Tensor, nn

import multimix as mm
from multimix.criteria import MultiSimilarity
from multimix.data import load
from multimix.models import SplitModel, build


def recall_at_1(model: SplitModel, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        z = nn.functional.normalize(model.embed(images), dim=1)
    nearest = (z @ z.mT).fill_diagonal_(-1).argmax(dim=1)
    return (labels[nearest] == labels).float().mean().item()


def train(criterion: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> SplitModel:
    generator = torch.Generator().manual_seed(seed)
    model = build("smallnet", num_classes=5, image_size=8, channels=1, generator=generator)
    embedding = [*model.stages.parameters(), *model.pool.parameters()]  # the classifier is not used
    optimizer = torch.optim.AdamW(embedding, lr=1e-3, weight_decay=1e-2)
    # Apart from the order of the data, so that both criteria see the same mini-batches.
    mixing = torch.Generator().manual_seed(seed + 1)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            z = model.embed(images[batch])
            if isinstance(criterion, mm.Metrix):
                loss = criterion(z, labels[batch], generator=mixing)
            else:
                loss = criterion(z, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = load("digits")
    seen, unseen = data.train.labels < 5, data.test.labels >= 5
    images, labels = data.train.images[seen] / 255, data.train.labels[seen]
    for name, criterion in {"clean": MultiSimilarity(), "Metrix": mm.Metrix(MultiSimilarity())}.items():
        model = train(criterion, images, labels, options.epochs, options.seed)
        recall = recall_at_1(model, data.test.images[unseen] / 255, data.test.labels[unseen])
        print(f"{name:7} Recall@1 {recall:.3f}")


if __name__ == "__main__":
    main()
