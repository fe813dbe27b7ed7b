"""Masks with which a teacher recognises in a mixture every image that went into it.

b mixtures, K images each, C channels, c classes; H, W pixels; masks are optimised on a coarser grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Bounds of a Newton step, as in the authors' code.
SHORTEST, LONGEST = 1e-4, 2000.0


class Masks(NamedTuple):
    """Masks (b, K, H, W) that sum to 1 over K at every pixel, and which mixtures (b,) have reached their goal."""

    masks: Tensor
    reached: Tensor


@torch.no_grad()
def optimise_masks(
    teacher: Callable[[Tensor], Tensor],
    images: Tensor,
    goal: Tensor,
    *,
    width: int = 16,
    lambda_s: float = 25.0,
    sigma: float = 1.0,
    max_iter: int = 50,
) -> Masks:
    """Minimise KL(goal || teacher's prediction on the mixture) + lambda_s mean |p (p - 1)| over the masks p.

    p = sigmoid(v) / sum_K sigmoid(v), where v is on a coarse grid and upsampled. v starts at zero and moves by Newton
    steps towards a loss of zero, v -= loss G / <g, G>, where G is the gradient g smoothed by a Gaussian.
    A mixture has reached its goal when the teacher ranks the classes of the goal above all others, and is then left
    as it is. All mixtures are optimised at once; those that have arrived leave the batch. Under autocast prefer
    bfloat16: without loss scaling, gradients in float16 may vanish.

    Args:
        teacher: pixels in [0, 1] to logits (b, c), frozen and in evaluation mode.
        images: (b, K, C, H, W).
        goal: (b, c) probabilities.
        width: side of the coarse grid.
        lambda_s: weight of the sparsity.
        sigma: of the Gaussian, in cells of the grid; 0: no smoothing.
        max_iter: steps at most.
    """
    b, K, _, H, W = images.shape
    v = images.new_zeros(b, K, min(width, H), min(width, W), dtype=torch.float32)
    reached = torch.zeros(b, dtype=torch.bool, device=images.device)
    active = torch.arange(b, device=images.device)
    for step in range(max_iter + 1):
        with torch.enable_grad():
            v_now = v[active].requires_grad_()
            p = _upsampled(v_now, (H, W))
            logits = teacher((p[:, :, None].to(images.dtype) * images[active]).sum(1)).float()
            now = goal[active].float()
            kl = (torch.xlogy(now, now) - now * logits.log_softmax(1)).sum(1)
            loss = kl + lambda_s * (p * (1 - p)).mean((1, 2, 3))
            (g,) = torch.autograd.grad(loss.sum(), v_now)
        if step > 0:
            arrived = _ranked_first(logits, now)
            reached[active[arrived]] = True
            active, loss, g = active[~arrived], loss[~arrived], g[~arrived]
        if step == max_iter or len(active) == 0:
            break
        G = _smoothed(g, sigma)
        length = (loss / ((g * G).sum((1, 2, 3)) + 1e-10)).clamp(SHORTEST, LONGEST)
        v[active] -= length[:, None, None, None] * G
    return Masks(_upsampled(v, (H, W)), reached)


def _upsampled(v: Tensor, size: tuple[int, int]) -> Tensor:
    """sigmoid(v) / sum_K sigmoid(v), written so that it cannot become 0/0."""
    return F.logsigmoid(F.interpolate(v, size=size, mode="bilinear")).softmax(1)


def _ranked_first(logits: Tensor, goal: Tensor) -> Tensor:
    """Whether every class of the goal scores above all that are not in it: (b,)."""
    wanted = goal > 0
    least = logits.masked_fill(~wanted, torch.inf).amin(1)
    return least > logits.masked_fill(wanted, -torch.inf).amax(1)


def _smoothed(x: Tensor, sigma: float) -> Tensor:
    """Convolution of (b, K, h, w) with a Gaussian cut off at two sigma; outside there is nothing."""
    if sigma == 0:
        return x
    reach = math.ceil(2 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    maps = x.flatten(0, 1)[:, None]
    with torch.autocast(x.device.type, enabled=False):
        maps = F.conv2d(maps, taps[None, None, :, None], padding=(reach, 0))
        maps = F.conv2d(maps, taps[None, None, None], padding=(0, reach))
    return maps[:, 0].unflatten(0, x.shape[:2])
