"""TokenMix: masks on any grid, and label weights against the teacher's maps written out token by token."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.methods.conftest import numbered, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from multimix.methods import TokenMix
from multimix.methods.tokenmix import activation_maps, block_mask
from multimix.models import SplitModel

pytestmark = pytest.mark.filterwarnings("ignore:TokenMix has no teacher")


@given(st.integers(1, 14), st.integers(1, 14), st.floats(0, 1), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_masks_never_cover_too_much(rows: int, columns: int, share: float, seed: int) -> None:
    count = round(share * rows * columns)
    mask = block_mask(rows, columns, count, seeded(seed))
    assert mask.shape == (rows, columns)
    assert int(mask.sum()) <= count


def test_masks_reach_the_published_count_and_every_token() -> None:
    masks = torch.stack([block_mask(14, 14, 112, seeded(seed)) for seed in range(300)])
    assert (masks.sum((1, 2)) == 112).float().mean() > 0.9
    assert masks.sum((1, 2)).min() > 100
    covered = masks.float().mean(0)
    assert covered.min() > 0.02
    assert torch.allclose(covered, covered.flip(0), atol=0.15)
    assert torch.allclose(covered, covered.T, atol=0.15)


def test_masks_are_those_of_a_loop_over_rectangles() -> None:
    """BEiT's, one cell at a time: none is as long as the grid, and ten failures in a row end the search."""
    for seed, (rows, columns, count) in itertools.product(range(60), [(4, 40, 4), (3, 6, 9), (8, 8, 30), (1, 5, 4)]):
        generator, covered, failures = seeded(seed), set(), 0
        while len(covered) < count and failures < 10:
            u = torch.rand(4, generator=generator).tolist()
            area, aspect = 1 + u[0] * (count - len(covered) - 1), math.exp((2 * u[1] - 1) * -math.log(0.3))
            h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            new = set()
            if (h < rows or h == 1) and (w < columns or w == 1):
                top, left = int(u[2] * (rows - h + 1)), int(u[3] * (columns - w + 1))
                new = set(itertools.product(range(top, top + h), range(left, left + w))) - covered
            if new and len(covered) + len(new) <= count:
                covered, failures = covered | new, 0
            else:
                failures += 1
        mask = block_mask(rows, columns, count, seeded(seed))
        assert {tuple(cell) for cell in mask.nonzero().tolist()} == covered


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 9, 9), (3, 17, 30), (3, 3, 5)])
@given(b=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_without_teacher_weights_are_areas(shape, b: int, seed: int) -> None:
    images = torch.arange(1.0, b + 1).view(b, 1, 1, 1).expand(b, *shape).clone()
    kept = images.clone()
    mixed, soft = TokenMix(grid=(4, 5)).mix(images, torch.arange(b), b, seeded(seed))
    assert torch.allclose(mixed.mean((1, 2, 3)), soft @ torch.arange(1.0, b + 1), atol=1e-4)
    assert torch.allclose(soft.sum(1), torch.ones(b))
    assert torch.equal(images, kept)


def test_blocks_are_whole_tokens() -> None:
    mixed, _ = TokenMix(grid=4).mix(numbered(5), torch.arange(5), 5, seeded(0))
    tokens = mixed[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
    assert torch.equal(tokens.amin(3), tokens.amax(3))
    assert len(mixed[0].unique()) <= 2


class Places(nn.Module):
    """Four features at every position: those of the image's own 2x2 cells."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (4, 4))


class AsTokens(Places):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), 1, x.shape[1]), super().forward(x).flatten(2).mT], 1)


def teacher(stage: nn.Module, prefix_tokens: int = 0) -> SplitModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        classifier = nn.Linear(3, 5)
        nn.init.normal_(classifier.weight, std=5)
    return SplitModel([stage], nn.Identity(), classifier, prefix_tokens=prefix_tokens)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("model", [teacher(Places()), teacher(AsTokens(), 1)], ids=["convolutional", "tokens"])
def test_weights_are_the_activation_that_is_kept(model: SplitModel, normalize: bool) -> None:
    images, labels = torch.rand(6, 3, 16, 16, generator=seeded(0)), torch.tensor([0, 1, 2, 3, 4, 0])
    for seed in range(5):
        mask = TokenMix(grid=4).mix(numbered(6), torch.arange(6), 6, seeded(seed))[0][:, 0, ::4, ::4].long() - 1
        _, soft = TokenMix(model, grid=4, normalize=normalize).mix(images, labels, 5, seeded(seed))
        for i in range(6):
            expected = torch.zeros(5)
            for source in set(mask[i].flatten().tolist()):
                maps = {}
                for y in range(4):
                    for x in range(4):
                        cell = images[source, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2))
                        maps[y, x] = float(model.classifier(cell).softmax(0)[labels[source]].detach())
                total = sum(maps.values())
                for (y, x), p in maps.items():
                    expected[labels[source]] += (mask[i, y, x] == source) * p / total
            if normalize:
                expected /= expected.sum()
            assert torch.allclose(soft[i], expected, atol=1e-5)


def test_maps_for_soft_targets_and_for_classes_that_were_not_seen() -> None:
    model = teacher(Places())
    images = torch.rand(2, 3, 16, 16, generator=seeded(1))
    soft = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 0.25, 0.75, 0]])
    cells = F.adaptive_avg_pool2d(images, (4, 4)).flatten(2).mT
    p = (model.classifier(cells).softmax(2) * soft[:, None]).sum(2)
    assert torch.allclose(activation_maps(model, images, soft, (4, 4)), p / p.sum(1, keepdim=True), atol=1e-6)
    assert activation_maps(model, images, soft, (7, 3)).shape == (2, 21)
    assert torch.allclose(activation_maps(model, images, soft, (7, 3)).sum(1), torch.ones(2), atol=1e-5)
    model.classifier.bias.data[4] = 1000.0  # every other class then has probability zero in float32
    maps = activation_maps(model, images, soft, (4, 4))
    assert maps.isfinite().all()
    assert torch.allclose(maps.sum(1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_targets_of_no_class_or_rounded_below_zero(normalize: bool) -> None:
    """Several labels of an image may be none, and one minus the others may come out a little negative."""
    model, images = teacher(Places()), torch.rand(3, 3, 16, 16, generator=seeded(1))
    rounded = torch.tensor([[0.0, 0, 0, 0, 0], [0.6, 0.4, -0.004, 0, 0], [1, 0, 1, 0, 0]])
    maps = activation_maps(model, images, rounded, (4, 4))
    assert torch.allclose(maps[0], torch.full((16,), 1 / 16))
    assert torch.allclose(maps[1:], activation_maps(model, images[1:], rounded[1:].clamp(min=0), (4, 4)))
    for seed in range(5):
        _, soft = TokenMix(model, grid=4, normalize=normalize).mix(images, rounded, None, seeded(seed))
        _, exact = TokenMix(model, grid=4, normalize=normalize).mix(images, rounded.clamp(min=0), None, seeded(seed))
        torch.testing.assert_close(soft, exact, rtol=0, atol=0.005)


class Wide(nn.Module):
    """Features at two rows of eight positions."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (2, 8))


def test_the_grid_of_the_map_is_that_of_the_mask() -> None:
    model, images, labels = teacher(Wide()), torch.rand(6, 3, 16, 16, generator=seeded(0)), torch.arange(6) % 5
    cells = F.adaptive_avg_pool2d(images, (2, 8)).movedim(1, -1)
    maps = model.classifier(cells).softmax(-1)[torch.arange(6), ..., labels].detach()
    maps = maps / maps.sum((1, 2), keepdim=True)
    for seed in range(5):
        source = TokenMix(grid=(2, 8)).mix(numbered(6), torch.arange(6), 6, seeded(seed))[0][:, 0, ::8, ::2].long() - 1
        _, soft = TokenMix(model, grid=(2, 8)).mix(images, labels, 5, seeded(seed))
        for i in range(6):
            expected = torch.zeros(5)
            for k in source[i].unique().tolist():
                expected[labels[k]] += maps[k][source[i] == k].sum()
            assert torch.allclose(soft[i], expected / expected.sum(), atol=1e-5)


def test_maps_on_a_coarser_grid_are_those_of_pillow() -> None:
    model, images = teacher(Places()), torch.rand(2, 3, 16, 16, generator=seeded(1))
    soft = torch.eye(5)[:2]
    fine = activation_maps(model, images, soft, (4, 4)).view(2, 4, 4)
    for found, one in zip(activation_maps(model, images, soft, (2, 3)), fine, strict=True):
        resized = np.asarray(Image.fromarray(one.numpy()).resize((3, 2), Image.Resampling.BILINEAR)).flatten()
        assert np.allclose(found.numpy(), resized / resized.sum(), atol=1e-5)


def test_where_neither_object_has_survived_the_area_counts() -> None:
    """Each image has its object in one cell, and a teacher that is sure of it sees none anywhere else."""
    model = teacher(Places())
    with torch.no_grad():
        model.classifier.weight.zero_()[0], model.classifier.bias.zero_()[0] = 400.0, -600.0
    images = torch.zeros(2, 3, 16, 16)
    images[0, :, :4, :4], images[1, :, 12:, 12:] = 1, 1
    seen = 0
    for seed in range(200):
        mixed, soft = TokenMix(model, share=0.4, grid=4).mix(images, torch.zeros(2).long(), 5, seeded(seed))
        assert soft.isfinite().all()
        assert torch.allclose(soft.sum(1), torch.ones(2))
        seen += int((mixed.flatten(1).sum(1) == 0).any())
    assert seen > 3


def test_teacher_is_neither_trained_nor_saved(model, images, labels) -> None:
    method = TokenMix(model, grid=4)
    method.setup(model)
    assert list(method.parameters()) == []
    assert method.state_dict() == {}
    mode, statistics = model.training, {k: v.clone() for k, v in model.state_dict().items()}
    out = method(model, images, labels, seeded(0))
    out.loss.backward()
    assert model.training == mode
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items())
    assert torch.equal(method(model, images, labels, seeded(0)).loss, out.loss)


def test_a_teacher_in_training_predicts_as_in_evaluation() -> None:
    model = teacher(nn.Sequential(Places(), nn.BatchNorm2d(3), nn.Dropout()))
    images, labels = torch.rand(6, 3, 16, 16, generator=seeded(0)), torch.arange(6) % 5
    _, in_training = TokenMix(model.train(), grid=4).mix(images, labels, 5, seeded(0))
    assert model.training
    _, in_evaluation = TokenMix(model.eval(), grid=4).mix(images, labels, 5, seeded(0))
    assert torch.equal(in_training, in_evaluation)


def test_it_says_that_it_has_no_teacher() -> None:
    with pytest.warns(UserWarning, match="TokenMix has no teacher, so its label weights are shares of the area"):
        TokenMix()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenMix(teacher(Places()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TokenMix(share=1.5), ValueError, "share must lie in"),
        (lambda: TokenMix(grid=0), ValueError, "grid must be at least 1"),
        (lambda: TokenMix(teacher=3), TypeError, "a teacher is a model or the folder of a run, got int"),
        (lambda: TokenMix("no/such/run").mix(numbered(2), torch.arange(2), 2), FileNotFoundError, "is not a run"),
        (lambda: TokenMix(nn.Linear(2, 2)), TypeError, "must be a SplitModel"),
        (lambda: TokenMix(teacher(Places())).mix(numbered(2), torch.arange(2), 2), ValueError, "teacher has 5 classes"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_under_autocast(model, images, labels) -> None:
    method = TokenMix(model, grid=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method.mixed(model, images, labels, seeded(0))
        loss = method(model, images, labels, seeded(0)).loss
    full = method.mixed(model, images, labels, seeded(0))
    assert loss.isfinite()
    assert mixed.targets.dtype == torch.float32
    assert torch.allclose(mixed.targets, full.targets, atol=0.1)
    assert torch.allclose(mixed.targets.sum(1), torch.ones(7), atol=1e-5)
