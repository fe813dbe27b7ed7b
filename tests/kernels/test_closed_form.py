"""The limit n -> infinity as one operator: a valid one, equal to its reference with autograd through every tensor."""

import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.functional.oracles import make_targets, normal, rng
from torch import Tensor

import multimix as mm
from multimix.functional import expected_mixed_cross_entropy as expected
from multimix.kernels import closed_form
from multimix.kernels.closed_form import _expected

KINDS = ["index", "soft", "any sum"]


def attention(b: int, r: int, kind: str) -> Tensor | None:
    """None, or random; with zeros, also everywhere at a position."""
    if kind == "uniform":
        return None
    a = torch.rand(b, r, generator=rng(1), dtype=torch.float64)
    if kind == "with zeros":
        a[a < 0.4] = 0
        a[:, 0] = 0
    return a


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 7)),
    kind=st.sampled_from(KINDS),
    own=st.booleans(),
    attended=st.sampled_from(["uniform", "random", "with zeros"]),
    alpha=st.sampled_from([0.02, 0.7, (0.5, 2.0), 50.0]),
    most=st.integers(1, 9),
    normalize=st.sampled_from(["position", "global"]),
    spread_weight=st.sampled_from([0.0, 1.0, 2.5]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    block=st.sampled_from([1, 40, 2**17]),
    seed=st.integers(0, 99),
)
def test_equals_the_reference(
    shape, kind, own, attended, alpha, most, normalize, spread_weight, scale, block, seed
) -> None:
    r, b, c = shape
    # As the criteria pass it: a view of what a classifier returned at every position.
    logits = normal(b, r, c, seed=seed, scale=scale).transpose(0, 1).requires_grad_()
    a, targets = attention(b, r, attended), make_targets(kind, r * b, c).unflatten(0, (r, b))
    targets = targets if own else targets[0]
    values, gradients = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "_BLOCK_CPU", block)
        for implementation in ("fused", "reference"):
            loss = expected(
                logits, targets, a, alpha, normalize, m=min(most, b), spread_weight=spread_weight,
                implementation=implementation,
            )  # fmt: skip
            values.append(loss.detach())
            gradients.append(torch.autograd.grad(3 * loss, logits)[0])
    assert torch.allclose(values[0], values[1], rtol=1e-11, atol=1e-12 * scale)
    assert (gradients[0] - gradients[1]).norm() <= 1e-10 * gradients[1].norm() + 1e-12


@pytest.mark.parametrize(("kind", "dtype", "attended", "pooled", "m"), [
    ("index", torch.float32, "random", False, 4), ("soft", torch.float64, "with zeros", True, 2),
    ("index", torch.bfloat16, "uniform", True, 4), ("any sum", torch.float16, "uniform", False, 1),
])  # fmt: skip
@pytest.mark.parametrize("gradient", [True, False])
def test_is_a_valid_operator(kind, dtype, attended, pooled, m, gradient) -> None:
    r, b, c = 2, 4, 3
    logits = normal(b, r, c, seed=0).to(dtype).transpose(0, 1).requires_grad_(gradient)
    options = 0.5, 2.0, m, pooled, 1.5, gradient
    torch.library.opcheck(_expected, (logits, make_targets(kind, b, c), attention(b, r, attended), *options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attended", ["uniform", "with zeros"])
def test_gradient_by_differences_and_twice(kind, attended) -> None:
    logits, targets, a = normal(2, 4, 3, seed=0, scale=2).requires_grad_(), make_targets(kind, 4, 3), None
    a = attention(4, 2, attended)

    def function(logits: Tensor) -> Tensor:
        return expected(logits, targets, a, (0.5, 2.0), "global", m=3, spread_weight=0.5, implementation="fused")

    assert torch.autograd.gradcheck(function, logits)
    assert torch.autograd.gradgradcheck(function, logits)


def test_examples_that_share_the_largest_excess_share_its_slope() -> None:
    logits = normal(1, 3, 4, seed=0, scale=2).repeat_interleave(2, 1).requires_grad_()
    loss = expected(logits, torch.tensor([0, 0, 1, 1, 2, 2]), alpha=0.3, implementation="fused")
    gradient = torch.autograd.grad(loss, logits)[0]
    assert torch.allclose(gradient[:, ::2], gradient[:, 1::2], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_is_close_to_float64(dtype) -> None:
    # Logits far from 0 lose nothing: x is centred before anything is squared or exponentiated.
    half = (normal(3, 64, 50, seed=0, scale=5) + 100).to(dtype)
    labels, a = make_targets("index", 64, 50), attention(64, 3, "with zeros")
    found = []
    for logits in (half, half.double()):
        logits.requires_grad_()
        loss = expected(logits, labels, a.to(torch.float32).to(logits.dtype) if logits.dtype == torch.float64 else a)
        found.append((loss.detach().double(), torch.autograd.grad(loss, logits)[0].double()))
    assert found[0][0] == pytest.approx(float(found[1][0]), rel=1e-5)
    bound = 1e-4 if dtype == torch.float32 else 4e-3  # of which half is the gradient's own rounding
    assert (found[0][1] - found[1][1]).norm() < bound * found[1][1].norm()


@pytest.mark.parametrize("needs", ["targets", "attention"])
def test_reference_where_more_needs_a_gradient(needs) -> None:
    logits, targets, a = normal(2, 4, 3, seed=0), make_targets("soft", 4, 3), attention(4, 2, "random")
    other = (targets if needs == "targets" else a).requires_grad_()
    assert torch.isfinite(torch.autograd.grad(expected(logits, targets, a), other)[0]).all()
    with pytest.raises(ValueError, match="implementation='fused' has no gradient in targets or attention: detach"):
        expected(logits, targets, a, implementation="fused")


def test_logits_are_left_as_they_are_and_need_no_gradient() -> None:
    logits, labels = normal(2, 5, 4, seed=0), make_targets("index", 5, 4)
    before = logits.clone()
    loss = expected(logits, labels)
    assert torch.equal(logits, before)
    assert not loss.requires_grad
    with torch.inference_mode():
        assert torch.equal(expected(logits, labels), loss)
    assert torch.allclose(expected(logits, labels, implementation="reference"), loss, rtol=1e-13)


def test_what_is_kept_from_a_call_in_inference_mode_serves_training() -> None:
    logits, labels = normal(2, 5, 4, seed=0).requires_grad_(), make_targets("index", 5, 4)
    before = torch.autograd.grad(expected(logits, labels), logits)[0]
    closed_form._uniform.cache_clear()
    with torch.inference_mode():
        expected(logits.detach(), labels)
    assert closed_form._uniform.cache_info().misses == 1
    assert torch.equal(torch.autograd.grad(expected(logits, labels), logits)[0], before)
    assert closed_form._uniform.cache_info().misses == 1


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile on the CPU needs a C++ compiler"
)
@pytest.mark.slow
def test_criteria_compile_into_one_graph() -> None:
    head, features, labels = torch.nn.Linear(6, 3), torch.randn(8, 6, 2, 2, generator=rng(0)), torch.arange(8) % 3
    criterion = mm.DenseMultiMix(math.inf)
    compiled = torch.compile(lambda x: criterion(x, labels, head), fullgraph=True)
    losses, gradients = [], []
    for function in (compiled, lambda x: criterion(x, labels, head)):
        leaf = features.clone().requires_grad_()
        losses.append(function(leaf))
        gradients.append(torch.autograd.grad(losses[-1], leaf)[0])
    assert torch.allclose(*losses, rtol=1e-5)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)
