"""Convex combinations (6), (7), (12), (13), against loops."""

import pytest
import torch
from tests.functional.oracles import combine, make_targets, normal, one_hot, rows_of, simplex

from multimix.functional import interpolate


@pytest.mark.parametrize("kind", ["index", "soft", "any sum"])
@pytest.mark.parametrize(("n", "b", "d", "c"), [(7, 4, 3, 5), (1, 1, 1, 1), (2, 5, 3, 2), (3, 1, 2, 4)])
def test_equations_6_and_7(kind, n, b, d, c) -> None:
    z, lam, targets = normal(b, d, seed=0), simplex(n, b, seed=1), make_targets(kind, b, c)
    mixed, y = interpolate(z, targets, lam, num_classes=c)
    assert mixed.shape == (n, d)
    assert y.shape == (n, c)
    for k, row in enumerate(lam.tolist()):
        assert mixed[k].tolist() == pytest.approx(combine(row, z.tolist()), rel=1e-12)
        assert y[k].tolist() == pytest.approx(combine(row, rows_of(targets, c)), rel=1e-12)


def test_targets_beside_embeddings_in_float64_are_not_rounded_by_weights_in_float32() -> None:
    z, lam, y = normal(5, 3, seed=0), simplex(7, 5, seed=1).float(), normal(5, seed=2)
    mixed, soft = interpolate(z, y, lam)
    assert mixed.dtype == soft.dtype == torch.float64
    assert torch.allclose(soft, lam.double() @ y, rtol=1e-12, atol=0)
    assert interpolate(z.float(), y, lam)[1].dtype == torch.float32


def test_equations_12_and_13() -> None:
    r, n, b, d, c = 3, 4, 5, 2, 6
    z, lam, targets = normal(r, b, d, seed=0), simplex(r, n, b, seed=1), make_targets("soft", b, c)
    mixed, y = interpolate(z, targets, lam)
    assert mixed.shape == (r, n, d)
    assert y.shape == (r, n, c)
    for j in range(r):
        for k, row in enumerate(lam[j].tolist()):
            assert mixed[j, k].tolist() == pytest.approx(combine(row, z[j].tolist()), rel=1e-12)
            assert y[j, k].tolist() == pytest.approx(combine(row, targets.tolist()), rel=1e-12)


@pytest.mark.parametrize("shape", [(), (4,), (3, 2, 2), (2, 1, 2, 3)])
def test_any_layer_can_be_mixed(shape) -> None:
    z, lam = normal(5, *shape, seed=0), simplex(3, 5, seed=1)
    mixed, _ = interpolate(z, torch.eye(5), lam)
    assert torch.allclose(mixed, torch.einsum("nb,b...->n...", lam, z))


def test_gradients() -> None:
    inputs = [t.requires_grad_() for t in (normal(4, 3, seed=0), make_targets("soft", 4, 2), simplex(5, 4, seed=1))]
    assert torch.autograd.gradcheck(interpolate, inputs)
    assert torch.autograd.gradgradcheck(interpolate, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_summed_in_float32(dtype, autocast) -> None:
    z, lam = normal(128, 16, seed=0).to(dtype), simplex(50, 128, seed=1)
    labels = make_targets("index", 128, 10)
    with torch.autocast("cpu", dtype, enabled=autocast):
        mixed, y = interpolate(z, labels, lam.float(), num_classes=10)
        half = lam.to(dtype) @ z
    exact = lam @ z.double()
    assert mixed.dtype == dtype
    assert y.dtype == torch.float32
    assert torch.allclose(y.double(), lam @ one_hot(labels, 10), atol=1e-6)
    # What is left is one rounding of the result; summing in half precision would be worse.
    assert ((mixed.double() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps / 2 + 1e-6).all()
    assert (half.double() - exact).norm() > 1.3 * (mixed.double() - exact).norm()


def test_inputs_are_not_modified_and_need_not_be_contiguous() -> None:
    z, y, lam = normal(3, 4, seed=0).mT, normal(8, 6, seed=1)[::2, 1::2].abs(), simplex(4, 10, seed=2).mT[::2]
    copies = [t.clone() for t in (z, y, lam)]
    mixed, targets = interpolate(z, y, lam)
    assert all(torch.equal(t, copy) for t, copy in zip((z, y, lam), copies, strict=True))
    again = interpolate(z.contiguous(), y.contiguous(), lam.contiguous())
    assert torch.allclose(mixed, again[0])
    assert torch.allclose(targets, again[1])


@pytest.mark.parametrize("shape", [(), (2,), (3, 4, 4)])
@pytest.mark.parametrize("positions", [None, 2])
def test_numbers_of_any_shape_are_mixed(shape: tuple[int, ...], positions: int | None) -> None:
    b, n, leading = 5, 7, () if positions is None else (positions,)
    y, z = normal(b, *shape, seed=1), normal(*leading, b, 3, seed=2)
    lam = simplex(*leading, n, b, seed=3)
    _, mixed = interpolate(z, y, lam)
    assert mixed.shape == (*leading, n, *shape)
    for index in [(k,) for k in range(n)] if positions is None else [(j, k) for j in range(2) for k in range(n)]:
        expected = sum(lam[(*index, i)] * y[i] for i in range(b))
        assert torch.allclose(mixed[index], expected, rtol=1e-12)
