"""What a `Config` asks for: its data, their batches and the model.

Training, reports and the checks before a comparison all take them from here, so that what is measured or checked is
what is trained.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from .. import data, models
from ..data.source import image_folder_places
from ..random import make_generator
from .config import Config

__all__ = ["build_model", "data_options", "evaluation_loader", "load_splits", "make_loaders", "refuse_out_in_data",
    "train_loader",
]  # fmt: skip


def data_options(config: Config) -> dict[str, Any]:
    """The arguments of `multimix.data.load`; two configurations that agree in them have the same data."""
    return {
        "name": config.data,
        "root": config.data_root,
        "held_out": config.held_out,
        "download": config.download,
        "per_class": config.per_class,
        "val_per_class": config.val_per_class,
        "subset_seed": config.subset_seed,
        "image_size": config.image_size,
        "bad_images": config.bad_images,
    }


def refuse_out_in_data(config: Config, out: Path) -> None:
    """Raise ValueError where the files of `out` would be taken for a class or a domain, of this run or the next."""
    if config.data not in ("imagefolder", "domains") or config.data_root is None:
        return
    root, out = Path(config.data_root).expanduser().resolve(), Path(out).resolve()
    places = [root] if config.data == "domains" else image_folder_places(root)
    for place in places:
        if out.is_relative_to(place):
            raise ValueError(f"--out {out} lies in {place}, among the data: choose a folder outside of it")


def load_splits(config: Config) -> data.DataSplits:
    """The data of a run; the last ones loaded are kept in memory."""
    return _load(**data_options(config))


@functools.lru_cache(maxsize=1)
def _load(**options: Any) -> data.DataSplits:
    return data.load(**options)


def train_loader(
    config: Config, splits: data.DataSplits, *, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1
) -> data.Loader:
    """The training images, shuffled and augmented."""
    return data.loader(
        splits.train,
        batch_size=config.batch_size,
        train=True,
        augment=config.augment,
        image_size=splits.image_size,
        seed=config.seed,
        device=device,
        rank=rank,
        world_size=world_size,
        workers=config.workers,
        balance_domains=config.balance_domains,
    )


def evaluation_loader(
    config: Config,
    splits: data.DataSplits,
    dataset: data.Dataset,
    *,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
) -> data.Loader:
    """The images of `dataset`, a split or a part of one, in their order."""
    return data.loader(
        dataset,
        batch_size=config.batch_size,
        train=False,
        image_size=splits.image_size,
        device=device,
        rank=rank,
        world_size=world_size,
        workers=config.workers,
    )


def make_loaders(
    config: Config, splits: data.DataSplits, *, device: torch.device | str, rank: int, world_size: int
) -> dict[str, data.Loader]:
    """The loaders by split: train, test, val where there is one, and train_clean where `evaluate_train` asks for it.

    Raises:
        ValueError: a batch cannot be divided evenly over the processes and their micro-batches, or there are fewer
            images to evaluate on than processes.
    """
    batch = min(config.batch_size, len(splits.train))
    share = world_size * (config.accumulate if world_size > 1 else 1)
    if batch % share:
        raise ValueError(
            f"a batch of {batch} examples cannot be divided evenly over {world_size} processes with "
            f"accumulate={config.accumulate}: make batch_size a multiple of {share}"
        )
    loaders = {"train": train_loader(config, splits, device=device, rank=rank, world_size=world_size)}
    for split, dataset in (("test", splits.test), ("val", splits.val), ("train_clean", _some_clean(config, splits))):
        if dataset is not None:
            if len(dataset) < world_size:
                raise ValueError(
                    f"{len(dataset)} {split} images cannot be divided over {world_size} processes: use at most as many "
                    "devices as there are images to evaluate on"
                )
            loaders[split] = evaluation_loader(config, splits, dataset, device=device, rank=rank, world_size=world_size)
    return loaders


def _some_clean(config: Config, splits: data.DataSplits) -> data.Dataset | None:
    """Training images to be evaluated: the same in every run that trains on the same images."""
    if not config.evaluate_train:
        return None
    order = torch.randperm(len(splits.train), generator=make_generator(config.subset_seed, "train_clean"), device="cpu")
    return splits.train.subset(order[: config.evaluate_train].sort().values)


def build_model(config: Config, splits: data.DataSplits) -> models.SplitModel:
    """The model as training begins with it, on the CPU."""
    return models.build(
        config.model,
        num_classes=splits.num_classes,
        image_size=splits.image_size,
        mean=splits.mean,
        std=splits.std,
        pretrained=config.pretrained,
        generator=make_generator(config.seed, "init"),
    )
