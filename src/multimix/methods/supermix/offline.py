"""Sets of SuperMix images made in advance, as the authors train on them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...extras import require
from ...files import write_atomically, write_json
from ...functional._checks import check_count
from ...random import make_generator
from .method import SuperMix

if TYPE_CHECKING:
    from ...data import Dataset, DataSplits
    from ...data.augmentation import Augment


def build_set(
    data: DataSplits,
    method: SuperMix,
    path: str | os.PathLike[str],
    *,
    count: int,
    batch_size: int = 100,
    augment: Augment = "none",
    originals: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write an `.npz` file with `count` mixed training images and their soft targets.

    Mixtures that the teacher does not confirm are left out. The file is read by `multimix.data.load("imagefolder",
    root=path)`, and the soft targets are in `train.extras["soft_targets"]`; train on them with the method
    `SoftTargets`:

        multimix train imagefolder --data-root mixed.npz --method "soft-targets(erm)"

    Every finished batch is kept in a folder beside the file until all are done, so that the same call goes on where
    another was interrupted, with the same result.

    Args:
        data: the data set, from `multimix.data.load`. Its test images go into the file as they are.
        method: with the teacher and its options.
        path: of the file, ending in `.npz`.
        count: mixed images.
        batch_size: of images that are mixed with each other.
        augment: of the training images before they are mixed, as in `multimix.data.loader`.
        originals: put the training images before the mixed ones, with one-hot targets.
        seed: of order, augmentation and mixing.
        device: where the teacher runs.
        progress: is called with the numbers of images made and wanted after every batch.

    Returns:
        `path`.

    Raises:
        FileExistsError: the file is there already.
        ValueError: an argument out of its range; the folder beside the file was begun with other arguments; the teacher
            confirmed no mixture in a whole epoch.
    """
    numpy, path = require("numpy", "train"), Path(path).expanduser()
    check_count("count", count)
    check_count("batch_size", batch_size, least=2)
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}")
    if path.exists():
        raise FileExistsError(f"{path} is there already: remove it, or choose another path")
    options = {"batch_size": batch_size, "augment": augment, "seed": seed}
    parts = _parts_folder(path, {**options, **_identity(data, method)})
    images, soft, without = list[Any](), list[Any](), 0
    batches = _batches(data.train, data.image_size, device, options)
    while (made := sum(map(len, soft))) < count:
        number = len(soft)
        file = parts / f"{number:06d}.npz"
        per_epoch, batch = batches(number, not file.is_file())
        if batch is not None:
            generator = make_generator(seed, number, "supermix")
            mixed, targets, reached = method.supermix(*batch, data.num_classes, generator)
            part = {"images": _bytes(mixed[reached]), "soft": targets[reached].float().cpu().numpy()}
            write_atomically(file, lambda out, part=part: numpy.savez(out, **part))  # type: ignore[misc]
        with numpy.load(file) as found:
            images.append(found["images"])
            soft.append(found["soft"])
        without = 0 if len(soft[-1]) else without + 1
        if without >= per_epoch:
            raise ValueError(
                f"the teacher confirmed none of {without} batches of mixtures: it must be a classifier of these "
                f"classes that is right about the training images; or raise max_iter, now {method.max_iter}"
            )
        if progress is not None:
            progress(min(made + len(soft[-1]), count), count)
    excess = made - count
    images[-1], soft[-1] = images[-1][: len(soft[-1]) - excess], soft[-1][: len(soft[-1]) - excess]
    if originals:
        pixels, labels = _all(data.train, data.image_size)
        images.insert(0, pixels)
        soft.insert(0, F.one_hot(labels, data.num_classes).float().numpy())
    test_images, test_labels = _all(data.test, data.image_size)
    targets = numpy.concatenate(soft)
    arrays = {
        "train_images": numpy.concatenate(images), "train_labels": targets.argmax(1), "train_soft_targets": targets,
        "test_images": test_images, "test_labels": test_labels.numpy(), "class_names": numpy.array(data.class_names),
    }  # fmt: skip
    write_atomically(path, lambda out: numpy.savez(out, **arrays))
    shutil.rmtree(parts)
    return path


def _parts_folder(path: Path, identity: dict[str, Any]) -> Path:
    """The folder of finished batches, which must have been begun with the same arguments."""
    folder = path.with_name(f"{path.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    before = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else identity
    changed = [name for name in identity if before.get(name) != identity[name]]
    if changed:
        raise ValueError(
            f"{folder} was begun with other values of {', '.join(changed)}: use the same ones to go on, or remove it"
        )
    write_json(config, identity)
    return folder


def _identity(data: DataSplits, method: SuperMix) -> dict[str, Any]:
    """What decides the mixtures, besides the arguments of `build_set`."""
    options = {name: getattr(method, name) for name in ("k", "alpha", "width", "lambda_s", "max_iter", "sigma")}
    return {
        **options,
        "teacher": _digest(method.teacher.on("cpu").state_dict().values()),
        "data": data.identity(),
    }


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _batches(
    train: Dataset, image_size: int, device: torch.device | str, options: dict[str, Any]
) -> Callable[[int, bool], tuple[int, tuple[Tensor, Tensor] | None]]:
    """A function of a batch's number, over all epochs, to be called with increasing numbers: the number of batches
    in an epoch, and the batch if it is wanted."""
    from ...data import loader

    batches = loader(train, train=True, image_size=image_size, device=device, workers=0, **options)
    stream: Iterator[Any] = iter(())
    following = -1

    def get(number: int, wanted: bool) -> tuple[int, tuple[Tensor, Tensor] | None]:
        nonlocal stream, following
        if not wanted:
            return len(batches), None
        if number != following:
            epoch, start = divmod(number, len(batches))
            epochs = (batches.batches(e, start=start if e == epoch else 0) for e in itertools.count(epoch))
            stream = itertools.chain.from_iterable(epochs)
        following = number + 1
        batch = next(stream)
        return len(batches), (batch.images, batch.targets)

    return get


def _all(dataset: Dataset, image_size: int) -> tuple[Any, Tensor]:
    """All images of a data set, in bytes, with their labels."""
    from ...data import loader

    numpy = require("numpy", "train")
    batches = loader(dataset, batch_size=256, train=False, image_size=image_size, workers=0)
    return numpy.concatenate([_bytes(batch.images) for batch in batches.batches(epoch=0)]), dataset.labels


def _bytes(images: Tensor) -> Any:
    return (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
