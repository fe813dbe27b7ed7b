"""Batches in an order, and with augmentation, that depend on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..random import make_generator
from .augmentation import FOR_FILES, Augment, check_augment
from .datasets import Dataset, FileDataset
from .pictures import Resize
from .readers import ArrayReader, FileReader

__all__ = ["Batch", "Loader", "loader"]


class Batch(NamedTuple):
    """`images` float32 (b, channels, size, size) in [0, 1], `targets` int64 (b,), and `extras`, the further
    tensors (b, ...) of the examples. All on the loader's device."""

    images: Tensor
    targets: Tensor
    extras: dict[str, Tensor]


class Loader:
    """What `loader` returns: the batches of any epoch, from any batch on.

    `len(loader)` is the number of global batches of an epoch. `batches` can be called again and again, for any
    epoch in any order.
    """

    def __init__(
        self,
        dataset: Dataset,
        reader: ArrayReader | FileReader,
        *,
        batch_size: int,
        train: bool,
        seed: int,
        device: torch.device,
        rank: int,
        world_size: int,
        balance_domains: bool,
    ) -> None:
        self.dataset = dataset
        self.batch_size = min(batch_size, len(dataset))
        self._reader = reader
        self._train, self._seed, self._rank, self._world_size = train, seed, rank, world_size
        self._balance_domains = balance_domains
        self._device = device
        self._labels = dataset.labels.to(device)
        self._extras = {name: values.to(device) for name, values in dataset.extras.items()}

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self._train)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of the batches of an epoch, from global batch number `start` on.

        A share that is empty, as the last one of an evaluation can be with several ranks, is left out.

        Raises:
            ValueError: `start` is not between 0 and `len(self)`; an image cannot be read.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start must lie between 0 and the {len(self)} batches of an epoch, got {start}")
        return self._batches(self._shares(epoch, start), epoch)

    def _batches(self, shares: list[Tensor], epoch: int) -> Iterator[Batch]:
        if not shares:
            return
        # Copied to the device once in an epoch: a copy for every batch can make the host wait.
        order = torch.cat(shares).to(self._device, non_blocking=True)
        sizes = [len(share) for share in shares]
        targets = self._labels.index_select(0, order).split(sizes)
        for images, labels, indices in zip(self._reader.read(epoch, shares), targets, order.split(sizes), strict=True):
            extras = {name: values.index_select(0, indices) for name, values in self._extras.items()}
            yield Batch(images, labels, extras)

    def _shares(self, epoch: int, start: int) -> list[Tensor]:
        order = torch.arange(len(self.dataset), device="cpu")
        if self._train:
            order = self._balanced_order(epoch) if self._balance_domains else self._shuffled(epoch, len(order))
        shares = []
        for batch in order.split(self.batch_size)[start : len(self)]:
            low, high = (len(batch) * r // self._world_size for r in (self._rank, self._rank + 1))
            shares.append(batch[low:high])
        return [share for share in shares if len(share)]

    def _shuffled(self, epoch: int, count: int, *purpose: int) -> Tensor:
        return torch.randperm(count, generator=make_generator(self._seed, epoch, *purpose, "order"), device="cpu")

    def _balanced_order(self, epoch: int) -> Tensor:
        """As many examples as there are, the domains taking turns; a domain that runs out begins again."""
        domain = self.dataset.extras["domain"]
        present = domain.unique().tolist()
        turns = -(-len(domain) // len(present))
        streams = []
        for k in present:
            members = (domain == k).nonzero().flatten()
            rounds = range(-(-turns // len(members)))
            streams.append(members[torch.cat([self._shuffled(epoch, len(members), k, i) for i in rounds])[:turns]])
        return torch.stack(streams, dim=1).flatten()[: len(domain)]


def loader(
    dataset: Dataset,
    *,
    batch_size: int,
    train: bool,
    augment: Augment = "none",
    image_size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    balance_domains: bool = False,
    resize: Resize = Resize(),  # noqa: B008 - it is frozen
) -> Loader:
    """Batches of a data set.

    An `ArrayDataset` is copied to `device` as uint8 and augmented there. A `FileDataset` is decoded and augmented
    by worker processes. Images come out with pixels in [0, 1] and are not normalised: the model does that.

    The order depends on `seed` and the epoch, and the augmentation of an example on `seed`, the epoch and the
    example, so that neither the batch size nor ranks, workers or the starting batch change what an example looks
    like. The global random state is neither used nor changed.

    Args:
        dataset: the examples.
        batch_size: the global batch. Of each, rank r gets the r-th of `world_size` contiguous slices.
        train: shuffle, and leave out the last batch of an epoch if it is not full (a set smaller than a batch
            is one batch). Otherwise all examples come once, in the order of the data set.
        augment: "crop" shifts the image by a few pixels (4 of 32 and of 64), with black borders; "crop-flip" also
            mirrors every second one; "random-resized-crop" is ImageNet's, with flips, and
            "random-resized-crop-color" also changes brightness, contrast, saturation (by up to 0.4) and lighting, of
            images in files. For training only.
        image_size: side of the images in pixels; default: `dataset.image_size`. Arrays of another size are
            resized after the augmentation.
        seed: seed of order and augmentation.
        device: where the batches are wanted.
        rank, world_size: this process and the number of processes.
        workers: decoding processes for a `FileDataset`; 0 decodes in this process.
        balance_domains: the same number of examples of every domain (the extra `domain`) in each training batch, give
            or take one. An epoch has as many examples as ever, so those of small domains come more than once.
        resize: how pictures in files are resized before the centre is cut out, where `augment` does not cut at random.

    Raises:
        ValueError: an argument out of its range; a training batch that the ranks cannot share evenly; domains to be
            balanced in a data set without any.

    >>> from multimix.data import ArrayDataset
    >>> images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    >>> batches = loader(ArrayDataset(images, torch.arange(10)), batch_size=4, train=True, augment="crop-flip")
    >>> [tuple(batch.images.shape) for batch in batches.batches(epoch=0)]
    [(4, 3, 8, 8), (4, 3, 8, 8)]
    """
    check_augment(augment)
    if not train and augment != "none":
        raise ValueError(f"evaluation images are not augmented, got augment={augment!r} with train=False")
    if augment in FOR_FILES and not isinstance(dataset, FileDataset):
        raise ValueError(
            f"augment={augment!r} is for images in files, and these are small enough to be kept in memory: use "
            "'random-resized-crop' or 'crop-flip'"
        )
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batch_size must be at least 1 and workers at least 0, got batch_size={batch_size}, workers={workers}"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie between 0 and world_size - 1 = {world_size - 1}, got {rank}")
    if train and balance_domains and "domain" not in dataset.extras:
        raise ValueError("balance_domains needs examples with a domain: use the data set 'domains', or leave it off")
    if train and min(batch_size, len(dataset)) % world_size:
        raise ValueError(
            f"a global batch of {min(batch_size, len(dataset))} images (batch_size={batch_size}, {len(dataset)} "
            f"training images) cannot be shared evenly by {world_size} ranks, which a mean of gradients needs: "
            f"make batch_size a multiple of {world_size}, not above the number of images"
        )
    device = torch.device(device)
    size = dataset.image_size if image_size is None else image_size
    reader: ArrayReader | FileReader
    if isinstance(dataset, FileDataset):
        reader = FileReader(
            dataset, augment=augment, image_size=size, seed=seed, device=device, workers=workers, resize=resize
        )
    else:
        reader = ArrayReader(dataset, augment=augment, image_size=size, seed=seed, device=device)
    return Loader(
        dataset,
        reader,
        batch_size=batch_size,
        train=train,
        seed=seed,
        device=device,
        rank=rank,
        world_size=world_size,
        balance_domains=balance_domains,
    )
