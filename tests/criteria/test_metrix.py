"""Metric learning losses and Metrix against loops written from the equations, with the mixed embeddings themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import multimix as mm
from multimix.criteria import Contrastive, MetricLoss, MultiSimilarity, ProxyAnchor
from multimix.criteria.metrix import similarity

Comparison = tuple[Tensor, float]  # an example, and how positive it is for the anchor
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])


def embeddings(b: int = 7, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(b, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def contrastive(anchors: list[tuple[Tensor, list[Comparison]]]) -> Tensor:
    total = 0
    for a, others in anchors:
        pull = [-y * cosine(a, x) for x, y in others if y > 0]
        push = [(1 - y) * (cosine(a, x) - 0.5).clamp(min=0) for x, y in others if y < 1]
        total = total + sum(pull) / max(1, len(pull)) + sum(push) / max(1, len(push))
    return total / len(anchors)


def multi_similarity(anchors: list[tuple[Tensor, list[Comparison]]]) -> Tensor:
    total = 0
    for a, others in anchors:
        pull = sum(y * math.e ** (-2 * (cosine(a, x) - 0.5)) for x, y in others)
        push = sum((1 - y) * math.e ** (50 * (cosine(a, x) - 0.5)) for x, y in others)
        total = total + torch.log1p(torch.as_tensor(pull)) / 2 + torch.log1p(torch.as_tensor(push)) / 50
    return total / len(anchors)


def proxy_anchor(anchors: list[tuple[Tensor, list[Comparison]]]) -> Tensor:
    pulls, pushes = [], []
    for a, others in anchors:
        if any(y > 0 for _, y in others):
            pulls.append(torch.log1p(sum(y * math.e ** (-32 * (cosine(a, x) - 0.1)) for x, y in others)))
        push = sum((1 - y) * math.e ** (32 * (cosine(a, x) + 0.1)) for x, y in others)
        pushes.append(torch.log1p(torch.as_tensor(push)))
    return sum(pulls) / max(1, len(pulls)) + sum(pushes) / len(pushes)


def proxies() -> ProxyAnchor:
    return ProxyAnchor(5, 4, generator=seeded(1)).double()


CASES: list[tuple[Callable[[], MetricLoss], Callable[..., Tensor]]] = [
    (Contrastive, contrastive),
    (MultiSimilarity, multi_similarity),
    (proxies, proxy_anchor),
]


def partners(loss: MetricLoss, z: Tensor, labels: Tensor) -> list[tuple[Tensor, list[int], list[int]]]:
    """Every anchor with the indices of its positives and negatives."""
    if isinstance(loss, ProxyAnchor):
        return [
            (p, [i for i, y in enumerate(labels) if y == c], [i for i, y in enumerate(labels) if y != c])
            for c, p in enumerate(loss.proxies)
        ]
    return [
        (z[a], [i for i in range(len(z)) if labels[i] == y and i != a], [i for i in range(len(z)) if labels[i] != y])
        for a, y in enumerate(labels)
    ]


def same(loss: Tensor, expected: Tensor, parameters: list[Tensor]) -> None:
    assert torch.allclose(loss, expected, rtol=1e-9)
    mine = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    assert all(torch.allclose(a, b, rtol=1e-7, atol=1e-10) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(("make", "reference"), CASES)
def test_clean_losses_are_their_equations(make, reference) -> None:
    for seed in range(5):
        loss, z = make(), embeddings(seed=seed).requires_grad_()
        anchors = [
            (a, [(z[i], 1.0) for i in positive] + [(z[i], 0.0) for i in negative])
            for a, positive, negative in partners(loss, z, LABELS)
        ]
        same(loss(z, LABELS), reference(anchors), [z, *loss.parameters()])


@pytest.mark.parametrize(("make", "reference"), CASES)
@pytest.mark.parametrize("pairs", ["positive-negative", "anchor-negative"])
def test_mixed_losses_are_those_of_the_mixed_embeddings(make, reference, pairs) -> None:
    for seed in range(3):
        loss, z = make(), embeddings(seed=seed).requires_grad_()
        criterion = mm.Metrix(loss, alpha=1.5, weight=0.3, pairs=pairs)
        unit = z / z.norm(dim=1, keepdim=True)
        everyone = partners(loss, z, LABELS)
        rows = len(z) if pairs == "positive-negative" else len(everyone)
        lam = criterion._draw(rows, len(z), seeded(seed), z)
        anchors = []
        for k, (a, positive, negative) in enumerate(everyone):
            if pairs == "positive-negative":
                mixtures = [(lam[p, n], unit[p], unit[n]) for p in positive for n in negative]
            else:
                mixtures = [(lam[k, n], a / a.norm(), unit[n]) for n in negative]
            anchors.append((a, [(weight * x + (1 - weight) * y, float(weight)) for weight, x, y in mixtures]))
        expected = loss(z, LABELS) + 0.3 * reference(anchors)
        same(criterion(z, LABELS, seeded(seed)), expected, [z, *loss.parameters()])


def test_similarity_is_the_cosine_with_the_mixture() -> None:
    a, p, n = (torch.nn.functional.normalize(embeddings(50, 3, seed), dim=1) for seed in range(3))
    lam = torch.rand(50, generator=seeded(0), dtype=torch.float64)
    v = lam[:, None] * p + (1 - lam[:, None]) * n
    expected = torch.cosine_similarity(a, v)
    assert torch.allclose(similarity((a * p).sum(1), (a * n).sum(1), (p * n).sum(1), lam), expected)


def test_lambda_is_beta() -> None:
    from scipy import stats

    lam = mm.Metrix(Contrastive(), alpha=2.0)._draw(60, 60, seeded(0), torch.zeros(0, dtype=torch.float64))
    assert stats.kstest(lam.flatten().numpy(), stats.beta(2, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("make", [Contrastive, MultiSimilarity, proxies])
def test_gradients_are_exact(make) -> None:
    loss, z = make(), embeddings(5, 4).requires_grad_()
    labels = LABELS[:5]
    for pairs in ("positive-negative", "anchor-negative"):
        criterion = mm.Metrix(loss, pairs=pairs)
        assert torch.autograd.gradcheck(lambda x, c=criterion: c(x, labels, seeded(3)), (z,))


@pytest.mark.parametrize("make", [Contrastive, MultiSimilarity, proxies])
def test_order_and_lengths_do_not_matter_and_weight_0_is_the_clean_loss(make) -> None:
    loss, z = make(), embeddings()
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    assert torch.allclose(loss(z[order], LABELS[order]), loss(z, LABELS))
    assert torch.allclose(loss(z * 7, LABELS), loss(z, LABELS))
    assert torch.equal(mm.Metrix(loss, weight=0)(z, LABELS), loss(z, LABELS))
    # With one pair of each kind, the drawn lambda is the same number wherever it lands: alpha -> infinity.
    criterion = mm.Metrix(loss, alpha=1e9, pairs="positive-negative")
    assert torch.allclose(criterion(z[order], LABELS[order], seeded(0)), criterion(z, LABELS, seeded(5)), rtol=1e-3)


@pytest.mark.parametrize("make", [Contrastive, MultiSimilarity, lambda: ProxyAnchor(5, 4)])
@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2], [1, 1, 2]])
def test_batches_without_positives_or_negatives(make, labels) -> None:
    loss = make()
    z = embeddings(len(labels)).float().requires_grad_()
    kept, state = z.detach().clone(), torch.get_rng_state()
    for seed in range(4):
        value = mm.Metrix(loss)(z, torch.tensor(labels), seeded(seed))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(z.grad).all()
        assert torch.equal(mm.Metrix(loss)(z, torch.tensor(labels), seeded(seed)), value)
    assert torch.equal(z, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_opposite_embeddings_and_low_precision() -> None:
    z = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]], requires_grad=True)
    value = mm.Metrix(MultiSimilarity(), alpha=1e9, pairs="positive-negative")(z, torch.tensor([0, 1, 0, 1]))
    value.backward()
    assert torch.isfinite(z.grad).all()
    low = mm.Metrix(Contrastive())(embeddings().bfloat16(), LABELS, seeded(0))
    assert low.dtype == torch.float32
    assert torch.allclose(low, mm.Metrix(Contrastive())(embeddings().float(), LABELS, seeded(0)), atol=0.05)


@pytest.mark.parametrize("make", [Contrastive, MultiSimilarity, lambda: proxies().float()])
@pytest.mark.parametrize("pairs", ["positive-negative", "anchor-negative"])
def test_autocast_does_not_reach_it(make, pairs) -> None:
    criterion, z = mm.Metrix(make(), pairs=pairs), embeddings().float()
    plain = criterion(z, LABELS, seeded(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(criterion(z, LABELS, seeded(0)), plain)


def test_proxies_are_normal_and_drawn_from_the_generator() -> None:
    drawn, again, other = (ProxyAnchor(50, 400, generator=seeded(seed)).proxies for seed in (0, 0, 1))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)
    assert drawn.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.02)
    state = torch.get_rng_state()
    ProxyAnchor(3, 4)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, r"loss must be a MetricLoss such as Contrastive\(\), got str", lambda: mm.Metrix("contrastive")),
        (ValueError, "weight must be a number of at least 0, got -1", lambda: mm.Metrix(Contrastive(), weight=-1)),
        (ValueError, "alpha must be a positive number, got 0", lambda: mm.Metrix(Contrastive(), 0)),
        (ValueError, "pairs must be one of", lambda: mm.Metrix(Contrastive(), pairs="all")),
        (ValueError, "beta must be a positive number, got 0", lambda: MultiSimilarity(0)),
        (TypeError, "labels must be class indices", lambda: Contrastive()(torch.ones(2, 3), torch.ones(2))),
        (ValueError, r"embeddings must be \(b, 4\) like", lambda: ProxyAnchor(3, 4)(torch.ones(2, 3), LABELS[:2])),
        (ValueError, "class indices must be in", lambda: ProxyAnchor(2, 4)(torch.ones(7, 4), LABELS)),
    ],
)
def test_mistakes(error, message, call) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_coin_decides_which_pairs_are_mixed() -> None:
    z, kinds = embeddings(), set()
    for seed in range(12):
        generator = seeded(seed)
        kind = "positive-negative" if mm.random.uniform(generator) < 0.5 else "anchor-negative"
        kinds.add(kind)
        expected = mm.Metrix(MultiSimilarity(), pairs=kind)(z, LABELS, generator)
        assert torch.equal(mm.Metrix(MultiSimilarity())(z, LABELS, seeded(seed)), expected)
    assert len(kinds) == 2
