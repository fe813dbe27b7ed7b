"""`build`: from the name of an encoder to a model, as the command line and configurations need it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import torch

from .. import random
from ..errors import nearest
from ..extras import require
from ..functional._checks import check_count
from .libraries import from_timm, from_torchvision
from .preactresnet import preactresnet
from .smallnet import smallnet
from .split_model import SplitModel
from .wide_resnet import wide_resnet

NAMES = (
    "preactresnet18",
    "preactresnet18-w16",
    "wrn16-8",
    "smallnet",
    "smallnet-w32",
    "resnet50",
    "vit-s16",
    "vit-s16-mean",
    "torchvision:NAME",
    "timm:NAME",
)


def build(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = False,
    generator: torch.Generator | None = None,
) -> SplitModel:
    """An encoder with a linear classifier, on the CPU.

    Args:
        name: one of

            - `preactresnetD`, `preactresnetD-wW`: PreAct-ResNet of depth D (10, 18, 34) and base width W (64);
            - `wrnD-K`: wide ResNet of depth D and widening factor K;
            - `smallnet`, `smallnet-wW`: four convolutions of base width W (16), for digits and CPUs;
            - `resnet50`: torchvision's;
            - `vit-s16`, `vit-s16-mean`: timm's ViT-S/16; embeddings are the class token, or the mean of the patches;
            - `torchvision:NAME`, `timm:NAME`: any classifier of theirs that `split` can split.
        num_classes: c.
        image_size: side of the images.
        channels: of the images; default: as many as `mean` has, else 3.
        mean, std: of the pixels in [0, 1], per channel, for the normalisation inside the model. With `pretrained`
            they give way to those that the weights were trained with.
        pretrained: start from published weights; of torchvision's and timm's models only.
        generator: decides the initial weights; default: `multimix.random.default_generator`. The global random state
            is neither used nor changed.

    Raises:
        ValueError: an unknown name (with the nearest one), or a network that does not suit the arguments.
        ImportError: the library with the network is not installed.
        OSError: pretrained weights can be neither found nor downloaded.

    >>> net = build("preactresnet18-w8", num_classes=10, image_size=32, generator=torch.Generator().manual_seed(0))
    >>> net(torch.rand(2, 3, 32, 32)).shape, net.depth
    (torch.Size([2, 10]), 4)
    """
    for what, number in (("num_classes", num_classes), ("image_size", image_size), ("channels", channels)):
        if number is not None:
            check_count(what, number)
    if channels is None:
        channels = 3 if mean is None else len(mean)
    elif mean is not None and len(mean) != channels:
        raise ValueError(f"mean has {len(mean)} values for images of {channels} channels: give one per channel")
    with random.initialising(random.fork(generator, "cpu")):
        model = _make(name, num_classes, image_size, channels, mean, std, pretrained)
    return model.train()


def _make(
    name: str,
    num_classes: int,
    image_size: int,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    pretrained: bool,
) -> SplitModel:
    library, _, rest = name.partition(":")
    if library == "torchvision" or name == "resnet50":
        rest = rest or name
        if channels != 3:
            raise ValueError(f"torchvision's models take 3 channels, got {channels}: use timm:{rest}, or RGB images")
        return from_torchvision(
            rest, num_classes=num_classes, image_size=image_size, mean=mean, std=std, pretrained=pretrained
        )
    if library == "timm" or name in ("vit-s16", "vit-s16-mean"):
        options = {"global_pool": "avg", "fc_norm": False} if name == "vit-s16-mean" else {}
        return from_timm(
            rest or "vit_small_patch16_224",
            num_classes=num_classes,
            image_size=image_size,
            channels=channels,
            mean=mean,
            std=std,
            pretrained=pretrained,
            **options,
        )
    make = _parse(name, image_size)
    if make is None:
        raise ValueError(f"unknown model {name!r}{_hint(name)} (known: {', '.join(NAMES)})")
    if pretrained:
        raise ValueError(f"there are no published weights for {name}: pretrained is for torchvision and timm models")
    return make(num_classes=num_classes, channels=channels, mean=mean, std=std)


def _parse(name: str, image_size: int) -> Callable[..., SplitModel] | None:
    if found := re.fullmatch(r"preactresnet(\d+)(?:-w(\d+))?", name):
        return partial(preactresnet, int(found[1]), width=int(found[2] or 64))
    if found := re.fullmatch(r"wrn(\d+)-(\d+)", name):
        return partial(wide_resnet, int(found[1]), int(found[2]))
    if found := re.fullmatch(r"smallnet(?:-w(\d+))?", name):
        return partial(smallnet, image_size=image_size, width=int(found[1] or 16))
    return None


def _hint(name: str) -> str:
    bare = name.partition(":")[2] or name
    if find_spec("torchvision") and bare in (models := require("torchvision", "train").models).list_models(models):
        return f": did you mean torchvision:{bare}?"
    if find_spec("timm") and require("timm", "train").is_model(bare):
        return f": did you mean timm:{bare}?"
    return nearest(name, NAMES)
