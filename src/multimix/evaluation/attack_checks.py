"""Is an attack's verdict to be trusted? The checks that expose a broken evaluation or masked gradients.

A model can withstand an attack because it is robust, or because its gradients lead nowhere (Athalye et al., ICML 2018).
These checks follow the recommendations of Carlini et al., "On evaluating adversarial robustness" (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import random
from .attacks import Classifier, attacking, check_images, input_gradient, pgd, pgd_iterates
from .classification import check_predictions

SLACK = 0.02
"""A share of the images by which chance alone may move an error rate; one image where there are fewer than fifty."""
UNBOUNDED = 0.95
"""An attack that may change every pixel at will should fool at least this share of the images."""


class Finding(NamedTuple):
    """The outcome of one check."""

    name: str
    passed: bool
    sentence: str
    """What was found, with its numbers, and where the check fails what it means."""


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

    Returns:
        The findings: evaluation mode (of an `nn.Module`), logits, deterministic, gradients, eps = 0, more eps,
        unbounded, more steps, random noise, transfer.

    Raises:
        TypeError, ValueError: as in `pgd`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    >>> findings = check_attack(net, torch.rand(20, 1, 8, 8), torch.randint(3, (20,)))
    >>> findings[0].name, findings[0].passed
    ('evaluation mode', True)
    """
    check_images(images)
    draws = random.fork(generator, images.device)
    slack = max(SLACK, 1 / len(images))

    def error(x: Tensor) -> float:
        return (_logits(model, x).argmax(dim=1) != labels).double().mean().item()

    def attack(radius: float, stride: float) -> Tensor:
        return pgd(model, images, labels, radius, stride, steps, generator=draws)

    logits = _logits(model, images)
    check_predictions(logits, labels)
    clean = error(images)
    iterates = list(pgd_iterates(model, images, labels, eps, step_size, steps, generator=draws))
    by_steps = [error(x) for x in iterates]
    by_eps = {k: error(attack(k * eps, k * step_size)) for k in (0.25, 0.5, 2.0, 4.0)} | {1.0: by_steps[-1]}
    found = [*_mode(model), _are_logits(logits), _deterministic(logits, _logits(model, images))]
    found.append(_gradients(input_gradient(model, images, labels), slack))
    found.append(_eps_zero(attack(0.0, step_size), images, clean, error))
    found.append(_more_eps(dict(sorted(by_eps.items())), eps, slack))
    # Wide enough to cross the whole range of pixels within the steps.
    found.append(_unbounded(error(attack(1.0, max(step_size, 2.5 / max(steps, 1))))))
    found.append(_more_steps(by_steps, slack))
    found.append(_noise(by_steps[0], by_steps[-1], slack))
    if surrogate is not None:
        transferred = error(pgd(surrogate, images, labels, eps, step_size, steps, generator=draws))
        agreement = (_logits(surrogate, images).argmax(dim=1) == logits.argmax(dim=1)).double().mean().item()
        found.append(_transfer(transferred, by_steps[-1], agreement, slack))
    return found


def _logits(model: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad(), attacking(model, images.device):
        return model(images)


def _mode(model: Classifier) -> list[Finding]:
    if not isinstance(model, nn.Module):
        return []
    training = sum(module.training for module in model.modules())
    if not training:
        return [Finding("evaluation mode", True, "The model came in evaluation mode.")]
    return [
        Finding(
            "evaluation mode",
            False,
            f"{training} modules of the model are in training mode, where dropout and batch normalisation make it "
            "another function of an image; the attacks switch to evaluation mode, other code may not: model.eval().",
        )
    ]


def _are_logits(logits: Tensor) -> Finding:
    sums = logits.double().sum(dim=1)
    probabilities = bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())
    if probabilities:
        text = (
            "The outputs are non-negative and sum to 1, so they are probabilities; the loss applies a second softmax, "
            "which flattens its gradient: return logits from the model."
        )
    else:
        text = "The outputs are logits, not probabilities."
    return Finding("logits", not probabilities, text)


def _deterministic(first: Tensor, second: Tensor) -> Finding:
    # Kernels that sum in another order differ in the last digits.
    difference = ((first - second).abs().max() / first.abs().max().clamp_min(1e-12)).item()
    if difference == 0:
        return Finding("deterministic", True, "The same images twice gave the same logits.")
    text = f"The same images twice gave logits that differ by {difference:.1g} of the largest"
    if difference < 1e-4:
        return Finding("deterministic", True, f"{text}, which is rounding.")
    return Finding(
        "deterministic",
        False,
        f"{text}: the model is random, so one gradient is not its direction; average gradients over several passes.",
    )


def _gradients(gradient: Tensor, slack: float) -> Finding:
    zero = (gradient.flatten(1).abs().amax(dim=1) == 0).double().mean().item()
    text = f"The gradient of the loss is exactly zero for {_percent(zero)} of the images"
    if zero <= slack:
        return Finding("gradients", True, f"{text}.")
    return Finding("gradients", False, f"{text}: an attack cannot move these, which hides errors.")


def _eps_zero(attacked: Tensor, images: Tensor, clean: float, error: Callable[[Tensor], float]) -> Finding:
    after = error(attacked)
    same = torch.equal(attacked, images) and after == clean
    text = f"With eps = 0 the attack returns the images, and the clean error of {_percent(clean)}."
    if not same:
        text = f"With eps = 0 the attack changes images: error {_percent(after)} instead of {_percent(clean)}."
    return Finding("eps = 0", same, text)


def _more_eps(by_eps: dict[float, float], eps: float, slack: float) -> Finding:
    radii = ", ".join(f"{255 * k * eps:.3g}/255" for k in by_eps)
    text = f"At eps {radii} the error is {_listed(list(by_eps.values()))}"
    if not _drops(list(by_eps.values()), slack):
        return Finding("more eps", True, f"{text}: a larger ball never protects.")
    return Finding("more eps", False, f"{text}: a larger ball contains the smaller, so the attack misses something.")


def _unbounded(error: float) -> Finding:
    text = f"Allowed to change every pixel at will, the attack fools the model on {_percent(error)} of the images"
    if error >= UNBOUNDED:
        return Finding("unbounded", True, f"{text}.")
    return Finding(
        "unbounded", False, f"{text}, where a working one fools nearly all: the gradients are masked, or lead nowhere."
    )


def _more_steps(errors: Sequence[float], slack: float) -> Finding:
    last = len(errors) - 1
    shown = sorted({min(1, last), last // 4, last // 2, last})
    values = [errors[k] for k in shown]
    text = f"After {', '.join(map(str, shown))} steps the error is {_listed(values)}"
    if not _drops(values, slack):
        return Finding("more steps", True, f"{text}: more steps do no harm.")
    return Finding("more steps", False, f"{text}: more steps make the attack weaker, so the step size is too large.")


def _noise(noise: float, attack: float, slack: float) -> Finding:
    text = f"Random noise in the same ball gives {_percent(noise)} error, the attack {_percent(attack)}"
    if noise <= attack + slack:
        return Finding("random noise", True, f"{text}.")
    return Finding("random noise", False, f"{text}: following the gradient is worse than chance, so it is masked.")


def _transfer(transferred: float, attack: float, agreement: float, slack: float) -> Finding:
    text = (
        f"Adversarial images of a surrogate that agrees with the model on {_percent(agreement)} of the images give "
        f"{_percent(transferred)} error, its own {_percent(attack)}"
    )
    if transferred <= attack + slack:
        return Finding("transfer", True, f"{text}.")
    return Finding(
        "transfer", False, f"{text}: images made without its gradients fool it more, so its gradients are masked."
    )


def _drops(errors: Sequence[float], slack: float) -> bool:
    return any(later < earlier - slack for k, earlier in enumerate(errors) for later in errors[k + 1 :])


def _listed(shares: Sequence[float]) -> str:
    return ", ".join(_percent(share) for share in shares)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
