"""Attention maps (9) and attended weights (10), (11), against loops and their invariances."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.functional.oracles import attend_loop, attention_loop, make_targets, normal, rng, simplex

from multimix.functional import attend, attention_map, mixed_cross_entropy

ALL = list(itertools.product(["gap", "cam", "uniform"], ["relu", "softmax"]))


def vectors(by: str, b: int, d: int, kind: str = "index") -> dict:
    return {"targets": make_targets(kind, b, 4), "weight": normal(4, d, seed=5)} if by == "cam" else {}


@pytest.mark.parametrize(("by", "nonlinearity"), ALL)
@pytest.mark.parametrize("kind", ["index", "soft", "any sum"])
@pytest.mark.parametrize(("b", "r", "d"), [(3, 5, 4), (1, 1, 1), (1, 7, 2), (4, 1, 3)])
def test_equation_9(by, nonlinearity, kind, b, r, d) -> None:
    features, more = normal(b, r, d, seed=0), vectors(by, b, d, kind)
    a = attention_map(features, by, nonlinearity, **more)
    expected = attention_loop(features, by, nonlinearity, more.get("targets"), more.get("weight"))
    assert a.shape == (b, r)
    assert a.dtype == torch.float64
    assert torch.allclose(a, torch.tensor(expected, dtype=torch.float64), rtol=1e-10)


@pytest.mark.parametrize(("by", "nonlinearity"), ALL)
@pytest.mark.parametrize("padding", [0.0, 1e30, float("inf"), float("nan")])
def test_padding_has_no_influence(by, nonlinearity, padding) -> None:
    b, r, d = 4, 6, 3
    features, more = normal(b, r, d, seed=1), vectors(by, b, d)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    features = features.masked_fill(~mask[..., None], padding)
    features.requires_grad_()
    a = attention_map(features, by, nonlinearity, mask=mask, **more)
    assert (a[~mask] == 0).all()
    for i in range(b - 1):  # the same as leaving the padded positions out
        one = {"targets": more["targets"][i : i + 1], "weight": more["weight"]} if more else {}
        short = attention_map(features[i : i + 1, mask[i]], by, nonlinearity, **one)
        assert torch.allclose(a[i, mask[i]], short[0], rtol=1e-10)
    if by != "uniform":
        (gradient,) = torch.autograd.grad((a * normal(b, r, seed=2)).sum(), features)
        assert torch.isfinite(gradient).all()
        assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, True, False, True]])])
@pytest.mark.parametrize("by", ["gap", "cam"])
def test_all_zero_map_becomes_uniform(by, mask) -> None:
    if by == "gap":
        features, more = torch.zeros(1, 4, 2), {}
    else:  # every position points away from the class
        features, more = (
            torch.rand(1, 4, 2, generator=rng(0)),
            {"targets": torch.tensor([1]), "weight": -torch.ones(2, 2)},
        )
    features.requires_grad_()
    a = attention_map(features, by, mask=mask, **more)
    expected = torch.full((1, 4), 0.25) if mask is None else torch.tensor([[1 / 3, 1 / 3, 0, 1 / 3]])
    assert torch.allclose(a, expected)
    (gradient,) = torch.autograd.grad((a * torch.arange(4)).sum(), features)
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e12, 1e20, 1e30])
@pytest.mark.parametrize("by", ["gap", "cam"])
def test_relu_attention_does_not_depend_on_scale(by, scale, dtype) -> None:
    features, more = normal(3, 5, 4, seed=3), vectors(by, 3, 4)
    expected = attention_map(features, by, **more)
    features = (features * scale).to(dtype).requires_grad_()
    a = attention_map(features, by, **more)
    assert torch.allclose(a.double(), expected, rtol=1e-4)
    assert a.dtype == dtype


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
@pytest.mark.parametrize("by", ["gap", "cam"])
def test_softmax_of_extreme_scores(by, scale) -> None:
    features, more = normal(3, 5, 4, seed=4), vectors(by, 3, 4)
    a = attention_map((features * scale).float(), by, "softmax", **more)
    if scale < 1:
        assert torch.allclose(a, torch.full((3, 5), 0.2))
    else:
        first = attention_map(features, by, "softmax", **more).argmax(1)
        assert torch.allclose(a, torch.nn.functional.one_hot(first, 5).float())


@pytest.mark.parametrize(("by", "nonlinearity"), ALL[:4])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_attention(by, nonlinearity, masked) -> None:
    features, more = normal(3, 4, 3, seed=6).requires_grad_(), vectors(by, 3, 3, "soft")
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]]).bool() if masked else None
    extra = [t.requires_grad_() for t in more.values()]

    def function(features, *extra):
        return attention_map(features, by, nonlinearity, *extra, mask=mask)

    assert torch.autograd.gradcheck(function, (features, *extra))
    assert torch.autograd.gradgradcheck(function, (features, *extra))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    way=st.sampled_from(ALL),
    b=st.integers(1, 6),
    r=st.integers(1, 9),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 100.0]),
    seed=st.integers(0, 10**6),
)
def test_rows_are_on_the_simplex_of_real_positions(way, b, r, dtype, scale, seed) -> None:
    features = normal(b, r, 3, seed=seed, scale=scale).to(dtype)
    mask = torch.rand(b, r, generator=rng(seed)) < 0.7
    a = attention_map(features, *way, mask=mask, **vectors(way[0], b, 3))
    assert a.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (a >= 0).all()
    assert (a[~mask] == 0).all()
    assert torch.allclose(a.sum(1), mask.any(1).to(a.dtype), atol=1e-5)
    order = torch.randperm(r, generator=rng(seed + 1))
    moved = attention_map(features[:, order], *way, mask=mask[:, order], **vectors(way[0], b, 3))
    assert torch.allclose(moved, a[:, order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_class_indices_of_any_integer_type(dtype) -> None:
    features, weight, labels = normal(3, 5, 4, seed=7), normal(4, 4, seed=8), torch.tensor([3, 0, 3])
    expected = attention_map(features, "cam", targets=labels, weight=weight)
    assert torch.equal(attention_map(features, "cam", targets=labels.to(dtype), weight=weight), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_is_computed_in_float32_under_autocast(dtype) -> None:
    features = normal(4, 9, 64, seed=9).to(dtype)
    with torch.autocast("cpu", dtype):
        a = attention_map(features)
    assert a.dtype == torch.float32
    assert torch.allclose(a.double(), attention_map(features.double()), atol=1e-6)


def test_attention_inputs_are_not_modified_and_need_not_be_contiguous() -> None:
    features = normal(4, 3, 2, 5, seed=10).flatten(2).mT  # as a convolutional network's map is turned into tokens
    mask = (torch.rand(10, 4, generator=rng(1)) < 0.5).mT
    copies = features.clone(), mask.clone()
    for way in ALL:
        more = vectors(way[0], 4, 3)
        a = attention_map(features, *way, mask=mask, **more)
        assert torch.equal(features, copies[0])
        assert torch.equal(mask, copies[1])
        again = attention_map(features.contiguous(), *way, mask=mask.contiguous(), **more)
        assert torch.allclose(a, again, rtol=1e-12)


def attention_with_zeros(b: int, r: int, seed: int) -> torch.Tensor:
    a = torch.rand(b, r, generator=rng(seed), dtype=torch.float64)
    return a * (torch.rand(b, r, generator=rng(seed + 1)) < 0.6)


@pytest.mark.parametrize(("r", "n", "b"), [(3, 4, 5), (1, 1, 1), (6, 2, 2)])
def test_equations_10_and_11(r, n, b) -> None:
    lam, a = simplex(r, n, b, seed=0), attention_with_zeros(b, r, seed=3)
    a[:, -1] = 0  # a position that no example attends to
    lam_hat, s = attend(lam, a)
    hats, norms = attend_loop(lam, a)
    assert torch.allclose(lam_hat, torch.tensor(hats, dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(s, torch.tensor(norms, dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(lam_hat.sum(-1), (s > 0).double())
    assert (lam_hat[-1] == 0).all()
    assert (s[-1] == 0).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    r=st.integers(1, 5),
    n=st.integers(1, 5),
    b=st.integers(1, 5),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e6]),
    seed=st.integers(0, 10**6),
)
def test_attended_weights_stay_on_the_simplex(r, n, b, scale, seed) -> None:
    lam, a = simplex(r, n, b, seed=seed).float(), attention_with_zeros(b, r, seed=seed).float()
    lam_hat, s = attend(lam, a * scale)
    assert (lam_hat >= 0).all()
    assert torch.allclose(lam_hat.sum(-1), (s > 0).float(), atol=1e-6)
    assert torch.equal(s > 0, (a.mT > 0).any(-1)[:, None].expand(r, n))
    # Attention matters by its ratios within a position.
    hat, norm = attend(lam, a)
    assert torch.allclose(lam_hat, hat, atol=1e-6)
    assert torch.allclose(s, norm * scale, rtol=1e-5)


def test_gradients_of_attended_weights() -> None:
    lam, a = simplex(3, 4, 5, seed=0).requires_grad_(), simplex(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(attend, (lam, a))
    assert torch.autograd.gradgradcheck(attend, (lam, a))
    a = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(sum(out.sum() for out in attend(lam, a)), (lam, a))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("r", [4, 49, 196])
def test_half_precision_weights_are_attended_in_float32(dtype, r) -> None:
    lam, a = simplex(r, 5, 7, seed=0).to(dtype), simplex(7, r, seed=1).to(dtype)
    lam_hat, s = attend(lam, a)
    expected, weight = attend(lam.double(), a.double())
    assert lam_hat.dtype == s.dtype == torch.float32
    assert torch.allclose(lam_hat.double(), expected, atol=1e-6)
    assert torch.allclose(s.double(), weight, rtol=1e-6)


def test_attend_leaves_its_inputs_alone() -> None:
    lam, a = simplex(5, 4, 3, seed=0).transpose(0, 2), simplex(5, 3, seed=1)
    copies = lam.clone(), a.clone()
    lam_hat, s = attend(lam, a)
    assert torch.equal(lam, copies[0])
    assert torch.equal(a, copies[1])
    again = attend(lam.contiguous(), a)
    assert torch.allclose(lam_hat, again[0])
    assert torch.allclose(s, again[1])


def test_second_derivatives_where_a_mixture_has_hardly_any_attention() -> None:
    """Of (14), against its definition in float64, which holds the cube of such a sum."""
    lam = torch.tensor([[[0.6, 0.3, 0.1], [1.0, 1e-25, 0.0], [1.0, 0.0, 1e-30]]])
    logits, labels = normal(1, 3, 4, seed=1), torch.tensor([0, 3, 2])
    confidence, direction = torch.tensor([[-1.0], [0.5], [0.7]]), normal(3, 1, seed=2)

    def ours(a: torch.Tensor) -> torch.Tensor:
        return mixed_cross_entropy(logits.float(), labels, *attend(lam, a))

    def definition(a: torch.Tensor) -> torch.Tensor:
        M = lam[0].double() * a.T
        s = M.sum(1)
        mixed, soft = (M / s[:, None]) @ logits[0], (M / s[:, None]) @ torch.eye(4, dtype=torch.float64)[labels]
        return -(s / s.sum() * (soft * mixed.log_softmax(-1)).sum(-1)).sum()

    found = []
    for loss, dtype in ((ours, torch.float32), (definition, torch.float64)):
        x = confidence.to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x.relu()), x, create_graph=True)
        found.append(torch.autograd.grad((gradient * direction.to(dtype)).sum(), x)[0].double())
    assert torch.allclose(*found, rtol=1e-4, atol=1e-6)
