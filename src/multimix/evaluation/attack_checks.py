"""Is an attack's verdict to be trusted? The checks that expose a broken evaluation or masked gradients.

A model can withstand an attack because it is robust, or because its gradients lead nowhere (Athalye et al., ICML 2018).
These checks follow the recommendations of Carlini et al., "On evaluating adversarial robustness" (2019).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import random
from . import attack_findings as findings
from .attack_findings import Finding
from .attacks import Classifier, attacking, check_images, input_gradient, pgd, pgd_iterates
from .classification import check_predictions

__all__ = ["Finding", "check_attack"]


def check_attack(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 4 / 255,
    step_size: float = 2 / 255,
    steps: int = 20,
    surrogate: Classifier | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
) -> list[Finding]:
    """Check PGD (l-infinity, random start) on a model.

    A hundred images or more make the checks meaningful.

    Args:
        model: as the caller uses it; it is left as it is.
        images: (b, channels, height, width) floating point, in [0, 1].
        labels: (b,) true class indices.
        eps, step_size, steps: of the attack whose result is to be trusted.
        surrogate: another classifier of the same classes, such as `distil` makes; without it adversarial images are not
            transferred.
        generator: for the random starts.
        batch_size: images attacked at the same time.

    Returns:
        The findings: evaluation mode (of an `nn.Module`), logits, deterministic, gradients, eps = 0, more eps,
        unbounded, more steps, random noise, transfer.

    Raises:
        TypeError, ValueError: as in `pgd`.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    >>> findings = check_attack(net, torch.rand(20, 1, 8, 8), torch.randint(3, (20,)))
    >>> findings[0].name, findings[0].passed
    ('evaluation mode', True)
    """
    check_images(images)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    draws = random.fork(generator, images.device)
    slack = max(findings.SLACK, 1 / len(images))
    logits = _all_logits(model, images, batch_size)
    labels = check_predictions(logits, labels)
    batches = list(zip(images.split(batch_size), labels.split(batch_size), strict=True))

    def wrong(x: Tensor, y: Tensor) -> Tensor:
        return (_logits(model, x).argmax(dim=1) != y).sum()

    def error(attack: Callable[[Tensor, Tensor], Tensor]) -> float:
        return sum(wrong(attack(x, y), y).item() for x, y in batches) / len(images)

    def attack(
        radius: float, stride: float, of: Classifier = model, count: int = steps
    ) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: pgd(of, x, y, radius, stride, count, generator=draws)

    clean = error(lambda x, y: x)
    per_batch = [
        [wrong(iterate, y) for iterate in pgd_iterates(model, x, y, eps, step_size, steps, generator=draws)]
        for x, y in batches
    ]
    by_steps = [int(torch.stack(counts).sum()) / len(images) for counts in zip(*per_batch, strict=True)]
    by_eps = {k: error(attack(min(1.0, k * eps), k * step_size)) for k in (0.25, 0.5, 2.0, 4.0)} | {1.0: by_steps[-1]}
    zero = sum(int((input_gradient(model, x, y).flatten(1) == 0).all(dim=1).sum()) for x, y in batches) / len(images)
    still = torch.cat([attack(0.0, step_size)(x, y) for x, y in batches])
    at_zero = (_all_logits(model, still, batch_size).argmax(dim=1) != labels).double().mean().item()
    # Enough steps, and long enough, to cross the whole range of pixels, however few the attack itself has.
    freely = error(attack(1.0, max(step_size, 0.125), count=max(steps, 20)))
    found = [
        *findings.mode(model),
        findings.are_logits(logits),
        findings.deterministic(logits, _all_logits(model, images, batch_size)),
        findings.gradients(zero, slack),
        findings.eps_zero(torch.equal(still, images), at_zero, clean),
        findings.more_eps(dict(sorted(by_eps.items())), eps, slack),
        findings.unbounded(freely),
        findings.more_steps(by_steps, slack),
        findings.noise(by_steps[0], by_steps[-1], slack),
    ]
    if surrogate is not None:
        transferred = error(attack(eps, step_size, surrogate))
        theirs = _all_logits(surrogate, images, batch_size)
        agreement = (theirs.argmax(dim=1) == logits.argmax(dim=1)).double().mean().item()
        found.append(findings.transfer(transferred, by_steps[-1], agreement, slack))
    return found


def _all_logits(model: Classifier, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([_logits(model, x) for x in images.split(batch_size)])


def _logits(model: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad(), attacking(model, images.device):
        return model(images)
