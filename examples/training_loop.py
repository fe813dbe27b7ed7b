"""MultiMix in a plain PyTorch loop, on scikit-learn's handwritten digits: `python examples/training_loop.py`.

Needs torch and scikit-learn. Trains a small convolutional network with the paper's regime, half of the mini-batches
with MultiMix and half with input mixup, and prints the accuracy on held-out digits. Takes seconds on a CPU.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import multimix as mm

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

torch.manual_seed(options.seed)
generator = torch.Generator().manual_seed(options.seed)

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels), generator=generator)
train, test = order[:1000], order[1000:]

encoder = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(),
)  # fmt: skip
head = nn.Linear(64, 10)
optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)

multimix = mm.MultiMix(n=1000)
mixup = mm.methods.InputMixup(alpha=1.0)

for epoch in range(options.epochs):
    encoder.train()
    for batch in train[torch.randperm(len(train), generator=generator)].split(128):
        x, y = images[batch], labels[batch]
        if torch.rand((), generator=generator) < 0.5:
            loss = multimix(encoder(x), y, head, generator=generator)  # the one line
        else:
            mixed, soft = mixup.mix(x, y, num_classes=10, generator=generator)
            loss = nn.functional.cross_entropy(head(encoder(mixed)), soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()
    encoder.eval()
    with torch.no_grad():
        accuracy = (head(encoder(images[test])).argmax(1) == labels[test]).float().mean()
    print(f"epoch {epoch + 1:3d}  loss {loss.item():.3f}  test accuracy {accuracy:.3f}")
