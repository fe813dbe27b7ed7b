"""PuzzleMix: the cut against brute force, the transport against SciPy, targets read off the pixels."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from tests.methods.conftest import numbered, seeded
from torch import nn

from multimix.methods import DenseLoss, PuzzleMix
from multimix.methods.graph_cut import energy, labelling
from multimix.methods.pairs import Pairing
from multimix.methods.saliency import clean_pass, input_saliency
from multimix.methods.transport import block_transport, distances, move_blocks
from multimix.models import SplitModel


@pytest.mark.parametrize(("rows", "columns", "k"), [(2, 2, 3), (3, 3, 2), (3, 3, 3), (2, 3, 4), (1, 4, 3), (1, 1, 2)])
def test_cut_is_the_minimum_over_all_labellings(rows: int, columns: int, k: int) -> None:
    rng = np.random.default_rng(0)
    unary = rng.normal(size=(6, rows, columns, k))
    down, right = rng.random((6, rows - 1, columns)), rng.random((6, rows, columns - 1))
    every = np.array(list(itertools.product(range(k), repeat=rows * columns)))
    shaped = every.reshape(-1, rows, columns)
    found = energy(labelling(unary, down, right), unary, down, right)
    for i in range(6):
        costs = unary[i].reshape(-1, k)[np.arange(rows * columns), every].sum(1)
        costs += (down[i] * (shaped[:, 1:] - shaped[:, :-1]) ** 2).sum((1, 2))
        costs += (right[i] * (shaped[:, :, 1:] - shaped[:, :, :-1]) ** 2).sum((1, 2))
        assert math.isclose(found[i], costs.min(), abs_tol=1e-9)


def test_parts_and_threads_do_not_change_the_energy() -> None:
    rng = np.random.default_rng(1)
    unary, down, right = rng.normal(size=(40, 8, 8, 3)), rng.random((40, 7, 8)), rng.random((40, 8, 7))
    together = energy(labelling(unary, down, right), unary, down, right)
    one = [labelling(unary[i : i + 1], down[i : i + 1], right[i : i + 1])[0] for i in range(40)]
    assert np.allclose(together, energy(np.stack(one), unary, down, right))
    with pytest.raises(ValueError, match="must not be negative"):
        labelling(unary, -down, right)


def test_two_label_energy_is_lost_saliency_smoothness_and_prior_written_out() -> None:
    # With two labels the mask is a choice of image for each block, so that the energy has a direct definition.
    torch.manual_seed(0)
    method, blocks, lam, per_block = PuzzleMix(n_labels=2), 2, 0.3, 3
    images = torch.rand(2, 3, blocks * per_block, blocks * per_block, dtype=torch.double)
    saliency = torch.rand(2, blocks, blocks, dtype=torch.double)
    unary, down, right = (t.numpy() for t in method._energy(saliency, images, torch.tensor([1, 0]), lam, blocks))
    beta, constants = 1.2 / blocks / 16, []
    for choice in itertools.product((0, 1), repeat=4):
        label = np.array(choice).reshape(1, 2, 2)
        expected = 0.0
        for y, x in itertools.product(range(2), repeat=2):
            shown = label[0, y, x]  # 0: the image itself
            expected += float(saliency[1 - shown, y, x]) - 0.2 / 4 * math.log((0.7 if shown else 0.3) + 1e-8)
            for dy, dx in ((1, 0), (0, 1)):
                if y + dy > 1 or x + dx > 1:
                    continue
                next_to = label[0, y + dy, x + dx]
                gaps = []
                for t in range(per_block):
                    here = (2, t) if dy else (t, 2)
                    there = (0, t) if dy else (t, 0)
                    a = images[shown, :, y * 3 + here[0], x * 3 + here[1]]
                    b = images[next_to, :, (y + dy) * 3 + there[0], (x + dx) * 3 + there[1]]
                    gaps.append(float((a - b).abs().mean()))
                expected += beta * float(shown != next_to) + beta * 0.5 * sum(gaps) / per_block
        constants.append(energy(label, unary[:1], down[:1], right[:1])[0] - expected)
    assert np.ptp(constants) < 1e-9  # equal for every mask, up to a constant


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_prior_of_k_labels_is_binomial(k: int) -> None:
    blocks, lam, cells = 4, 0.3, torch.zeros(2, 3, 8, 8, dtype=torch.double)
    saliency = torch.zeros(2, blocks, blocks, dtype=torch.double)
    unary, _, _ = PuzzleMix(n_labels=k, eta=0.7)._energy(saliency, cells, torch.tensor([1, 0]), lam, blocks)
    log_p = torch.from_numpy(stats.binom(k - 1, 1 - lam).logpmf(range(k)))
    assert torch.allclose(unary, (-0.7 / blocks**2 * log_p).expand_as(unary), atol=1e-6)


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (3, 5), (8, 8)])
def test_transport_is_the_optimal_assignment(grid) -> None:
    generator, positions = seeded(0), grid[0] * grid[1]
    moved = 0
    for _ in range(8):
        saliency = torch.rand(5, *grid, generator=generator) ** 8
        saliency /= saliency.sum((1, 2), keepdim=True)
        kept = torch.rand(5, *grid, generator=generator) < 0.5
        source = block_transport(saliency, kept, eps=0.8)
        assert torch.equal(source.sort(1).values, torch.arange(positions).repeat(5, 1))
        moved += int((source != torch.arange(positions)).sum())
        for s, z, row in zip(saliency.flatten(1), kept.flatten(1), source, strict=True):
            y, x = np.divmod(np.arange(positions), grid[1])
            squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
            cost = 0.8 * squared / max(grid[0] - 1, grid[1] - 1) ** 2 - s.numpy()[:, None]
            cost[:, ~z.numpy()] = 0  # what is not kept is not seen
            best = cost[linear_sum_assignment(cost)].sum()
            assert math.isclose(cost[row.numpy(), np.arange(positions)].sum(), best, abs_tol=1e-5)
    assert moved > 0 or positions == 4
    assert distances(*grid).max() <= 2


def test_each_image_is_moved_by_its_own_saliency(monkeypatch) -> None:
    asked: list[torch.Tensor] = []

    def spy(saliency: torch.Tensor, kept: torch.Tensor, eps: float) -> torch.Tensor:
        asked.append(saliency)
        return block_transport(saliency, kept, eps)

    monkeypatch.setattr("multimix.methods.puzzlemix.block_transport", spy)
    saliency = torch.rand(5, 16, 16, generator=seeded(0))
    PuzzleMix(blocks=(4,)).mix_salient(numbered(5), torch.eye(5), saliency, seeded(3))
    of_blocks = nn.functional.avg_pool2d(saliency, 4)
    of_blocks = of_blocks / of_blocks.sum((1, 2), keepdim=True)
    partner = Pairing.draw(5, 1.0, seeded(3), saliency.device).partner
    assert (partner != torch.arange(5)).any()
    for found, wanted in zip(asked, (of_blocks, of_blocks[partner]), strict=True):
        assert torch.allclose(found, wanted)


@pytest.mark.parametrize("k", [3, 5])
def test_between_the_images_themselves_k_labels_cost_what_two_do(k: int) -> None:
    """The first label and the last show one image alone, k - 1 steps apart."""
    cells = torch.rand(2, 3, 6, 6, generator=seeded(0)).double()
    saliency, partner = torch.rand(2, 2, 2, generator=seeded(1)).double(), torch.tensor([1, 0])
    unary, down, right = PuzzleMix(eta=0.0, n_labels=2)._energy(saliency, cells, partner, 0.3, 2)
    finer = PuzzleMix(eta=0.0, n_labels=k)._energy(saliency, cells, partner, 0.3, 2)
    assert torch.allclose(finer[0][..., [0, -1]], unary)
    assert torch.allclose(finer[1] * (k - 1) ** 2, down)
    assert torch.allclose(finer[2] * (k - 1) ** 2, right)


def test_what_is_compared_and_what_moves_has_the_side_asked_for(monkeypatch) -> None:
    compared: list[torch.Tensor] = []
    moved: list[torch.Tensor] = []

    def mask(self, saliency, cells, partner, lam, blocks) -> torch.Tensor:
        compared.append(cells)
        return torch.rand(len(saliency), blocks, blocks, generator=seeded(2)).round()

    def transport(saliency: torch.Tensor, kept: torch.Tensor, eps: float) -> torch.Tensor:
        moved.append(saliency)
        return block_transport(saliency, kept, eps)

    monkeypatch.setattr(PuzzleMix, "_mask", mask)
    monkeypatch.setattr("multimix.methods.puzzlemix.block_transport", transport)
    images = torch.rand(3, 3, 16, 24, generator=seeded(0))
    saliency = torch.rand(3, 16, 24, generator=seeded(1))
    saliency[0] = 0  # equally salient everywhere
    PuzzleMix(blocks=(2,), neigh_size=4, t_size=2).mix_salient(images, torch.eye(3), saliency, seeded(3))
    assert torch.allclose(compared[0].float(), nn.functional.avg_pool2d(images, 4))
    assert torch.allclose(moved[0][0], torch.full((8, 12), 1 / 96))
    of_blocks = nn.functional.avg_pool2d(saliency, 2)[1:]
    assert torch.allclose(moved[0][1:], of_blocks / of_blocks.sum((1, 2), keepdim=True))


def test_moved_blocks_are_those_named() -> None:
    image = torch.rand(2, 3, 6, 8, generator=seeded(0))
    source = torch.stack([torch.randperm(12, generator=seeded(i)) for i in range(2)])
    moved = move_blocks(image, source, 3, 4)
    for i, j in itertools.product(range(2), range(12)):
        (y, x), (v, u) = divmod(j, 4), divmod(int(source[i, j]), 4)
        block = image[i, :, 2 * v : 2 * v + 2, 2 * u : 2 * u + 2]
        assert torch.equal(moved[i, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2], block)


def test_saliency_is_the_gradient_of_each_image_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    frozen = nn.BatchNorm2d(4)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = SplitModel([stage, frozen], pool, nn.Linear(4, 5)).train()
    frozen.eval()
    images, labels = torch.rand(3, 3, 6, 6), torch.tensor([0, 4, 2])
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        found = input_saliency(net, images, labels)
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert net.training
    assert stage.training
    assert not frozen.training
    assert all(p.grad is None for p in net.parameters())
    assert not images.requires_grad
    net.eval()
    for i in range(3):
        probe = images[i : i + 1].clone().requires_grad_()
        nn.functional.cross_entropy(net(probe), labels[i : i + 1]).backward()
        assert torch.allclose(found[i], (probe.grad[0] ** 2).mean(0).sqrt(), atol=1e-7)


def test_saliency_of_well_classified_images_survives_float16() -> None:
    net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(48, 5)).eval()
    net.classifier.weight.data.normal_(std=0.01, generator=seeded(0))
    net.classifier.bias.data = torch.tensor([10.0, 0.0, 0.0, 0.0, 0.0])
    images, labels = torch.rand(6, 3, 4, 4, generator=seeded(1)), torch.zeros(6, dtype=torch.int64)
    exact = input_saliency(net, images, labels)
    assert exact.median() < torch.finfo(torch.float16).smallest_normal / 32
    with torch.autocast("cpu", torch.float16):
        torch.testing.assert_close(input_saliency(net, images, labels), exact, rtol=0.02, atol=0)


@pytest.mark.parametrize("options", [{}, {"n_labels": 2}, {"n_labels": 4, "t_size": 2}, {"transport": False}], ids=str)
@pytest.mark.parametrize(("b", "height", "width"), [(1, 16, 16), (5, 16, 24), (4, 17, 9), (3, 5, 33)])
def test_targets_match_what_was_mixed(options, b: int, height: int, width: int) -> None:
    net = SplitModel([nn.Flatten()], nn.Identity(), nn.LazyLinear(b))
    images, labels = numbered(b, max(height, width))[..., :height, :width] / 8, torch.arange(b)
    net(images)
    net.classifier.weight.data.normal_(generator=seeded(0))
    for seed in range(6):
        state = torch.get_rng_state()
        mixed, layer, soft = PuzzleMix(**options).mixed(net, images, labels, seeded(seed))
        assert torch.equal(torch.get_rng_state(), state)
        assert layer == 0
        assert mixed.shape == images.shape
        assert torch.allclose(8 * mixed.mean((1, 2, 3)), soft @ torch.arange(1.0, b + 1), atol=1e-4)
        assert torch.allclose(soft.sum(1), torch.ones(b))
        assert torch.equal(8 * images[:, 0, 0, 0], torch.arange(1.0, b + 1))
        again = PuzzleMix(**options).mixed(net, images, nn.functional.one_hot(labels, b).float(), seeded(seed))
        assert torch.allclose(again.features, mixed)


@pytest.mark.parametrize(("size", "blocks"), [(28, 16), (28, 8), (9, 8)])
def test_no_block_goes_where_the_image_ends(size: int, blocks: int) -> None:
    """Where whole blocks of the grid lie outside, what is shown of the saliency is all that can be."""
    side = math.ceil(size / blocks)
    inside = math.ceil(size / side)
    method, soft = PuzzleMix(gamma=0, n_labels=2, blocks=(blocks,)), torch.eye(4)
    number = torch.arange(1.0, inside**2 + 1).view(inside, inside)
    place = number.repeat_interleave(side, 0).repeat_interleave(side, 1)[:size, :size]
    images = torch.stack([place + 1000 * i for i in range(4)])[:, None]
    shape = (blocks, blocks)
    for seed in range(6):
        coarse = torch.rand(4, 1, 4, 4, generator=seeded(seed))
        saliency = nn.functional.interpolate(coarse, (size, size), mode="bilinear")[:, 0] ** 6
        padded = nn.functional.pad(saliency, (0, side * blocks - size, 0, side * blocks - size))
        of_block = nn.functional.avg_pool2d(padded[:, None], side).flatten(1)
        of_block /= of_block.sum(1, keepdim=True)
        mixed = method.mix_salient(images, soft, saliency, seeded(seed)).features[:, 0, ::side, ::side]
        partner = Pairing.draw(4, 1.0, seeded(seed), images.device).partner
        source = (mixed % 1000).long() - 1
        block = (source // inside * blocks + source % inside).numpy()  # in the whole grid
        for i, other in enumerate(partner.tolist()):
            for image in {i, other}:
                y, x = np.nonzero((mixed[i] // 1000 == image).numpy())
                gain = (of_block[image][:, None] - 0.8 * distances(*shape)).numpy()[:, y * blocks + x]
                shown = gain[block[i][y, x], np.arange(len(y))].sum()
                assert math.isclose(shown, gain[linear_sum_assignment(-gain)].sum(), abs_tol=1e-5)


def test_the_whole_step(model, images, labels) -> None:
    out = PuzzleMix()(model, images, labels, seeded(0))
    mixed = PuzzleMix().mixed(model, images, labels, seeded(0))
    assert torch.allclose(out.loss, nn.functional.cross_entropy(model(mixed.features), mixed.targets))
    assert out.logits is None
    clean = PuzzleMix(clean_lam=0.7)(model, images, labels, seeded(0))  # no batch statistics in this model
    expected = out.loss + 0.7 * nn.functional.cross_entropy(model(images), labels)
    assert torch.allclose(clean.loss, expected, atol=1e-6)
    assert torch.allclose(clean.logits, model(images))
    found = torch.autograd.grad(clean.loss, list(model.parameters()))
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))
    assert clean_pass(model, images, labels).saliency.shape == (7, 8, 8)
    DenseLoss(PuzzleMix())(model, images, labels, seeded(0)).loss.backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 2}, "gamma must lie in"),
        ({"beta": -1}, "beta must be a number of at least 0"),
        ({"clean_lam": -1}, "clean_lam must be a number of at least 0"),
        ({"n_labels": 1}, "n_labels must be at least 2, got 1"),
        ({"alpha": 0}, "alpha must be a positive number"),
        ({"blocks": ()}, "blocks must be one or more whole numbers, got none"),
    ],
)
def test_bad_options(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PuzzleMix(**options)


def test_image_smaller_than_every_grid() -> None:
    net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match="smaller than every grid"):
        PuzzleMix(blocks=(4,)).mixed(net, torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the compiler, on what it leaves alone
def test_a_compiled_step_is_the_same(model, images, labels) -> None:
    def step(network: SplitModel) -> torch.Tensor:
        return PuzzleMix()(network, images, labels, seeded(0)).loss

    expected = step(copy.deepcopy(model))
    torch.compiler.reset()
    assert torch.allclose(torch.compile(step, backend="eager")(copy.deepcopy(model)), expected)
