"""m-Mix against loops written from the equations, its SimCLR limit and its symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import multimix as mm


def views(b: int = 6, d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views that are close, of examples of which some are close too."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(3, d, generator=g, dtype=torch.float64)
    first = base[torch.arange(b) % 3] + 0.3 * torch.randn(b, d, generator=g, dtype=torch.float64)
    return first, first + 0.2 * torch.randn(b, d, generator=g, dtype=torch.float64)


def nt_xent(z: list[Tensor], tau: float) -> Tensor:
    """Of unit vectors z_1 .. z_2b, where i and i + b are a pair (Chen et al., ICML 2020, equation 1)."""
    count, total = len(z), torch.zeros((), dtype=torch.float64)
    for i in range(count):
        pair = (i + count // 2) % count
        others = sum(math.e ** (z[i] @ z[k] / tau) for k in range(count) if k != i)
        total = total - torch.log(math.e ** (z[i] @ z[pair] / tau) / others)
    return total / count


def unit(embeddings: Tensor) -> list[Tensor]:
    return [e / e.norm() for e in embeddings]


def mixed(embeddings: Tensor, threshold: float, *, constant: bool) -> list[Tensor]:
    z = unit(embeddings)
    result = []
    for i in range(len(z)):
        similar = {j: z[i] @ z[j] for j in range(len(z)) if j == i or z[i] @ z[j] >= threshold}
        odds = {j: torch.exp(s.detach() if constant else s) for j, s in similar.items()}
        result.append(sum(odd / sum(odds.values()) * z[j] for j, odd in odds.items()))
    return result


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.95])
def test_loss_and_gradient_are_those_of_the_loops(threshold: float, detach: bool) -> None:
    for seed in range(5):
        first, second = (v.requires_grad_() for v in views(seed=seed))
        loss = mm.MMix(0.4, threshold, detach_weights=detach)(first, second)
        z = mixed(first, threshold, constant=detach) + unit(second)
        expected = nt_xent(z, 0.4)
        assert torch.allclose(loss, expected, rtol=1e-12)
        for mine, theirs in zip(
            torch.autograd.grad(loss, (first, second)), torch.autograd.grad(expected, (first, second)), strict=True
        ):
            assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_without_similar_embeddings_it_is_simclr() -> None:
    first, second = views()
    z = unit(first) + unit(second)
    for threshold in (1, 1.0, 1 - 1e-9):
        assert torch.allclose(mm.MMix(0.5, threshold)(first, second), nt_xent(z, 0.5), rtol=1e-12)


def test_mixing_makes_negatives_harder() -> None:
    first, second = views()
    assert mm.MMix(threshold=0.5)(first, second) > mm.MMix(threshold=1.0)(first, second)


def test_gradient_through_the_weights_is_exact() -> None:
    criterion = mm.MMix(threshold=0.5, detach_weights=False)
    assert torch.autograd.gradcheck(criterion, tuple(v.requires_grad_() for v in views(4, 3)))


def test_similar_examples_become_hard_negatives() -> None:
    """What is mixed with an example comes nearer to it, and what is not does not."""
    first, second = views()
    criterion = mm.MMix(threshold=0.8)
    z, others = torch.stack(unit(first)), torch.stack(unit(second))
    s = z @ z.mT
    nearer = criterion.mix(first) @ others.mT > z @ others.mT
    similar = (s >= 0.8) & ~torch.eye(6, dtype=torch.bool)
    assert similar.any(dim=1).all()
    assert nearer[similar].double().mean() > 0.9
    assert torch.equal(criterion.mix(first[:3]), z[:3])  # of three classes, nothing similar


def test_order_and_lengths_do_not_matter() -> None:
    first, second = views()
    criterion = mm.MMix(threshold=0.8)
    loss = criterion(first, second)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.allclose(criterion(first[order], second[order]), loss, rtol=1e-12)
    assert torch.allclose(
        criterion(3 * first, second * torch.rand(6, 1, dtype=torch.float64).add(0.1)), loss, rtol=1e-12
    )
    assert not torch.allclose(criterion(first, second[order]), loss)


def test_precisions_and_small_batches() -> None:
    first, second = views()
    expected = mm.MMix()(first, second)
    assert torch.allclose(mm.MMix()(first.float(), second.float()).double(), expected, atol=1e-5)
    low = mm.MMix()(first.bfloat16(), second.bfloat16())
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), expected, atol=0.05)
    assert mm.MMix()(first[:1], second[:1]) == 0
    zero = torch.zeros(3, 4, requires_grad=True)
    loss = mm.MMix()(zero, zero)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(zero.grad).all()


def test_autocast_does_not_reach_it() -> None:
    first, second = (v.float() for v in views())
    plain = mm.MMix(threshold=0.5)(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mm.MMix(threshold=0.5)(first, second), plain)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "temperature must be a positive number, got 0", lambda: mm.MMix(0)),
        (ValueError, "threshold must be a positive number, got -1", lambda: mm.MMix(threshold=-1)),
        (ValueError, "threshold must be a cosine similarity, at most 1, got 3", lambda: mm.MMix(threshold=3)),
        (ValueError, "threshold must be a positive number, got nan", lambda: mm.MMix(threshold=math.nan)),
        (TypeError, "first must be floating point", lambda: mm.MMix()(torch.ones(2, 3).int(), torch.ones(2, 3))),
        (ValueError, r"second must be \(b, d\)", lambda: mm.MMix()(torch.ones(2, 3), torch.ones(2))),
        (ValueError, "two views must agree", lambda: mm.MMix()(torch.ones(2, 3), torch.ones(3, 3))),
    ],
)
def test_mistakes(error, message, call) -> None:
    with pytest.raises(error, match=message):
        call()
