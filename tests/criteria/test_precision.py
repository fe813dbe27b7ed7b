"""Half precision and autocast: mixing, attention and loss in float32, so that training sees what float64 sees."""

import copy
import math

import pytest
import torch
from tests.criteria.draws import drawn
from tests.functional.oracles import make_targets, normal, one_hot, rng
from torch import nn

import multimix as mm
from multimix.functional import attend, sample_weights
from multimix.random import draw_seed

B, D, C, N = 64, 32, 10, 200
HALF = [torch.bfloat16, torch.float16]
CRITERIA = [
    (mm.MultiMix(N), False), (mm.MultiMix(N, implementation="reference"), False), (mm.MultiMix(math.inf), False),
    (mm.MultiMix(N), True), (mm.DenseMultiMix(N), False), (mm.DenseMultiMix(N, detach_attention=False), False),
    (mm.DenseMultiMix(math.inf, attention="cam"), False), (mm.DenseMultiMix(N, nonlinearity="softmax"), True),
]  # fmt: skip


def setting(criterion: nn.Module, dtype: torch.dtype):
    shape = (B, 9, D) if isinstance(criterion, mm.DenseMultiMix) else (B, D)
    head = nn.Linear(D, C)
    head.weight.data, head.bias.data = normal(C, D, seed=1).float(), normal(C, seed=2).float()
    labels = make_targets("index", B, C)
    # A class signal, and values that half precision holds exactly: what is left is the arithmetic.
    z = normal(*shape, seed=3) + 3 * normal(C, D, seed=4)[labels].view(B, *(1,) * (len(shape) - 2), D)
    head.weight.data = head.weight.data.to(dtype).float()
    return z.to(dtype).float(), labels, head


def loss_and_gradients(criterion, z, labels, head, generic) -> tuple[torch.Tensor, list[torch.Tensor]]:
    z = z.clone().requires_grad_()
    head = copy.deepcopy(head)
    loss = criterion(z, labels, (lambda x: head(x)) if generic else head, generator=rng(5))
    gradients = torch.autograd.grad(loss, (z, head.weight))
    return loss, [gradient.double() for gradient in gradients]


@pytest.mark.parametrize("criterion", [mm.MultiMix(7), mm.DenseMultiMix(7)])
def test_double_logits_of_a_classifier_that_is_not_linear_stay_double(criterion) -> None:
    dense = isinstance(criterion, mm.DenseMultiMix)
    features, labels = normal(5, *(2, 4) if dense else (4,), seed=1).float(), make_targets("index", 5, 3)
    head = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    head[0].weight.data = normal(3, 4, seed=2)
    mixed = []
    loss = criterion(features, labels, lambda z: mixed.append(z) or head(z.double()), generator=rng(3))
    assert loss.dtype == torch.float64
    seed = int(draw_seed(rng(3)))
    lam = sample_weights(7, 5, None, criterion.alpha, 2 if dense else None, rng(seed), dtype=torch.float32).double()
    y, s = one_hot(labels, 3), torch.ones(lam.shape[:-1], dtype=torch.float64)
    if dense:
        lam, s = attend(lam, criterion.attend_to(features, labels, None).double())
    logits = head(mixed[0].double()).transpose(0, -2) if dense else head(mixed[0].double())
    terms = -(lam @ y * logits.log_softmax(-1)).sum(-1)
    wanted = (terms * s).sum(-1) / s.sum(-1)
    assert loss.item() == pytest.approx(wanted.mean().item(), rel=3e-7)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("how", ["autocast", "parameters"])
@pytest.mark.parametrize(("criterion", "generic"), CRITERIA)
def test_close_to_float64(dtype, how, criterion, generic) -> None:
    z, labels, head = setting(criterion, dtype)
    # Float32 weights in both: the float64 criterion would draw others.
    exact, theirs = loss_and_gradients(criterion, z, labels, head, generic)
    if how == "autocast":
        with torch.autocast("cpu", dtype):
            loss, ours = loss_and_gradients(criterion, z, labels, head, generic)
    else:
        loss, ours = loss_and_gradients(criterion, z.to(dtype), labels, head.to(dtype), generic)
    eps = torch.finfo(dtype).eps
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2 * eps)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() < (8 if generic else 4) * eps * b.norm()


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_autocast_does_not_reach_the_mixing(implementation) -> None:
    # The part of the gradient that differs between examples is what tells classes apart: mixed points are close to
    # the mean of the batch, where a bfloat16 product would lose it.
    z, labels, head = setting(mm.MultiMix(N), torch.bfloat16)
    logits = head(z).detach().bfloat16()  # exact in bfloat16, so that only the mixing is compared
    lam = drawn(N, B, 5, dtype=torch.float32)

    def differing(loss: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        gradient = torch.autograd.grad(loss, leaf)[0].double()
        return gradient - gradient.mean(0)

    exact = logits.double().requires_grad_()
    expected = mm.functional.mixed_cross_entropy(exact, labels, lam.double(), implementation="reference")
    theirs = differing(expected, exact)
    leaf = logits.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = mm.MultiMix(N, implementation=implementation).from_logits(leaf, labels, generator=rng(5))
        half = nn.functional.cross_entropy((lam @ leaf).float(), (lam @ one_hot(labels, C).float()).float())
    assert abs(loss.item() - expected.item()) < 4e-6  # two float32 numbers apart, near 16
    assert abs(half.item() - expected.item()) > 1e-4
    assert (differing(loss, leaf) - theirs).norm() < 1e-4 * theirs.norm()
    assert (differing(half, leaf) - theirs).norm() > 1e-2 * theirs.norm()


@pytest.mark.parametrize("criterion", [mm.MultiMix(N), mm.DenseMultiMix(N)], ids=["plain", "dense"])
@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_float16_training_with_a_gradient_scaler(criterion, scale) -> None:
    z, labels, head = setting(criterion, torch.float16)
    _, theirs = loss_and_gradients(criterion, z, labels, head, False)
    z.requires_grad_()
    with torch.autocast("cpu", torch.float16):
        loss = criterion(z, labels, head, generator=rng(5))
    ours = [g.double() / scale for g in torch.autograd.grad(loss * scale, (z, head.weight))]
    # Unscaled, float16 loses small entries; scaled, it is as good as its rounding.
    for a, b in zip(ours, theirs, strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).norm() < (0.1 if scale == 1 else 0.005) * b.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize(("criterion", "generic"), CRITERIA)
def test_dtype_of_the_loss(dtype, criterion, generic) -> None:
    z, labels, head = setting(criterion, torch.float32)
    head = head.to(dtype)
    loss = criterion(z.to(dtype), labels, (lambda x: head(x)) if generic else head)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
