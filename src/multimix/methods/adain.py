"""Adaptive instance normalisation (Huang and Belongie, ICCV 2017), with the encoder and decoder of style transfer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..functional._checks import check_pixels

# One character per step of a network: 3 a reflection-padded 3x3 convolution with ReLU, c a 1x1 convolution, o a padded
# 3x3 convolution without ReLU, M a max pooling, U an upsampling. The positions in the resulting nn.Sequential are those
# of the well-known files vgg_normalised.pth (up to relu4_1) and decoder.pth.
_ENCODER = "c33M33M3333M3"
_DECODER = "3U3333U33U3o"


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation sqrt(variance + 1e-5) over positions, (b, d, 1, 1) each, in float32 or better.

    >>> mean, deviation = statistics(torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3))
    >>> mean.item(), round(deviation.item(), 4)
    (2.0, 1.0)
    """
    features = features if features.dtype == torch.float64 else features.float()
    variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True)
    return mean, (variance + 1e-5).sqrt()


def adain(content: Tensor, style: Tensor) -> Tensor:
    """The features `content` (b, d, h, w) with the mean and deviation of every channel of `style` (b, d, h', w').

    >>> style = torch.tensor([5.0, 7.0]).view(1, 1, 1, 2)
    >>> adain(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), style).flatten().round(decimals=3).tolist()
    [5.0, 7.0]
    """
    content_mean, content_deviation = statistics(content)
    style_mean, style_deviation = statistics(style)
    return (content - content_mean) / content_deviation * style_deviation + style_mean


class StyleNetworks(NamedTuple):
    """A frozen encoder to relu4_1 and the decoder that inverts it, for RGB pixels in [0, 1]."""

    encoder: nn.Module
    decoder: nn.Module

    def to(self, device: torch.device) -> StyleNetworks:
        return StyleNetworks(self.encoder.to(device), self.decoder.to(device))

    @torch.no_grad()
    def encode(self, images: Tensor, side: int) -> Tensor:
        """Features of images (b, 1 or 3, h, w), enlarged or reduced so that their shorter side is `side` pixels.

        Raises:
            ValueError: images of another shape.
        """
        features: Tensor = self.encoder(prepare(images, side))
        return features

    @torch.no_grad()
    def decode(self, features: Tensor, like: Tensor) -> Tensor:
        """Images of the size, channels and type of `like`, pixels in [0, 1]."""
        pixels = _resize(self.decoder(features).float(), (like.shape[-2], like.shape[-1])).clamp(0, 1)
        if like.shape[1] == 1:
            pixels = pixels.mean(1, keepdim=True)
        return pixels.to(like.dtype)


def prepare(images: Tensor, side: int) -> Tensor:
    """Images as the encoder takes them: three channels, the shorter side of `side` pixels, float32."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (b, 3, height, width) or (b, 1, height, width), got {tuple(images.shape)}")
    check_pixels(images)
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    return _resize(images.expand(-1, 3, -1, -1).float(), (round(height * scale), round(width * scale)))


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def load_networks(encoder: Path | str, decoder: Path | str) -> StyleNetworks:
    """The networks in two state dictionaries of the layout of vgg_normalised.pth and decoder.pth, of any widths.

    Only tensors are read from the files, never code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged or of another layout, or the two do not fit together.
    """
    networks = StyleNetworks(_load(encoder, _ENCODER, "encoder"), _load(decoder, _DECODER, "decoder"))
    ends = [[m for m in network.modules() if isinstance(m, nn.Conv2d)] for network in networks]
    if ends[0][-1].out_channels != ends[1][0].in_channels:
        raise ValueError(
            f"the decoder {decoder} takes {ends[1][0].in_channels} channels, but the encoder {encoder} gives "
            f"{ends[0][-1].out_channels}: use files that were trained together"
        )
    if ends[0][0].in_channels != 3 or ends[1][-1].out_channels != 3:
        raise ValueError(f"the encoder {encoder} and the decoder {decoder} must take and give three colour channels")
    return networks


def _load(path: Path | str, layout: str, role: str) -> nn.Sequential:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {role} weights {path}: name the file of AdaIN {role} weights")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"the {role} weights {path} are damaged or hold more than tensors and were not read"
        ) from error
    network, channels = nn.Sequential(), None
    for step in layout:
        if step == "M":
            network.append(nn.MaxPool2d(2, ceil_mode=True))
        elif step == "U":
            network.append(nn.Upsample(scale_factor=2, mode="nearest"))
        else:
            if step != "c":
                network.append(nn.ReflectionPad2d(1))
            convolution = _convolution(weights, len(network), 1 if step == "c" else 3, f"{role} weights {path}")
            if channels not in (None, convolution.in_channels):
                raise ValueError(
                    f"{role} weights {path}: {len(network)}.weight takes {convolution.in_channels} channels, but the "
                    f"layer before gives {channels}"
                )
            channels = convolution.out_channels
            network.append(convolution)
            if step == "3":
                network.append(nn.ReLU())
    return network.requires_grad_(False).eval()


def _convolution(weights: object, position: int, size: int, where: str) -> nn.Conv2d:
    names = [f"{position}.weight", f"{position}.bias"]
    found = [weights.get(name) if isinstance(weights, dict) else None for name in names]
    weight, bias = (tensor if isinstance(tensor, Tensor) else torch.empty(0) for tensor in found)
    if weight.shape[2:] != (size, size) or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{where}: no {size}x{size} convolution as {names[0]} and {names[1]}; expected a state dictionary of the "
            "layout of vgg_normalised.pth or decoder.pth of AdaIN style transfer"
        )
    # Without random initial weights, which would be drawn from the global generator.
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], size, device="meta")
    convolution.weight, convolution.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return convolution
