"""Images and attention maps as pictures of a page."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor

from ..extras import require

__all__ = ["SIDE", "data_uri", "from_data_uri", "overlay", "shrink"]

SIDE = 144
"""Pixels of an attention picture."""


def shrink(image: Tensor) -> Tensor:
    """An image (channels, h, w) as (3, h', w'), no larger than it is shown."""
    image = image.expand(3, -1, -1)
    if max(image.shape[1:]) <= SIDE:
        return image
    return torch.nn.functional.interpolate(image[None], size=(SIDE, SIDE), mode="bilinear", antialias=True)[0]


def overlay(image: Tensor, attention: Tensor) -> Tensor:
    """The image in grey under the attention map (h', w') in colour, (3, SIDE, SIDE); the strongest position is the
    brightest."""
    colormap = require("matplotlib", "evaluate").colormaps["inferno"]
    heat = _resize((attention / attention.max().clamp(min=1e-12))[None], "bilinear")[0]
    colored = torch.from_numpy(colormap(heat.numpy())[..., :3].copy()).float().movedim(-1, 0)
    grey = _resize(image.mean(dim=0, keepdim=True), "nearest-exact").expand(3, -1, -1)
    return 0.3 * grey + 0.7 * colored


def data_uri(image: Tensor, *, lossless: bool = True) -> str:
    """An image (3, h, w) in [0, 1] as the address of a PNG, or of a JPEG, which is much smaller."""
    pixels = image.clamp(0, 1).mul(255).round().byte().movedim(0, -1).contiguous().numpy()
    picture, buffer = require("PIL.Image", "train").fromarray(pixels), io.BytesIO()
    if lossless:
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.save(buffer, format="JPEG", quality=80, optimize=True)
    return f"data:image/{'png' if lossless else 'jpeg'};base64," + base64.b64encode(buffer.getvalue()).decode()


def from_data_uri(uri: str) -> Tensor:
    """The image (3, h, w) in [0, 1] of `data_uri`."""
    picture = require("PIL.Image", "train").open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    array = require("numpy", "train").array(picture.convert("RGB"))
    return torch.from_numpy(array).movedim(-1, 0).float() / 255


def _resize(image: Tensor, mode: str) -> Tensor:
    return torch.nn.functional.interpolate(image[None], size=(SIDE, SIDE), mode=mode)[0]
