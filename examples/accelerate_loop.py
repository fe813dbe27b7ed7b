"""MultiMix with Accelerate, on scikit-learn's handwritten digits: `python examples/accelerate_loop.py`.

Needs accelerate and scikit-learn. `accelerate launch --num_processes 2 examples/accelerate_loop.py` does the same on
two GPUs, whose examples are then mixed together; so does `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2
examples/accelerate_loop.py` in two processes on the CPU. Takes seconds on a CPU.
"""

import argparse

import torch
import torch.distributed.nn  # imported later it would hold the group, too
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import multimix as mm


class Classifier(nn.Module):
    """Gives a loss when it is given labels: distributed training wants everything in one `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)
        self.criterion = mm.MultiMix(alpha=mm.SMALL_ALPHA, gather=True)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        embeddings = self.encoder(images)
        if labels is None:
            return self.head(embeddings)
        return self.criterion(embeddings, labels, self.head)  # the one line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    accelerator = Accelerator()
    set_seed(options.seed)
    train(accelerator, options.epochs)
    # In this order: the model holds the group of the processes, whose threads could stop or hang the program's end.
    accelerator.free_memory()
    accelerator.end_training()


def train(accelerator: Accelerator, epochs: int) -> None:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    training_set, test_set = random_split(TensorDataset(images, torch.tensor(digits.target)), [1000, 797])
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    batch_size = 128 // accelerator.num_processes
    model, optimizer, loader, test_loader = accelerator.prepare(
        model, optimizer, DataLoader(training_set, batch_size, shuffle=True), DataLoader(test_set, 256)
    )
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            loss = model(x, y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        model.eval()
        right = []
        for x, y in test_loader:
            with torch.no_grad():
                right.append(accelerator.gather_for_metrics(model(x).argmax(1) == y))
        accelerator.print(
            f"epoch {epoch + 1:3d}  loss {loss.item():.3f}  test accuracy {torch.cat(right).float().mean():.3f}"
        )


if __name__ == "__main__":
    main()
