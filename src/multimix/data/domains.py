"""Several domains with the same classes, one of which is held out: Office-Home, PACS, VLCS, DomainNet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import nearest_or_all
from .datasets import ArrayDataset, Dataset, FileDataset
from .listing import class_folders, is_hidden, require_folder, require_utf8, scan
from .source import Source

__all__ = ["cells", "domain_names", "domain_places", "leave_one_out", "read_domains"]


def domain_names(root: Path) -> list[str]:
    """The names of the domain folders of `root`/DOMAIN/CLASS/IMAGE, sorted.

    Raises:
        FileNotFoundError: `root` is missing.
        ValueError: it holds fewer than two folders, or one whose name is not UTF-8.
    """
    expected = f"{root}/DOMAIN/CLASS/IMAGE, one folder for each domain"
    require_folder(root, expected)
    names = sorted(place.name for place in domain_places(root))
    if len(names) < 2:
        raise ValueError(f"{root} holds {len(names)} domain folders, and needs at least two: expected {expected}")
    require_utf8(names, root)
    return names


def domain_places(root: Path) -> list[Path]:
    """The domain folders of `root`, whichever is held out."""
    return [entry for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name)]


def read_domains(root: Path, held_out: str | None) -> Source:
    """One split for each domain of `root`/DOMAIN/CLASS/IMAGE, the held-out one last.

    The classes are those of the source domains, numbered in sorted order; a domain may lack some.

    Raises:
        FileNotFoundError: `root` is missing, or a domain without class folders.
        ValueError: `held_out` is not one of the domains; an empty class; a class of the held-out domain alone.
    """
    names = domain_names(root)
    if held_out is None:
        raise ValueError(
            f"the domains of {root} are {', '.join(names)}: say which one is held out as the test set with held_out "
            "(--held-out on the command line)"
        )
    if held_out not in names:
        raise ValueError(f"unknown domain {held_out!r} in {root}{nearest_or_all(held_out, names)}")
    sources = [name for name in names if name != held_out]
    classes = sorted({label for name in sources for label in class_folders(root / name)})
    return Source({name: scan(root / name, classes) for name in [*sources, held_out]}, tuple(classes))


def leave_one_out(datasets: Mapping[str, Dataset], root: Path) -> dict[str, Dataset]:
    """The last of the domains as "test", and all others together as "train".

    The training set has an extra `domain`: the position of an example's domain among the sources.

    >>> black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> one = ArrayDataset(black, torch.tensor([0]))
    >>> leave_one_out({"art": one, "clipart": one, "photo": one}, Path("pacs"))["train"].extras
    {'domain': tensor([0, 1])}
    """
    *sources, held_out = datasets
    parts = [datasets[name] for name in sources]
    labels = torch.cat([part.labels for part in parts])
    domain = torch.cat([torch.full((len(part),), k, device="cpu") for k, part in enumerate(parts)])
    size = parts[0].image_size
    train: Dataset
    arrays = [part.images for part in parts if isinstance(part, ArrayDataset)]
    if arrays:
        train = ArrayDataset(torch.cat(arrays), labels, extras={"domain": domain}, image_size=size)
    else:
        files = [(name, part) for name, part in datasets.items() if name != held_out and isinstance(part, FileDataset)]
        paths = [os.path.join(name, part.name(i)) for name, part in files for i in range(len(part))]
        train = FileDataset(root, paths, labels, extras={"domain": domain}, image_size=size)
    return {"train": train, "test": datasets[held_out]}


def cells(dataset: Dataset, domains: Sequence[str], class_names: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The cell (N,) of every training example, numbered, where a cell is a class of one domain; and their names.

    Subsets are chosen from cells, so that every domain keeps its share of them.
    """
    codes, cell = torch.unique(
        dataset.extras["domain"] * len(class_names) + dataset.labels, sorted=True, return_inverse=True
    )
    pairs = [divmod(code, len(class_names)) for code in codes.tolist()]
    return cell, [f"{domains[domain]}/{class_names[label]}" for domain, label in pairs]
