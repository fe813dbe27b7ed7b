"""The pointing game against loops over pixels, and attention maps of networks against the equation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multimix.evaluation import ATTENTIONS, attention_maps, pointing_game
from multimix.evaluation.pointing import Box
from multimix.models import SplitModel, build


def bilinear(a: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Upsampling from its definition: sample at pixel centres, the border continued."""
    h, w = len(a), len(a[0])

    def weights(k: int, small: int, large: int) -> list[tuple[int, float]]:
        at = min(max((k + 0.5) * small / large - 0.5, 0), small - 1)
        low = min(int(at), small - 1)
        return [(low, 1 - (at - low)), (min(low + 1, small - 1), at - low)]

    return [
        [sum(p * q * a[i][j] for i, p in weights(y, h, height) for j, q in weights(x, w, width)) for x in range(width)]
        for y in range(height)
    ]


def distance(x: float, y: float, box: Box) -> float:
    left, top, right, bottom = box
    return math.hypot(x - min(max(x, left), right), y - min(max(y, top), bottom))


def by_loops(a: Tensor, boxes: list[Box], size: tuple[int, int], tolerance: float) -> tuple[float, ...]:
    height, width = size
    large = bilinear(a.double().tolist(), height, width)
    pixels = [(x + 0.5, y + 0.5, large[y][x]) for y in range(height) for x in range(width)]
    highest = max(value for *_, value in pixels)
    near = [min(distance(x, y, box) for box in boxes) <= tolerance for x, y, _ in pixels]
    inside = [min(distance(x, y, box) for box in boxes) == 0 for x, y, _ in pixels]
    top = [value > highest * (1 - 1e-9) for *_, value in pixels]
    return (
        sum(n and t for n, t in zip(near, top, strict=True)) / sum(top),
        sum(p[2] for p, i in zip(pixels, inside, strict=True) if i) / sum(p[2] for p in pixels),
        sum(near) / len(pixels),
        sum(inside) / len(pixels),
        float(min(distance(width / 2, height / 2, box) for box in boxes) <= tolerance),
    )


@st.composite
def games(draw: st.DrawFn) -> tuple[Tensor, list[Box], tuple[int, int], float]:
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    height, width = draw(st.integers(h, 13)), draw(st.integers(w, 13))
    row = st.lists(st.integers(0, 3), min_size=w, max_size=w)
    rows = draw(st.lists(row, min_size=h, max_size=h))
    a = torch.tensor(rows, dtype=torch.float32)
    a[0, 0] += a.sum() == 0

    def edges(length: int) -> st.SearchStrategy[tuple[float, float]]:
        quarters = st.integers(0, 4 * length)
        return st.tuples(quarters, quarters).filter(lambda e: e[0] != e[1]).map(lambda e: (min(e) / 4, max(e) / 4))

    pairs = draw(st.lists(st.tuples(edges(width), edges(height)), min_size=1, max_size=3))
    boxes = [(x[0], y[0], x[1], y[1]) for x, y in pairs]
    return a, boxes, (height, width), draw(st.sampled_from([0.0, 1.0, 2.5]))


@given(games())
@settings(max_examples=100, deadline=None)
def test_equals_loops_over_pixels(game: tuple[Tensor, list[Box], tuple[int, int], float]) -> None:
    a, boxes, size, tolerance = game
    found = pointing_game([a], [boxes], [size], tolerance=tolerance)
    assert [value.item() for value in found] == pytest.approx(by_loops(a, boxes, size, tolerance), abs=1e-12)


def test_several_maps_of_images_of_several_sizes() -> None:
    g = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 4, 4, generator=g)
    boxes: list[list[Box]] = [[(0, 0, 5, 5)], [(1.5, 2, 9, 3), (0, 0, 1, 1)], [(3, 3, 4, 4)]]
    sizes = [(8, 8), (5, 9), (12, 7)]
    found = pointing_game(maps, boxes, sizes, tolerance=1)
    assert found.hit.shape == found.energy.shape == (3, 2)
    for k in range(3):
        for kind in range(2):
            expected = by_loops(maps[k, kind], boxes[k], sizes[k], 1)
            assert [found.hit[k, kind], found.energy[k, kind], *(v[k] for v in found[2:])] == pytest.approx(expected)


def test_the_least_difference_of_single_precision_is_no_tie() -> None:
    a = torch.tensor([[1.0, 1 - 2**-24]])
    assert pointing_game([a], [[(0, 0, 1, 1)]], [(1, 2)]).hit.item() == 1


def test_uniform_attention_is_chance_and_a_full_box_is_everything() -> None:
    found = pointing_game([torch.full((7, 7), 1 / 49)], [[(3.2, 0, 17.9, 11)]], [(31, 40)], tolerance=3)
    assert found.hit.item() == pytest.approx(found.chance.item())
    assert found.energy.item() == pytest.approx(found.area.item())
    assert found.area < found.chance
    whole = pointing_game([torch.rand(3, 3) + 0.1], [[(0, 0, 40, 31)]], [(31, 40)])
    assert [value.item() for value in whole] == pytest.approx([1] * 5)


@pytest.mark.parametrize(
    ("maps", "boxes", "sizes", "message"),
    [
        ([], [], [], "needs maps, boxes and a size for every image, got 0 maps"),
        ([torch.ones(2, 2)], [], [(4, 4)], "got 1 maps, 0 lists of boxes"),
        ([torch.ones(2, 2)], [[]], [(4, 4)], "image 0: it has no boxes: leave it out"),
        ([torch.ones(2, 2)], [[(1, 1, 1, 3)]], [(4, 4)], "must have an area .* got left 1, top 1, right 1"),
        ([torch.ones(2, 2)], [[(0, 0, 5, 4)]], [(4, 4)], "lie in the image of 4 x 4 pixels"),
        ([torch.zeros(2, 2)], [[(0, 0, 4, 4)]], [(4, 4)], "not all zero"),
        ([-torch.ones(2, 2)], [[(0, 0, 4, 4)]], [(4, 4)], "non-negative"),
        ([torch.full((2, 2), math.nan)], [[(0, 0, 4, 4)]], [(4, 4)], "finite"),
        ([torch.ones(4)], [[(0, 0, 4, 4)]], [(4, 4)], r"of shape \(\*, h, w\), got torch.float32 of shape \(4,\)"),
        ([torch.ones(2, 2)], [[(0, 0, 4, 4)]], [(0, 4)], "a size is"),
        (
            [torch.ones(7, 2)],
            [[(0, 0, 4, 4)]],
            [(4, 4)],
            r"one of \(7, 2\) positions is larger than its image of 4 x 4",
        ),
    ],
)
def test_refuses_what_is_no_game(maps: list[Tensor], boxes: list, sizes: list, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        pointing_game(maps, boxes, sizes)


def test_refuses_a_negative_tolerance() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        pointing_game([torch.ones(1, 1)], [[(0, 0, 1, 1)]], [(1, 1)], tolerance=-1)


def map_by_loops(z: Tensor, u: Tensor, nonlinearity: str) -> list[float]:
    """(9) for one image: z (r, d), in double precision."""
    scores = [sum(a * b for a, b in zip(row, u.tolist(), strict=True)) for row in z.tolist()]
    positive = [max(s, 0.0) for s in scores] if nonlinearity == "relu" else [math.exp(s - max(scores)) for s in scores]
    total = sum(positive)
    return [value / total if total else 1 / len(scores) for value in positive]


def small_vit() -> SplitModel:
    pytest.importorskip("timm")
    return build("timm:vit_tiny_patch16_224", num_classes=5, image_size=48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("net", ["conv", "vit"])
def test_every_attention_is_that_of_equation_9(net: str) -> None:
    g = torch.Generator().manual_seed(1)
    if net == "conv":
        model = build("smallnet", num_classes=5, image_size=16, generator=g).eval()
        images = torch.rand(3, 3, 16, 16, generator=g)
    else:
        model, images = small_vit().eval(), torch.rand(3, 3, 48, 48, generator=g)
    targets = torch.tensor([4, 0, 2])
    with torch.no_grad():
        features = model.features(images)
        maps = attention_maps(model, features, targets)
        positions = model.dense(features)
    tokens = (positions if positions.ndim == 3 else positions.flatten(2).mT).double()
    side = 4 if net == "conv" else 3
    assert tokens.shape[1] == side**2
    assert list(maps) == list(ATTENTIONS)
    weight = model.classifier.weight.detach().double().flatten(1)  # type: ignore[operator,union-attr]
    for kind, a in maps.items():
        assert a.shape == (3, side, side)
        for k in range(3):
            if kind == "uniform":
                expected = [1 / side**2] * side**2
            else:
                u = tokens[k].mean(0) if kind.startswith("gap") else weight[targets[k]]
                expected = map_by_loops(tokens[k], u, kind.partition("-")[2])
            assert a[k].flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_networks_without_a_grid_are_refused() -> None:
    flat = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(12, 3))
    with pytest.raises(ValueError, match=r"needs features with spatial positions.*\(2, 12\)"):
        attention_maps(flat, flat.features(torch.rand(2, 3, 2, 2)), torch.tensor([0, 1]))
    pooled = SplitModel([nn.Conv2d(3, 8, 2)], nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="features of this model have one"):
        attention_maps(pooled, pooled.features(torch.rand(2, 3, 2, 2)), torch.tensor([0, 1]))
    tokens = SplitModel([nn.Identity()], nn.Identity(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"5 patch tokens .* do not form a square grid"):
        attention_maps(tokens, torch.rand(2, 5, 8), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"attention must be some of gap-relu, .* got grad-cam"):
        attention_maps(tokens, torch.rand(2, 4, 8), torch.tensor([0, 1]), ["grad-cam"])
