"""Co-Mixup: labellings against brute force, the energy over steps, targets read off the pixels."""

import itertools

import pytest
import torch
from tests.methods.conftest import numbered, seeded
from torch import Tensor, nn

from multimix.methods import CoMixup
from multimix.methods.expansion import expand, grid_energy
from multimix.models import SplitModel


def every_labelling(rows: int, columns: int, k: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(k), repeat=rows * columns))).view(-1, rows, columns)


def problem(b: int, rows: int, columns: int, k: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    unary = torch.randn(b, rows, columns, k, generator=generator, dtype=torch.double)
    distance = torch.rand(b, k, k, generator=generator, dtype=torch.double)  # not a metric
    distance = (distance + distance.mT) * (1 - torch.eye(k))
    return torch.randint(k, (b, rows, columns), generator=generator), unary, distance


def written_out(labels: Tensor, unary: Tensor, distance: Tensor) -> float:
    total, (rows, columns) = 0.0, labels.shape
    for y, x in itertools.product(range(rows), range(columns)):
        total += float(unary[y, x, labels[y, x]])
        total += float(distance[labels[y, x], labels[y + 1, x]]) if y + 1 < rows else 0
        total += float(distance[labels[y, x], labels[y, x + 1]]) if x + 1 < columns else 0
    return total


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 3), (2, 4), (4, 2), (1, 4), (4, 1), (1, 1)])
def test_one_move_from_the_worst_finds_the_minimum_of_two_labels(rows: int, columns: int) -> None:
    # From a grid of one label, an expansion of the other can reach every labelling.
    _, unary, distance = problem(5, rows, columns, 2, 0)
    found = expand(torch.zeros(5, rows, columns, dtype=torch.long), unary, distance)
    for i in range(5):
        best = min(written_out(labels, unary[i], distance[i]) for labels in every_labelling(rows, columns, 2))
        assert abs(written_out(found[i], unary[i], distance[i]) - best) < 1e-9


@pytest.mark.parametrize("seed", range(10))
def test_no_expansion_is_better_and_none_was_worse(seed: int) -> None:
    labels, unary, distance = problem(4, 2, 3, 4, seed)
    found = expand(labels, unary, distance)
    energy = grid_energy(found, unary, distance)
    assert (energy <= grid_energy(labels, unary, distance) + 1e-12).all()
    sets = every_labelling(2, 3, 2).bool()
    for i, alpha in itertools.product(range(4), range(4)):
        moved = torch.where(sets, alpha, found[i])
        others = grid_energy(moved, unary[i].expand(len(sets), -1, -1, -1), distance[i].expand(len(sets), -1, -1))
        assert others.min() >= energy[i] - 1e-9
    assert abs(float(energy[0]) - written_out(found[0], unary[0], distance[0])) < 1e-9


def part_energy(masks: Tensor, cost: Tensor, beta: float, gamma: float) -> float:
    """Saliency, smoothness and the inner products of the outputs' counts, without the threshold: masks (O, N, H, W)."""
    positions = masks.shape[-1] * masks.shape[-2]
    smooth = masks.diff(dim=2).square().sum() + masks.diff(dim=3).square().sum()
    counts = masks.sum((2, 3))
    repeated = counts.sum(0).square().sum() - counts.square().sum()
    return float((masks * cost).sum() + beta / positions / 2 * smooth + gamma / positions * repeated)


def test_outputs_that_do_not_interact_reach_the_minimum_of_all_masks() -> None:
    n, gaps = 3, []
    every = every_labelling(2, 3, n)
    shown = nn.functional.one_hot(every, n).movedim(-1, 1).double()
    for seed in range(20):
        cost = torch.rand(1, n, 2, 3, generator=seeded(seed), dtype=torch.double) ** 4
        cost = -cost / cost.sum((2, 3), keepdim=True)
        method = CoMixup(gamma=0, iterations=1)
        masks = method.masks(cost, torch.eye(n).double()[None], torch.tensor([n]), seeded(seed))[0]
        energies = torch.tensor([part_energy(mask[None], cost[0], 0.32, 0) for mask in shown])
        for mask in masks:
            gaps.append((part_energy(mask[None], cost[0], 0.32, 0) - energies.min()) / energies.std())
    assert min(gaps) > -1e-6
    assert max(gaps) < 0.2
    assert sum(gap < 1e-6 for gap in gaps) > 0.9 * len(gaps)


@pytest.mark.parametrize("seed", range(5))
def test_each_step_lowers_the_energy_of_the_part(seed: int, monkeypatch) -> None:
    n = 6
    cost = torch.rand(1, n, 4, 4, generator=seeded(seed), dtype=torch.double) ** 6
    cost = -cost / cost.sum((2, 3), keepdim=True)
    method = CoMixup(thres=0, omega=0, gamma=0.05, iterations=3)
    monkeypatch.setattr("multimix.methods.comixup._tell_apart", lambda shown: torch.zeros(shown.shape).double())
    energies = []
    for rounds in range(1, 5):
        method.iterations = rounds
        masks = method.masks(cost, torch.eye(n).double()[None], torch.tensor([n]), seeded(seed))[0]
        assert torch.allclose(masks.sum(1), torch.ones(n, 4, 4).double())
        energies.append(part_energy(masks, cost[0], 0.32, 0.05))
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(energies))


def test_the_penalty_is_the_slope_of_the_energy_of_repeated_inputs(monkeypatch) -> None:
    """In `part_energy` every pair of outputs counts twice. Up to the threshold there is none."""
    n, costs, masks = 4, [], []

    def recorded(self: CoMixup, cost: Tensor, mask: Tensor, *, soft: bool) -> Tensor:
        costs.append(cost[0])
        masks.append(mask[0])
        return mask

    monkeypatch.setattr(CoMixup, "_best", recorded)
    cost = -torch.rand(1, n, 4, 4, generator=seeded(0)).double()
    compatible = torch.rand(1, n, n, generator=seeded(1)).double()
    CoMixup(gamma=3.0, thres=1.5, iterations=1).masks(cost, compatible, torch.tensor([n]), seeded(0))
    counts = [mask.sum((1, 2)) for mask in masks]
    over = []
    for o, i in itertools.product(range(n), range(n)):
        others = [counts[p] for p in range(n) if p != o]
        elsewhere = sum(float(compatible[0, i, j] * count[j]) for count in others for j in range(n))
        over.append(elsewhere > 1.5 * 16)
        expected = 2 * 3.0 * elsewhere / 16 if over[-1] else 0.0
        assert (costs[o][i] - cost[0, i]).mean().item() == pytest.approx(expected, abs=1e-9)
    assert set(over) == {True, False}


def test_a_part_that_is_not_full_is_mixed_as_if_it_were_alone() -> None:
    n, size = 3, 6
    cost = -torch.rand(1, n, 4, 4, generator=seeded(0)).double()
    padded, compatible = torch.full((1, size, 4, 4), 1e3).double(), torch.zeros(1, size, size).double()
    padded[:, :n], compatible[0, :n, :n] = cost, torch.eye(n)
    alone = CoMixup().masks(cost, torch.eye(n).double()[None], torch.tensor([n]), seeded(1))
    among = CoMixup().masks(padded, compatible, torch.tensor([n]), seeded(1))
    assert torch.equal(among[:, :n, :n], alone)
    assert among[:, n:].sum() == 0


def test_a_last_part_shows_nothing_but_its_own_images() -> None:
    """Also where nothing is salient, so that an image costs what its prior costs."""
    saliency = torch.zeros(13, 16, 16)
    saliency[:, :4, :4] = 1
    mixed, _, targets = CoMixup(part_size=10, m_beta=0.0).mix_salient(numbered(13), torch.eye(13), saliency, seeded(0))
    assert torch.allclose(targets.sum(1), torch.ones(13))
    assert mixed[10:].min() >= 11


def test_images_go_together_whose_peaks_are_apart(monkeypatch) -> None:
    found = []

    def masks(self: CoMixup, cost: Tensor, compatible: Tensor, sizes: Tensor, generator: torch.Generator) -> Tensor:
        found.append(compatible)
        return torch.eye(4)[None, :, :, None, None].expand(1, 4, 4, 4, 4)

    monkeypatch.setattr(CoMixup, "masks", masks)
    corners = torch.tensor([[0, 0], [8, 16], [3, 5], [8, 0]])
    saliency = torch.zeros(4, 16, 24)
    for image, (row, column) in zip(saliency, corners.tolist(), strict=True):
        image[row : row + 8, column : column + 8] = 1
    CoMixup(omega=0.25).mix_salient(numbered(4, 24)[..., :16, :], torch.eye(4), saliency, seeded(0))
    distance = torch.tensor([[sum(abs(a - b)) for b in corners.numpy()] for a in corners.numpy()]).double()
    expected = 0.75 * torch.eye(4) + 0.25 * 4 * distance / distance.sum()
    assert torch.allclose(found[0][0], expected)


def test_halves_come_in_after_the_first_round() -> None:
    # Between an input on the left and one on the right a half makes two steps of a quarter of the price of one.
    cost = torch.tensor([[-1.0, -0.5, 0.0], [0.0, -0.5, -1.0]]).double()[:, None].expand(2, 3, 3)[None]
    middle = {}
    for rounds in (1, 2):
        method = CoMixup(gamma=0.0, iterations=rounds)
        masks = method.masks(cost, torch.eye(2).double()[None], torch.tensor([2]), seeded(0))
        middle[rounds] = masks[..., 1].unique().tolist()
    assert middle == {1: [0.0, 1.0], 2: [0.5]}


def test_diversity_spreads_outputs_over_inputs() -> None:
    # One input is much the most salient everywhere: alone it would fill every output.
    cost = torch.full((1, 8, 4, 4), -0.02).double()
    cost[0, 3] = -0.3
    shown = {}
    for gamma in (0.0, 1.0):
        method = CoMixup(gamma=gamma, omega=0)
        shown[gamma] = method.masks(cost, torch.eye(8).double()[None], torch.tensor([8]), seeded(0))[0].sum((0, 2, 3))
    assert shown[0.0][3] == 8 * 16
    assert shown[1.0][3] <= 2 * 16
    assert (shown[1.0] > 0).sum() >= 4


def test_equal_outputs_are_told_apart_at_the_authors_price(monkeypatch) -> None:
    # Two outputs of two inputs each: blocks of the one's first, and of the other's second, input cost gamma / blocks.
    costs: list[Tensor] = []
    best = CoMixup._best

    def recorded(self: CoMixup, cost: Tensor, mask: Tensor, *, soft: bool) -> Tensor:
        costs.append(cost[0])
        if len(costs) > 2:
            return best(self, cost, mask, soft=soft)
        halves = torch.zeros_like(mask)
        halves[0, 0, :2] = halves[0, 1, 2:] = 1
        return halves

    monkeypatch.setattr(CoMixup, "_best", recorded)
    cost = -torch.rand(1, 2, 4, 4, generator=seeded(0), dtype=torch.double)
    CoMixup(gamma=3.0, thres=9.0, iterations=2).masks(cost, torch.eye(2).double()[None], torch.tensor([2]), seeded(0))
    added = [(priced - cost[0]).mean((1, 2)).tolist() for priced in costs]
    assert added[:2] == [[0, 0], [0, 0]]
    assert added[2] == pytest.approx([3 / 16, 0], abs=1e-9)
    assert added[3] == pytest.approx([0, 3 / 16], abs=1e-9)


def test_the_prior_of_a_block_is_eta_of_all_blocks_times_its_logarithm(monkeypatch) -> None:
    costs, masks = [], CoMixup.masks
    monkeypatch.setattr(CoMixup, "masks", lambda self, cost, *rest: costs.append(cost) or masks(self, cost, *rest))
    saliency = torch.rand(5, 16, 16, generator=seeded(0))
    CoMixup(eta=0.05).mix_salient(numbered(5), torch.eye(5), saliency, seeded(1))
    shown = nn.functional.avg_pool2d(saliency, 4).double()
    prior = (-(costs[0][0] + shown / shown.sum((1, 2), keepdim=True)) * 16 / 0.05).exp()
    assert torch.allclose(prior, prior[:, :1, :1].expand_as(prior), rtol=1e-3)
    assert prior[:, 0, 0].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("b", "height", "width"), [(1, 16, 16), (5, 16, 24), (23, 9, 17), (4, 3, 8)])
def test_targets_match_what_was_mixed(b: int, height: int, width: int) -> None:
    images, labels = numbered(b, max(height, width))[..., :height, :width], torch.arange(b)
    saliency = torch.rand(b, height, width, generator=seeded(7)) ** 30
    state = torch.get_rng_state()
    for seed in range(3):
        soft = nn.functional.one_hot(labels, b).float()
        mixed, layer, targets = CoMixup(part_size=10).mix_salient(images, soft, saliency, seeded(seed))
        assert layer == 0
        assert mixed.shape == images.shape
        assert torch.allclose(mixed.mean((1, 2, 3)), targets @ torch.arange(1.0, b + 1), atol=1e-3)
        assert torch.allclose(targets.sum(1), torch.ones(b))
        assert torch.equal(images[:, 0, 0, 0], torch.arange(1.0, b + 1))
        again = CoMixup(part_size=10).mix_salient(images, soft, saliency, seeded(seed))
        assert torch.equal(again.features, mixed)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_whole_step(model, images, labels) -> None:
    mixed = CoMixup().mixed(model, images, labels, seeded(0))
    loss = nn.functional.cross_entropy(model(mixed.features), mixed.targets)
    assert torch.allclose(CoMixup(clean_lam=0)(model, images, labels, seeded(0)).loss, loss)
    out = CoMixup()(model, images, labels, seeded(0))
    assert torch.allclose(out.loss, loss + nn.functional.cross_entropy(model(images), labels), atol=1e-6)
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 8}, "blocks must be at most 5"),
        ({"omega": 2}, "omega must lie in"),
        ({"m_beta": float("nan")}, "m_beta must be a number of at least 0, got nan"),
        ({"alpha": 0}, "alpha must be"),
        ({"clean_lam": -1}, "clean_lam must be a number of at least 0"),
    ],
)
def test_bad_options(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoMixup(**options)


def test_images_without_rows() -> None:
    net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match=r"images must be \(b, channels, height, width\)"):
        CoMixup()(net, torch.rand(2, 12), torch.tensor([0, 1]))
