"""Lighting noise of ImageNet training images (Krizhevsky et al., NeurIPS 2012, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["STD", "lighting"]

STD = 0.1
"""Standard deviation of the noise along each axis, in units of that axis' own (`AXES`, `SCALES`)."""

# Principal axes (columns) of the RGB values of ImageNet's training set, in [0, 1], and the standard deviations along
# them, as in fb.resnet.torch and all that took them from there.
AXES = torch.tensor(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ],
    device="cpu",
)
SCALES = torch.tensor([0.2175, 0.0188, 0.0045], device="cpu")


def lighting(picture: Image) -> Image:
    """One colour added to all pixels of an RGB picture, drawn from the global generator along `AXES`."""
    numpy, pil = require("numpy", "train"), require("PIL.Image", "train")
    colour = 255 * AXES @ (SCALES * STD * torch.randn(3, device="cpu"))
    shifted = torch.from_numpy(numpy.array(picture)) + colour
    changed: Image = pil.fromarray(shifted.round_().clamp_(0, 255).byte().numpy())
    return changed
