"""AutoAttack, as torchattacks implements it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from random import getstate, setstate
from types import ModuleType

import torch
from torch import Tensor, nn

from ..extras import require
from ..random import draw_seed
from .attacks import Norm, attacking, check_images
from .classification import check_predictions

FEWEST_CLASSES = 4
"""Its targeted loss, a ratio of differences of logits, needs the four largest."""
TARGETS, STEPS = 9, 100
"""Most likely wrong classes that are aimed at, and iterations of the three attacks by gradients: the authors'."""


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: Norm = "linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """AutoAttack, standard version: APGD on the cross entropy, targeted APGD and FAB, and the black-box Square attack
    (Croce and Hein, ICML 2020), with the iterations, targets and schedule of its authors' program (torchattacks' own
    has a tenth of the iterations). It needs no tuning, and thousands of passes for every image that withstands it.

    Args:
        model: maps pixels in [0, 1] to logits (b, c), c >= 4.
        images: (b, channels, height, width) float32, in [0, 1].
        labels: (b,) class indices.
        eps: radius of the ball, in units of pixels in [0, 1].
        norm: of the ball.
        generator: gives the seed; the global RNG, which the attack uses, is restored.

    Returns:
        Adversarial images; those of images that withstand all four attacks are within the ball too.

    Raises:
        ImportError: torchattacks is not installed.
        TypeError, ValueError: as in `pgd`; images of another type; fewer than four classes.
    """
    check_images(images)
    if images.dtype != torch.float32:
        raise TypeError(f"AutoAttack computes in float32, got {images.dtype}: pass images.float(), and model.float()")
    with torch.no_grad(), attacking(model, images.device):
        logits = model(images)
    labels = check_predictions(logits, labels)
    classes = logits.shape[1]
    torchattacks = load_torchattacks(classes)
    seed = int(draw_seed(generator)) % 2**31
    with _borrowed_global_rng(images.device), attacking(model, images.device), torch.enable_grad():
        attack = torchattacks.AutoAttack(
            model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, n_classes=classes, seed=seed
        )
        authors = {"steps": STEPS, "n_target_classes": min(TARGETS, classes - 1), "rescale_schedule": False}
        for part in attack._autoattack.attacks:
            for name in authors.keys() & vars(part):
                setattr(part, name, authors[name])
        adversarial: Tensor = attack(images, labels).detach()
        return adversarial


def load_torchattacks(classes: int) -> ModuleType:
    """The module torchattacks, for a model with so many classes.

    Raises:
        ImportError: it is not installed; says how to install it.
        ValueError: fewer than four classes.
    """
    if classes < FEWEST_CLASSES:
        raise ValueError(f"AutoAttack needs at least {FEWEST_CLASSES} classes, the model has {classes}: use pgd")
    try:
        return importlib.import_module("torchattacks")
    except ModuleNotFoundError:
        # Without its dependencies: it pins an old release of requests, which it does not need to attack.
        raise ImportError(
            "AutoAttack needs torchattacks, which is not installed: pip install --no-deps torchattacks==3.5.1"
        ) from None


@contextmanager
def _borrowed_global_rng(device: torch.device) -> Iterator[None]:
    numpy = require("numpy", "train")
    python, array = getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        setstate(python)
        numpy.random.set_state(array)
