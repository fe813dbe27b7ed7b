"""Adversarial robustness (Table 4 of the paper): FGSM and PGD, curves over their strength, checks of the attacks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import evaluation
from ..evaluation.attacks import Norm, attacking
from ..evaluation.autoattack import load_torchattacks
from ..random import make_generator
from ..reports.section import Section
from . import attacks_page
from .batches import Batches, balanced_order, check_limit, choose
from .part import Legend, Part, Results, Subject
from .store import Store

Attack = Callable[[Tensor, Tensor, torch.Generator], list[Tensor]]
"""Images, labels and a generator -> one batch of images for every point of a curve."""

SURROGATE_IMAGES = 2000
SHOWN = ("pgd_eps", "pgd_step", "pgd_steps", "random_start", "restarts", "mixed_precision")
"""The settings that the page states."""


@dataclass(frozen=True, kw_only=True)
class Attacks(Part):
    """Error under adversarial attack. Every l-infinity eps and step size is in units of 1/255: 8 stands for 8/255."""

    name: ClassVar[str] = "attacks"

    limit: int | None = 1000
    """Number of test images to attack, equally many of each class; None: all, as in published numbers."""
    fgsm_eps: float = 8
    """Size of FGSM's step, in 1/255."""
    pgd_eps: float = 4
    """Radius of PGD's l-infinity ball, in 1/255."""
    pgd_step: float = 2
    """Size of PGD's steps, in 1/255."""
    pgd_steps: int = 20
    """Number of PGD's steps, in the l-infinity and in the l2 ball."""
    random_start: bool = True
    """Start PGD at a random point of the ball instead of at the image."""
    restarts: int = 1
    """Number of PGD attempts; each further one attacks the images still classified correctly."""
    l2_eps: float = 0.5
    """Radius of PGD's l2 ball, for pixels in [0, 1]; the step is a fifth of it."""
    curve_eps: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
    """Values of eps, in 1/255, of the curves that show the error over eps."""
    curve_steps: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """Numbers of PGD steps of the curve that shows the error over steps."""
    curve_limit: int = 200
    """Number of test images for the curves and for the checks of the attacks, equally many of each class."""
    autoattack: bool = False
    """Also run AutoAttack in PGD's l-infinity ball (needs torchattacks; thousands of passes for every robust image)."""
    mixed_precision: bool = False
    """Compute the attacks in bfloat16 where PyTorch's autocast does: faster on some devices, and a weaker attack."""
    seed: int = 0
    """Seed of the choice of images, of the random starts and of the checks."""

    def __post_init__(self) -> None:
        check_limit(self.limit)
        for name in ("fgsm_eps", "pgd_eps", "pgd_step", "pgd_steps", "l2_eps", "restarts", "curve_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        radii = {"fgsm_eps": self.fgsm_eps, "pgd_eps": self.pgd_eps, "pgd_step": self.pgd_step}
        for name, most in {**radii, "curve_eps": max(self.curve_eps, default=0)}.items():
            if most > 255:
                raise ValueError(f"{name} is in 1/255, so at most 255, which allows any image; got {most:g}")
        for name in ("curve_eps", "curve_steps"):
            values = getattr(self, name)
            if not values or values[0] <= 0 or any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must be positive numbers in increasing order, got {values}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts={self.restarts} need random_start=True: they would all be the same")

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        if self.autoattack:
            # Before the hours that the other attacks may take.
            load_torchattacks(len(subject.class_names))
        labels = subject.test.labels
        chosen = choose(labels, self.limit, seed=self.seed)
        few = choose(labels, self.curve_limit, seed=self.seed)
        counts = self._count(subject, store, say, "", chosen, self._table(subject))
        curves = self._count(subject, store, say, "curve ", few, self._curves(subject))
        say("checks of the attacks")
        checks = store.compute("checks", lambda: self._checks(subject, few))
        for check in checks:
            if not check["passed"]:
                warnings.warn(f"{subject.label}, seed {subject.seed}: {check['sentence']}", stacklevel=2)
        return {
            "examples": len(chosen),
            "test_examples": len(labels),
            "curve_examples": len(few),
            "settings": {name: getattr(self, name) for name in SHOWN},
            "error": {name: value for name, (value,) in counts.items()},
            "fgsm_by_eps": _curve((0, *self.curve_eps), curves["clean"] + curves["FGSM over eps"]),
            "pgd_by_eps": _curve((0, *self.curve_eps), curves["clean"] + curves["PGD over eps"]),
            "pgd_by_steps": _curve((0, *self.curve_steps), curves["PGD over steps"]),
            "checks": checks,
        }

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        shown = {name: error for name, error in result["error"].items() if name != "clean"}
        return {f"{name} error, % ↓": 100 * error for name, error in shown.items()}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return attacks_page.sections(results, legend.colors)

    def _table(self, subject: Subject) -> dict[str, Attack]:
        """What is measured at one strength, on all chosen images."""
        model = self._attacked(subject)
        attacks: dict[str, Attack] = {
            "clean": lambda x, y, g: [x],
            f"FGSM {self.fgsm_eps:g}/255": lambda x, y, g: [evaluation.fgsm(model, x, y, self.fgsm_eps / 255)],
            f"PGD {self.pgd_eps:g}/255": lambda x, y, g: [self._pgd(subject, x, y, g, "linf")],
            f"PGD l2 {self.l2_eps:g}": lambda x, y, g: [self._pgd(subject, x, y, g, "l2")],
        }
        if self.autoattack:
            attacks[f"AutoAttack {self.pgd_eps:g}/255"] = lambda x, y, g: [
                evaluation.autoattack(model, x, y, self.pgd_eps / 255, generator=g)
            ]
        return attacks

    def _curves(self, subject: Subject) -> dict[str, Attack]:
        model, stride = self._attacked(subject), self.pgd_step / self.pgd_eps

        def over_eps(x: Tensor, y: Tensor, g: torch.Generator) -> list[Tensor]:
            def pgd(eps: float) -> Tensor:
                return evaluation.pgd(model, x, y, eps / 255, stride * eps / 255, self.pgd_steps, self.random_start, g)

            return [pgd(eps) for eps in self.curve_eps]

        def over_steps(x: Tensor, y: Tensor, g: torch.Generator) -> list[Tensor]:
            steps, eps, step = max(self.curve_steps), self.pgd_eps / 255, self.pgd_step / 255
            iterates = evaluation.pgd_iterates(model, x, y, eps, step, steps, self.random_start, g)
            return [images for k, images in enumerate(iterates) if k in (0, *self.curve_steps)]

        return {
            "clean": lambda x, y, g: [x],
            "FGSM over eps": lambda x, y, g: [evaluation.fgsm(model, x, y, eps / 255) for eps in self.curve_eps],
            "PGD over eps": over_eps,
            "PGD over steps": over_steps,
        }

    def _pgd(self, subject: Subject, x: Tensor, y: Tensor, g: torch.Generator, norm: Norm) -> Tensor:
        eps, step = (self.pgd_eps / 255, self.pgd_step / 255) if norm == "linf" else (self.l2_eps, self.l2_eps / 5)
        model = self._attacked(subject)
        return evaluation.pgd(
            model, x, y, eps, step, self.pgd_steps, self.random_start, g, restarts=self.restarts, norm=norm
        )

    def _attacked(self, subject: Subject) -> nn.Module:
        """The model as the attacks see it; what they find is always counted in full precision."""
        return _MixedPrecision(subject.model) if self.mixed_precision else subject.model

    def _count(
        self,
        subject: Subject,
        store: Store,
        say: Callable[[str], None],
        prefix: str,
        indices: Tensor,
        attacks: Mapping[str, Attack],
    ) -> dict[str, list[float]]:
        """The error rates of every attack, a list each, kept batch by batch."""
        batches = Batches(subject, indices)
        wrong: dict[str, list[list[int]]] = {name: [] for name in attacks}
        for number in range(len(batches)):
            for name, attack in attacks.items():
                say(f"{prefix}{name}, batch {number + 1} of {len(batches)}")
                job = functools.partial(self._wrong, subject, batches, number, name, attack)
                wrong[name].append(store.compute(batches.key(prefix + name, number), job))
        return {
            name: [sum(counts) / len(indices) for counts in zip(*per_batch, strict=True)]
            for name, per_batch in wrong.items()
        }

    def _wrong(self, subject: Subject, batches: Batches, number: int, name: str, attack: Attack) -> list[int]:
        images, labels, _ = batches[number]
        attacked = attack(images, labels, make_generator(self.seed, name, number))
        with torch.no_grad(), attacking(subject.model, images.device):
            counts = [(subject.model(x).argmax(dim=1) != labels).sum() for x in attacked]
        totals: list[int] = torch.stack(counts).tolist()
        return totals

    def _checks(self, subject: Subject, indices: Tensor) -> list[dict[str, Any]]:
        images, labels = _all(subject, indices)
        surrogate, others = None, _others(subject, indices)
        if others is not None:
            surrogate = evaluation.distil(subject.model, others, generator=make_generator(self.seed, "surrogate"))
        findings = evaluation.check_attack(
            self._attacked(subject),
            images,
            labels,
            eps=self.pgd_eps / 255,
            step_size=self.pgd_step / 255,
            steps=self.pgd_steps,
            surrogate=surrogate,
            generator=make_generator(self.seed, "checks"),
            batch_size=subject.batch_size,
        )
        return [finding._asdict() for finding in findings]


class _MixedPrecision(nn.Module):
    """A model under autocast, which attacks switch off around what they are given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.model(images)
        return logits.float()


def _curve(x: Sequence[float], errors: Sequence[float]) -> list[list[float]]:
    return [list(point) for point in zip(x, errors, strict=True)]


def _all(subject: Subject, indices: Tensor) -> tuple[Tensor, Tensor]:
    batches = list(subject.loader(subset=indices).batches(0))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.targets for batch in batches])


def _others(subject: Subject, indices: Tensor) -> Tensor | None:
    """Images to learn a surrogate on: of the training set, or else test images that are not attacked."""
    source = subject.test if subject.train is None else subject.train
    order = balanced_order(source.labels, seed=0)
    if subject.train is None:
        order = order[~torch.isin(order, indices)]
    if not len(order):
        return None
    return torch.cat([batch.images for batch in subject.loader(source, order[:SURROGATE_IMAGES]).batches(0)])
