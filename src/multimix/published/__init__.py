"""The numbers that the paper publishes, as data: Tables 2 to 5, sections 4.4 and 4.5, a point of Figure 4.

They are the paper's, not measured by us; `numbers.csv` holds them as printed. The printed gains are left out; two of
them are wrong by the tables' own rows: Table 3, ViT-S/16 (+1.2 printed, +0.8 by its rows), and Table 4, PGD on
CIFAR-100 with PreActResNet-18 (+1.4 printed, +1.8 by its rows). The "Table 2(a)" of section 4.6 does not exist.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["QUANTITIES", "Number", "find", "numbers"]


@dataclass(frozen=True)
class Quantity:
    """What a published number is of."""

    title: str
    condition: str
    """How the paper measured it, as far as it says."""


QUANTITIES: Mapping[str, Quantity] = {
    "accuracy": Quantity("top-1 accuracy, %", "five runs on CIFAR and TinyImageNet; last or best epoch is not stated"),
    "fgsm_error": Quantity("FGSM error, %", "eps 8/255, l-infinity; five runs"),
    "pgd_error": Quantity(
        "PGD error, %", "eps 4/255, step 2/255, l-infinity; the number of steps is not stated; five runs"
    ),
    "speed": Quantity("training speed, 1000 images/s", "one V100, forward and backward"),
    "map": Quantity("detection mAP, %", "SSD on VOC07+12, Faster R-CNN on COCO, ResNet-50 pre-trained on ImageNet"),
    "detection_speed": Quantity("detection speed, images/s", "as the mAP"),
    "alignment": Quantity(
        "alignment",
        "CIFAR-100 test set; normalisation is not stated, and on the unit sphere, which is measured here, alpha = 2 "
        "gives at most about 2.0",
    ),
    "uniformity": Quantity(
        "uniformity",
        "CIFAR-100 test set; normalisation and t are not stated, and on the unit sphere, which is measured here, t = 2 "
        "gives at least about -4.0",
    ),
    "intrusion": Quantity(
        "intrusion distance",
        "all of the CIFAR-100 training set; normalisation and the clean embeddings are not stated",
    ),
}


@dataclass(frozen=True)
class Number:
    """One published number."""

    where: str
    """Table or section."""
    quantity: str
    """A key of `QUANTITIES`."""
    data: str
    model: str
    method: str
    """As on our command line."""
    value: float
    std: float | None
    """Over five runs; None where the paper gives none."""
    origin: str
    """Whose measurement it is, as the table marks it."""
    text: str
    """The value as printed."""


@functools.cache
def numbers() -> tuple[Number, ...]:
    """All of them, in the order of the paper.

    >>> len([n for n in numbers() if n.where == "Table 2"])
    40
    """
    text = files(__package__).joinpath("numbers.csv").read_text(encoding="utf-8")
    return tuple(
        Number(
            where=row["where"],
            quantity=row["quantity"],
            data=row["data"],
            model=row["model"],
            method=row["method"],
            value=float(row["value"]),
            std=float(row["std"]) if row["std"] else None,
            origin=row["origin"],
            text=row["value"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def find(quantity: str, *, data: str, model: str, method: str) -> Number | None:
    """The published number for a setting, if there is one.

    Raises:
        ValueError: no such quantity.

    >>> find("accuracy", data="cifar100", model="preactresnet18", method="multimix").text
    '81.82'
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity must be one of {', '.join(QUANTITIES)}, got {quantity!r}")
    key = (quantity, data, model, method)
    return next((n for n in numbers() if (n.quantity, n.data, n.model, n.method) == key), None)
