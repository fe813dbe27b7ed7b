"""The limit n -> infinity, against quadrature, large samples and the cases in which it is exact."""

import math

import pytest
import torch
from scipy import integrate, special
from tests.functional.oracles import cross_entropy, make_targets, normal, one_hot, rng, rows_of, simplex
from torch import Tensor

from multimix.functional import attend, closed_form, mixed_cross_entropy, rescaling_factor, sample_weights
from multimix.functional import expected_mixed_cross_entropy as expected

KINDS = ["index", "soft", "any sum"]


def expectation_of_pairs(logits: Tensor, targets: Tensor, a: list[float], alpha: float) -> float:
    """E[f] / E[s] for two examples by quadrature: lambda = (t, 1 - t) with t ~ Beta(alpha, alpha)."""
    (l1, l2), (y1, y2) = logits.tolist(), rows_of(targets, logits.shape[1])

    def summand(t: float) -> float:
        m1, m2 = a[0] * t, a[1] * (1 - t)
        s = m1 + m2
        z = [(m1 * p + m2 * q) / s for p, q in zip(l1, l2, strict=True)]
        y = [(m1 * p + m2 * q) / s for p, q in zip(y1, y2, strict=True)]
        return s * cross_entropy(y, z)

    # Gauss-Jacobi nodes: the weight function on [-1, 1] is the density, up to a constant.
    nodes, weights = special.roots_jacobi(60, alpha - 1, alpha - 1)
    integral = sum(w * summand((1 + x) / 2) for x, w in zip(nodes, weights, strict=True)) / weights.sum()
    return integral / ((a[0] + a[1]) / 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("a", [[1.0, 1.0], [0.9, 0.4]])
def test_error_is_of_third_order_in_the_spread_of_the_weights(kind, a) -> None:
    # The covariance of Dir(alpha) falls as 1 / alpha; what a second-order expansion leaves falls as 1 / alpha^2.
    logits, targets = normal(2, 3, seed=0, scale=2), make_targets(kind, 2, 3, seed=6)
    attention = torch.tensor(a, dtype=torch.float64)[:, None]
    errors = []
    for alpha in (16.0, 32.0, 64.0):
        exact = expectation_of_pairs(logits, targets, a, alpha)
        errors.append(abs(float(expected(logits[None], targets, attention, alpha)) - exact))
        first_order = float(expected(logits[None], targets, attention, 1e12))
        assert errors[-1] < 0.2 * abs(first_order - exact)
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 5.0])
def test_uniform_attention_has_the_exact_covariance(kind, alpha) -> None:
    # So as the logits shrink, the error falls with their third power whatever alpha is.
    logits, targets = normal(2, 3, seed=2), make_targets(kind, 2, 3, seed=6)
    errors = [
        abs(
            float(expected(e * logits, targets, None, alpha)) - expectation_of_pairs(e * logits, targets, [1, 1], alpha)
        )
        for e in (0.4, 0.2)
    ]
    assert errors[1] < errors[0] / 6 + 1e-12


def clean_batch(b: int, c: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """Logits with a class signal."""
    labels = torch.randint(c, (b,), generator=rng(seed))
    return scale * (normal(b, c, seed=seed) / 2 + one_hot(labels, c)), labels


def centred(gradient: Tensor) -> Tensor:
    """The part that differs between the examples: what tells classes apart."""
    return gradient - gradient.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("b", "c", "scale", "variation", "alpha", "n", "whole", "differing"),
    [
        (128, 100, 5, 0.0, 1.0, 60_000, 0.01, 0.09),
        (128, 100, 5, 0.5, (0.5, 2.0), 60_000, 0.01, 0.03),
        (32, 10, 5, 1.2, (0.5, 2.0), 100_000, 0.09, 0.12),
        (64, 20, 5, 0.0, (0.5, 2.0), 100_000, 0.01, 0.08),
    ],
)
def test_gradient_is_that_of_a_large_sample(b, c, scale, variation, alpha, n, whole, differing) -> None:
    logits, labels = clean_batch(b, c, scale, seed=3)
    logits = logits[None].requires_grad_()
    # Log-normal attention with the given coefficient of variation.
    a = (math.sqrt(math.log(1 + variation**2)) * normal(b, 1, seed=4)).exp()
    lam, s = attend(sample_weights(n, b, alpha=alpha, positions=1, generator=rng(5), dtype=torch.float64), a)
    sampled, limit = mixed_cross_entropy(logits, labels, lam, s), expected(logits, labels, a, alpha)
    assert float(limit.detach()) == pytest.approx(float(sampled.detach()), rel=0.01)
    theirs, ours = torch.autograd.grad(sampled, logits)[0], torch.autograd.grad(limit, logits)[0]
    assert (ours - theirs).norm() < whole * theirs.norm()
    assert (centred(ours) - centred(theirs)).norm() < differing * centred(theirs).norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", ["position", "global"])
def test_dense_limit_is_that_of_a_large_sample(kind, normalize) -> None:
    r, b, c, n = 3, 24, 5, 40_000
    logits, targets = normal(r, b, c, seed=0, scale=2), make_targets(kind, b, c)
    a = torch.rand(b, r, generator=rng(1), dtype=torch.float64) * torch.tensor([1.0, 0.1, 3.0])
    lam, s = attend(sample_weights(n, b, positions=r, generator=rng(2), dtype=torch.float64), a)
    sampled = float(mixed_cross_entropy(logits, targets, lam, s, normalize))
    assert float(expected(logits, targets, a, normalize=normalize)) == pytest.approx(sampled, rel=2e-3)
    # The two normalisations differ by much more than that.
    other = "position" if normalize == "global" else "global"
    assert abs(float(expected(logits, targets, a, normalize=other)) - sampled) > 5e-3 * sampled


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("b", [1, 5])
def test_exact_where_the_mixtures_do_not_vary(kind, b) -> None:
    targets = make_targets(kind, b, 4)
    same = normal(1, 4, seed=0, scale=3).expand(b, 4)
    plain = torch.nn.functional.cross_entropy(same, one_hot(targets, 4))
    assert torch.allclose(expected(same, targets, alpha=0.3), plain, rtol=1e-13)


def test_exact_where_one_example_is_attended() -> None:
    logits, labels = normal(3, 5, 4, seed=0, scale=3), make_targets("index", 5, 4)
    who = torch.tensor([4, 0, 2])
    a = torch.nn.functional.one_hot(who, 5).double().T
    plain = torch.nn.functional.cross_entropy(logits[torch.arange(3), who], labels[who])
    assert torch.allclose(expected(logits, labels, a, alpha=0.2), plain, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_concentrated_weights_give_cross_entropy_of_the_mean(kind) -> None:
    logits, targets = normal(5, 4, seed=0, scale=3), make_targets(kind, 5, 4)
    plain = torch.nn.functional.cross_entropy(logits.mean(0), one_hot(targets, 4).mean(0))
    assert torch.allclose(expected(logits, targets, alpha=1e12), plain, rtol=1e-10)


@pytest.mark.parametrize(("ends", "close"), [((0.5, 2.0), 2e-3), ((0.01, 5.0), 0.02), ((1.0, 1.0001), 1e-9)])
@pytest.mark.parametrize("attended", [False, True])
def test_range_of_alpha_is_the_mean_over_alpha(ends, close, attended) -> None:
    logits, labels = normal(2, 6, 4, seed=0, scale=3), make_targets("index", 6, 4)
    a = torch.rand(6, 2, generator=rng(1), dtype=torch.float64) if attended else None
    low, high = ends
    span = math.log(high / low)
    integral = integrate.fixed_quad(
        lambda x: [
            low / (high - low) * span * (high / low) ** v * float(expected(logits, labels, a, low * (high / low) ** v))
            for v in x
        ],
        0,
        1,
        n=12,
    )[0]
    assert float(expected(logits, labels, a, ends)) == pytest.approx(integral, rel=close)


def test_global_is_the_mean_weighted_by_attention() -> None:
    logits, labels = normal(3, 6, 4, seed=0, scale=3), make_targets("index", 6, 4)
    a = torch.rand(6, 3, generator=rng(1), dtype=torch.float64)
    a[:, 1] = 0
    each = torch.stack([expected(logits[j : j + 1], labels, a[:, j : j + 1]) for j in range(3)])
    assert each[1] == 0
    assert torch.allclose(expected(logits, labels, a), (each[0] + each[2]) / 2, rtol=1e-13)
    weighted = (each * a.sum(0)).sum() / a.sum()
    assert torch.allclose(expected(logits, labels, a, normalize="global"), weighted, rtol=1e-13)


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", ["position", "global"])
def test_targets_of_every_position_are_a_call_for_each(implementation, kind, normalize) -> None:
    r, b, c = 4, 6, 5
    logits = normal(r, b, c, seed=0, scale=3).requires_grad_()
    targets = make_targets(kind, r * b, c, seed=3).unflatten(0, (r, b))
    a = torch.rand(b, r, generator=rng(1), dtype=torch.float64)
    found = expected(logits, targets, a, (0.3, 1.5), normalize, m=4, implementation=implementation)
    each = torch.stack(
        [
            expected(logits[j : j + 1], targets[j], a[:, j : j + 1], (0.3, 1.5), m=4, implementation="reference")
            for j in range(r)
        ]
    )
    counts = a.sum(0) / a.sum() if normalize == "global" else torch.full((r,), 1 / r, dtype=torch.float64)
    assert torch.allclose(found, each @ counts, rtol=1e-12)
    by_one, by_each = torch.autograd.grad(found, logits)[0], torch.autograd.grad(each @ counts, logits)[0]
    assert torch.allclose(by_one, by_each, rtol=1e-9, atol=1e-12)


def test_targets_of_every_position_that_do_not_fit() -> None:
    message = r"class indices \(4, 6\) or probabilities \(4, 6, 5\), got torch.int64 of shape \(6, 4\)"
    with pytest.raises(ValueError, match=message):
        expected(normal(4, 6, 5, seed=0), torch.zeros(6, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="'triton' does not work for a target for every position"):
        expected(normal(4, 6, 5, seed=0), torch.zeros(4, 6, dtype=torch.long), implementation="triton")


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("normalize", ["position", "global"])
def test_what_nobody_attends_may_be_anything(implementation, junk, normalize) -> None:
    logits, labels, a = (
        normal(3, 5, 4, seed=0),
        make_targets("index", 5, 4),
        torch.rand(5, 3, generator=rng(1)).double(),
    )
    how = {"normalize": normalize, "implementation": implementation}
    without = expected(logits[[0, 2]], labels, a[:, [0, 2]], **how)
    logits[1], a[:, 1] = junk, 0
    loss = expected(logits.requires_grad_(), labels, a, **how)
    assert loss.item() == pytest.approx(without.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[1].any()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("normalize", ["position", "global"])
def test_without_any_attention_the_limit_is_zero(normalize) -> None:
    logits = normal(2, 3, 4, seed=0).requires_grad_()
    a = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    loss = expected(logits, torch.tensor([0, 3, 1]), a, normalize=normalize)
    assert loss == 0
    gradients = torch.autograd.grad(loss, (logits, a))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[0] == 0).all()


@pytest.mark.parametrize(
    ("kind", "normalize", "alpha"),
    [("index", "position", 0.7), ("any sum", "global", 0.2), ("soft", "position", (0.5, 2.0))],
)
def test_gradients_by_differences(kind, normalize, alpha) -> None:
    targets = make_targets(kind, 4, 3)
    inputs = normal(2, 4, 3, seed=0, scale=2).requires_grad_(), simplex(4, 2, seed=1).requires_grad_()

    def function(logits: Tensor, a: Tensor) -> Tensor:
        return expected(logits, targets, a, alpha, normalize)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_shared_invariances() -> None:
    logits, labels, a = normal(2, 5, 4, seed=0, scale=3), make_targets("index", 5, 4), simplex(5, 2, seed=1)
    loss = expected(logits, labels, a)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(expected(logits[:, order], labels[order], a[order]), loss, rtol=1e-12)
    assert torch.allclose(expected(logits, one_hot(labels, 4), a), loss, rtol=1e-12)
    assert torch.allclose(expected(logits + normal(2, 5, 1, seed=2), labels, a), loss, rtol=1e-12)
    assert torch.allclose(
        expected(logits, labels, 3 * a, normalize="global"), expected(logits, labels, a, normalize="global")
    )
    assert torch.allclose(expected(logits, labels), expected(logits, labels, torch.ones(5, 2)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_taken_to_float32(dtype, autocast) -> None:
    logits, labels = clean_batch(32, 10, 3, seed=0)
    logits = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=autocast):
        loss = expected(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), expected(logits.double(), labels), rtol=1e-6)
    assert torch.autograd.grad(loss, logits)[0].dtype == dtype


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_spread_weight_leaves_the_loss_at_the_mean(kind) -> None:
    logits, targets = normal(2, 5, 4, seed=0, scale=3), make_targets(kind, 5, 4)
    a = torch.rand(5, 2, generator=rng(1), dtype=torch.float64)
    pi, y = (a / a.sum(0)).mT, one_hot(targets, 4)
    at_mean = torch.nn.functional.cross_entropy(torch.einsum("rb,rbc->rc", pi, logits), pi @ y)
    spread = expected(logits, targets, a, 0.3) - at_mean
    for weight in (0.0, 0.5, 4.0):
        loss = expected(logits, targets, a, 0.3, spread_weight=weight)
        assert torch.allclose(loss, at_mean + weight * spread, rtol=1e-12)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("alpha", [0.01, 0.5, (0.5, 2.0)])
@pytest.mark.parametrize("m", [None, 1, 3])
def test_never_negative(kind, alpha, m) -> None:
    # The plain second-order expansion is not: it falls without bound where the mean prediction of a class goes to 0.
    b, c = 12, 6
    targets = make_targets(kind, b, c)
    a = torch.rand(b, 1, generator=rng(1), dtype=torch.float64)
    for scale in (1, 10, 100):
        for seed in range(3):
            logits = scale * (normal(b, c, seed=seed) + one_hot(targets, c) + normal(1, c, seed=seed + 9))
            assert float(expected(logits[None], targets, a, alpha, m=m)) >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("m", "ends"), [(1, (0.5, 2.0)), (2, (0.5, 2.0)), (2, (1e-3, 100.0)), (64, (0.01, 0.01))])
def test_the_rest_of_a_mixture_varies_no_more_than_a_single_example(dtype, m, ends) -> None:
    # It is 1 / (k + 1) for u ~ Beta(1, k), which the few nodes miss by far where one example is nearly all.
    for unevenness in (0, 1, 5, 30):
        pi = normal(1, 64, seed=1, scale=unevenness).softmax(1).to(dtype)
        found = closed_form.shares(pi, (*ends, m, 64))
        first = sum(weight * u for weight, u in zip(found.weight_K, found.u_KR, strict=True))
        assert 0 <= found.rest_R * first <= 1 + 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"m": 1}, {"m": 1, "alpha": 0.1}, {"alpha": 1e-9}])
def test_one_hot_weights_give_cross_entropy(kind, options) -> None:
    logits, targets = normal(7, 4, seed=0, scale=3), make_targets(kind, 7, 4)
    plain = torch.nn.functional.cross_entropy(logits, one_hot(targets, 4), reduction="none")
    assert float(expected(logits, targets, **options)) == pytest.approx(float(plain.mean()), rel=1e-6)
    a = torch.rand(7, 1, generator=rng(1), dtype=torch.float64)
    attended = float((a[:, 0] * plain).sum() / a.sum())
    assert float(expected(logits[None], targets, a, **options)) == pytest.approx(attended, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 2.0, (0.5, 2.0)])
@pytest.mark.parametrize("m", [2, 5, 11, 12])
def test_subsets_have_the_second_moments_of_the_weights(alpha, m) -> None:
    # As the deviations shrink, what the spread adds is a quadratic form in the covariance of the weights, which
    # `rescaling_factor` states relative to one-hot weights, that is to m = 1.
    b, c = 12, 4
    logits, labels = 1e-3 * normal(b, c, seed=0), torch.arange(b) % c
    spread = {k: expected(logits, labels, alpha=alpha, m=k) - expected(logits, labels, alpha=1e12) for k in (1, m)}
    assert float(spread[1] / spread[m]) == pytest.approx(rescaling_factor(b, m, alpha), rel=5e-3)


@pytest.mark.parametrize(
    ("b", "m", "variation", "alpha", "differing"),
    [(64, 2, 0.0, 1.0, 0.1), (64, 16, 0.0, (0.5, 2.0), 0.15), (64, 48, 0.5, (0.5, 2.0), 0.1), (64, 64, 1.2, 0.2, 0.2)],
)
def test_gradient_with_subsets_is_that_of_a_large_sample(b, m, variation, alpha, differing) -> None:
    logits, labels = clean_batch(b, 10, 3, seed=3)
    logits = logits[None].requires_grad_()
    a = (math.sqrt(math.log(1 + variation**2)) * normal(b, 1, seed=4)).exp()
    lam, s = attend(sample_weights(60_000, b, m, alpha, positions=1, generator=rng(5), dtype=torch.float64), a)
    theirs = torch.autograd.grad(mixed_cross_entropy(logits, labels, lam, s), logits)[0]
    ours = torch.autograd.grad(expected(logits, labels, a, alpha, m=m), logits)[0]
    assert (centred(ours) - centred(theirs)).norm() < differing * centred(theirs).norm()


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [(-1.0, ValueError, "at least 0 and finite, got -1.0"), (math.inf, ValueError, "got inf"),
     ("1", TypeError, "a number, got '1'"), (True, TypeError, "got True")],
)  # fmt: skip
def test_bad_spread_weight(weight, error, message) -> None:
    with pytest.raises(error, match=f"spread_weight must be .*{message}"):
        expected(normal(3, 4, seed=0), torch.arange(3), spread_weight=weight)


@pytest.mark.parametrize("alpha", [1e-9, 0.02, (0.5, 2.0), 1e9, 1e40, 1e300])
@pytest.mark.parametrize("m", [None, 1, 2, 16])
def test_float32_is_as_good_and_gradients_are_finite_also_without_attention(alpha, m) -> None:
    logits, labels = normal(4, 24, 6, seed=0, scale=5), make_targets("index", 24, 6)
    a = torch.rand(24, 4, generator=rng(1), dtype=torch.float64)
    a[:12, 1], a[1:, 2], a[:, 3] = 0, 0, 0
    results = []
    for dtype in (torch.float64, torch.float32):
        inputs = logits.to(dtype).requires_grad_(), a.to(dtype).requires_grad_()
        loss = expected(inputs[0], labels, inputs[1], alpha, m=m)
        results.append((loss.detach(), *torch.autograd.grad(loss, inputs)))
    for double, single in zip(*results, strict=True):
        assert torch.isfinite(double).all()
        assert (single - double).norm() < 1e-4 * double.norm()


@pytest.mark.parametrize("m", [None, 3])
@pytest.mark.parametrize("relative", [2e-16, 1e-14, 1e-9])
def test_a_narrow_range_of_alpha_is_its_middle(relative, m) -> None:
    logits, targets = normal(6, 4, seed=0, scale=3), make_targets("index", 6, 4)
    ends = 0.3, max(math.nextafter(0.3, 1), 0.3 * (1 + relative))
    narrow, middle = expected(logits, targets, alpha=ends, m=m), expected(logits, targets, alpha=0.3, m=m)
    assert torch.allclose(narrow, middle, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("b", [1, 4])
@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_gradients_of_logits_that_hardly_differ_are_finite(scale, b, implementation) -> None:
    # As of a classifier that starts at 0: rounding then decides which example is the largest, and by how much.
    for seed in range(20):
        one = scale * normal(4, 1, 10, seed=seed).float()
        logits = one.expand(4, b, 10).clone().requires_grad_()
        attention = None if seed % 2 else torch.rand(b, 4, generator=rng(seed))
        loss = expected(logits, torch.full((b,), 3), attention, implementation=implementation)
        gradient = torch.autograd.grad(loss, logits)[0]
        assert loss.item() == pytest.approx(math.log(10), rel=1e-3)
        clean = one.softmax(-1).sub_(one_hot(torch.tensor([3]), 10)) / 4
        torch.testing.assert_close(gradient.sum(1), clean[:, 0].float(), rtol=0.05, atol=1e-6)
