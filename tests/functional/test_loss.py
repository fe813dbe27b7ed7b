"""The mixed cross entropy (8), (14): values against loops, gradients against PyTorch's own cross entropy."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.functional.oracles import direct_loss, loss_loop, make_targets, normal, one_hot, rng, simplex
from torch import Tensor

from multimix.functional import mixed_cross_entropy, sample_weights

KINDS = ["index", "soft", "any sum"]
NORMALIZE = ["position", "global", "none"]
IMPLEMENTATIONS = ["auto", "fused", "reference"]


def make_weight(kind: str, r: int, n: int) -> Tensor | None:
    if kind == "none":
        return None
    weight = torch.rand(r, n, generator=rng(4), dtype=torch.float64)
    if kind == "some zero":
        weight[:, ::2] = 0
        weight[-1] = 0
    return weight * (kind != "all zero")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["none", "random", "some zero", "all zero"])
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_value_is_equation_14(kind, weighting, normalize, implementation) -> None:
    for r, n, b, c in [(3, 5, 4, 3), (1, 1, 1, 1), (2, 1, 3, 2), (2, 9, 2, 4), (1, 3, 1, 5)]:
        logits, lam = normal(r, b, c, seed=0, scale=3), simplex(r, n, b, seed=1)
        targets, weight = make_targets(kind, b, c), make_weight(weighting, r, n)
        loss = mixed_cross_entropy(logits, targets, lam, weight, normalize, implementation)
        assert loss.shape == ()
        assert loss.dtype == torch.float64
        assert float(loss) == pytest.approx(loss_loop(logits, targets, lam, weight, normalize), rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 2)])
def test_any_leading_dimensions(leading, normalize, implementation) -> None:
    n, b, c = 4, 3, 5
    logits, lam, targets = normal(*leading, b, c, seed=0), simplex(*leading, n, b, seed=1), make_targets("index", b, c)
    weight = torch.rand(*leading, n, generator=rng(2), dtype=torch.float64)
    expected = loss_loop(logits.view(-1, b, c), targets, lam.view(-1, n, b), weight.view(-1, n), normalize)
    loss = mixed_cross_entropy(logits, targets, lam, weight, normalize, implementation)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_gradients_are_those_of_the_direct_form(kind, normalize, weighted, implementation) -> None:
    r, n, b, c = 3, 11, 6, 4
    targets = make_targets(kind, b, c)
    inputs = [normal(r, b, c, seed=0, scale=3), simplex(r, n, b, seed=1)]
    inputs += [make_weight("random", r, n)] if weighted else []
    inputs = [t.requires_grad_() for t in inputs]
    logits, lam, weight = (*inputs, None)[:3]
    loss = mixed_cross_entropy(logits, targets, lam, weight, normalize, implementation)
    expected = direct_loss(lam @ logits, lam @ one_hot(targets, c), weight, normalize)
    assert torch.allclose(loss, expected, rtol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
def test_gradients_and_second_gradients_by_differences(kind, normalize, implementation, which) -> None:
    inputs = [normal(2, 3, 3, seed=0, scale=2), simplex(2, 4, 3, seed=1), make_weight("random", 2, 4)]
    inputs = [t.requires_grad_(i in which) for i, t in enumerate(inputs)]
    targets = make_targets(kind, 3, 3)

    def function(logits: Tensor, lam: Tensor, weight: Tensor) -> Tensor:
        return mixed_cross_entropy(logits, targets, lam, weight, normalize, implementation)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_targets_may_need_a_gradient() -> None:
    logits, lam, targets = normal(3, 4, seed=0), simplex(5, 3, seed=1), make_targets("soft", 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: mixed_cross_entropy(logits, t, lam), targets)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_weights_give_plain_cross_entropy(implementation, kind) -> None:
    logits, targets = normal(6, 5, seed=0, scale=4), make_targets(kind, 6, 5)
    logits.requires_grad_()
    loss = mixed_cross_entropy(logits, targets, torch.eye(6, dtype=torch.float64), implementation=implementation)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    assert torch.allclose(loss, expected, rtol=1e-12)
    ours, theirs = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0]
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-15)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    r=st.integers(1, 3),
    n=st.integers(1, 6),
    b=st.integers(1, 6),
    c=st.integers(1, 6),
    kind=st.sampled_from(KINDS),
    normalize=st.sampled_from(NORMALIZE),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 10**6),
)
def test_properties(r, n, b, c, kind, normalize, scale, seed) -> None:
    logits, lam, targets = (
        normal(r, b, c, seed=seed, scale=scale),
        simplex(r, n, b, seed=seed),
        make_targets(kind, b, c),
    )
    weight = torch.rand(r, n, generator=rng(seed), dtype=torch.float64) + 0.1

    def loss(*inputs: Tensor, implementation: str = "fused") -> float:
        return float(mixed_cross_entropy(*inputs, normalize, implementation))

    value = loss(logits, targets, lam, weight)
    close = {"rel": 1e-9, "abs": 1e-9 * max(1.0, scale)}
    assert value >= -close["abs"]
    assert loss(logits, targets, lam, weight, implementation="reference") == pytest.approx(value, **close)
    # Neither the order of the examples, of the mixtures, of the positions nor of the classes matters.
    examples, mixtures, positions = (torch.randperm(k, generator=rng(seed)) for k in (b, n, r))
    assert loss(logits[:, examples], targets[examples], lam[..., examples], weight) == pytest.approx(value, **close)
    assert loss(logits, targets, lam[:, mixtures], weight[:, mixtures]) == pytest.approx(value, **close)
    assert loss(logits[positions], targets, lam[positions], weight[positions]) == pytest.approx(value, **close)
    classes = torch.randperm(c, generator=rng(seed))
    renamed = targets[:, classes] if targets.ndim == 2 else classes.argsort()[targets]
    assert loss(logits[..., classes], renamed, lam, weight) == pytest.approx(value, **close)
    # Nor do a constant added to the logits of an example and, for means, the scale of the weights.
    heavier = 7 * value if normalize == "none" else value
    assert loss(logits, targets, lam, 7 * weight) == pytest.approx(heavier, rel=1e-9, abs=7 * close["abs"])
    shifted = logits + normal(r, b, 1, seed=seed + 1, scale=10)
    assert loss(shifted, targets, lam, weight) == pytest.approx(value, **close)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_zero_weights_give_zero_loss_and_gradients(implementation, normalize) -> None:
    inputs = [normal(2, 3, 4, seed=0), simplex(2, 5, 3, seed=1), torch.zeros(2, 5, dtype=torch.float64)]
    logits, lam, weight = (t.requires_grad_() for t in inputs)
    loss = mixed_cross_entropy(logits, torch.tensor([0, 3, 1]), lam, weight, normalize, implementation)
    assert loss == 0
    gradients = torch.autograd.grad(loss, (logits, lam, weight))
    assert (gradients[0] == 0).all()
    assert (gradients[1] == 0).all()
    assert torch.isfinite(gradients[2]).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_mixtures_give_zero(implementation) -> None:
    logits, lam = normal(3, 4, seed=0).requires_grad_(), torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    loss = mixed_cross_entropy(logits, torch.tensor([0, 3, 1]), lam, implementation=implementation)
    assert loss == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_positions_without_weight_do_not_count() -> None:
    logits, lam, targets = normal(3, 4, 5, seed=0), simplex(3, 6, 4, seed=1), make_targets("index", 4, 5)
    weight = make_weight("random", 3, 6)
    weight[1] = 0
    both = [0, 2]
    for normalize, implementation in itertools.product(NORMALIZE, IMPLEMENTATIONS):
        loss = mixed_cross_entropy(logits, targets, lam, weight, normalize, implementation)
        rest = mixed_cross_entropy(logits[both], targets, lam[both], weight[both], normalize, implementation)
        assert torch.allclose(loss, rest, rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_index_targets_of_any_integer_type(dtype, implementation) -> None:
    logits, lam, labels = normal(4, 5, seed=0), simplex(6, 4, seed=1), torch.tensor([4, 0, 4, 2])
    loss = mixed_cross_entropy(logits, labels.to(dtype), lam, implementation=implementation)
    assert torch.equal(loss, mixed_cross_entropy(logits, labels, lam, implementation=implementation))


@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_not_modified_and_need_not_be_contiguous(implementation, kind) -> None:
    r, n, b, c = 3, 5, 4, 6
    logits = normal(c, 2 * b, r, seed=0).permute(2, 1, 0)[:, ::2].requires_grad_()
    lam = simplex(n, r, b, seed=1).transpose(0, 1).requires_grad_()
    weight = make_weight("random", n, r).mT.requires_grad_()
    targets = make_targets(kind, b, c) if kind == "index" else make_targets(kind, b, 2 * c)[:, ::2]
    inputs = (logits, targets, lam, weight)
    copies = [t.detach().clone() for t in inputs]
    loss = mixed_cross_entropy(*inputs, implementation=implementation)
    gradients = torch.autograd.grad(loss, (logits, lam, weight))
    assert all(torch.equal(t.detach(), copy) for t, copy in zip(inputs, copies, strict=True))
    dense = [t.contiguous().requires_grad_(i != 1) for i, t in enumerate(copies)]
    again = mixed_cross_entropy(*dense, implementation=implementation)
    assert torch.allclose(loss, again, rtol=1e-13)
    for ours, theirs in zip(gradients, torch.autograd.grad(again, (dense[0], dense[2], dense[3])), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_expanded_logits_collect_the_gradient_of_every_position() -> None:
    logits, lam = normal(4, 3, seed=0).requires_grad_(), simplex(5, 6, 4, seed=1)
    labels = torch.tensor([0, 2, 1, 1])
    loss = mixed_cross_entropy(logits.expand(5, 4, 3), labels, lam)
    flat = mixed_cross_entropy(logits, labels, lam.flatten(0, 1))
    assert torch.allclose(loss, flat, rtol=1e-13)
    assert torch.allclose(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(flat, logits)[0], rtol=1e-11)


def test_float32_is_accurate() -> None:
    logits, labels = normal(2, 64, 50, seed=0, scale=5), make_targets("index", 64, 50)
    lam = sample_weights(500, 64, positions=2, generator=rng(1), dtype=torch.float64)
    for offset in (0.0, 100.0, 1e4):
        shifted = (logits + offset).float().requires_grad_()
        loss = mixed_cross_entropy(shifted, labels, lam.float())
        exact = shifted.detach().double().requires_grad_()
        expected = mixed_cross_entropy(exact, labels, lam, implementation="reference")
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        ours, theirs = torch.autograd.grad(loss, shifted)[0], torch.autograd.grad(expected, exact)[0]
        assert (ours.double() - theirs).norm() < 3e-6 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_mixed_in_float32(dtype, implementation, kind, autocast) -> None:
    logits, targets = normal(128, 20, seed=0, scale=3).to(dtype).requires_grad_(), make_targets(kind, 128, 20)
    lam = sample_weights(400, 128, generator=rng(1), dtype=torch.float64)
    exact = logits.detach().double().requires_grad_()
    expected = mixed_cross_entropy(exact, targets, lam, implementation="reference")
    with torch.autocast("cpu", dtype, enabled=autocast):
        loss = mixed_cross_entropy(logits, targets, lam.float(), implementation=implementation)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    ours, theirs = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, exact)[0]
    assert ours.dtype == dtype
    assert (ours.double() - theirs).norm() < torch.finfo(dtype).eps * theirs.norm()
    # Mixing in half precision instead would lose what tells mixed points apart.
    half, full = (
        torch.nn.functional.cross_entropy(weights @ logits.detach().to(weights.dtype), weights @ soft, reduction="none")
        for weights, soft in ((lam.to(dtype), one_hot(targets, 20).to(dtype)), (lam, one_hot(targets, 20).double()))
    )
    assert float((half - full).abs().mean()) > 200 * abs(loss.item() - expected.item())


@pytest.mark.parametrize("scale", [2.0**10, 2.0**16])
@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_a_gradient_scaler_saves_small_float16_gradients(scale, implementation) -> None:
    # 49 positions and 64 examples share a gradient of order 1: most entries are below float16's smallest number.
    logits = normal(49, 64, 100, seed=0, scale=3).half().requires_grad_()
    labels, lam = make_targets("index", 64, 100), simplex(49, 20, 64, seed=1)
    exact = logits.detach().double().requires_grad_()
    expected = torch.autograd.grad(mixed_cross_entropy(exact, labels, lam), exact)[0]
    loss = mixed_cross_entropy(logits, labels, lam.float(), implementation=implementation)
    scaled = torch.autograd.grad(scale * loss, logits)[0].double() / scale
    assert (scaled - expected).norm() < 1e-3 * expected.norm()


def test_dtype_of_the_result() -> None:
    labels = torch.tensor([0, 1])
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        lam = simplex(3, 2, seed=0).to(torch.float64 if dtype == torch.float64 else torch.float32)
        for implementation in IMPLEMENTATIONS:
            loss = mixed_cross_entropy(normal(2, 3, seed=1).to(dtype), labels, lam, implementation=implementation)
            assert loss.dtype == lam.dtype
            half = mixed_cross_entropy(
                normal(2, 3, seed=1).to(dtype), labels, lam.bfloat16(), None, "global", implementation
            )
            assert half.dtype == lam.dtype


def test_global_normalisation_is_the_ratio_of_sums() -> None:
    # The ratios of micro-batches do not average; their numerators and denominators add.
    logits, lam, weight = normal(4, 5, 3, seed=0), simplex(4, 6, 5, seed=1), make_weight("random", 4, 6)
    labels = make_targets("index", 5, 3)
    parts = [slice(0, 1), slice(1, 4)]
    losses = [mixed_cross_entropy(logits[p], labels, lam[p], weight[p], "global") for p in parts]
    sums = [weight[p].sum() for p in parts]
    whole = sum(loss * s for loss, s in zip(losses, sums, strict=True)) / sum(sums)
    assert torch.allclose(mixed_cross_entropy(logits, labels, lam, weight, "global"), whole, rtol=1e-12)


def test_a_shared_tensor_gets_both_gradients() -> None:
    # The same tensor as attention weights and as mixing weights: contributions add, also in the second derivative.
    z, labels = normal(4, 3, seed=0), torch.tensor([0, 2, 1, 1])
    x = simplex(4, 4, seed=1).requires_grad_()

    def function(x: Tensor, implementation: str = "fused") -> Tensor:
        return mixed_cross_entropy(x @ z, labels, x, x.sum(1), implementation=implementation)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_gradient_accumulates_and_can_be_taken_twice() -> None:
    logits, lam = normal(4, 3, seed=0).requires_grad_(), simplex(5, 4, seed=1)
    loss = mixed_cross_entropy(logits, torch.tensor([0, 2, 1, 1]), lam)
    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward()
    assert torch.equal(logits.grad, 2 * once)


def test_without_gradients() -> None:
    logits, lam, labels = normal(4, 3, seed=0).requires_grad_(), simplex(5, 4, seed=1), torch.tensor([0, 2, 1, 1])
    with torch.no_grad():
        silent = mixed_cross_entropy(logits, labels, lam)
    with torch.inference_mode():
        inferred = mixed_cross_entropy(logits.clone(), labels, lam)
    assert not silent.requires_grad
    assert torch.equal(silent, mixed_cross_entropy(logits, labels, lam).detach())
    assert torch.equal(silent, inferred.clone())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", [2, 12])  # few and many, beside the examples
@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_targets_of_every_position_are_a_call_for_each(kind: str, c: int, implementation: str) -> None:
    logits, lam = normal(2, 3, 5, c, seed=1).requires_grad_(), sample_weights(7, 5, positions=6, generator=rng(2))
    lam = lam.double().unflatten(0, (2, 3)).requires_grad_()
    targets = make_targets(kind, 30, c, seed=3).unflatten(0, (2, 3, 5))
    found = mixed_cross_entropy(logits, targets, lam, implementation=implementation)
    each = [
        mixed_cross_entropy(logits[i, j], targets[i, j], lam[i, j], implementation="reference")
        for i in range(2)
        for j in range(3)
    ]
    expected = torch.stack(each).mean()
    assert torch.allclose(found, expected, rtol=1e-10)
    slopes = torch.autograd.grad(found, [logits, lam]), torch.autograd.grad(expected, [logits, lam])
    for by_one, by_each in zip(*slopes, strict=True):
        assert torch.allclose(by_one, by_each, rtol=1e-9, atol=1e-12)


def test_targets_of_every_position_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"class indices \(6, 5\) or probabilities \(6, 5, 4\), got torch.int64 of sha"
    ):
        mixed_cross_entropy(normal(6, 5, 4, seed=1), torch.zeros(5, 6, dtype=torch.long), torch.full((6, 2, 5), 0.2))
