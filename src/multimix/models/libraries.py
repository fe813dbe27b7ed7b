"""The classifiers of torchvision and timm, split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from ..errors import nearest, one_line
from ..extras import require
from .adapter import split
from .split_model import SplitModel


def from_torchvision(
    name: str,
    *,
    num_classes: int,
    image_size: int = 224,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = False,
) -> SplitModel:
    """A classifier of `torchvision.models`, with its own initialisation or its default weights.

    Args:
        name: as torchvision spells it, `resnet50`.
        num_classes: c; with `pretrained` and another number than ImageNet's 1000, the classifier is new.
        image_size: side of the images; matters to transformers, whose position embeddings depend on it.
        mean, std: as in `SplitModel`; those of the weights with `pretrained`.
        pretrained: download, or take from torch's cache, the weights that torchvision calls default.

    Raises:
        ImportError: torchvision is not installed.
        ValueError: no such classifier (with the nearest name), it cannot be split, or it refuses the image size.
        OSError: the weights can be neither found nor downloaded.
    """
    models = torchvision_classifiers(name)
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options |= {"image_size": image_size}
    if name.startswith("maxvit_"):
        options |= {"input_size": (image_size, image_size)}
    inception = name in ("googlenet", "inception_v3")
    if pretrained:
        weights = models.get_model_weights(name).DEFAULT
        mean, std = weights.transforms().mean, weights.transforms().std
        options |= {"weights": weights}
        if inception:  # they normalise once more, to what their weights were trained with: here it is done once
            mean = std = (0.5, 0.5, 0.5)
            options |= {"transform_input": False}
    else:
        options |= {"num_classes": num_classes}
        if inception:
            options |= {"aux_logits": False, "init_weights": True}
    model = _make(f"torchvision:{name}", image_size, pretrained, lambda: models.get_model(name, **options))
    if inception:  # the auxiliary classifiers, which come with published weights, have no place in a chain of stages
        model.aux_logits = False  # type: ignore[assignment]
        for head in ("aux1", "aux2", "AuxLogits"):
            setattr(model, head, None)
    result = _split(f"torchvision:{name}", model, image_size, 3, mean, std)
    if result.num_classes != num_classes:
        result.classifier = nn.Linear(cast(nn.Linear, result.classifier).in_features, num_classes)
    return result


def from_timm(
    name: str,
    *,
    num_classes: int,
    image_size: int = 224,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = False,
    **options: Any,
) -> SplitModel:
    """A classifier of timm, with its own initialisation or its published weights.

    Args:
        name: as timm spells it, with or without the tag of the weights, `vit_small_patch16_224.augreg_in1k`.
        num_classes: c; with `pretrained` and another number than the weights have, the classifier is new.
        image_size: side of the images; matters to models of a fixed size, which are made for it (and position
            embeddings resampled).
        channels: of the images.
        mean, std: as in `SplitModel`; those of the weights with `pretrained`.
        pretrained: download, or take from the Hugging Face cache, the weights.
        options: further arguments of `timm.create_model`, such as `drop_path_rate`.

    Raises:
        ImportError: timm is not installed.
        ValueError: no such model (with the nearest name), no weights, it cannot be split, or refuses the image size.
        OSError: the weights can be neither found nor downloaded.
    """
    timm, about = require("timm", "train"), about_timm(name)
    if pretrained:
        if about is None or not about.has_weights:
            raise ValueError(f"timm has no weights for {name}: use pretrained=False")
        mean, std = about.mean, about.std
    if about is not None and about.fixed_input_size and about.input_size[-1] != image_size:
        options |= {"img_size": image_size}
    options |= {"num_classes": num_classes, "in_chans": channels, "pretrained": pretrained}
    model = _make(f"timm:{name}", image_size, pretrained, lambda: timm.create_model(name, **options))
    return _split(f"timm:{name}", model, image_size, channels, mean, std)


def torchvision_classifiers(name: str) -> Any:
    """`torchvision.models`.

    Raises:
        ValueError: it has no classifier of this name.
    """
    models = require("torchvision", "train").models
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{nearest(name, known)}")
    return models


def about_timm(name: str) -> Any:
    """What timm knows about the weights of a model: how images are prepared for them, and their classes; or None.

    Raises:
        ValueError: it has no such model, or no weights of this tag.
    """
    timm = require("timm", "train")
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the part after the dot
        raise ValueError(f"timm:{name}: {error}; timm.list_pretrained() lists the tags") from error


def _make(name: str, image_size: int, pretrained: bool, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except OSError as error:
        raise OSError(
            f"the weights of {name} could not be loaded or downloaded ({one_line(error)}): connect to the network "
            "once, put them into the cache (TORCH_HOME for torchvision, HF_HOME for timm), or use pretrained=False"
        ) from error
    except Exception as error:  # constructors assert, and refuse unknown arguments, where a size does not suit
        weights = " with published weights" if pretrained else ""
        size = f"{image_size}x{image_size}"
        raise ValueError(f"{name}{weights} cannot be made for images of {size}: {one_line(error)}") from error


def _split(
    name: str,
    model: nn.Module,
    image_size: int,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> SplitModel:
    try:
        result = split(model, mean=mean, std=std, image_size=image_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    images, training = torch.zeros(1, channels, image_size, image_size, device="cpu"), result.training
    try:
        with torch.no_grad():
            result.eval()(images)
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} fails on images of {image_size}x{image_size}: {reason}") from error
    return result.train(training)
