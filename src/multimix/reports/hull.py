"""The paper's Figure 1: what mixup and MultiMix sample from a mini-batch of points in the plane.

The weights come from `multimix.functional.sample_weights`, the same function that training uses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from ..extras import require
from ..random import make_generator
from .section import Panel
from .style import COLORS, INK, figure, to_svg

_B, _N = 10, 300


def points() -> Tensor:
    """The mini-batch: b = 10 points in two dimensions, (b, 2), spread so that their hull is wide."""
    generator = make_generator("hull", "points")
    angle = torch.rand(_B, generator=generator) * 2 * torch.pi
    radius = torch.rand(_B, generator=generator).sqrt()
    return torch.stack([1.35 * radius * angle.cos(), radius * angle.sin()], dim=1)


def mixup_points(z: Tensor) -> tuple[Tensor, Tensor]:
    """n = b points on the segments between random pairs, with one lambda for the whole batch: (3).

    Returns the mixed points (b, 2) and each one's partner (b,).
    """
    generator = make_generator("hull", "mixup")
    partner = torch.randperm(len(z), generator=generator)
    while (partner == torch.arange(len(z))).any():
        partner = torch.randperm(len(z), generator=generator)
    lam = 0.65
    return lam * z + (1 - lam) * z[partner], partner


def multimix_points(z: Tensor, alpha: float | tuple[float, float]) -> Tensor:
    """n = 300 points (n, 2) of the convex hull: (6) with the weights of the project's own sampler."""
    lam = F.sample_weights(_N, len(z), alpha=alpha, generator=make_generator("hull", "multimix"))
    return lam @ z


def hull_panels() -> list[Panel]:
    """Mixup, MultiMix at its default concentration, and MultiMix at a small one, over the same points."""
    z = points()
    mixed, partner = mixup_points(z)
    segments = [(z[i].tolist(), z[j].tolist()) for i, j in enumerate(partner.tolist())]
    return [
        Panel(
            "mixup",
            _draw(z, mixed, segments=segments, label="mixup"),
            "n = b = 10 new points, on segments between pairs, all with the same λ.",
        ),
        Panel(
            "MultiMix, α ~ U[0.5, 2] (the paper's)",
            _draw(z, multimix_points(z, (0.5, 2.0)), label="MultiMix"),
            "n = 300 new points anywhere in the convex hull of the batch. Most lie near its centre.",
        ),
        Panel(
            "MultiMix, α = 0.1",
            _draw(z, multimix_points(z, 0.1), label="MultiMix with alpha 0.1"),
            "The same sampler with a small concentration: points lie near examples, edges and faces. With 10 points "
            "α = 0.1 does what 0.02 does in a mini-batch of 64.",
        ),
    ]


def _draw(
    z: Tensor, mixed: Tensor, *, label: str, segments: list[tuple[list[float], list[float]]] | None = None
) -> str:
    corners = z[require("scipy.spatial", "evaluate").ConvexHull(z.numpy()).vertices.copy()]
    with figure(2.9, 2.3) as (drawn, axes):
        axes.set_axis_off()
        axes.set_aspect("equal")
        if segments is None:
            axes.fill(*corners.T.tolist(), facecolor=COLORS[0], alpha=0.14, edgecolor=COLORS[0], linewidth=0.8)
        for a, b in segments or []:
            axes.plot([a[0], b[0]], [a[1], b[1]], color=COLORS[0], linewidth=0.8, alpha=0.7)
        size = 4.5 if segments else 2.0
        axes.plot(*mixed.T.tolist(), "o", color=COLORS[3], markersize=size, markeredgewidth=0, alpha=0.85)
        axes.plot(*z.T.tolist(), "o", color=INK, markersize=5.5, markeredgewidth=0)
        return to_svg(drawn, f"points sampled by {label} from a batch of ten")
