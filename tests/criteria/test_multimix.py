"""MultiMix as a criterion: every path computes (8) for the weights it draws."""

import itertools
import math
import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.criteria.draws import drawn
from tests.functional.oracles import direct_loss, loss_loop, make_targets, normal, one_hot, rng, simplex
from torch import Tensor, nn

import multimix as mm

KINDS = ["index", "soft", "any sum"]


def make(module: nn.Module, seed: int = 0) -> nn.Module:
    """Float64 parameters from a seed, the global RNG untouched."""
    for i, parameter in enumerate(module.double().parameters()):
        parameter.data = normal(*parameter.shape, seed=100 * seed + i)
    return module


def hidden(head: nn.Module):
    """The same classifier, which nobody can tell is linear: it takes the generic path."""
    return lambda z: head(z)


@pytest.mark.parametrize(("path", "kind"), [
    *itertools.product(["fused", "reference", "generic"], KINDS), ("targets with gradient", "soft"),
])  # fmt: skip
@pytest.mark.parametrize(("n", "b", "m", "alpha"), [
    (9, 5, None, (0.5, 2.0)), (4, 6, 2, 1.0), (1, 3, None, 0.1), (7, 1, None, 2.0), (3, 2, 5, (0.5, 2.0)),
])  # fmt: skip
def test_every_path_is_equation_8(path, kind, n, b, m, alpha) -> None:
    z, targets, head = normal(b, 3, seed=1).requires_grad_(), make_targets(kind, b, 4), make(nn.Linear(3, 4))
    if path == "targets with gradient":
        targets.requires_grad_()
    criterion = mm.MultiMix(n, m, alpha, implementation="reference" if path == "reference" else "auto")
    loss = criterion(z, targets, hidden(head) if path == "generic" else head, generator=rng(7))
    lam = drawn(n, b, 7, m=None if m is None else min(m, b), alpha=alpha)
    # (6)-(8) as they stand: mix embeddings, classify, cross entropy; first as loops, then with gradients.
    mixed_logits = head(lam @ z)
    eye = torch.eye(n, dtype=torch.float64)
    mixed_targets = lam @ one_hot(targets, 4)
    assert loss.item() == pytest.approx(
        loss_loop(mixed_logits[None].detach(), mixed_targets.detach(), eye[None], None, "position"), rel=1e-11
    )
    expected = direct_loss(mixed_logits[None], mixed_targets[None], None, "position")
    inputs = [z, head.weight, head.bias] + ([targets] if targets.requires_grad else [])
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-13)


class Scaled(nn.Linear):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(nn.functional.normalize(z, dim=-1))


@pytest.mark.parametrize(
    ("head", "rank"),
    [
        (nn.Linear(3, 4), 0), (nn.Linear(3, 4, bias=False), 0), (nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4)), 0),
        (nn.Sequential(nn.Linear(3, 6), nn.Sequential(nn.Linear(6, 4))), 0),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), 0), (nn.Conv1d(3, 4, 1), 1), (nn.Conv2d(3, 4, 1), 2),
        (nn.Conv3d(3, 4, 1, bias=False), 3), (nn.Conv2d(3, 4, 1, padding="same"), 2),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.Identity(), nn.Conv2d(5, 4, 1)), 2),
    ],
)  # fmt: skip
def test_linear_classifiers_are_exact(head, rank) -> None:
    # Mixing logits equals classifying mixed embeddings; a convolution classifies them as maps of one position.
    make(head)

    def affine(z: Tensor) -> Tensor:
        return head(z.view(*z.shape, *(1,) * rank)).flatten(1)

    z, labels = normal(6, 3, seed=1), torch.tensor([0, 1, 2, 3, 1, 1])
    loss = mm.MultiMix(11)(z, labels, head, generator=rng(3))
    lam = drawn(11, 6, 3)
    expected = direct_loss(affine(lam @ z)[None], (lam @ one_hot(labels, 4))[None], None, "position")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 4)), nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4)),
        Scaled(3, 4),
    ],
    ids=["mlp", "norm", "cosine"],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_other_classifiers_see_mixed_embeddings(head, kind) -> None:
    make(head)
    z, targets = normal(6, 3, seed=1).requires_grad_(), make_targets(kind, 6, 4)
    loss = mm.MultiMix(11)(z, targets, head, generator=rng(3))
    lam = drawn(11, 6, 3)
    expected = direct_loss(head(lam @ z)[None], (lam @ one_hot(targets, 4))[None], None, "position")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    inputs = [z, *head.parameters()]
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-13)


def test_the_rest_of_a_network_is_a_classifier() -> None:
    maps, labels = normal(5, 3, 4, 4, seed=1), torch.tensor([0, 1, 2, 3, 1])
    rest = make(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))
    loss = mm.MultiMix(7)(maps, labels, rest, generator=rng(3))
    lam = drawn(7, 5, 3)
    mixed = torch.einsum("nb,bdhw->ndhw", lam, maps)
    expected = direct_loss(rest(mixed)[None], (lam @ one_hot(labels, 4))[None], None, "position")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_from_logits_is_the_same_loss() -> None:
    z, labels, head = normal(6, 3, seed=1), make_targets("index", 6, 4), make(nn.Linear(3, 4))
    for criterion in (mm.MultiMix(50), mm.MultiMix(50, m=2), mm.MultiMix(float("inf"))):
        loss = criterion(z, labels, head, generator=rng(3))
        assert torch.allclose(criterion.from_logits(head(z), labels, generator=rng(3)), loss, rtol=1e-13)


def test_classes_masked_by_any_classifier_are_those_masked_in_the_logits() -> None:
    z, labels, head = normal(6, 3, seed=1), torch.arange(6) % 3, make(nn.Linear(3, 4))
    mask = torch.tensor([False, False, False, True])
    masked = lambda z: head(z).masked_fill(mask, -torch.inf)  # noqa: E731
    loss = mm.MultiMix(50)(z, labels, masked, generator=rng(3))
    assert torch.allclose(loss, mm.MultiMix(50).from_logits(masked(z), labels, generator=rng(3)), rtol=1e-12)
    features = normal(6, 3, 2, seed=2).mT.contiguous()
    assert mm.DenseMultiMix(50)(features, labels, masked, generator=rng(3)).isfinite()


def test_a_subclass_that_changes_its_call_gets_the_mixed_embeddings() -> None:
    class Squashed(nn.Linear):
        def __call__(self, z):
            return 5 * super().__call__(z).tanh()

    z, labels, head = normal(6, 3, seed=1), make_targets("index", 6, 4), make(Squashed(3, 4))
    expected = mm.MultiMix(50)(z, labels, lambda z: head(z), generator=rng(3))
    assert torch.allclose(mm.MultiMix(50)(z, labels, head, generator=rng(3)), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [50, math.inf])
def test_gradients_of_many_models_on_batches_of_their_own(n: float) -> None:
    w, z, labels = normal(3, 4, 6, seed=1), normal(3, 8, 6, seed=2), torch.arange(24).view(3, 8) % 4
    lam = simplex(3, 50, 8, seed=3)

    def loss(w: Tensor, z: Tensor, labels: Tensor, lam: Tensor) -> Tensor:
        logits = z @ w.mT
        limit = mm.MultiMix(math.inf, alpha=4.0)
        return mm.functional.mixed_cross_entropy(logits, labels, lam) if n == 50 else limit.from_logits(logits, labels)

    found = torch.func.vmap(torch.func.grad(loss))(w, z, labels, lam)
    for k in range(3):
        one = w[k].clone().requires_grad_()
        assert torch.allclose(torch.autograd.grad(loss(one, z[k], labels[k], lam[k]), one)[0], found[k], atol=1e-12)


def test_vmap_over_labels() -> None:
    z, labels, head = normal(2, 6, 3, seed=1), make_targets("index", 12, 4).view(2, 6), make(nn.Linear(3, 4))
    criterion = mm.MultiMix(float("inf"))
    found = torch.func.vmap(lambda z, labels: criterion(z, labels, head))(z, labels)
    for k in range(2):
        assert torch.allclose(found[k], criterion(z[k], labels[k], head), rtol=1e-6)


@pytest.mark.parametrize("n", [50, float("inf")])
@pytest.mark.filterwarnings("ignore:n=math.inf is inaccurate")
def test_alpha_may_be_set_between_steps(n: float) -> None:
    z, labels, head = normal(6, 3, seed=1), make_targets("index", 6, 4), make(nn.Linear(3, 4))
    criterion = mm.MultiMix(n)
    for alpha in (0.3, (1, 2)):
        criterion.alpha = alpha
        expected = mm.MultiMix(n, alpha=alpha)(z, labels, head, generator=rng(3))
        assert torch.equal(criterion(z, labels, head, generator=rng(3)), expected)
    with pytest.raises(ValueError, match="alpha must be positive"):
        criterion.alpha = 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_single_examples_give_plain_cross_entropy(kind) -> None:
    z, targets, head = normal(6, 3, seed=1), make_targets(kind, 6, 4), make(nn.Linear(3, 4))
    for i in range(6):
        one = slice(i, i + 1)
        plain = nn.functional.cross_entropy(head(z[one]), targets[one])
        assert torch.allclose(mm.MultiMix(13)(z[one], targets[one], head), plain, rtol=1e-12)
        assert torch.allclose(mm.MultiMix(float("inf"))(z[one], targets[one], head), plain, rtol=1e-12)
    # With m = 1 each mixture is one example; so it is, but for rounding, as alpha goes to 0.
    each = nn.functional.cross_entropy(head(z), targets, reduction="none")
    for m, alpha in ((1, 1.0), (None, 1e-8)):
        which = drawn(40, 6, 3, m=m, alpha=alpha).argmax(1)
        loss = mm.MultiMix(40, m, alpha)(z, targets, head, generator=rng(3))
        assert loss.item() == pytest.approx(each[which].mean().item(), rel=1e-12)


def test_m_larger_than_a_last_batch_means_all_of_it() -> None:
    z, labels, head = normal(3, 3, seed=1), torch.tensor([0, 3, 1]), make(nn.Linear(3, 4))
    all_of_it = mm.MultiMix(20)(z, labels, head, generator=rng(3))
    for classifier in (head, hidden(head)):
        loss = mm.MultiMix(20, m=64)(z, labels, classifier, generator=rng(3))
        assert torch.allclose(loss, all_of_it, rtol=1e-13)


@pytest.mark.parametrize("path", [lambda head: head, hidden], ids=["linear", "generic"])
def test_global_rng_and_inputs_are_untouched(path) -> None:
    z, labels, head = normal(7, 6, seed=1).mT[:, ::2].requires_grad_(), torch.arange(6) % 4, make(nn.Linear(4, 4))
    copies = z.detach().clone(), labels.clone(), head.weight.detach().clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for generator in (None, rng(3)):
        loss = mm.MultiMix(20)(z, labels, path(head), generator=generator)
        loss.backward()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    for tensor, copy in zip((z, labels, head.weight), copies, strict=True):
        assert torch.equal(tensor.detach(), copy)
    dense = z.detach().contiguous().requires_grad_()
    again = mm.MultiMix(20)(dense, labels, path(head), generator=rng(3))
    assert torch.allclose(loss, again, rtol=1e-13)
    assert torch.allclose(torch.autograd.grad(again, dense)[0], torch.autograd.grad(
        mm.MultiMix(20)(z, labels, path(head), generator=rng(3)), z)[0], rtol=1e-11)  # fmt: skip


@pytest.mark.parametrize("path", [lambda head: head, hidden], ids=["linear", "generic"])
def test_draws_follow_the_generator_and_differ_between_calls(path) -> None:
    z, labels, head = normal(6, 3, seed=1), torch.arange(6) % 4, make(nn.Linear(3, 4))
    criterion, generator = mm.MultiMix(20), rng(3)
    first, second = (criterion(z, labels, path(head), generator=generator) for _ in range(2))
    again = rng(3)
    assert torch.equal(first, criterion(z, labels, path(head), generator=again))
    assert torch.equal(second, criterion(z, labels, path(head), generator=again))
    assert not torch.equal(first, second)
    with torch.random.fork_rng(devices=[]):
        losses = []
        for seed in (10, 11, 12, 11):
            torch.manual_seed(seed)
            losses += [[criterion(z, labels, path(head)).item() for _ in range(2)]]
    assert losses[1] == losses[3] != losses[2]
    assert losses[1][0] != losses[1][1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 30),
    b=st.integers(1, 12),
    c=st.integers(2, 6),
    m=st.none() | st.integers(1, 20),
    kind=st.sampled_from(KINDS),
    alpha=st.sampled_from([0.01, 1.0, 30.0, (0.5, 2.0)]),
    scale=st.sampled_from([0.0, 1.0, 1e3]),
    seed=st.integers(0, 10**6),
)
def test_paths_agree(n, b, c, m, kind, alpha, scale, seed) -> None:
    z, targets, head = normal(b, 3, seed=seed, scale=scale).requires_grad_(), make_targets(kind, b, c), nn.Linear(3, c)
    make(head, seed)
    results = []
    for implementation, classifier in (("auto", head), ("reference", head), ("auto", hidden(head))):
        criterion = mm.MultiMix(n, m, alpha, implementation=implementation)
        loss = criterion(z, targets, classifier, generator=rng(seed))
        results.append((loss, torch.autograd.grad(loss, z)[0]))
    for loss, gradient in results[1:]:
        assert torch.allclose(loss, results[0][0], rtol=1e-9, atol=1e-9 * max(1, scale))
        assert torch.allclose(gradient, results[0][1], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("criterion", "generic"), [
    (mm.MultiMix(6), False), (mm.MultiMix(6, m=2), False), (mm.MultiMix(float("inf")), False), (mm.MultiMix(6), True),
])  # fmt: skip
def test_double_backward(criterion, generic) -> None:
    labels, head = torch.tensor([0, 3, 1]), nn.Linear(2, 4)

    def function(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        def classifier(z: Tensor) -> Tensor:
            return nn.functional.linear(z, weight, bias)

        if generic:
            return criterion(z, labels, classifier, generator=rng(3))
        return criterion.from_logits(classifier(z), labels, generator=rng(3))

    make(head)
    inputs = [normal(3, 2, seed=1).requires_grad_(), head.weight, head.bias]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_it_is_a_module_with_a_readable_form() -> None:
    criterion = mm.MultiMix(n=10, m=3, alpha=0.5)
    assert list(criterion.parameters()) == []
    assert repr(criterion) == "MultiMix(n=10, m=3, alpha=(0.5, 0.5))"
    assert criterion.state_dict() == {}


def test_paper_defaults() -> None:
    criterion = mm.MultiMix()
    assert (criterion.n, criterion.m, tuple(criterion.alpha)) == (1000, None, (0.5, 2.0))


@pytest.mark.parametrize(("n", "m", "alpha"), [(40, None, 0.1), (40, 3, (0.5, 2.0)), (math.inf, None, 0.2)])
def test_rescaled_is_the_loss_times_the_factor_of_this_mini_batch(n, m, alpha) -> None:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(4, 3).double()
    for b in (8, 2):
        z, y = torch.randn(b, 4, generator=generator, dtype=torch.double), torch.arange(b) % 3
        features = z[..., None] + torch.randn(b, 4, 5, generator=generator, dtype=torch.double)
        factor = mm.functional.rescaling_factor(b, None if m is None else min(m, b), alpha)
        for criterion, x in ((mm.MultiMix, z), (mm.DenseMultiMix, features.mT)):
            plain = criterion(n, m, alpha)(x, y, head, generator=torch.Generator().manual_seed(1))
            rescaled = criterion(n, m, alpha, rescale=True)(x, y, head, generator=torch.Generator().manual_seed(1))
            assert torch.allclose(rescaled, factor * plain, rtol=1e-12)
            if n != math.inf:
                through = lambda v: head(v)  # noqa: E731 - not a linear module, so the mixed embeddings pass through it
                rescaled = criterion(n, m, alpha, rescale=True)(
                    x, y, through, generator=torch.Generator().manual_seed(1)
                )
                assert torch.allclose(rescaled, factor * plain, rtol=1e-9)


def test_spread_weight_of_the_criteria_is_that_of_the_closed_form() -> None:
    head, labels = make(nn.Linear(3, 4)), torch.arange(6) % 4
    features = normal(6, 5, 3, seed=1)
    attention = features.mean(1, keepdim=True).mul(features).sum(-1).relu()
    attention = attention / attention.sum(1, keepdim=True)
    options = {"alpha": (0.2, 0.4), "spread_weight": 3.0}
    with torch.no_grad():
        plain = mm.MultiMix(math.inf, **options)(features[:, 0], labels, head)
        dense = mm.DenseMultiMix(math.inf, **options)(features, labels, head)
        logits = head(features)
    limit = mm.functional.expected_mixed_cross_entropy
    assert torch.allclose(plain, limit(logits[:, 0], labels, **options), rtol=1e-12)
    assert torch.allclose(dense, limit(logits.transpose(0, 1), labels, attention, **options), rtol=1e-9)


@pytest.mark.parametrize("criterion", [mm.MultiMix, mm.DenseMultiMix])
def test_limit_warns_once_where_it_is_poor(criterion) -> None:
    with pytest.warns(
        UserWarning, match=r"inaccurate for alpha=0.05 and mini-batches of 128: .*6.4 .*n=1000"
    ) as caught:
        poor = criterion(math.inf, alpha=(0.05, 2.0))
    with pytest.warns(UserWarning, match="alpha=0.5 and m=16: with about 5.3 effective examples"):
        criterion(math.inf, m=16, alpha=0.5)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        z = normal(6, 5, 3, seed=1) if criterion is mm.DenseMultiMix else normal(6, 3, seed=1)
        poor(z, torch.arange(6) % 4, make(nn.Linear(3, 4)))
        for fine in ({"n": math.inf}, {"n": math.inf, "m": 1}, {"n": math.inf, "m": 64}, {"n": 50, "alpha": 0.01}):
            criterion(**fine)


@pytest.mark.parametrize("criterion", [mm.MultiMix, mm.DenseMultiMix])
@pytest.mark.parametrize("m", [None, 100])
def test_limit_warns_of_a_mini_batch_too_small_for_it(criterion, m) -> None:
    classify, large = make(nn.Linear(3, 4)), 64
    limit = criterion(math.inf, m=m, alpha=0.5)

    def batch(b: int) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(b, 5, 3, seed=1) if criterion is mm.DenseMultiMix else normal(b, 3, seed=1), torch.arange(b) % 4

    with pytest.warns(UserWarning, match=r"alpha=0.5 and mini-batches of 12: with about 6 effective") as caught:
        limit(*batch(12), classify)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limit(*batch(large), classify)
        limit(*batch(1), classify)
        criterion(1000, m=m, alpha=0.5)(*batch(12), classify)


def test_limit_takes_subsets_and_smaller_batches() -> None:
    head, z, labels = make(nn.Linear(3, 4)), normal(6, 3, seed=1), torch.arange(6) % 4
    with torch.no_grad():
        for m in (64, 128):
            of_all = mm.MultiMix(math.inf, m=m)(z, labels, head)
            assert torch.allclose(of_all, mm.MultiMix(math.inf)(z, labels, head), rtol=1e-13)
        with pytest.warns(UserWarning, match="m=2"):
            pairs = mm.MultiMix(math.inf, m=2)(z, labels, head)
        assert torch.allclose(pairs, mm.functional.expected_mixed_cross_entropy(head(z), labels, m=2), rtol=1e-13)
        assert float(pairs) == pytest.approx(
            float(mm.MultiMix(100_000, m=2)(z, labels, head, generator=rng(0))), rel=0.02
        )


def test_limit_warns_of_attention_to_few_examples() -> None:
    """Ordinary maps, and what is too few examples already without them, are not told."""
    b, r, c = 128, 16, 5
    logits, labels = torch.randn(b, r, c, generator=rng(0)), torch.arange(b) % c
    ordinary = torch.randn(b, r, generator=rng(1)).relu()
    few = torch.zeros(b, r)
    few[:8] = 1.0
    some = ordinary.clone()
    some[8:, :3] = 0.0

    def told(a: torch.Tensor, criterion: mm.DenseMultiMix) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(2):
                criterion.from_logits(logits, labels, a)
        return [str(warning.message) for warning in found]

    limit = mm.DenseMultiMix(math.inf)
    assert told(ordinary, limit) == []
    (message,) = told(few, limit)  # once
    assert "100% of the loss comes from positions where fewer than 10 effective examples" in message
    assert told(few, mm.DenseMultiMix(100)) == []
    (message,) = told(some, mm.DenseMultiMix(math.inf))
    assert "19% of the loss" in message
    assert told(some, mm.DenseMultiMix(math.inf, normalize="global")) == []
