"""Adversarial images: FGSM and PGD, untargeted, in pixel space.

The model maps pixels in [0, 1] to logits, so eps and step sizes are in the units of pixels in [0, 1] (8/255, not 8). An
attack runs in evaluation mode, in full precision, without gradients for the parameters, and leaves the model as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from .. import random
from ..functional._checks import check_count, check_not_negative, check_pixels
from ..models.modes import keeping_modes
from .classification import check_predictions

Norm = Literal["linf", "l2"]
Classifier = Callable[[Tensor], Tensor]


def fgsm(model: Classifier, images: Tensor, labels: Tensor, eps: float, *, norm: Norm = "linf") -> Tensor:
    """One step of length eps that raises the cross entropy (fast gradient sign method, Goodfellow et al., ICLR 2015):
    x + eps sign(grad), or x + eps grad / ||grad|| with `norm="l2"`, clipped to [0, 1].

    Args and errors as in `pgd`.

    Returns:
        Adversarial images, of the shape and type of `images`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images, labels = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 2])
    >>> (fgsm(net, images, labels, eps=8 / 255) - images).abs().amax().mul(255).round().item()
    8.0
    """
    return pgd(model, images, labels, eps, eps, 1, random_start=False, norm=norm)


def pgd(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    step_size: float,
    steps: int,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    *,
    restarts: int = 1,
    norm: Norm = "linf",
) -> Tensor:
    """Projected gradient ascent on the cross entropy within the eps-ball and [0, 1] (Madry et al., ICLR 2018).

    Args:
        model: maps pixels in [0, 1] to logits (b, c).
        images: (b, channels, height, width) floating point, in [0, 1].
        labels: (b,) true class indices.
        eps: radius of the ball, in units of pixels in [0, 1]; for "l2" the Euclidean length over a whole image.
        step_size: length of a step.
        steps: 0 returns the start, which is random noise in the ball: a control for the attack.
        random_start: start uniformly in the ball instead of at the image.
        generator: for the random starts; the global RNG is not used.
        restarts: attack again, from another random start, the images that are still classified rightly.
        norm: of the ball; "linf" takes the sign of the gradient, "l2" its direction.

    Returns:
        Adversarial images, of the shape and type of `images`: the last iterate. With restarts, the one that is
        misclassified, or the one with the highest loss.

    Raises:
        TypeError: images that are not floating point.
        ValueError: images outside [0, 1], labels that do not fit, a negative eps, step size or number of steps,
            restarts without a random start, an unknown norm, or a model whose gradients are not finite.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 2, 1, 1, 0])
    >>> g = torch.Generator().manual_seed(0)
    >>> adversarial = pgd(net, images, labels, eps=4 / 255, step_size=2 / 255, steps=20, generator=g)
    >>> bool((adversarial - images).abs().max() <= 4 / 255 + 1e-6)
    True
    """
    if restarts < 1:
        raise ValueError(f"restarts counts the attempts, so it must be at least 1, got {restarts}")
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} need random_start=True: from the same start they would all be the same")
    generator = random.fork(generator, images.device)

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        *_, last = pgd_iterates(model, images, labels, eps, step_size, steps, random_start, generator, norm=norm)
        return last

    found = attack(images, labels)
    if restarts == 1:
        return found
    loss, right = _losses(model, found, labels)
    for _ in range(restarts - 1):
        left = right.nonzero().flatten()
        if not len(left):
            break
        new = attack(images[left], labels[left])
        new_loss, new_right = _losses(model, new, labels[left])
        better = ~new_right | (new_loss > loss[left])
        found[left[better]] = new[better]
        loss[left[better]] = new_loss[better]
        right[left] = new_right
    return found


def pgd_iterates(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    step_size: float,
    steps: int,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    *,
    norm: Norm = "linf",
) -> Iterator[Tensor]:
    """The images of PGD after 0, 1, ..., `steps` steps: a curve over steps for the price of its last point.

    Args and errors as in `pgd`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> iterates = pgd_iterates(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), 0.1, 0.05, steps=3)
    >>> [tuple(images.shape) for images in iterates]
    [(2, 1, 2, 2), (2, 1, 2, 2), (2, 1, 2, 2), (2, 1, 2, 2)]
    """
    check_images(images)
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
    for name, value in (("eps", eps), ("step_size", step_size)):
        check_not_negative(name, value)
    check_count("steps", steps, least=0)
    if norm == "linf" and eps > 1:
        raise ValueError(
            f"eps is a distance between pixels in [0, 1], got {eps}: for {eps} grey levels pass {eps} / 255"
        )
    clean = images.detach().clone()
    ball = _Ball(clean, eps, norm)
    current = ball.start(random.fork(generator, images.device)) if random_start else clean
    yield current
    for step in range(steps):
        gradient = input_gradient(model, current, labels, check=step in (0, steps - 1))
        current = ball.project(current + step_size * (gradient.sign() if norm == "linf" else _direction(gradient)))
        yield current


def input_gradient(model: Classifier, images: Tensor, labels: Tensor, *, check: bool = True) -> Tensor:
    """The gradient of the cross entropy of every image in its pixels, (b, channels, height, width).

    The loss is summed over images, not averaged, so that a gradient does not depend on who else is in the batch.

    Args:
        check: whether to check labels, logits and gradient, which waits for an accelerator.

    Raises:
        TypeError, ValueError: labels that do not fit the logits, a model that detaches its logits, or a gradient that
            is not finite.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> input_gradient(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1])).shape
    torch.Size([2, 1, 2, 2])
    """
    with attacking(model, images.device), torch.enable_grad():
        # Clones, because tensors made in inference mode (as `predict` returns them) cannot take part in autograd.
        x, labels = images.detach().clone().requires_grad_(), labels.clone()
        logits = model(x)
        labels = check_predictions(logits, labels) if check else labels.long()
        if not logits.requires_grad:
            raise ValueError("the logits do not depend on the images: the model detaches them, so it has no gradient")
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), x)
    # The sign of NaN is 0, so that it would pass for an image that withstands the attack.
    if check and not bool(gradient.isfinite().all()):
        raise ValueError("the gradient of the loss is not finite (NaN or infinity): check the model's weights")
    return gradient


@contextmanager
def attacking(model: Classifier, device: torch.device) -> Iterator[None]:
    """Evaluation mode, full precision and frozen parameters, which saves the memory that their gradients would need;
    the model's modes and parameters are restored afterwards."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    trainable = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(keeping_modes(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        try:
            for module in modules:
                module.training = False
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


def check_images(images: Tensor) -> None:
    """One clear error for what is not a batch of pixels in [0, 1]."""
    check_pixels(images)
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be (b, channels, height, width) with b >= 1, got {tuple(images.shape)}")
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must be pixels in [0, 1], got values from {low:.4g} to {high:.4g}: divide bytes by 255, and "
            "leave the normalisation to the model"
        )


class _Ball:
    """The eps-ball around images, within [0, 1]."""

    def __init__(self, centre: Tensor, eps: float, norm: Norm) -> None:
        self.centre, self.eps, self.norm = centre, eps, norm
        radius = eps if norm == "linf" else math.inf
        self.low, self.high = (centre - radius).clamp_min(0), (centre + radius).clamp_max(1)

    def start(self, generator: torch.Generator) -> Tensor:
        """A uniform draw from the ball."""
        # Draws are made in the order of memory, which must not depend on where images have their channels.
        noise = torch.empty_like(self.centre, memory_format=torch.contiguous_format)
        if self.norm == "linf":
            noise.uniform_(-self.eps, self.eps, generator=generator)
        else:
            noise.normal_(generator=generator)
            radius = torch.empty_like(noise[:, :1, :1, :1]).uniform_(generator=generator)
            noise *= (
                self.eps * radius ** (1 / noise[0].numel()) / _length(noise).clamp_min(torch.finfo(noise.dtype).tiny)
            )
        return self.project(self.centre + noise)

    def project(self, images: Tensor) -> Tensor:
        if self.norm == "l2":
            offset = images - self.centre
            least = max(self.eps, torch.finfo(offset.dtype).tiny)
            images = self.centre + offset * (self.eps / _length(offset).clamp_min(least))
        return torch.minimum(torch.maximum(images, self.low), self.high)


def _direction(gradient: Tensor) -> Tensor:
    """Of length 1, however small the gradient of an image that the model is sure of; 0 where there is none at all."""
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(tiny)
    return scaled / _length(scaled).clamp_min(tiny)


def _length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


@torch.no_grad()
def _losses(model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of every image, and whether it is classified rightly."""
    with attacking(model, images.device):
        logits = model(images)
    labels = check_predictions(logits, labels)
    return nn.functional.cross_entropy(logits, labels, reduction="none"), logits.argmax(dim=1) == labels
