"""TokenMix (Liu et al., ECCV 2022).

Legend: B examples, R patch tokens, C classes.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..criteria.classifiers import apply_linear, is_linear
from ..criteria.dense import as_tokens
from ..functional._checks import check_count, check_images, check_pixels, check_share
from ..models import SplitModel
from .pairs import InputMethod, host, probabilities
from .teacher import Teacher
from .token_grid import token_grid

ASPECT = math.log(0.3)
ATTEMPTS = 10


class TokenMix(InputMethod):
    """Replace several blocks of tokens by the partner's; label weights are the activation that each image keeps.

    One mask for the mini-batch covers `share` of a grid of tokens with rectangles of random size and aspect, see
    `block_mask`. Of each image's activation map for its own class, which a teacher gives and which sums to 1, the label
    weight is what lies on the image's own side of the mask; the two weights of a mixed image are then normalised.

    Without a teacher, label weights are the shares of the area, with a warning: this is then CutMix with more than
    one rectangle.

    Args:
        teacher: a `SplitModel` with a linear classifier, or the folder of a run of one. Its map is the probability that
            its classifier gives to the image's class at every position.
        share: of the tokens, to be replaced; default 112 of 196, as in the authors' code.
        grid: tokens per side of the image; default 14, that of 16x16 patches in 224x224 images. A pair: rows, columns.
        normalize: False leaves the sum of the two weights as it is, between 0 and 2, as in the authors' code; targets
            are then no probabilities.

    Raises:
        TypeError, ValueError: an argument out of its range, or a teacher of another kind.

    >>> import warnings; warnings.simplefilter("ignore")
    >>> images, labels = torch.rand(4, 3, 28, 28), torch.tensor([0, 1, 2, 0])
    >>> mixed, soft = TokenMix().mix(images, labels, 3, torch.Generator().manual_seed(0))
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 28, 28]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        teacher: nn.Module | str | os.PathLike[str] | None = None,
        share: float = 112 / 196,
        *,
        grid: int | tuple[int, int] = 14,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(teacher, nn.Module):
            _check(teacher)
        self.teacher = None if teacher is None else Teacher(teacher)
        sides = tuple(grid) if isinstance(grid, Iterable) else (grid, grid)
        if len(sides) != 2:
            raise ValueError(f"grid must be a number or a pair (rows, columns), got {grid!r}")
        self.grid = (check_count("grid", sides[0]), check_count("grid", sides[1]))
        self.share, self.normalize = check_share("share", share), normalize
        if teacher is None:
            warnings.warn(
                "TokenMix has no teacher, so its label weights are shares of the area: "
                'give teacher=model or teacher="runs/erm/seed0" for the published weights',
                stacklevel=2,
            )

    def setup(self, model: SplitModel) -> None:
        if self.teacher is not None:  # so that a folder that is no run is reported before the training
            _check(self.teacher.on(next(model.parameters()).device))

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        check_images(images)
        soft = probabilities(images, targets, num_classes)
        generator = host(generator)
        partner = torch.randperm(images.shape[0], generator=generator, device="cpu")
        partner = partner.to(images.device, non_blocking=True)
        size = images.shape[-2:]
        rows, columns = min(self.grid[0], size[0]), min(self.grid[1], size[1])
        blocks = block_mask(rows, columns, round(self.share * rows * columns), generator)
        pixels = F.interpolate(blocks[None, None].float(), size=size, mode="nearest")[0, 0]
        area = pixels.mean().item()
        mask = (pixels > 0).to(images.device, non_blocking=True)
        mixed = torch.where(mask, images[partner], images)
        if self.teacher is None:
            return mixed, torch.lerp(soft, soft[partner], area)
        check_pixels(images)
        maps = activation_maps(_check(self.teacher.on(images.device, images.dtype)), images, soft, (rows, columns))
        replaced = blocks.flatten().to(maps.device, maps.dtype, non_blocking=True)
        own, other = (maps * (1 - replaced)).sum(1), (maps[partner] * replaced).sum(1)
        if self.normalize:
            total = own + other
            own, other = own / total, other / total
            seen = total > torch.finfo(total.dtype).tiny  # neither object may have survived: count the area then
            own, other = torch.where(seen, own, 1 - area), torch.where(seen, other, area)
        return mixed, own[:, None].to(soft.dtype) * soft + other[:, None].to(soft.dtype) * soft[partner]


def block_mask(rows: int, columns: int, count: int, generator: torch.Generator) -> Tensor:
    """Rectangles that together cover `count` tokens of a grid, bool (rows, columns), as in BEiT (Bao et al., 2022).

    Each has an area uniform in [1, what is left], a logarithm of its aspect ratio uniform in [log 0.3, -log 0.3] and a
    uniform position; one that is as long as the grid, covers nothing new or too much is drawn again. After ten
    failures in a row the mask stays as it is, somewhat below `count`.

    >>> block_mask(14, 14, 112, torch.Generator().manual_seed(0)).sum()
    tensor(112)
    """
    mask = torch.zeros(rows, columns, dtype=torch.bool, device="cpu")
    failures = 0
    while (left := count - int(mask.sum())) > 0 and failures < ATTEMPTS:
        # Of this type whatever the default, of which the draws would be others.
        area, log_aspect, y, x = torch.rand(4, generator=generator, device="cpu", dtype=torch.float32).tolist()
        area, aspect = 1 + (left - 1) * area, math.exp(ASPECT - 2 * ASPECT * log_aspect)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h > max(1, rows - 1) or w > max(1, columns - 1):
            failures += 1
            continue
        top, left_edge = int(y * (rows - h + 1)), int(x * (columns - w + 1))
        block = mask[top : top + h, left_edge : left_edge + w]
        new = h * w - int(block.sum())
        if 0 < new <= left:
            block.fill_(True)
            failures = 0
        else:
            failures += 1
    return mask


@torch.no_grad()
def activation_maps(teacher: SplitModel, images: Tensor, soft: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where the teacher sees the class of every image: (b, rows * columns) of the grid, rows sum to 1.

    The probability of the class (of the classes, for `soft` (b, c) targets) at every position of the last stage,
    resampled to the grid.
    """
    dense = teacher.dense(teacher.features(images))
    logits_BRC = apply_linear(teacher.classifier, as_tokens(dense)).float()
    if logits_BRC.shape[2] != soft.shape[1]:
        raise ValueError(f"the teacher has {logits_BRC.shape[2]} classes, but the targets have {soft.shape[1]}")
    # No class at all leaves a map of equal values: finite, lest it become NaN. Rounding may have left some below 0.
    log_soft = soft[:, None].float().clamp(min=0).log().clamp(min=-1e30)
    log_p = torch.logsumexp(logits_BRC.log_softmax(2) + log_soft, 2)
    # Only ratios matter, and the probability of a class that the teacher has not seen at all may underflow.
    maps = (log_p - log_p.amax(1, keepdim=True)).exp()
    size = dense.shape[2:] if dense.ndim == 4 else token_grid(maps.shape[1], *images.shape[-2:])
    maps = F.interpolate(maps.unflatten(1, size)[:, None], size=grid, mode="bilinear", antialias=True)
    return F.normalize(maps.flatten(1), p=1)


def _check(teacher: nn.Module) -> SplitModel:
    if not isinstance(teacher, SplitModel) or not is_linear(teacher.classifier):
        raise TypeError(
            f"the teacher of TokenMix must be a SplitModel with a linear classifier, got {type(teacher).__name__}: "
            "multimix.models.split(model) makes one of torchvision's and timm's models"
        )
    return teacher
