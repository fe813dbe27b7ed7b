"""How `split` arranges the pieces of a network: which make a stage together, and what its pool is."""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .outline import CannotSplit, Outline, Piece
from .pool import Pool, WholePool

STAGES = 4
MAX_PREFIX_TOKENS = 16  # class token, distillation token, registers: models in use have up to 9


def is_channels_last(value: Tensor) -> bool:
    """Whether a feature map of a square image is (b, h, w, d)."""
    return value.ndim == 4 and value.shape[1] == value.shape[2] != value.shape[3]


def positions(value: Tensor) -> int:
    """The number of spatial positions or tokens of an intermediate value."""
    if value.ndim == 4:
        return value.shape[1] * value.shape[2] if is_channels_last(value) else value.shape[2] * value.shape[3]
    return value.shape[1] if value.ndim == 3 else 1


def find_features(outline: Outline, parts: Sequence[Piece]) -> int:
    """The last piece whose output has positions. Leaving out tokens is the pool's business."""
    for at in reversed(range(len(parts))):
        node = parts[at].output
        if positions(outline.values[node]) > 1 and node.target is not operator.getitem:
            return at
    raise CannotSplit("none of its layers gives features with several positions, (b, d, h, w) or (b, t, d)")


def group_stages(outline: Outline, parts: Sequence[Piece]) -> list[list[Piece]]:
    """One stage for each of the last four resolutions; four even groups of blocks where there is one resolution."""
    groups: list[list[Piece]] = []
    least = math.inf
    for part in _with_what_follows(outline, parts):
        now = positions(outline.values[part.output])
        if now <= least / 1.5 or not groups:  # a class token more or less is no change of resolution
            groups.append([])
        least = min(least, now)
        groups[-1].append(part)
    while len(groups) > STAGES:
        groups[:2] = [groups[0] + groups[1]]
    return groups if len(groups) > 1 else _group_blocks(outline, groups[0])


def _with_what_follows(outline: Outline, parts: Sequence[Piece]) -> list[Piece]:
    """Pieces that call no module (an activation, a permutation) belong to the module before them, but for
    subsampling, which begins a stage."""
    joined: list[Piece] = []
    last = 0
    for part in parts:
        now = outline.values[part.output].numel()
        if joined and not part.modules and now > last / 1.5:
            joined[-1] = Piece(joined[-1].nodes + part.nodes, joined[-1].source)
        else:
            joined.append(part)
            last = now
    return joined


def _group_blocks(outline: Outline, parts: list[Piece]) -> list[list[Piece]]:
    kinds = [type(outline.get(part.modules[0])) if len(part.modules) == 1 else None for part in parts]
    counts = Counter(kind for kind in kinds if kind is not None and not kind.__module__.startswith("torch.nn"))
    block, count = counts.most_common(1)[0] if counts else (None, 0)
    if count < STAGES:
        return [parts]
    starts = [i for i, kind in enumerate(kinds) if kind is block]
    bounds = [starts[k * count // STAGES] for k in range(STAGES)]
    edges = [0, *(b for b in bounds if b > 0), len(parts)]
    return [parts[a:b] for a, b in itertools.pairwise(edges)]


def make_pool(outline: Outline, parts: Sequence[Piece]) -> tuple[nn.Module, int]:
    """The pool made of these pieces, and the number of prefix tokens of its input."""
    outputs = [outline.values[part.output] for part in parts]
    at = next((i for i, out in enumerate(outputs) if positions(out) == 1), None)
    if at is None:
        raise CannotSplit("its last linear layer acts on features that are not pooled")
    features = outline.values[parts[0].source]
    from_map, flatten, reduced = is_channels_last(features), outputs[-1].ndim > 2, outputs[at]
    prefix_tokens = _prefix_tokens(features, reduced.flatten(1), getattr(outline.model, "num_prefix_tokens", None))
    neck = parts[at + 1 :]
    if prefix_tokens is None:
        return WholePool(outline.assemble(parts, from_map=from_map, flatten=flatten)), 0
    if not neck or (torch.equal(outputs[-1].flatten(1), reduced.flatten(1)) and not _drops(outline, neck)):
        return outline.assemble(parts, from_map=from_map, flatten=flatten), prefix_tokens
    reduce = outline.assemble(parts[: at + 1], from_map=from_map)
    return Pool(reduce, outline.assemble(neck, flatten=flatten), shape=reduced.shape[1:]), prefix_tokens


def _prefix_tokens(features: Tensor, reduced: Tensor, told: int | None) -> int | None:
    """How many leading tokens are no patches, if `reduced` is a token or the mean of all others; else None."""
    if features.ndim == 4:
        over = (1, 2) if is_channels_last(features) else (2, 3)
        return 0 if _same(features.mean(over), reduced) else None
    if _same(features[:, 0], reduced):
        return told or 1
    for prefix in range(min(MAX_PREFIX_TOKENS, features.shape[1] - 1) + 1):
        if _same(features[:, prefix:].mean(1), reduced):
            return prefix
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-3 * b.abs().max().item())


def _drops(outline: Outline, parts: Sequence[Piece]) -> bool:
    """Whether these pieces do something in training only."""
    modules = [module for part in parts for name in part.modules for module in outline.get(name).modules()]
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in modules)
