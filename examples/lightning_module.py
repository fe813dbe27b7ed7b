"""MultiMix in a LightningModule, on scikit-learn's handwritten digits: `python examples/lightning_module.py`.

Needs pytorch-lightning and scikit-learn. The one line is in `training_step`; everything else is Lightning's own. Takes
seconds on a CPU. With several devices each mixes its own examples (docs/own_loop.md has how to mix those of all).
"""

import argparse

import pytorch_lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import multimix as mm

Batch = tuple[Tensor, Tensor]


class Classifier(L.LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)
        self.criterion = mm.MultiMix(alpha=mm.SMALL_ALPHA)
        self.lr = lr

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        loss = self.criterion(self.encoder(images), labels, self.head)  # the one line
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        images, labels = batch
        right = self.head(self.encoder(images)).argmax(1) == labels
        self.log("accuracy", right.float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    L.seed_everything(options.seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    train, test = random_split(TensorDataset(images, torch.tensor(digits.target)), [1000, 797])
    trainer = L.Trainer(max_epochs=options.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(Classifier(), DataLoader(train, 128, shuffle=True), DataLoader(test, 797))
    print(f"test accuracy {trainer.callback_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
