"""Dense MultiMix as a criterion: every path computes (9)-(14) for the weights it draws."""

import copy
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
from tests.functional.oracles import (
    attend_loop,
    attention_loop,
    combine,
    direct_loss,
    loss_loop,
    make_targets,
    normal,
    one_hot,
    rng,
    rows_of,
)
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import multimix as mm

KINDS = ["index", "soft", "any sum"]
WAYS = list(itertools.product(["gap", "cam", "uniform"], ["relu", "softmax"]))


def make_head(kind: str, d: int = 3, c: int = 4) -> nn.Module:
    head = {"linear": nn.Linear(d, c), "convolution": nn.Conv2d(d, c, 1)}[kind].double()
    for i, parameter in enumerate(head.parameters()):
        parameter.data = normal(*parameter.shape, seed=10 + i)
    return head


def dense_direct(tokens: Tensor, targets: Tensor, head, lam: Tensor, a: Tensor, normalize: str, c: int = 4) -> Tensor:
    """(10)-(14) as they stand, by PyTorch's operations: tokens (b, r, d), lam (r, n, b), a (b, r), head on (..., d)."""
    M = lam * a.T[:, None]
    s = M.sum(-1)
    M_hat = M / s.clamp(min=1e-300)[..., None]
    attended = s.sum(1) > 0
    mixed = torch.einsum("rnb,brd->rnd", M_hat, tokens)[attended]
    return direct_loss(head(mixed), (M_hat @ one_hot(targets, c))[attended], s[attended], normalize)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize(("by", "nonlinearity"), WAYS)
@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize("kind", KINDS)
def test_loops(implementation, by, nonlinearity, normalize, kind) -> None:
    b, r, n = 4, 3, 5
    tokens, targets, head = normal(b, r, 3, seed=1), make_targets(kind, b, 4), make_head("linear")
    criterion = mm.DenseMultiMix(
        n, attention=by, nonlinearity=nonlinearity, normalize=normalize, implementation=implementation
    )
    loss = criterion(tokens, targets, head, generator=rng(7)).item()
    weight, bias = head.weight.detach(), head.bias.detach().tolist()
    a = torch.tensor(attention_loop(tokens, by, nonlinearity, targets, weight), dtype=torch.float64)
    hats, norms = attend_loop(drawn(n, b, 7, positions=r), a)
    # Mix embeddings (12) and targets (13), then classify.
    y, mixed_logits, mixed_targets = rows_of(targets, 4), [], []
    for j in range(r):
        mixed = [combine(row, tokens[:, j].tolist()) for row in hats[j]]
        mixed_logits.append([[sum(w * v for w, v in zip(row, z, strict=True)) + shift
                              for row, shift in zip(weight.tolist(), bias, strict=True)] for z in mixed])  # fmt: skip
        mixed_targets.append([combine(row, y) for row in hats[j]])
    s, z, y = (torch.tensor(x, dtype=torch.float64) for x in (norms, mixed_logits, mixed_targets))
    unmixed = torch.eye(n, dtype=torch.float64)[None]
    each = [loss_loop(z[j : j + 1], y[j], unmixed, s[j : j + 1], "position") for j in range(r)]
    totals = [sum(row) for row in norms]
    expected = sum(each) / r if normalize == "position" else combine(totals, [[x] for x in each])[0] / sum(totals)
    assert loss == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("path", ["fused", "reference", "generic", "attention with gradient"])
@pytest.mark.parametrize("shape", [(2,), (2, 2), (1, 2, 2), (1, 1)])
@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize(("by", "masked"), [("gap", False), ("gap", True), ("uniform", True)])
def test_gradients_of_every_path(path, shape, normalize, by, masked) -> None:
    n, b, r = 6, 5, math.prod(shape)
    features, targets, head = normal(b, 3, *shape, seed=1), make_targets("index", b, 4), make_head("linear")
    if len(shape) == 1:  # tokens, as transformers emit them
        features = features.mT.contiguous()
    features.requires_grad_()
    tokens = features if len(shape) == 1 else features.flatten(2).mT
    mask = None
    if masked:
        mask = torch.rand(b, *shape, generator=rng(2)) < 0.7
        mask[:2] = True
    criterion = mm.DenseMultiMix(
        n,
        attention=by,
        normalize=normalize,
        detach_attention=path != "attention with gradient",
        implementation="reference" if path == "reference" else "auto",
    )
    classifier = head
    if path == "generic":

        def classifier(features: Tensor) -> Tensor:
            return head(features) if len(shape) == 1 else head(features.movedim(1, -1)).movedim(-1, 1)

    loss = criterion(features, targets, classifier, mask=mask, generator=rng(7))
    a = mm.functional.attention_map(tokens, by, mask=None if mask is None else mask.flatten(1))
    a = a if path == "attention with gradient" else a.detach()
    expected = dense_direct(tokens, targets, head, drawn(n, b, 7, positions=r), a, normalize)
    assert torch.allclose(loss, expected, rtol=1e-10)
    inputs = [features, head.weight, head.bias]
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("head", ["linear", "convolution"])
@pytest.mark.parametrize("by", ["gap", "cam"])
def test_maps_and_tokens_with_either_linear_classifier(head, by) -> None:
    features, labels = normal(5, 3, 2, 3, seed=1), make_targets("index", 5, 4)
    same = {"linear": make_head("linear"), "convolution": make_head("convolution")}
    same["linear"].weight.data = same["convolution"].weight.data.flatten(1)
    criterion = mm.DenseMultiMix(6, attention=by)
    from_map = criterion(features, labels, same[head], generator=rng(7))
    from_tokens = criterion(features.flatten(2).mT, labels, same["linear"], generator=rng(7))
    assert torch.allclose(from_map, from_tokens, rtol=1e-13)


def test_a_chain_of_linear_classifiers_is_exact() -> None:
    features, labels = normal(5, 3, 2, 3, seed=1), make_targets("index", 5, 4)
    head = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)).double()
    loss = mm.DenseMultiMix(6)(features, labels, head, generator=rng(7))
    generic = mm.DenseMultiMix(6)(features, labels, lambda x: head(x), generator=rng(7))
    assert torch.allclose(loss, generic, rtol=1e-12)


@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize("detach", [True, False])
def test_attention_by_class_takes_gradients_unless_detached(normalize, detach) -> None:
    tokens, targets, head = normal(4, 3, 3, seed=1).requires_grad_(), make_targets("soft", 4, 4), make_head("linear")
    criterion = mm.DenseMultiMix(5, attention="cam", detach_attention=detach, normalize=normalize)
    loss = criterion(tokens, targets, head, generator=rng(7))
    a = mm.functional.attention_map(tokens, "cam", targets=targets, weight=head.weight)
    expected = dense_direct(tokens, targets, head, drawn(5, 4, 7, positions=3), a.detach() if detach else a, normalize)
    inputs = [tokens, head.weight, head.bias]
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("legacy", [False, True])
def test_attention_by_class_uses_the_weight_of_this_step(legacy, detach) -> None:
    tokens, targets, head = normal(4, 3, 3, seed=1), make_targets("index", 4, 4), make_head("linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normed = (nn.utils.weight_norm if legacy else nn.utils.parametrizations.weight_norm)(copy.deepcopy(head))
    criterion = mm.DenseMultiMix(5, attention="cam", detach_attention=detach)
    for step in range(3):
        with torch.no_grad():
            for parameter in normed.parameters():
                parameter.add_(0.3 * normal(*parameter.shape, seed=step))
        loss = criterion(tokens, targets, normed, generator=rng(7))
        loss.backward()
        normed(tokens)
        head.weight.data, head.bias.data = normed.weight.detach(), normed.bias.detach()
        assert torch.allclose(loss, criterion(tokens, targets, head, generator=rng(7)))


@pytest.mark.parametrize("n", [20, math.inf])
@pytest.mark.parametrize("m", [None, 2])
def test_one_position_with_uniform_attention_is_multimix(n, m) -> None:
    if n == math.inf:
        m = None
    z, labels, head = normal(6, 3, seed=1), make_targets("index", 6, 4), make_head("linear")
    plain = mm.MultiMix(n, m)(z, labels, head, generator=rng(7))
    for features, attention in itertools.product((z[:, None], z[..., None, None]), ("uniform", "gap")):
        dense = mm.DenseMultiMix(n, m, attention=attention)(features, labels, head, generator=rng(7))
        assert torch.allclose(dense, plain, rtol=1e-13)


def test_other_classifiers_see_mixed_maps() -> None:
    features, targets = normal(5, 3, 2, 3, seed=1).requires_grad_(), make_targets("soft", 5, 4)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 1)).double()
    loss = mm.DenseMultiMix(7)(features, targets, net, generator=rng(7))
    tokens = features.flatten(2).mT
    M = drawn(7, 5, 7, positions=6) * mm.functional.attention_map(tokens).detach().T[:, None]
    s = M.sum(-1)
    M_hat = M / s[..., None]
    mixed = torch.einsum("rnb,brd->ndr", M_hat, tokens).view(7, 3, 2, 3)
    logits = net(mixed).flatten(2).permute(2, 0, 1)
    expected = direct_loss(logits, M_hat @ targets, s, "position")
    assert torch.allclose(loss, expected, rtol=1e-11)
    assert torch.allclose(
        torch.autograd.grad(loss, features)[0], torch.autograd.grad(expected, features)[0], atol=1e-13
    )


@pytest.mark.parametrize("first", [nn.Identity(), nn.LayerNorm(3)], ids=str)
def test_a_chain_that_works_on_the_last_dimension_is_given_tokens(first: nn.Module) -> None:
    maps, labels = normal(5, 3, 2, 3, seed=1), make_targets("index", 5, 4)
    mlp = nn.Sequential(nn.Dropout(0.0), first, nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    loss = mm.DenseMultiMix(7)(maps, labels, mlp, generator=rng(7))
    assert torch.equal(loss, mm.DenseMultiMix(7)(maps.flatten(2).mT, labels, mlp, generator=rng(7)))


@pytest.mark.parametrize("hidden", [6, 7], ids=["as many units as positions", "more"])
@pytest.mark.parametrize("first", [False, True], ids=["in the middle", "at the front"])
def test_batch_normalisation_is_over_mixed_positions_that_are_real(hidden: int, first: bool) -> None:
    maps, labels = normal(5, 3, 2, 3, seed=1), make_targets("index", 5, 4)
    front = [nn.BatchNorm1d(3), nn.Linear(3, hidden)] if first else [nn.Linear(3, hidden), nn.BatchNorm1d(hidden)]
    head = nn.Sequential(*front, nn.Tanh(), nn.Linear(hidden, 4)).double()
    alone, mask = copy.deepcopy(head), torch.ones(5, 2, 3, dtype=torch.bool)
    mask[:, 1, 2] = False
    criterion = mm.DenseMultiMix(7, attention="uniform", normalize="global")
    loss = criterion(maps, labels, head, generator=rng(7), mask=mask)
    tokens, lam = maps.flatten(2).mT[:, :5], drawn(7, 5, 7, positions=6)[:5]
    mixed = torch.einsum("rnb,brd->rnd", lam, tokens)
    logits = alone(mixed.reshape(35, 3)).view(5, 7, 4)
    expected = direct_loss(logits, lam @ one_hot(labels, 4), None, "global")
    assert torch.allclose(loss, expected, rtol=1e-11)
    for found, wanted in zip(head.buffers(), alone.buffers(), strict=True):
        assert torch.allclose(found, wanted)
    loss.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_loss_behind_another_classifier_is_in_full_precision_under_autocast() -> None:
    tokens, targets = normal(5, 3, 4, seed=1).float(), make_targets("soft", 5, 4).float()
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(mm.DenseMultiMix(7)(tokens, targets, lambda z: z, generator=rng(7)).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_targets_follow_a_classifier_with_strides() -> None:
    # Each output position stands for a block of 2 x 2: its target is the mean of theirs weighted by s, and so is its s.
    features, targets = normal(5, 3, 4, 6, seed=1), make_targets("soft", 5, 4)
    net = nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 1)).double()
    for normalize in ("position", "global"):
        loss = mm.DenseMultiMix(7, normalize=normalize)(features, targets, net, generator=rng(7))
        tokens = features.flatten(2).mT
        M = drawn(7, 5, 7, positions=24) * mm.functional.attention_map(tokens).T[:, None]
        s = M.sum(-1)
        M_hat = M / s[..., None]
        logits = net(torch.einsum("rnb,brd->ndr", M_hat, tokens).view(7, 3, 4, 6))
        y = (M_hat @ targets).view(4, 6, 7, 4)
        sums = s.view(4, 6, 7)
        terms, weights = [], []
        for i, j in itertools.product(range(2), range(3)):
            block = [(2 * i + di, 2 * j + dj) for di, dj in itertools.product(range(2), repeat=2)]
            weight = sum(sums[p] for p in block) / 4
            target = sum(sums[p][:, None] * y[p] for p in block) / 4 / weight[:, None]
            terms.append(nn.functional.cross_entropy(logits[:, :, i, j], target, reduction="none"))
            weights.append(weight)
        terms, weights = torch.stack(terms), torch.stack(weights)
        if normalize == "position":
            expected = ((terms * weights).sum(1) / weights.sum(1)).mean()
        else:
            expected = (terms * weights).sum() / weights.sum()
        assert torch.allclose(loss, expected, rtol=1e-11)


@pytest.mark.parametrize("path", ["linear", "generic", "limit"])
@pytest.mark.parametrize("by", ["gap", "cam", "uniform"])
@pytest.mark.parametrize("junk", [1e6, math.inf, math.nan])
def test_padding_has_no_influence(path, by, junk) -> None:
    if by == "cam" and path == "generic":
        by = "gap"  # attention by class needs a linear classifier
    tokens, labels, head = normal(5, 6, 3, seed=1), make_targets("index", 5, 4), make_head("linear")
    mask = torch.rand(5, 6, generator=rng(2)) < 0.6
    mask[:, -1], mask[3] = False, False  # a position and an example that are padding altogether
    criterion = mm.DenseMultiMix(math.inf if path == "limit" else 8, attention=by)
    results = []
    for filling in (0.0, junk):
        padded = tokens.masked_fill(~mask[..., None], filling).requires_grad_()
        classifier = (lambda x: head(x).tanh()) if path == "generic" else head
        loss = criterion(padded, labels, classifier, mask=mask, generator=rng(7))
        gradients = torch.autograd.grad(loss, (padded, head.weight))
        assert (gradients[0][~mask] == 0).all()
        results.append((loss, *gradients))
    for clean, dirty in zip(*results, strict=True):
        assert torch.isfinite(clean).all()
        assert torch.equal(clean, dirty)
    # Nor does what the padded example is labelled.
    relabelled = labels.clone()
    relabelled[3] = (labels[3] + 1) % 4
    again = criterion(tokens, relabelled, classifier, mask=mask, generator=rng(7))
    assert torch.allclose(again, results[0][0], rtol=1e-13)


def test_with_padding_a_global_normalisation_weighs_all_examples_alike() -> None:
    b, r, c = 6, 12, 4
    tokens, labels = normal(b, r, 3, seed=1), make_targets("probabilities", b, c).requires_grad_()
    mask = torch.arange(r) < torch.tensor([12, 2, 3, 2, 4, 3])[:, None]
    weights = {}
    for normalize in ("position", "global"):
        criterion = mm.DenseMultiMix(4000, attention="uniform", normalize=normalize)
        # All logits are alike, so that the loss is log c times the sum of all targets, by the weight of their example.
        loss = criterion.from_logits(
            torch.zeros(b, r, c).double(), labels, criterion.attend_to(tokens, mask=mask), rng(0)
        )
        weights[normalize] = b * torch.autograd.grad(loss, labels)[0].mean(1) / math.log(c)
    assert weights["global"].sub(1).abs().max() < 0.05
    assert weights["position"][0] > 3, "the longest example has its last eight positions to itself"
    assert weights["position"][1] < 0.7


def test_mask_is_given_as_a_map_or_flat() -> None:
    features, labels, head = normal(5, 3, 2, 3, seed=1), make_targets("index", 5, 4), make_head("linear")
    mask = torch.rand(5, 2, 3, generator=rng(2)) < 0.6
    losses = [mm.DenseMultiMix(8)(features, labels, head, mask=m, generator=rng(7)) for m in (mask, mask.flatten(1))]
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], mm.DenseMultiMix(8)(features, labels, head, generator=rng(7)))


@pytest.mark.parametrize("n", [8, math.inf])
def test_without_real_positions_the_loss_is_zero(n) -> None:
    tokens, head = normal(3, 2, 3, seed=1).requires_grad_(), make_head("linear")
    mask = torch.zeros(3, 2, dtype=torch.bool)
    for classifier in [head] if n == math.inf else [head, lambda x: head(x)]:
        loss = mm.DenseMultiMix(n)(tokens, torch.tensor([0, 1, 2]), classifier, mask=mask)
        assert loss == 0
        assert (torch.autograd.grad(loss, tokens)[0] == 0).all()


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("n", [9, math.inf])
def test_from_logits_is_the_same_loss(implementation, n) -> None:
    tokens, labels, head = normal(5, 6, 3, seed=1), make_targets("index", 5, 4), make_head("linear")
    for normalize in ("position", "global"):
        criterion = mm.DenseMultiMix(n, normalize=normalize, implementation=implementation)
        loss = criterion(tokens, labels, head, generator=rng(7))
        again = criterion.from_logits(head(tokens), labels, criterion.attend_to(tokens), generator=rng(7))
        assert torch.allclose(again, loss, rtol=1e-13)
        uniform = mm.DenseMultiMix(n, attention="uniform", normalize=normalize)(tokens, labels, head, generator=rng(7))
        assert torch.allclose(criterion.from_logits(head(tokens), labels, generator=rng(7)), uniform, rtol=1e-12)


@pytest.mark.parametrize("generic", [False, True])
def test_m_larger_than_a_last_batch_means_all_of_it(generic) -> None:
    tokens, labels, head = normal(3, 4, 3, seed=1), torch.tensor([0, 3, 1]), make_head("linear")
    classifier = (lambda x: head(x)) if generic else head
    losses = [mm.DenseMultiMix(20, m)(tokens, labels, classifier, generator=rng(3)) for m in (None, 3, 64)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 12),
    b=st.integers(1, 7),
    r=st.integers(1, 5),
    m=st.none() | st.integers(1, 9),
    way=st.sampled_from(WAYS[:2] + WAYS[4:]),
    normalize=st.sampled_from(["position", "global"]),
    kind=st.sampled_from(KINDS),
    scale=st.sampled_from([0.0, 1e-20, 1.0, 1e3]),
    seed=st.integers(0, 10**6),
)
def test_paths_agree_and_are_finite(n, b, r, m, way, normalize, kind, scale, seed) -> None:
    tokens, targets, head = normal(b, r, 3, seed=seed, scale=scale), make_targets(kind, b, 4), make_head("linear")
    tokens.requires_grad_()
    mask = torch.rand(b, r, generator=rng(seed)) < 0.8
    results = []
    for implementation, classifier in (("auto", head), ("reference", head), ("auto", lambda x: head(x))):
        criterion = mm.DenseMultiMix(n, m, 1.0, *way, normalize=normalize, implementation=implementation)
        loss = criterion(tokens, targets, classifier, mask=mask, generator=rng(seed))
        results.append((loss, torch.autograd.grad(loss, tokens)[0]))
        assert torch.isfinite(results[-1][0])
        assert torch.isfinite(results[-1][1]).all()
    for loss, gradient in results[1:]:
        assert torch.allclose(loss, results[0][0], rtol=1e-9, atol=1e-9 * max(1, scale))
        assert torch.allclose(gradient, results[0][1], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("n", [5, math.inf])
def test_double_backward(detach, n) -> None:
    targets, head = make_targets("soft", 3, 4), make_head("linear", d=2)
    criterion = mm.DenseMultiMix(n, detach_attention=detach)

    def function(tokens: Tensor) -> Tensor:
        return criterion.from_logits(head(tokens), targets, a if detach else criterion.attend_to(tokens), rng(3))

    tokens = normal(3, 2, 2, seed=1).requires_grad_()
    a = criterion.attend_to(tokens).detach()
    assert torch.autograd.gradcheck(function, tokens)
    assert torch.autograd.gradgradcheck(function, tokens)


@pytest.mark.parametrize("generic", [False, True])
def test_global_rng_and_inputs_are_untouched(generic) -> None:
    features, labels, head = normal(6, 2, 3, 3, seed=1).permute(0, 2, 1, 3), torch.arange(6) % 4, make_head("linear")
    features.requires_grad_()
    mask = (torch.rand(2, 6, 3, generator=rng(2)) < 0.7).transpose(0, 1)
    copies = features.detach().clone(), labels.clone(), mask.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    classifier = (lambda x: head(x.movedim(1, -1)).movedim(-1, 1)) if generic else head
    for generator in (None, rng(3)):
        loss = mm.DenseMultiMix(20)(features, labels, classifier, mask=mask, generator=generator)
        loss.backward()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    for tensor, before in zip((features, labels, mask), copies, strict=True):
        assert torch.equal(tensor.detach(), before)
    dense = features.detach().contiguous()
    again = mm.DenseMultiMix(20)(dense, labels, classifier, mask=mask.contiguous(), generator=rng(3))
    assert torch.allclose(loss, again, rtol=1e-12)


def test_paper_defaults() -> None:
    criterion = mm.DenseMultiMix()
    assert (criterion.n, criterion.m, tuple(criterion.alpha)) == (1000, None, (0.5, 2.0))
    assert (criterion.attention, criterion.nonlinearity, criterion.normalize) == ("gap", "relu", "position")
    assert criterion.detach_attention
    assert "attention='gap'" in repr(criterion)
    other = repr(mm.DenseMultiMix(normalize="global", detach_attention=False))
    assert "detach_attention=False, normalize='global'" in other
    assert "normalize" not in repr(criterion)


@pytest.mark.parametrize("least", [1e-45, 1e-42, 1e-38, 1e-33, 1e-29, 1e-20])
@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("n", [1, 50, math.inf])
@pytest.mark.parametrize("normalize", ["position", "global"])
def test_a_position_with_hardly_any_attention_counts_as_one_with_any_or_none(
    least, implementation, n, normalize
) -> None:
    # (14) does not depend on the scale of the attention at a position, so small is as good as 1 until it is nothing.
    logits, labels = normal(6, 2, 5, seed=0).float(), torch.arange(6) % 5
    a = torch.rand(6, 2, generator=rng(1)) + 0.1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n=math.inf is inaccurate")
        criterion = mm.DenseMultiMix(n, normalize=normalize, implementation=implementation)

        def value(scale: float) -> tuple[Tensor, Tensor]:
            leaf = logits.clone().requires_grad_()
            loss = criterion.from_logits(leaf, labels, a * torch.tensor([1, scale]), torch.Generator().manual_seed(1))
            return loss.detach(), torch.autograd.grad(loss, leaf)[0]

        found, alike = value(least), value(1.0 if least > 1e-34 and normalize == "position" else 0.0)
    torch.testing.assert_close(found, alike, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [50, math.inf])
@pytest.mark.parametrize("gap", [60.0, 78.0, 80.0, 84.0, 97.0, 105.0, 200.0])
def test_gradients_through_softmax_attention_that_underflows(n, gap) -> None:
    tokens = 0.1 * normal(8, 2, 4, seed=0).float()
    tokens[..., 0] = torch.tensor([math.sqrt(2 * gap), 0])  # scores of the two positions are z . mean of z
    tokens.requires_grad_()
    head = make_head("linear", 4).float()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n=math.inf is inaccurate")
        loss = mm.DenseMultiMix(n, nonlinearity="softmax", detach_attention=False)(tokens, torch.arange(8) % 4, head)
        gradient = torch.autograd.grad(loss, tokens)[0]
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("n", [20, math.inf])
@pytest.mark.parametrize("normalize", ["position", "global"])
def test_the_loss_of_a_network_that_diverged_is_nan(normalize, n, implementation) -> None:
    """Not 0, for want of attention that is a number."""
    features = normal(40, 4, 2, 2, seed=0).float()
    features[3, 0, 0, 0] = math.nan
    criterion = mm.DenseMultiMix(n, normalize=normalize, implementation=implementation)
    assert criterion(features, torch.arange(40) % 4, make_head("linear", 4).float()).isnan()


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_logits_without_attention_may_be_minus_infinity(implementation) -> None:
    """Such as those of padding."""
    logits, labels, found = normal(6, 2, 4, seed=0).float(), torch.arange(6) % 4, []
    a = torch.rand(6, 2, generator=rng(1))
    a[2, 1] = 0
    for fill in (0, -math.inf):
        leaf = logits.clone()
        leaf[2, 1] = fill
        loss = mm.DenseMultiMix(20, implementation=implementation).from_logits(leaf.requires_grad_(), labels, a, rng(3))
        found.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("fill", [-math.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("m", [None, 3])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_masked_classes_change_nothing(fill, implementation, m, kind) -> None:
    logits, targets = normal(8, 2, 4, seed=0).float(), make_targets(kind, 8, 4).float()
    targets = targets.long() if kind == "index" else targets
    a = torch.rand(8, 2, generator=rng(1)).masked_fill(torch.rand(8, 2, generator=rng(2)) < 0.3, 0)
    criterion, found = mm.DenseMultiMix(40, m, implementation=implementation), []
    masked = torch.cat([logits, torch.full((8, 2, 1), fill)], 2)
    for clean, y in ((logits, targets), (masked, targets if kind == "index" else nn.functional.pad(targets, (0, 1)))):
        leaf = clean.clone().requires_grad_()
        loss = criterion.from_logits(leaf, y, a, torch.Generator().manual_seed(3))
        found.append((loss.detach(), torch.autograd.grad(loss, leaf)[0][..., :4]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))])
@pytest.mark.parametrize("attention", ["gap", "cam"])
def test_sharded_classifiers(make, attention, tmp_path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Linear(6, 6), make()

        def forward(self, tokens: Tensor, criterion: nn.Module) -> Tensor:
            return criterion(self.encoder(tokens), labels, self.head, generator=torch.Generator().manual_seed(0))

    tokens, labels, net = normal(4, 3, 6, seed=0).float(), torch.arange(4), Net()
    criterion = mm.DenseMultiMix(20, attention=attention)
    if attention == "cam" and isinstance(net.head, nn.Sequential):
        return
    net(tokens, criterion).backward()
    plain = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for part in (net.encoder, net.head, net):
            fully_shard(part, mesh=mesh)
        net(tokens, criterion).backward()
        for parameter, gradient in zip(net.parameters(), plain, strict=True):
            torch.testing.assert_close(parameter.grad.full_tensor(), gradient)
        if attention == "cam":
            with pytest.raises(ValueError, match=r"sharded over processes here .*use detach_attention=True"):
                net(tokens, mm.DenseMultiMix(20, attention="cam", detach_attention=False))
    finally:
        torch.distributed.destroy_process_group()


def test_a_detached_attention_is_of_soft_targets_too() -> None:
    targets = torch.rand(6, 4).softmax(1).requires_grad_()
    a = mm.DenseMultiMix(10, attention="cam").attend_to(torch.rand(6, 3, 5), targets, torch.rand(4, 5))
    assert not a.requires_grad


def test_padding_for_everybody_is_no_nan_in_a_classifier_that_normalises() -> None:
    features, weight = torch.rand(6, 3, 5, requires_grad=True), torch.rand(4, 5)
    mask = torch.tensor([True, True, False]).expand(6, 3)
    head = lambda z: z / z.norm(dim=-1, keepdim=True) @ weight.T  # noqa: E731
    loss = mm.DenseMultiMix(20)(features, torch.arange(6) % 4, head, mask=mask)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
