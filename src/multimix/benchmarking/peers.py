"""Training loops of others on images in memory, as their documents write them, to compare ours with."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils import data as torch_data

from .. import models
from ..data import ArrayDataset, DataSplits
from ..extras import require
from ..random import make_generator
from ..training import Config


class Pictures(torch_data.Dataset[tuple[Any, int]]):
    """What torchvision's CIFAR10 gives: a PIL image through `transform`, and its label."""

    def __init__(self, dataset: ArrayDataset, transform: Callable[[Any], Any] | None = None) -> None:
        self._pixels = dataset.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = dataset.labels.tolist()
        self.transform = transform
        self._from_array = require("PIL.Image", "train").fromarray

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = self._from_array(self._pixels[index])
        return picture if self.transform is None else self.transform(picture), self._labels[index]


def stock(config: Config, splits: DataSplits, device: torch.device) -> Callable[[int], None]:
    """The loop of PyTorch's tutorials: torchvision's transforms, a DataLoader, SGD, cross entropy, `loss.item()`."""
    return _dataloader_loop(config, splits, device, lambda images, labels: (images, labels))


def mixup_package(config: Config, splits: DataSplits, device: torch.device) -> Callable[[int], None]:
    """The same loop with `VanillaMixUp` of the package `mixup` (PyPI), which mixes images and one-hot labels."""
    try:
        mixup = importlib.import_module("mixup").VanillaMixUp(alpha=1.0)
    except ModuleNotFoundError:
        raise ImportError("this needs the package mixup, which is not installed: pip install mixup") from None
    return _dataloader_loop(
        config, splits, device, lambda images, labels: mixup(images, nnf.one_hot(labels, splits.num_classes).float())
    )


def timm(config: Config, splits: DataSplits, device: torch.device) -> Callable[[int], None]:
    """The step of timm's train.py: its loader, which mixes uint8 images while it collates them, and its optimiser."""
    v2 = require("torchvision.transforms.v2", "train")
    timm_data, timm_loss, timm_optim = (require(f"timm.{part}", "train") for part in ("data", "loss", "optim"))
    dataset = Pictures(_arrays(splits))
    loader = timm_data.create_loader(
        dataset,
        input_size=(3, splits.image_size, splits.image_size),
        batch_size=config.batch_size,
        is_training=True,
        color_jitter=0.0,
        num_workers=config.workers,
        mean=splits.mean,
        std=splits.std,
        collate_fn=timm_data.FastCollateMixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=splits.num_classes),
        pin_memory=device.type == "cuda",
        device=device,
    )
    # As DeiT does for CIFAR: the padded crop instead of ImageNet's.
    composed: Any = dataset.transform
    composed.transforms[0] = v2.RandomCrop(splits.image_size, padding=splits.image_size // 8)
    model = _model(config, splits, device)
    optimizer = timm_optim.create_optimizer_v2(
        model, opt="momentum", lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
    )
    criterion = timm_loss.SoftTargetCrossEntropy()
    batches = _endless(loader)

    def advance(steps: int) -> None:
        for images, targets in itertools.islice(batches, steps):
            if config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with _autocast(config, device):
                loss = criterion(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return advance


LOOPS = {"DataLoader": stock, "timm": timm, "mixup package": mixup_package}
METHODS = {"DataLoader": ("erm",), "timm": ("input-mixup",), "mixup package": ("input-mixup",)}


def _dataloader_loop(
    config: Config,
    splits: DataSplits,
    device: torch.device,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Callable[[int], None]:
    v2 = require("torchvision.transforms", "train")
    transform = v2.Compose(
        [
            v2.RandomCrop(splits.image_size, padding=splits.image_size // 8),
            v2.RandomHorizontalFlip(),
            v2.ToTensor(),
            v2.Normalize(splits.mean, splits.std),
        ]
    )
    loader = torch_data.DataLoader(
        Pictures(_arrays(splits), transform),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
        persistent_workers=config.workers > 0,
    )
    model = _model(config, splits, device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    batches = _endless(loader)

    def advance(steps: int) -> None:
        running = 0.0
        for images, labels in itertools.islice(batches, steps):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            if config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            images, targets = mix(images, labels)
            with _autocast(config, device):
                loss = nnf.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running += loss.item()

    return advance


def _model(config: Config, splits: DataSplits, device: torch.device) -> nn.Module:
    """The same network; the images come normalised."""
    model = models.build(
        config.model,
        num_classes=splits.num_classes,
        image_size=splits.image_size,
        generator=make_generator(config.seed, "init"),
    ).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return model.train()


def _arrays(splits: DataSplits) -> ArrayDataset:
    if not isinstance(splits.train, ArrayDataset):
        raise TypeError(f"images in memory are needed, got a {type(splits.train).__name__}: use an ArrayDataset")
    return splits.train


def _autocast(config: Config, device: torch.device) -> AbstractContextManager[object]:
    if config.precision == "bf16-mixed":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if config.precision == "32-true":
        return nullcontext()
    raise ValueError(f"loops are compared with precision 32-true or bf16-mixed, got {config.precision!r}")


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader
