"""Where a loader's images come from: an array on the device, or files decoded by worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as nnf
from torch.utils import data as torch_data

from ..extras import require
from ..random import derive_seed, lending, make_generator
from . import augmentation, pictures
from .augmentation import Augment
from .datasets import ArrayDataset, FileDataset
from .lighting import lighting

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ArrayReader", "FileReader", "WorkerReader"]

T = TypeVar("T")
Batch = TypeVar("Batch")


class ArrayReader:
    """Images that live on `device` as uint8 and are augmented there."""

    AHEAD = 2**25
    """Bytes of float32 images that an accelerator may prepare at once."""

    def __init__(
        self, dataset: ArrayDataset, *, augment: Augment, image_size: int, seed: int, device: torch.device
    ) -> None:
        self._images = dataset.images.to(device)
        self._augment, self._seed, self._size = augment, seed, image_size

    def read(self, epoch: int, shares: list[Tensor]) -> Iterator[Tensor]:
        """For each share, example indices (b,), the images (b, channels, size, size) in [0, 1]."""
        if not shares:
            return
        (count, channels, side, _), device = self._images.shape, self._images.device
        generator = make_generator(self._seed, epoch, "augment")
        order = torch.cat(shares)
        draws = augmentation.draw(self._augment, count, side, generator)[order].to(device, non_blocking=True)
        order = order.to(device, non_blocking=True)
        together = self._together(4 * channels * self._size**2 * len(shares[0]))
        begin = 0
        for first in range(0, len(shares), together):
            sizes = [len(share) for share in shares[first : first + together]]
            part = slice(begin, begin + sum(sizes))
            begin = part.stop
            images = augmentation.apply(self._augment, self._images.index_select(0, order[part]), draws[part])
            if side != self._size:
                size = (self._size, self._size)
                # Rounding takes white a little above 1.
                images = nnf.interpolate(images, size, mode="bilinear", antialias=True).clamp_(0, 1)
            yield from images.split(sizes)

    def _together(self, batch_bytes: int) -> int:
        """How many batches to augment at once. Launching a dozen small kernels for each would keep a fast GPU waiting;
        on a CPU, what does not fit into the cache is slower."""
        return 1 if self._images.device.type == "cpu" else max(1, self.AHEAD // batch_bytes)


class WorkerReader(Generic[T, Batch]):
    """Batches made by the worker processes of a DataLoader, which live as long as the reader.

    Args:
        make: (epoch, example index) -> example; called in the workers.
        join: a list of examples -> batch; called in the workers.
        seed: of the workers' own generators, which nothing should draw from.
        workers: their number; 0 makes the batches in this process.
        pin: put batches where they can be copied to a GPU while it computes.
    """

    def __init__(
        self,
        make: Callable[[int, int], T],
        join: Callable[[list[T]], Batch],
        *,
        seed: int,
        workers: int,
        pin: bool,
    ) -> None:
        self._plan, self._reading = _Plan(), 0
        options: dict[str, Any] = {}
        if workers:
            options = {"persistent_workers": True, "prefetch_factor": 4}
            if multiprocessing.get_start_method() == "forkserver" == multiprocessing.get_all_start_methods()[0]:
                # Linux's default since Python 3.14: such workers import everything anew, are children of the server,
                # and begin with threads of libraries that a SIGTERM ends them by. Elsewhere somebody has chosen it.
                options["multiprocessing_context"] = "fork"
        self._loader = _Loader(
            _Made(make, join),
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=_as_is,
            worker_init_fn=_leave_signals_to_the_parent,
            pin_memory=pin,
            # Without a generator of its own, a DataLoader draws from the global one at the start of each epoch.
            generator=make_generator(seed, "workers"),
            **options,
        )

    def read(self, epoch: int, shares: list[Tensor]) -> Iterator[Batch]:
        """For each share, example indices (b,), its batch.

        Raises:
            pictures.UnreadableImageError: an image cannot be read.
            OSError: the machine refuses to read a file.
            RuntimeError: another iteration over this reader has begun meanwhile.
        """
        self._reading += 1
        reading = self._reading
        self._plan.epoch, self._plan.shares = epoch, shares
        with torch.device("cpu"):  # where its generator is
            batches = iter(self._loader)
        for _ in shares:
            if reading != self._reading:
                raise RuntimeError(
                    "the batches of a newer call are being read from this loader, and its workers serve one "
                    "call at a time: make a second loader"
                )
            batch = next(batches)
            if isinstance(batch, _Failure):
                raise batch.kind(batch.message)
            yield batch


class FileReader:
    """Images decoded and augmented by worker processes."""

    def __init__(
        self,
        dataset: FileDataset,
        *,
        augment: Augment,
        image_size: int,
        seed: int,
        device: torch.device,
        workers: int,
        resize: pictures.Resize,
    ) -> None:
        decoder = _Decoder(dataset, augment=augment, image_size=image_size, seed=seed, resize=resize)
        self._device = device
        self._reader = WorkerReader(decoder.image, torch.stack, seed=seed, workers=workers, pin=device.type == "cuda")

    def read(self, epoch: int, shares: list[Tensor]) -> Iterator[Tensor]:
        """For each share, example indices (b,), the images (b, 3, size, size) in [0, 1].

        Raises:
            As `WorkerReader.read`.
        """
        for images in self._reader.read(epoch, shares):
            yield augmentation.to_float(images.to(self._device, non_blocking=True))


class _Loader(torch_data.DataLoader[Any]):
    """May have more workers than there are cores: they wait for the disk, too."""

    def check_worker_number_rationality(self) -> None:
        """PyTorch would warn of them, when a loader is made and again when its workers are started."""


class _Plan(torch_data.Sampler[list[tuple[int, int]]]):
    """The (epoch, example index) pairs of each batch still to come.

    The DataLoader keeps one sampler while its workers live, so the reader sets the pairs before each epoch.
    Sending the epoch with the index leaves nothing to synchronise with the workers.
    """

    def __init__(self) -> None:
        self.epoch, self.shares = 0, list[Tensor]()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, shares = self.epoch, self.shares
        return ([(epoch, index) for index in share.tolist()] for share in shares)

    def __len__(self) -> int:
        return len(self.shares)


class _Failure(NamedTuple):
    """An error on its way from a worker: raised there, a DataLoader would bury its message in a traceback."""

    kind: type[Exception]
    message: str


class _Made(torch_data.Dataset[Any]):
    """Whole batches, by (epoch, index) pairs."""

    def __init__(self, make: Callable[[int, int], Any], join: Callable[[list[Any]], Any]) -> None:
        self._make, self._join = make, join

    def __getitems__(self, keys: list[tuple[int, int]]) -> Any:
        try:
            return self._join([self._make(epoch, index) for epoch, index in keys])
        except (pictures.UnreadableImageError, OSError) as error:
            return _Failure(type(error), str(error))


class _Decoder:
    """Decoded, augmented uint8 images (3, size, size)."""

    def __init__(
        self, dataset: FileDataset, *, augment: Augment, image_size: int, seed: int, resize: pictures.Resize
    ) -> None:
        self._dataset, self._size, self._seed, self._resize = dataset, image_size, seed, resize
        self._cut_at_random = augment.startswith("random-resized-crop")
        with torch.device("cpu"):  # a transform holds tensors of its own
            self._transform = _transform(augment, image_size)

    def image(self, epoch: int, index: int) -> Tensor:
        picture = pictures.read(self._dataset.path(index))
        if not self._cut_at_random:
            picture = pictures.fit(picture, self._size, self._resize)
        if self._transform is not None:
            # The transforms draw from the global generator.
            with lending(derive_seed(self._seed, epoch, index, "augment")):
                picture = self._transform(picture)
        return pictures.pixels(picture)


def _transform(augment: Augment, size: int) -> Callable[[Image], Image] | None:
    if augment == "none":
        return None
    v2 = require("torchvision.transforms.v2", "train")
    if augment.startswith("random-resized-crop"):
        steps = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        if augment == "random-resized-crop-color":
            steps += [v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4), lighting]
    else:
        steps = [v2.RandomCrop(size, padding=augmentation.padding(size))]
        steps += [v2.RandomHorizontalFlip()] if augment == "crop-flip" else []
    transform: Callable[[Image], Image] = v2.Compose(steps)
    return transform


def _as_is(batch: Any) -> Any:
    """In place of collation: the data set makes whole batches."""
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and the end of a terminal (SIGHUP) reach every process of it, and a scheduler's SIGTERM every process of
    the job; the parent finishes its step, which still needs images, saves, and ends its workers itself."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Without sigwaitinfo (macOS, Windows) nobody can tell the parent's SIGTERM from others.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
