"""`split`: torchvision's, timm's and similar classifiers as a `SplitModel` with the same weights and logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from .arrange import find_features, group_stages, is_channels_last, make_pool
from .modes import keeping_modes
from .outline import CannotSplit, Outline, Piece
from .split_model import Original, SplitModel


def split(
    model: nn.Module,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
) -> SplitModel:
    """The same network, split into stages, pool and a last linear layer. It holds `model`'s own modules, not copies.

    The stages end where the resolution changes, and the last four resolutions count: the stem goes with the first of
    them. A network of one resolution (ViT, Mixer) has its embedding as first stage and then its blocks in four even
    groups. Channels come second in the output of every stage of a convolutional network, also where the model keeps
    them last. What lies between the average over positions (or the choice of the class token) and the last linear
    layer is part of the pool.

    Args:
        model: maps images to logits (b, c) and ends in an `nn.Linear` or a 1x1 convolution (which is replaced by the
            same `nn.Linear`). It is run on small random batches, in evaluation mode and without gradients, to see
            its shapes and to check that the logits stay the same.
        mean, std: as in `SplitModel`; None: the model gets its images as they are.
        image_size: a size of images that the model accepts; only needed by models that accept few and do not say.

    Raises:
        TypeError: not a module, or split already.
        ValueError: the model cannot be split, with the reason.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> s, images = split(net), torch.rand(2, 3, 16, 16)
    >>> bool((s(images) == net(images)).all()), s.features(images).shape, s.classifier
    (True, torch.Size([2, 8, 14, 14]), Linear(in_features=8, out_features=5, bias=True))
    """
    if not isinstance(model, nn.Module) or isinstance(model, SplitModel):
        raise TypeError(f"split takes an nn.Module that is not split yet, got {type(model).__name__}")
    training = model.training
    try:
        with keeping_modes(model), torch.no_grad():
            return _split(model.eval(), mean, std, image_size).train(training)
    except CannotSplit as reason:
        raise ValueError(
            f"cannot split {type(model).__name__} into stages, pool and classifier: {reason}. "
            "Build one by hand: multimix.models.SplitModel(stages, pool, classifier)"
        ) from reason.__cause__


def _split(
    model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, image_size: int | None
) -> SplitModel:
    if getattr(model, "num_classes", None) == 0:
        raise CannotSplit("it was made without a classifier, num_classes=0")
    outline = Outline.of(model)
    images = _run_on_some_size(outline, image_size)
    parts = outline.pieces()
    at = _find_classifier(outline, parts)
    logits: Tensor = outline.values[parts[-1].output]
    parts, classifier = parts[:at], _as_linear(outline.get(parts[at].output))
    last = find_features(outline, parts)
    stages = []
    for group in group_stages(outline, parts[: last + 1]):
        came, goes = (is_channels_last(outline.values[node]) for node in (group[0].source, group[-1].output))
        stages.append(outline.assemble(group, from_map=came, to_map=goes))
    pool, prefix_tokens = make_pool(outline, parts[last + 1 :])
    result = SplitModel(stages, pool, classifier, mean=mean, std=std, prefix_tokens=prefix_tokens)
    if result.pixel_mean is not None and result.pixel_std is not None:  # beside the weights, and in their precision
        result.pixel_mean, result.pixel_std = result.pixel_mean.to(images), result.pixel_std.to(images)
    _check_logits(result.eval(), images, logits)
    result.original = _original(result, model)
    return result


def _original(result: SplitModel, model: nn.Module) -> Original:
    """A classifier that was a convolution has its tensor in another shape, so tensors are told by their memory."""
    known = model.state_dict()
    by_memory: dict[int, list[tuple[str, torch.Size]]] = {}
    for name, tensor in known.items():
        by_memory.setdefault(tensor.data_ptr(), []).append((name, tensor.shape))
    names = {own: by_memory.get(tensor.data_ptr(), []) for own, tensor in result.state_dict().items()}
    return Original(names, getattr(known, "_metadata", None))


def _run_on_some_size(outline: Outline, image_size: int | None) -> Tensor:
    """A random batch that the model accepts, after running it. 128x128 leaves positions to see at stride 32."""
    model = outline.model
    told = [getattr(m, name, None) for m in model.modules() for name in ("image_size", "img_size")]
    told += [(getattr(model, "pretrained_cfg", None) or {}).get("input_size"), 224]
    sides = [side[-1] if isinstance(side, tuple) else side for side in (128, image_size, *told)]
    sizes = list(dict.fromkeys(side for side in sides if isinstance(side, int)))
    first = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    like, failure = next(model.parameters(), torch.empty(0)), Exception()
    for channels in dict.fromkeys((first, 3)):
        for size in sizes:
            generator = torch.Generator().manual_seed(0)
            images = torch.rand(2, channels, size, size, generator=generator, device="cpu").to(like.device, like.dtype)
            try:
                outline.run(images)
            except Exception as error:  # models raise anything from AssertionError to RuntimeError on what they refuse
                failure = error
            else:
                return images
    tried = ", ".join(f"{size}x{size}" for size in sizes)
    reason = " ".join(str(failure).split("While executing")[0].split())[:200]
    raise CannotSplit(f"it fails on images of {tried} ({reason}); give an image_size that it takes") from failure


def _check_logits(model: SplitModel, x: Tensor, expected: Tensor) -> None:
    for stage in model.stages:
        x = stage(x)
    logits = model.head(x)
    scale = expected.abs().max().item()
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=0, atol=1e-3 * scale):
        raise CannotSplit("the split network's logits are not the model's (is its forward random?)")


def _find_classifier(outline: Outline, parts: Sequence[Piece]) -> int:
    """Which piece is the last linear layer; nothing but reshapes may follow it."""
    returned = next(iter(reversed(outline.graph.nodes))).args[0]
    if not isinstance(returned, fx.Node) or (parts and returned is not parts[-1].output):
        raise CannotSplit("it does not return one tensor, the logits")
    for at in reversed(range(len(parts))):
        node = parts[at].output
        if len(parts[at].nodes) == 1 and node.op == "call_module" and _is_linear(outline.get(node)):
            return at
        for node in parts[at].nodes:
            if not outline.is_reshape(node):
                linear = [name for name, module in outline.model.named_modules() if _is_linear(module)]
                raise CannotSplit(
                    f"the last thing it does is {outline.describe(node)}, not a linear layer"
                    + (f" (its last is {linear[-1]})" if linear else "")
                )
    raise CannotSplit("it has no linear layer")


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _as_linear(module: nn.Linear | nn.Conv2d) -> nn.Linear:
    """An `nn.Linear` for a 1x1 convolution, and for the subclasses that some libraries have of it."""
    if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        return module
    linear = nn.Linear(1, 1, device="meta")
    linear.out_features, linear.in_features = module.weight.shape[:2]
    weight = module.weight
    linear.weight = weight if weight.ndim == 2 else nn.Parameter(weight.detach().flatten(1), weight.requires_grad)
    linear.bias = module.bias  # type: ignore[assignment]  # None without bias
    return linear
