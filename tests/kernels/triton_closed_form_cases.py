"""The Triton kernels of n = infinity: loss and gradient of the reference in float64, whatever the sizes of tiles.

`test_triton.py` runs this file in a process of its own, as it does `triton_cases.py`.
"""

import math
import os

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from tests.functional.oracles import make_targets, normal, rng
from tests.kernels.interpreter import patch_once
from torch import Tensor

import multimix as mm
from multimix.functional import expected_mixed_cross_entropy
from multimix.functional.closed_form import shares
from multimix.kernels import closed_form_kernel, triton_launch, triton_shares
from multimix.kernels.closed_form_kernel import _expected, _gradient
from multimix.kernels.triton_launch import Tile

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
if DEVICE.type == "cpu":
    patch_once()


def attention(b: int, r: int, kind: str) -> Tensor | None:
    """None, or random; with zeros, also everywhere at a position."""
    if kind == "uniform":
        return None
    a = torch.rand(b, r, generator=rng(1))
    if kind == "with zeros":
        a[a < 0.4] = 0
        a[:, 0] = 0
    return a


def both(logits: Tensor, targets: Tensor, a: Tensor | None, *options, **more) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradient by the kernels, and by the reference in float64."""
    found = []
    for implementation, device, double in (("triton", DEVICE, False), ("reference", torch.device("cpu"), True)):
        leaf = (logits.double() if double else logits).to(device).requires_grad_()
        attended = None if a is None else (a.double() if double else a).to(device)
        loss = expected_mixed_cross_entropy(
            leaf, targets.to(device), attended, *options, **more, implementation=implementation
        )
        found.append((loss.detach().cpu().double(), torch.autograd.grad(3 * loss, leaf)[0].cpu()))
    return found


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@example((3, 9, 67), "soft", "random", 0.02, 17, "global", 0.0, 10.0, "contiguous", 45)  # a spread of 2^128 and more
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 70)),
    kind=st.sampled_from(["index", "soft", "any sum"]),
    attended=st.sampled_from(["uniform", "random", "with zeros"]),
    alpha=st.sampled_from([0.02, 0.7, (0.5, 2.0), 50.0]),
    most=st.integers(1, 20),
    normalize=st.sampled_from(["position", "global"]),
    spread_weight=st.sampled_from([0.0, 1.0, 2.5]),
    scale=st.sampled_from([0.1, 3.0, 10.0]),
    layout=st.sampled_from(["linear", "convolution", "contiguous"]),
    seed=st.integers(0, 99),
)
def test_loss_and_gradient(shape, kind, attended, alpha, most, normalize, spread_weight, scale, layout, seed) -> None:
    r, b, c = shape
    # As the criteria pass it: a view of what a classifier returned at every position.
    logits = normal(b, r, c, seed=seed, scale=scale).float().transpose(0, 1)
    if layout == "convolution":
        logits = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    elif layout == "contiguous":
        logits = logits.contiguous()
    options = attention(b, r, attended), alpha, normalize
    ours, theirs = both(logits, make_targets(kind, b, c), *options, m=min(most, b), spread_weight=spread_weight)
    assert torch.allclose(ours[0], theirs[0], rtol=2e-5, atol=1e-5 * scale)
    assert layout == "convolution" or ours[1].stride() == logits.stride()
    # Examples near the mean of a mini-batch of two or one have gradients that are differences of larger numbers.
    assert (ours[1].double() - theirs[1]).norm() < 1e-4 * theirs[1].norm() + 1e-5


@pytest.mark.parametrize(("b", "m", "alpha"), [
    (128, 128, (0.5, 2.0)), (128, 16, (0.1, 0.1)), (40, 40, (1e-3, 1e-3)), (100, 100, (1e3, 1e4)), (5, 2, (1.0, 1.0)),
])  # fmt: skip
def test_what_follows_from_the_attention(b, m, alpha) -> None:
    uneven = (2 * normal(b, 1, seed=2)).exp()
    uneven[b // 2 :] = 0
    a = torch.cat([torch.ones_like(uneven), normal(b, 1, seed=1).abs(), uneven], 1).float()
    weight_R, options = torch.tensor([0.5, 0.2, 0.3]), (*alpha, m, b)
    nodes = closed_form_kernel._nodes(options, DEVICE)
    examples, scalars = (
        each.cpu().double() for each in triton_shares.attend(a.to(DEVICE), weight_R.to(DEVICE), nodes, 1.5)
    )
    pi_RB = (a.double() / a.double().sum(0)).mT
    found = shares(pi_RB, options)
    u_RK, t_RKB = torch.stack(found.u_KR, 1), torch.stack(found.t_KRB, 1)
    weight_RK = 1.5 * weight_R[:, None] * torch.tensor(found.weight_K)
    a_RKB, at_mean_R = weight_RK[..., None] * pi_RB[:, None], -0.5 * weight_R
    wanted = [pi_RB, pi_RB * found.rho_RB, 2 * found.rest_R[:, None] * pi_RB * found.share_RB, (a_RKB * t_RKB).sum(1)]
    wanted += [(a_RKB * (1 - t_RKB)).sum(1) + at_mean_R[:, None] * pi_RB]
    wanted += [(a_RKB * (1 - t_RKB) * u_RK[..., None]).sum(1)]
    assert torch.allclose(examples[:, :6], torch.stack(wanted, 1), rtol=2e-5, atol=1e-9)
    # At the last node u is 1 - u away from 1, which float32 rounds.
    assert torch.allclose(examples[:, 6:], t_RKB, rtol=2e-4, atol=1e-9)
    assert torch.allclose(scalars, torch.cat([u_RK, weight_RK, at_mean_R[:, None]], 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("size", [Tile(16, 16, 1), Tile(32, 32, 2), Tile(64, 64, 4)])
def test_the_size_of_tiles_is_irrelevant(monkeypatch, size, kind) -> None:
    b, r, c = 13, 2, 90
    monkeypatch.setattr(triton_launch, "tile", lambda **_: size)
    logits = normal(b, r, c, seed=0, scale=5).float().transpose(0, 1)
    ours, theirs = both(logits, make_targets(kind, b, c), attention(b, r, "random"))
    assert torch.allclose(ours[0], theirs[0], rtol=1e-6)
    assert (ours[1].double() - theirs[1]).norm() < 3e-6 * theirs[1].norm()


# Triton's interpreter truncates to bfloat16.
@pytest.mark.parametrize(("dtype", "step"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_the_gradient_alone(dtype, step) -> None:
    b, r, c = 12, 2, 40
    logits = (normal(b, r, c, seed=3, scale=3) + 50).to(dtype).transpose(0, 1)
    ours, theirs = both(logits, make_targets("index", b, c), attention(b, r, "with zeros"))
    assert ours[1].dtype == dtype
    assert torch.allclose(ours[0], theirs[0], rtol=1e-5)
    assert (ours[1].double() - theirs[1]).norm() < step * theirs[1].norm()


def test_a_scaled_loss_saves_small_float16_gradients() -> None:
    b, r, c = 8, 2, 20
    half, labels = normal(r, b, c, seed=0, scale=3).half(), make_targets("index", b, c)
    gradients = []
    for logits, scale in ((half.float(), 1e-6), (half, 1e-6 * 2.0**16)):
        leaf = logits.to(DEVICE).requires_grad_()
        loss = expected_mixed_cross_entropy(leaf, labels.to(DEVICE), implementation="triton")
        gradients.append(torch.autograd.grad(scale * loss, leaf)[0].double() * (1e-6 / scale))
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


def test_examples_that_share_the_largest_excess_share_its_slope() -> None:
    logits = normal(1, 3, 4, seed=0, scale=2).repeat_interleave(2, 1).float()
    ours, theirs = both(logits, torch.tensor([0, 0, 1, 1, 2, 2]), None, 0.3)
    assert torch.equal(ours[1][:, ::2], ours[1][:, 1::2])
    assert torch.allclose(ours[1].double(), theirs[1], rtol=1e-4, atol=1e-7)


def test_examples_without_attention_may_have_any_logits() -> None:
    logits, a, labels = normal(2, 4, 3, seed=0).float(), torch.zeros(4, 2), make_targets("index", 4, 3)
    a[:3, 0] = 1
    found = []
    for filling in (0.0, torch.inf):
        logits[0, 3] = filling
        found.append(both(logits.clone(), labels, a)[0])
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not found[0][1][1].any()


def test_a_loss_without_any_attention_is_zero() -> None:
    loss, gradient = both(normal(2, 4, 3, seed=0).float(), make_targets("index", 4, 3), torch.zeros(4, 2))[0]
    assert float(loss) == 0
    assert not gradient.any()


@pytest.mark.parametrize(("kind", "attended", "gradient"), [("index", "with zeros", True), ("soft", "uniform", False)])
def test_it_is_a_valid_operator(kind, attended, gradient) -> None:
    r, b, c = 2, 4, 3
    logits, targets = normal(b, r, c, seed=0).float().to(DEVICE).transpose(0, 1), make_targets(kind, b, c).to(DEVICE)
    a = attention(b, r, attended)
    a = None if a is None else a.to(DEVICE)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    options = 0.5, 2.0, 3, True, 1.5
    leaf = logits.detach().requires_grad_(gradient)
    torch.library.opcheck(_expected, (leaf, targets, a, *options), test_utils=tests)
    _, *known = _expected(logits, targets, a, *options)
    torch.library.opcheck(_gradient, (torch.tensor(2.0, device=DEVICE), logits, targets, *known), test_utils=tests)


def test_differentiated_twice_through_the_reference() -> None:
    logits, labels = normal(2, 4, 3, seed=0, scale=2), make_targets("index", 4, 3)
    direction, second = normal(2, 4, 3, seed=9), []
    for device, implementation in ((DEVICE, "triton"), (torch.device("cpu"), "reference")):
        leaf = (logits.float() if implementation == "triton" else logits).to(device).requires_grad_()
        loss = expected_mixed_cross_entropy(leaf, labels.to(device), implementation=implementation)
        slope = torch.autograd.grad(loss, leaf, create_graph=True)[0]
        second.append(torch.autograd.grad((slope * direction.to(slope)).sum(), leaf)[0].cpu().double())
    assert (second[0] - second[1]).norm() < 1e-5 * second[1].norm()


def test_the_same_bits_every_time_and_without_a_gradient() -> None:
    logits, labels = normal(2, 7, 40, seed=0).float().to(DEVICE), make_targets("soft", 7, 40).to(DEVICE)
    found, before = [], logits.clone()
    for _ in range(2):
        leaf = logits.detach().requires_grad_()
        loss = expected_mixed_cross_entropy(leaf, labels, implementation="triton")
        found.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(logits, before)
    loss = expected_mixed_cross_entropy(logits, labels, implementation="triton")
    assert torch.equal(loss, found[0][0])
    assert not loss.requires_grad


def test_one_graph_when_compiled() -> None:
    labels, found = make_targets("index", 4, 3).to(DEVICE), []

    def step(logits: Tensor) -> Tensor:
        return 2 * expected_mixed_cross_entropy(3 * logits, labels, implementation="triton")

    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaf = normal(2, 4, 3, seed=0).float().to(DEVICE).requires_grad_()
        loss = function(leaf)
        found.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    for eager, compiled in zip(*found, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-6)


def test_a_gradient_of_the_layout_that_is_announced() -> None:
    logits = normal(5, 7, 3, seed=0).float().to(DEVICE).permute(2, 0, 1)
    _, *known = _expected(logits, make_targets("index", 5, 7).to(DEVICE), None, 0.5, 2.0, 5, False, 1.0)
    given = torch.tensor(2.0, device=DEVICE), logits, make_targets("index", 5, 7).to(DEVICE), *known
    torch.library.opcheck(_gradient, given, test_utils="test_faketensor")


def test_criteria_by_the_kernels() -> None:
    features, labels = normal(6, 4, 8, seed=1).float().to(DEVICE), make_targets("index", 6, 5).to(DEVICE)
    head = torch.nn.Linear(8, 5).to(DEVICE)
    mask = torch.ones(6, 4, dtype=torch.bool, device=DEVICE)
    mask[2, 1:] = False
    called, before = [], closed_form_kernel.expectation

    def expectation(*given):
        called.append(given)
        return before(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form_kernel, "expectation", expectation)
        for kind in (mm.DenseMultiMix, mm.MultiMix):
            losses = []
            for implementation in ("triton", "reference"):
                criterion = kind(math.inf, implementation=implementation)
                given = (features, labels, head, mask) if kind is mm.DenseMultiMix else (features[:, 0], labels, head)
                losses.append(criterion(*given))
            assert torch.allclose(*losses, rtol=1e-5)
    assert len(called) == 2
    dense = mm.DenseMultiMix(math.inf, implementation="triton", detach_attention=False)
    with pytest.raises(ValueError, match="implementation='triton' has no gradient in targets or attention"):
        dense(features.requires_grad_(), labels, head)


def test_what_the_kernels_cannot_take_is_one_clear_error() -> None:
    labels = make_targets("index", 4, 3).to(DEVICE)
    with pytest.raises(ValueError, match="implementation='triton' does not work for float64 logits"):
        expected_mixed_cross_entropy(normal(4, 3, seed=0).to(DEVICE), labels, implementation="triton")


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_attention_that_is_not_a_number_is_attention(kind) -> None:
    """Without any at a position its loss is left out, which would hide that a network diverged."""
    a = torch.rand(6, 2, generator=rng(1))
    a[3, 0] = torch.nan
    logits = normal(2, 6, 5, seed=0).float().to(DEVICE).requires_grad_()
    targets = make_targets(kind, 6, 5).to(DEVICE)
    loss = expected_mixed_cross_entropy(logits, targets, a.to(DEVICE), implementation="triton")
    assert loss.isnan()
    assert torch.autograd.grad(loss, logits)[0].isnan().any()
