"""`SplitModel`: an encoder as a list of stages, a pool and a classifier, so that any layer can be the mixing layer.

Hooks would do the same from outside, but they break under torch.compile and hide the data flow; a list of
stages is explicit, and costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..functional._checks import check_pixels


class Original(NamedTuple):
    """Of the model that was split."""

    names: Mapping[str, Sequence[tuple[str, torch.Size]]]
    """By name of a tensor in the `SplitModel`: the same tensor's names and shapes."""
    metadata: Any
    """Of its state dictionary."""


class SplitModel(nn.Module):
    """A classifier split where it can be mixed: images -> stages -> pool -> classifier -> logits.

    The input is pixels in [0, 1]; the normalisation by `mean` and `std` is part of the model, so that attacks
    and stored weights need nothing else.

    Args:
        stages: modules applied in order. The output of the last is the `features`, (b, d, *spatial) for
            convolutional networks and (b, t, d) for transformers. Features (b, d, t) of a network in one dimension
            need `GlobalAveragePool` as the pool, or they are taken for tokens.
        pool: features -> embeddings (b, d'). If it does more than average the positions or choose a token, it has
            a method `dense` that does the rest at every position, as `multimix.models.Pool` has.
        classifier: embeddings (b, d') -> logits (b, c).
        mean, std: one value per channel, in pixel units of [0, 1]; None leaves the images as they are.
        prefix_tokens: number of leading tokens of (b, t, d) features that are not patches (class token,
            registers); `dense` leaves them out.

    Raises:
        ValueError: no stages, only one of `mean` and `std`, different lengths, or a `std` that is not positive.

    >>> net = SplitModel([nn.Conv2d(3, 8, 3)], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, 5))
    >>> images = torch.rand(2, 3, 16, 16)
    >>> net(images).shape, net.features(images).shape, net.embed(images).shape
    (torch.Size([2, 5]), torch.Size([2, 8, 14, 14]), torch.Size([2, 8]))
    """

    pixel_mean: Tensor | None
    pixel_std: Tensor | None

    def __init__(
        self,
        stages: Iterable[nn.Module],
        pool: nn.Module,
        classifier: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std go together, got mean={mean} and std={std}: give both or neither")
        if mean is not None and std is not None and (len(mean) != len(std) or min(std, default=0) <= 0):
            raise ValueError(f"mean and std need one value per channel, std positive, got mean={mean} and std={std}")
        self.stages = nn.ModuleList(stages)
        if not self.stages:
            raise ValueError("stages must hold at least one module, got none: give [nn.Identity()] for no stage")
        self.pool = pool
        self.classifier = classifier
        self.prefix_tokens = prefix_tokens
        self.original: Original | None = None
        """What `split` knows of the model that it was given."""
        self.register_buffer("pixel_mean", None if mean is None else torch.tensor(mean).float().view(-1, 1, 1))
        self.register_buffer("pixel_std", None if std is None else torch.tensor(std).float().view(-1, 1, 1))

    @property
    def depth(self) -> int:
        """The number of stages; mixing layers are numbered 0 (input) to `depth` (features)."""
        return len(self.stages)

    @property
    def num_classes(self) -> int:
        """The number of classes c, read off the last layer of the classifier."""
        for module in reversed(list(self.classifier.modules())):
            size = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
            if isinstance(size, int):
                return size
        raise ValueError(
            f"cannot tell the number of classes from a classifier {type(self.classifier).__name__}: "
            "end it with an nn.Linear or a convolution, or give it an attribute out_features"
        )

    def original_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names and in the shapes of the model that `split` was given: for that library's own
        model, as the backbone of its detectors, say. The normalisation of the images is not among them.

        Raises:
            ValueError: the model was not made by `split`.

        >>> from multimix.models import split
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> list(split(net).original_state_dict())
        ['0.weight', '0.bias', '3.weight', '3.bias']
        """
        if self.original is None:
            raise ValueError("only a model that was split from another has original names: use state_dict()")
        weights = OrderedDict(
            (name, tensor.reshape(-1, *shape[1:]) if shape else tensor)
            for own, tensor in self.state_dict().items()
            for name, shape in self.original.names.get(own, ())
        )
        # Versions of modules, which some models ask for when they load weights.
        weights._metadata = self.original.metadata  # type: ignore[attr-defined]
        return weights

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1] (b, channels, h, w) to what the first stage expects.

        Raises:
            TypeError: integer pixels.
            ValueError: another number of channels than `mean` and `std` have.
        """
        check_pixels(images)
        if self.pixel_mean is None or self.pixel_std is None:
            return images
        channels = len(self.pixel_mean)
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images must be (b, {channels}, h, w) for this model, got {tuple(images.shape)}")
        return (images - self.pixel_mean) / self.pixel_std

    def features(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """The output of stage `stop` (default: the last), given the output of stage `start` (0: images)."""
        depth = self.depth
        stop = depth if stop is None else stop
        if not 0 <= start <= stop <= depth:
            raise ValueError(
                f"layers must satisfy 0 <= start <= stop <= {depth}, got start={start}, stop={stop}: this model has "
                f"layers 0 (images) to {depth} (the last features)"
            )
        if start == 0 and stop > 0:
            x = self.normalize(x)
        for stage in self.stages[start:stop]:
            x = stage(x)
        return x

    def dense(self, features: Tensor, *, patches_only: bool = True) -> Tensor:
        """What the classifier can be applied to at every position: (b, d', *spatial), or the patch tokens (b, r, d')
        (all tokens, unless `patches_only`).

        These are the features themselves where the pool is an average over positions or the choice of a token;
        further layers of the pool are applied at every position.

        Raises:
            ValueError: the pool is of another kind (it flattens the positions into one long vector, say), so that
                the classifier means nothing at a single position.
        """
        if features.ndim < 3:
            raise ValueError(f"features without positions cannot be classified densely, got {tuple(features.shape)}")
        positions = features[:, self.prefix_tokens :] if patches_only and self.prefix_tokens else features
        at_positions = getattr(self.pool, "dense", None)
        if at_positions is not None:
            positions = at_positions(positions)
        size = positions.shape[-1] if positions.ndim == 3 else positions.shape[1]
        expected = getattr(self.classifier, "in_features", size)
        if size != expected:
            raise ValueError(
                f"the classifier takes embeddings of size {expected}, but a position has {size} features: this pool "
                "does not average positions, so there is no dense classifier; use MultiMix, or another encoder"
            )
        return positions

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (b, d'), just before the classifier."""
        pooled: Tensor = self.pool(self.features(images))
        return pooled

    def head(self, features: Tensor) -> Tensor:
        """Logits (b, c) from the output of the last stage."""
        logits: Tensor = self.classifier(self.pool(features))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
