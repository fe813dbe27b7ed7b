"""What the numbers of an attack's checks mean: each judged, in a plain sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from .attacks import Classifier

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


def mode(model: Classifier) -> list[Finding]:
    """A model in training mode is another function. Nothing can be told of a plain function."""
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
            "a different function; the attacks switch to evaluation mode, but other code may not: call model.eval().",
        )
    ]


def are_logits(logits: Tensor) -> Finding:
    """Probabilities would pass through a second softmax."""
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


def deterministic(first: Tensor, second: Tensor) -> Finding:
    """From the logits of two passes."""
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
        f"{text}: the model is random, so one gradient says little; average gradients over several passes.",
    )


def gradients(zero: float, slack: float) -> Finding:
    """From the share of images whose gradient is zero."""
    text = f"The gradient of the loss is exactly zero for {_percent(zero)} of the images"
    if zero <= slack:
        return Finding("gradients", True, f"{text}.")
    return Finding("gradients", False, f"{text}: an attack cannot change these, which hides errors.")


def eps_zero(same: bool, after: float, clean: float) -> Finding:
    """From whether the images stayed the same, and the error rates."""
    if same and abs(after - clean) < 1e-9:
        return Finding(
            "eps = 0", True, f"With eps = 0 the attack returns the images, and their error, {_percent(clean)}."
        )
    return Finding(
        "eps = 0",
        False,
        f"With eps = 0 the attack changes images: error {_percent(after)} instead of {_percent(clean)}.",
    )


def more_eps(by_eps: Mapping[float, float], eps: float, slack: float) -> Finding:
    """From the error by multiple of `eps`."""
    radii = ", ".join(f"{255 * k * eps:.3g}/255" for k in by_eps)
    text = f"At eps {radii} the error is {_listed(list(by_eps.values()))}"
    if not _drops(list(by_eps.values()), slack):
        return Finding("more eps", True, f"{text}: a larger ball never protects.")
    return Finding("more eps", False, f"{text}: a larger ball contains the smaller, so the attack misses something.")


def unbounded(error: float) -> Finding:
    """From the error where every pixel may change at will."""
    text = f"Allowed to change every pixel at will, the attack fools the model on {_percent(error)} of the images"
    if error >= UNBOUNDED:
        return Finding("unbounded", True, f"{text}.")
    return Finding(
        "unbounded",
        False,
        f"{text}, where a working attack fools nearly all: the gradients are masked, or lead nowhere.",
    )


def more_steps(errors: Sequence[float], slack: float) -> Finding:
    """From the error after 0, 1, ... steps."""
    last = len(errors) - 1
    shown = sorted({min(1, last), last // 4, last // 2, last})
    values = [errors[k] for k in shown]
    text = f"After {', '.join(map(str, shown))} steps the error is {_listed(values)}"
    if not _drops(values, slack):
        return Finding("more steps", True, f"{text}: more steps do no harm.")
    return Finding("more steps", False, f"{text}: more steps make the attack weaker, so the step size is too large.")


def noise(noise: float, attack: float, slack: float) -> Finding:
    """From the error under random noise in the ball and under the attack."""
    text = f"Random noise in the same ball gives {_percent(noise)} error, the attack {_percent(attack)}"
    if noise <= attack + slack:
        return Finding("random noise", True, f"{text}.")
    return Finding("random noise", False, f"{text}: following the gradient is worse than chance, so it is masked.")


def transfer(transferred: float, attack: float, agreement: float, slack: float) -> Finding:
    """From the error on the surrogate's adversarial images and on its own."""
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
