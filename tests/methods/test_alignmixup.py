"""AlignMixup: the transport against POT, and the mixing against features whose alignment is known."""

import numpy as np
import ot
import pytest
import torch
from tests.methods.conftest import numbered, seeded
from torch import nn

from multimix.methods import AlignMixup, DenseLoss, DenseMultiMix, Either, InputMixup, parse
from multimix.methods.alignmixup import align
from multimix.methods.sinkhorn import sinkhorn, squared_distances
from multimix.models import GlobalAveragePool, SplitModel


@pytest.mark.parametrize(("r", "q"), [(5, 5), (7, 4), (1, 1)])
@pytest.mark.parametrize("eps", [0.2, 1.0, 5.0])
def test_plan_is_that_of_pot(r: int, q: int, eps: float) -> None:
    cost = torch.rand(3, r, q, generator=seeded(r), dtype=torch.double) * 4
    ours = sinkhorn(cost, eps, max_iter=5000, tolerance=1e-12)
    for i in range(3):
        theirs = ot.sinkhorn(
            np.full(r, 1 / r), np.full(q, 1 / q), cost[i].numpy(), eps, method="sinkhorn_log", numItermax=5000,
            stopThr=1e-12,
        )  # fmt: skip
        assert np.allclose(ours[i].numpy(), theirs, atol=1e-7)


def test_costs_far_above_eps_give_the_exact_assignment() -> None:
    # exp(-cost / eps) would underflow to zero everywhere.
    x = 30 * torch.randn(4, 9, 6, generator=seeded(0))
    order = torch.randperm(9, generator=seeded(1))
    plan = sinkhorn(squared_distances(x, x[:, order]))
    assert torch.allclose(9 * plan, torch.eye(9)[order].T.expand(4, 9, 9), atol=1e-4)


def test_marginals_are_uniform() -> None:
    cost = 3 * torch.rand(6, 8, 8, generator=seeded(2))
    plan = sinkhorn(cost, tolerance=1e-6, max_iter=5000)
    assert torch.allclose(plan.sum(1), torch.full((6, 8), 1 / 8), atol=1e-5)
    assert torch.allclose(plan.sum(2), torch.full((6, 8), 1 / 8), atol=1e-5)
    # At the default tolerance the promise is weaker: exact columns, and log rows off by at most 1 in total.
    plan = sinkhorn(cost, max_iter=5000)
    assert torch.allclose(plan.sum(1), torch.full((6, 8), 1 / 8), atol=1e-5)
    assert ((8 * plan.sum(2)).log().abs().sum(1) <= 1.0 + 1e-3).all()


def test_a_plan_does_not_depend_on_its_batch() -> None:
    cost = torch.rand(5, 6, 6, generator=seeded(3)) * torch.tensor([0.01, 1.0, 3.0, 10.0, 100.0])[:, None, None]
    together = sinkhorn(cost)
    assert all(torch.allclose(sinkhorn(cost[i : i + 1]), together[i : i + 1], atol=1e-6) for i in range(5))


def test_squared_distances_far_from_the_origin() -> None:
    x, y = (torch.randn(2, n, 3, generator=seeded(n)) + 100 for n in (4, 6))
    expected = torch.cdist(x.double(), y.double()).square()
    assert torch.allclose(squared_distances(x, y).double(), expected, rtol=1e-4, atol=1e-4)


def test_permuted_feature_maps_are_realigned() -> None:
    tokens = 4 * torch.randn(3, 16, 8, generator=seeded(4))
    shuffled = torch.stack([t[torch.randperm(16, generator=seeded(i))] for i, t in enumerate(tokens)])
    assert torch.allclose(align(tokens, shuffled)[1], tokens, atol=1e-3)
    assert torch.allclose(align(shuffled, tokens, keep_first=False)[0], tokens, atol=1e-3)


def test_alignment_stays_in_the_convex_hull_when_iterations_are_few() -> None:
    tokens, other = torch.randn(2, 9, 4, generator=seeded(5)), torch.rand(2, 9, 1, generator=seeded(6))
    other = torch.cat([other, 1 - other, other, other], 2)
    _, first = align(tokens, other, max_iter=1)
    second, _ = align(other, tokens, keep_first=False, max_iter=1)
    for moved in (first, second):
        assert ((moved >= 0) & (moved <= 1)).all()
        assert torch.allclose(moved[..., 0] + moved[..., 1], torch.ones(2, 9), atol=1e-5)


def test_both_directions_take_one_plan_however_few_the_iterations() -> None:
    """As the authors' code, whose Sinkhorn makes the columns right last."""
    tokens, other = torch.randn(2, 6, 3, generator=seeded(8)), torch.randn(2, 6, 3, generator=seeded(9))
    second, kept = align(tokens, other, 0.5, keep_first=False, max_iter=3)
    assert torch.equal(kept, other)
    for x, y, moved in zip(tokens.double().numpy(), other.double().numpy(), second.numpy(), strict=True):
        K = np.exp(-((x[:, None] - y[None]) ** 2).sum(2) / 0.5)
        v = np.ones(6)
        for _ in range(3):
            u = (1 / 6) / (K @ v)
            v = (1 / 6) / (K.T @ u)
        assert np.allclose(moved, 6 * (u[:, None] * K * v).T @ x, atol=1e-4)


def test_mixture_of_a_pair_written_out(model, images, labels) -> None:
    """F1 and F2 of every pair in float64 loops, with POT's plan, for both outcomes of the coin."""
    model, images = model.double(), images.double()
    kept = set()
    for seed in range(6):
        mixed, layer, soft = AlignMixup(eps=0.5, max_iter=5000).mixed(model, images, labels, seeded(seed))
        generator = seeded(seed)
        from multimix.methods.pairs import Pairing

        lam, partner = Pairing.draw(7, 2.0, generator, torch.device("cpu"))
        first = bool(torch.randint(2, (), generator=generator))
        kept.add(first)
        features = model.features(images).detach().flatten(2)
        assert layer == model.depth
        assert torch.allclose(soft, lam * torch.eye(5)[labels] + (1 - lam) * torch.eye(5)[labels[partner]])
        for i in range(7):
            F1, F2 = features[i].numpy(), features[partner[i]].numpy()
            r = F1.shape[1]
            cost = ((F1[:, :, None] - F2[:, None, :]) ** 2).sum(0)
            R = r * ot.sinkhorn(np.full(r, 1 / r), np.full(r, 1 / r), cost, 0.5, method="sinkhorn_log",
                                numItermax=5000, stopThr=1e-9)  # fmt: skip
            expected = lam * F1 + (1 - lam) * F2 @ R.T if first else lam * F1 @ R + (1 - lam) * F2
            assert np.allclose(mixed[i].detach().flatten(1).numpy(), expected, atol=0.02)
    assert kept == {False, True}


@pytest.mark.parametrize("b", [1, 7])
def test_protocol(model, images, labels, b: int) -> None:
    images, labels, state = images[:b], labels[:b], torch.get_rng_state()
    out = AlignMixup()(model, images, labels, seeded(0))
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(AlignMixup()(model, images, labels, seeded(0)).loss, out.loss)
    one_hot = nn.functional.one_hot(labels, 5).float()
    assert torch.allclose(AlignMixup()(model, images, one_hot, seeded(0)).loss, out.loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert DenseLoss(AlignMixup())(model, images, labels, seeded(0)).loss.isfinite()


def test_prefix_tokens_are_mixed_as_they_are() -> None:
    class Tokens(nn.Module):
        def forward(self, x):
            return x.flatten(2).mT  # (b, h w, channels): the first position stands for the class token

    model = SplitModel([Tokens()], nn.Identity(), nn.Linear(3, 4), prefix_tokens=1)
    images = numbered(4, size=3) + torch.rand(4, 3, 3, 3, generator=seeded(7))
    mixed, _, soft = AlignMixup().mixed(model, images, torch.arange(4), seeded(1))
    assert mixed.shape == (4, 9, 3)
    assert torch.allclose(mixed[:, 0], soft @ images[:, :, 0, 0], atol=1e-5)


def test_time_steps_are_aligned_in_one_dimension() -> None:
    """(b, d, t), of a network that averages over t, is the same as (b, d, 1, t)."""
    conv, head = nn.Conv1d(2, 6, 3, padding=1), nn.Linear(6, 5)
    flat = SplitModel([conv], GlobalAveragePool(), head)
    tall = SplitModel([conv, nn.Unflatten(2, (1, -1))], GlobalAveragePool(), head)
    x, labels = torch.rand(7, 2, 6, generator=seeded(1)), torch.arange(7) % 5
    for method in (AlignMixup(), DenseMultiMix(50), DenseLoss(AlignMixup())):
        losses = [method(model, x, labels, seeded(2)).loss for model in (flat, tall)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_command_line_name_is_the_authors_regime() -> None:
    method = parse("alignmixup(alpha=1.5)")
    assert isinstance(method, Either)
    assert isinstance(method.a, AlignMixup)
    assert isinstance(method.b, InputMixup)
    assert method.p == 0.5
    assert method.a.alpha == method.b.linear.alpha == 1.5
    assert isinstance(parse("alignmixup-alone"), AlignMixup)


def test_features_without_positions() -> None:
    model = SplitModel([nn.Sequential(nn.Flatten(), nn.Linear(12, 6))], nn.Identity(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match="features have none"):
        AlignMixup()(model, torch.rand(2, 3, 2, 2), torch.arange(2))


def test_under_autocast(model, images, labels) -> None:
    method = AlignMixup()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method.mixed(model, images, labels, seeded(0))
        loss = method(model, images, labels, seeded(0)).loss
    full = method.mixed(model, images, labels, seeded(0))
    assert loss.isfinite()
    assert mixed.targets.dtype == torch.float32
    assert torch.allclose(mixed.targets, full.targets, atol=0.1)
    assert torch.allclose(mixed.targets.sum(1), torch.ones(7), atol=1e-5)
