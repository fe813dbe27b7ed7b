"""The Triton kernels: the distribution of their draws, and loss and gradients of the very weights that they draw.

`test_triton.py` runs this file in a process of its own, since Triton decides when it is imported whether kernels run on
a GPU or, with TRITON_INTERPRET=1, on the CPU.
"""

import os

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import triton
import triton.language as tl
from tests.functional.oracles import make_targets, normal, rng
from tests.kernels.interpreter import patch_once
from torch import Tensor

import multimix as mm
from multimix.functional import attend, mixed_cross_entropy
from multimix.functional._gamma.warped_exponential import FIT, HIGH
from multimix.functional.loss import reference
from multimix.kernels import crossover, triton_draw, triton_loss
from multimix.kernels.ops import _sampled, sampled_cross_entropy
from multimix.kernels.triton_launch import Launch
from multimix.random import draw_seed

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
if DEVICE.type == "cpu":
    patch_once()
ALPHA = {"low": torch.tensor(0.5, dtype=torch.float64), "high": torch.tensor(2.0, dtype=torch.float64)}
SEED = 2**62 + 12_345_678_901  # both halves are used


def weights(n: int, b: int, m: int | None = None, alpha=(0.5, 2.0), positions: int = 1, seed: int = SEED) -> Tensor:
    return triton_draw.weights(seed, n, b, m or b, *alpha, positions, DEVICE).cpu()


@pytest.mark.parametrize(("alpha", "b"), [(0.1, 5), (0.5, 8), (1.0, 8), (2.0, 3), (30.0, 8)])
def test_marginals_are_beta(alpha, b) -> None:
    lam = weights(4096, b, alpha=(alpha, alpha))[0].double()
    assert torch.allclose(lam.sum(1), torch.ones(4096, dtype=torch.float64), atol=1e-6)
    for column in (0, b - 1):
        found = scipy.stats.kstest(lam[:, column].numpy(), scipy.stats.beta(alpha, (b - 1) * alpha).cdf)
        assert found.pvalue > 0.001
    # Second moments: the covariance of a symmetric Dirichlet distribution is (I - 1/b) / (b (b alpha + 1)).
    covariance = (torch.eye(b, dtype=torch.float64) - 1 / b) / (b * (b * alpha + 1))
    fourth = ((lam - 1 / b) ** 2).var(0).max().sqrt()
    assert (torch.cov(lam.T) - covariance).abs().max() < 5 * fourth / 4096**0.5


def philox(c0: int, c1: int, c2: int, c3: int, seed: int = SEED) -> list[int]:
    """Philox4x32-7 as Salmon et al. (2011) print it, in Python's integers."""
    mask = 2**32 - 1
    k0, k1 = seed & mask, seed >> 32
    for _ in range(7):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & mask, (first >> 32) ^ c3 ^ k1, first & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return [c0, c1, c2, c3]


def warped(shape: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T(E), and the ratio of the densities of Gamma(shape) and of T(E), in float64 and by numerical differentiation."""

    def t(e: np.ndarray) -> np.ndarray:
        log_s, log_c_over_s, c1, c2 = (c[0] + c[1] * np.log(shape) + c[2] * np.log(shape) ** 2 for c in FIT)
        y = (e / np.exp(log_s)) ** -0.5
        return np.exp(log_c_over_s) * e * (1 + c1 * y + c2 * y**2 + y**3) ** (-2 / 3 * (1 / shape - 1))

    slope = (t(e * (1 + 1e-5)) - t(e * (1 - 1e-5))) / (2e-5 * e)
    return t(e), np.exp(scipy.stats.gamma(shape).logpdf(t(e)) + e) * slope


def one_weight(alpha: float, example: int, mixture: int, b: int) -> float:
    """A Gamma(alpha) variate from the words that belong to it, attempt by attempt."""
    half = max(16, triton.next_power_of_2(b)) // 8
    k, g = divmod(example, half)
    boosted, above_2 = alpha < (1 if alpha > 2 else 0.5), alpha > 2
    for attempt in range(50):
        pair = attempt == 0 and not boosted and not above_2
        words = philox(mixture, k // 2 * half + g if pair else example, 0, attempt)
        u = [float(np.float32(word * 2.0**-32 + 2.0**-33)) for word in words]
        if attempt == 0:
            power = u[3] ** (1 / alpha) if boosted else 1.0
        shape = alpha + boosted
        if above_2:
            d = shape - 1 / 3
            x = np.sqrt(-2 * np.log(u[0])) * np.cos(np.pi * (words[1] - 2**32 * (words[1] >= 2**31)) / 2**31)
            v = max(1 + x / np.sqrt(9 * d), 1e-9) ** 3
            found, accepted = d * v, np.log(u[2]) < 0.5 * x**2 + d - d * v + d * np.log(v)
        else:
            a, b_ = (u[2], u[3]) if pair and k % 2 else (u[0], u[1])
            t, ratio = warped(np.array(shape), np.array(-np.log(a)))
            found, accepted = float(t), b_ < ratio / HIGH
        if accepted:
            return found * power
    raise AssertionError("no attempt was accepted")


@pytest.mark.parametrize("alpha", [0.02, 0.3, 0.5, 0.8, 1.7, 2.0, 7.0])
def test_weights_are_those_of_the_words_that_belong_to_them(alpha) -> None:
    n, b = 24, 20
    lam = weights(n, b, alpha=(alpha, alpha))[0].double().numpy()
    wanted = np.array([[one_weight(alpha, example, mixture, b) for example in range(b)] for mixture in range(n)])
    wanted /= wanted.sum(1, keepdims=True)
    # A chance that decides within rounding errors may fall otherwise, once in a hundred thousand.
    assert np.allclose(lam, wanted, rtol=2e-4, atol=1e-7)


@triton.jit
def _attempts(shape_ptr, words_a_ptr, words_b_ptr, t_ptr, accepted_ptr, N: tl.constexpr):
    i_N = tl.arange(0, N)
    words_a, words_b = tl.load(words_a_ptr + i_N), tl.load(words_b_ptr + i_N)
    log_t, accepted = triton_draw._warped_exponential(
        tl.load(shape_ptr + i_N), words_a.to(tl.uint32, bitcast=True), words_b.to(tl.uint32, bitcast=True)
    )
    tl.store(t_ptr + i_N, log_t)
    tl.store(accepted_ptr + i_N, accepted.to(tl.int32))


def test_attempts_are_accepted_with_the_ratio_of_the_densities() -> None:
    size = 4096
    numbers = np.random.default_rng(0)
    shape = 2 ** numbers.uniform(-1, 1, size).astype(np.float32)
    words = numbers.integers(1, 2**32, size)
    words[:1024] = 2**32 // numbers.integers(2, 10**9, 1024)  # the far tail
    words[1024:2048] = 2**32 - numbers.integers(2**12, 2**24, 1024)  # near zero
    t, ratio = warped(shape.astype(np.float64), -np.log((words.astype(np.float32).astype(np.float64) + 0.5) / 2**32))
    assert ratio.max() < HIGH
    for side, outcome in ((1 - 3e-4, 1), (1 + 3e-4, 0)):
        bar = np.minimum(ratio / HIGH * side * 2**32, 2**32 - 1)
        given = [
            torch.from_numpy(shape), *(torch.from_numpy(w.astype(np.uint32).view(np.int32)) for w in (words, bar)),
            torch.empty(size), torch.empty(size, dtype=torch.int32),
        ]  # fmt: skip
        on_device = [tensor.to(DEVICE) for tensor in given]
        _attempts[(1,)](*on_device, N=size)
        certain = bar < 2**32 - 1
        assert (on_device[4].cpu().numpy() == outcome)[certain].all()
        found = on_device[3].cpu().double().exp2().numpy()
    log_s, log_c_over_s = (c[0] + c[1] * np.log(shape) + c[2] * np.log(shape) ** 2 for c in FIT[:2])
    # A device's logarithm to base 2 may be off by 2^-22, which is much of an exponential variate near zero.
    e = -np.log((words.astype(np.float32).astype(np.float64) + 0.5) / 2**32)
    moved = np.abs(warped(shape.astype(np.float64), e + 2**-22 * np.log(2))[0] - t)
    assert (np.abs(found * np.exp(log_s + log_c_over_s) - t) <= 1e-3 * t + moved).all()


def test_alpha_is_uniform_over_its_range_for_every_row() -> None:
    low, high = 0.1, 3.0
    lam = weights(4096, 8, alpha=(low, high))[0]
    alphas = low + (high - low) * (np.arange(200) + 0.5) / 200

    def cdf(x: np.ndarray) -> np.ndarray:
        return scipy.special.betainc(alphas, 7 * alphas, x[:, None]).mean(1)

    assert scipy.stats.kstest(lam[:, 3].numpy(), cdf).pvalue > 0.001
    assert scipy.stats.kstest(lam[:, 3].numpy(), scipy.stats.beta(1.55, 7 * 1.55).cdf).pvalue < 1e-6
    # That a row has one alpha shows in its sum of squares; so does everything else about the joint distribution.
    theirs = mm.functional.sample_weights(4096, 8, alpha=(low, high), generator=rng(0))
    assert scipy.stats.ks_2samp(lam.square().sum(1).numpy(), theirs.square().sum(1).numpy()).pvalue > 0.001


def test_rows_positions_and_seeds_are_unrelated() -> None:
    lam = weights(512, 16, positions=4).double() - 1 / 16
    others = [weights(512, 16, positions=4, seed=SEED + step).double() - 1 / 16 for step in (1, 2**32)]
    scale = (lam**2).sum()
    shifted = [lam.roll(1, 0), lam.roll(1, 1), lam.roll(16, 1), *others]
    for other in shifted:
        assert abs((lam * other).sum() / scale) < 5 / lam.numel() ** 0.5


def test_a_weight_depends_on_nothing_but_what_it_belongs_to() -> None:
    few, many = weights(20, 6, positions=1), weights(300, 6, positions=2)
    assert torch.equal(many[:1, :20], few)
    assert not torch.equal(many[0, :20], many[1, :20])


@pytest.mark.parametrize(("b", "m"), [(5, 2), (7, 1), (20, 19)])
def test_m_of_b_examples_uniformly(b, m) -> None:
    rows = 2048
    chosen = (weights(rows, b, m, alpha=(1.0, 1.0))[0] > 0).double()
    assert torch.equal(chosen.sum(1), torch.full((rows,), float(m), dtype=torch.float64))
    together = chosen.T @ chosen
    singles, pairs = together.diagonal(), together[torch.triu(torch.ones(b, b), 1) > 0]
    for counts, share in ((singles, m / b), (pairs, m * (m - 1) / (b * (b - 1)))):
        deviation = (rows * share * (1 - share)) ** 0.5
        assert (counts - rows * share).abs().max() <= 5 * deviation


@pytest.mark.parametrize("alpha", [1e-40, 1e-30, 1e-3, 1e4, 1e30, 1e300])
def test_extreme_concentrations_stay_on_the_simplex(alpha) -> None:
    lam = weights(64, 9, alpha=(alpha, alpha))[0]
    assert torch.allclose(lam.sum(1), torch.ones(64), atol=1e-6)
    assert bool((lam >= 0).all())
    if alpha < 0.01:
        assert (lam.amax(1) > 0.99).float().mean() > 0.9
    else:
        assert lam.sub(1 / 9).abs().max() < 0.02


def expected(logits: Tensor, targets: Tensor, a: Tensor | None, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the kernel sums, in float64, from the weights that it draws."""
    lam, s = lam.double(), torch.ones(lam.shape[:2], dtype=torch.float64)
    if a is not None:
        lam, s = attend(lam, a.double())
    logits = logits.detach().double().requires_grad_()
    targets = targets.double() if targets.is_floating_point() else targets
    losses = torch.stack([reference(logits[p : p + 1], targets, lam[p : p + 1], s[p : p + 1]) for p in range(len(s))])
    return losses.detach(), s.sum(1), torch.autograd.grad(losses.sum(), logits)[0]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.cpu().double() - theirs).norm() / theirs.norm())


# b, c, kind of targets, m, attended, sizes of blocks (BN, BB, BC, rows, warps, stages, splits)
CASES = [
    (5, 37, "index", 5, True, Launch(16, 16, 64, 16, 4, 2, 2)),
    (5, 37, "index", 5, True, Launch(16, 16, 16, 16, 4, 2, 2)),
    (5, 37, "soft", 2, True, Launch(32, 16, 16, 16, 4, 2, 1)),
    (20, 3, "any sum", 20, False, Launch(16, 32, 16, 16, 4, 2, 3)),
    (20, 33, "any sum", 7, False, Launch(16, 32, 16, 4, 4, 2, 2)),
    (1, 1, "index", 1, True, Launch(16, 16, 16, 16, 4, 2, 1)),
]


@pytest.mark.parametrize(("b", "c", "kind", "m", "attended", "launch"), CASES)
def test_loss_and_gradient_are_those_of_the_weights_drawn(b, c, kind, m, attended, launch) -> None:
    r, n = 2, 35
    logits, targets = normal(b, r, c, seed=0, scale=3).float().transpose(0, 1), make_targets(kind, b, c)
    a = None
    if attended:
        a = torch.rand(b, r, generator=rng(1))
        a[b // 2 + 1 :, 0] = 0
        a[:, 1] = 0  # a position without any attention
    wanted = expected(logits, targets, a, weights(n, b, m, positions=r))
    inputs = logits.to(DEVICE), targets.to(DEVICE), None if a is None else a.to(DEVICE)
    # Products in float32 (or its equal by tensor cores); tf32 keeps 10 bits, so deviations are off by 2^-11 at most.
    # What is rounded does not depend on how weights and sums of targets came about.
    for precision, tolerance in (("tf32x3", 3e-6), ("tf32", 5e-4))[: 1 if kind == "any sum" else 2]:
        found = triton_loss.sums(*inputs, SEED, n, m, 0.5, 2.0, True, precision, launch)
        assert torch.allclose(found[0].cpu().double(), wanted[0], rtol=tolerance, atol=1e-5)
        assert torch.allclose(found[1].cpu().double(), wanted[1], rtol=1e-5)
        if c > 1:
            assert relative(found[2], wanted[2]) < tolerance


@pytest.mark.parametrize("precision", ["bf16", "tf32", "tf32x3"])
def test_rounding_the_deviations_keeps_their_mean(precision) -> None:
    b, c, width = 13, 21, 32
    logits, a = normal(1, b, c, seed=0, scale=5).float(), torch.rand(1, b, generator=rng(1))
    deviations = torch.empty(1, 16, width, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    on_device = [t.to(DEVICE) for t in (logits, a, deviations, torch.empty(1, width))]
    triton_loss._centre[(1, 1)](*on_device, b, c, width, b * c, c, PRECISION=precision, BB=16, BC=width)
    found, mean = on_device[2][0].cpu().double(), on_device[3][0].cpu().double()
    exact, share = logits[0].double(), (a[0] / a[0].sum()).double()
    assert torch.allclose(mean[:c] + share @ found[:b, :c], share @ exact, atol=2e-6)
    step = {"bf16": 2**-8, "tf32": 2**-10, "tf32x3": 2**-23}[precision]
    assert (mean[:c] + found[:b, :c] - exact).abs().max() < 2 * step * exact.abs().max()
    assert not found[b:].any()
    assert not found[:, c:].any()
    assert bool((mean[c:] == -torch.inf).all())


@pytest.mark.parametrize(("dtype", "precision", "tolerance"), [
    (torch.bfloat16, "bf16", 1e-2), (torch.bfloat16, "tf32", 5e-4), (torch.float16, "tf32", 5e-4),
])  # fmt: skip
def test_half_precision_logits(dtype, precision, tolerance) -> None:
    r, n, b, c = 2, 48, 12, 21
    logits, targets = normal(r, b, c, seed=3, scale=3).to(dtype), make_targets("index", b, c)
    wanted = expected(logits, targets, None, weights(n, b, positions=r))
    launch = Launch(16, 16, 32, 16, 4, 2, 1)
    found = triton_loss.sums(logits.to(DEVICE), targets.to(DEVICE), None, SEED, n, b, 0.5, 2.0, True, precision, launch)
    assert found[2].dtype == torch.float32
    assert relative(found[0], wanted[0]) < tolerance / 2
    assert relative(found[2], wanted[2]) < tolerance


def test_large_logits_are_finite_and_constants_change_nothing() -> None:
    logits, targets = normal(1, 6, 20, seed=4, scale=40).float(), make_targets("index", 6, 20)
    launch = Launch(16, 16, 16, 16, 4, 2, 1)
    options = None, SEED, 16, 6, 0.1, 0.1, True, "ieee", launch
    wanted = expected(logits, targets, None, weights(16, 6, alpha=(0.1, 0.1)))
    for offset in (0, 1000):
        losses, _, grad = triton_loss.sums((logits + offset).to(DEVICE), targets.to(DEVICE), *options)
        assert relative(losses, wanted[0]) < 1e-4
        assert relative(grad, wanted[2]) < 2e-3


@pytest.mark.parametrize("precision", ["bf16", "tf32x3"])
@pytest.mark.parametrize("m", [9, 2])
@pytest.mark.parametrize("attended", [True, False])
def test_masked_classes(attended, m, precision) -> None:
    """Of all examples, and of one alone, whose mixtures with others do not have them either."""
    r, n, b, c = 2, 32, 9, 21
    logits, targets = normal(r, b, c, seed=5, scale=3).float(), make_targets("index", b, c) % 4
    logits[..., 7], logits[:, 3, 5:9] = -torch.inf, torch.finfo(torch.float32).min
    a = None
    if attended:
        a = torch.rand(b, r, generator=rng(1))
        a[4, 0] = 0
        logits[0, 4] = -torch.inf  # an example that does not count
    finite = logits.masked_fill(logits < -1e30, -1e4)
    wanted = expected(finite, targets, a, weights(n, b, m, positions=r))
    inputs = logits.to(DEVICE), targets.to(DEVICE), None if a is None else a.to(DEVICE)
    launch = Launch(16, 16, 32, 16, 4, 2, 1)
    found = triton_loss.sums(*inputs, SEED, n, m, 0.5, 2.0, True, precision, launch)
    tolerance = 1e-2 if precision == "bf16" else 1e-5
    assert relative(found[0], wanted[0]) < tolerance
    assert relative(found[2], wanted[2]) < tolerance
    assert not found[2][..., 7].any()


@pytest.mark.parametrize("precision", ["bf16", "tf32x3"])
def test_a_logit_that_is_not_a_number_is_no_masked_class(precision) -> None:
    logits = normal(2, 9, 21, seed=5).float()
    logits[0, 3, 20] = torch.nan
    inputs = logits.to(DEVICE), make_targets("index", 9, 20).to(DEVICE), None
    losses, _, gradient = triton_loss.sums(
        *inputs, SEED, 32, 9, 0.5, 2.0, True, precision, Launch(16, 16, 32, 16, 4, 2, 1)
    )
    assert losses.isnan().tolist() == [True, False]
    assert gradient.isnan().any((1, 2)).tolist() == [True, False]


@pytest.mark.parametrize("m", [None, 3])
def test_the_chunked_loss_on_this_device_is_the_reference(m, monkeypatch) -> None:
    monkeypatch.setattr(crossover, "MEASURED", {})
    r, n, b, c = 3, 200, 8, 11
    logits, targets = normal(r, b, c, seed=6, scale=2).float().to(DEVICE), make_targets("index", b, c).to(DEVICE)
    a = torch.rand(b, r, generator=rng(1)).to(DEVICE)
    found = {}
    for implementation in ("auto", "reference"):
        criterion = mm.DenseMultiMix(n, m, implementation=implementation)
        clean = logits.clone().requires_grad_()
        loss = criterion.from_logits(clean.transpose(0, 1), targets, a, rng(7))
        found[implementation] = loss, torch.autograd.grad(loss, clean)[0]
    assert torch.allclose(found["auto"][0], found["reference"][0], rtol=1e-5)
    assert relative(found["auto"][1], found["reference"][1].cpu().double()) < 1e-4


@pytest.mark.parametrize(("normalize", "attended"), [("position", True), ("global", True), ("position", False)])
def test_the_operator(normalize, attended) -> None:
    r, n, b, c, m = 2, 20, 6, 5, 4
    logits, targets = normal(r, b, c, seed=0, scale=2).float().to(DEVICE).requires_grad_(), make_targets("soft", b, c)
    a = torch.rand(b, r, generator=rng(1)).to(DEVICE) if attended else None
    options = {"n": n, "m": m, **ALPHA, "normalize": normalize, "implementation": "triton"}
    state, before = torch.get_rng_state(), logits.detach().clone()

    def run(seed: int, logits: Tensor = logits) -> Tensor:
        return sampled_cross_entropy(logits, targets.to(DEVICE), a, torch.tensor(seed), **options)

    lam, s = triton_draw.weights(SEED, n, b, m, 0.5, 2.0, r, DEVICE).double(), None
    if a is not None:
        lam, s = attend(lam, a.double())
    clean = logits.detach().double().requires_grad_()
    wanted = mixed_cross_entropy(clean, targets.to(DEVICE), lam, s, normalize, "reference")
    loss = run(SEED)
    assert torch.allclose(loss.double(), wanted, rtol=1e-5)
    ours, theirs = (
        torch.autograd.grad(2 * loss, logits)[0],
        torch.autograd.grad(2 * wanted, clean, create_graph=True)[0],
    )
    assert relative(ours, theirs.detach().cpu()) < 1e-5
    if normalize == "position" and attended:
        again = run(SEED)
        assert torch.equal(again, loss)
        assert torch.equal(2 * torch.autograd.grad(again, logits)[0], ours)
        assert not torch.equal(run(SEED + 1), loss)
        assert torch.allclose(run(SEED, logits.detach()), loss)
    if normalize == "global":  # differentiated twice, through the reference and the same draws
        direction = normal(r, b, c, seed=9).to(DEVICE)
        twice = torch.autograd.grad(run(SEED), logits, create_graph=True)[0]
        ours = torch.autograd.grad((twice * direction.float()).sum(), logits)[0]
        second = torch.autograd.grad((theirs * direction).sum() / 2, clean)[0]
        assert relative(ours, second.cpu()) < 1e-4
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("gradient", [True, False])
def test_it_is_a_valid_operator(gradient) -> None:
    logits = normal(2, 4, 3, seed=0).float().to(DEVICE).requires_grad_(gradient)
    a = torch.rand(4, 2, generator=rng(1)).to(DEVICE)
    options = torch.tensor(7), *ALPHA.values(), 5, 4, False, gradient, "triton"
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(_sampled, (logits, make_targets("index", 4, 3).to(DEVICE), a, *options), test_utils=tests)


def test_criteria_by_the_kernel() -> None:
    b, r, d, c, n = 6, 4, 8, 5, 50
    features, labels = normal(b, r, d, seed=1).float().to(DEVICE), make_targets("index", b, c).to(DEVICE)
    head = torch.nn.Linear(d, c).to(DEVICE)
    mask = torch.ones(b, r, dtype=torch.bool, device=DEVICE)
    mask[2, 1:] = False
    dense = mm.DenseMultiMix(n, implementation="triton")
    a = dense.attend_to(features, labels, None, mask)
    loss = dense(features, labels, head, mask, generator=rng(5))
    lam = triton_draw.weights(int(draw_seed(rng(5))), n, b, b, 0.5, 2.0, r, DEVICE)
    lam_hat, s = attend(lam, a)
    logits = head(features * mask[..., None]).transpose(0, 1)
    assert torch.allclose(loss, mixed_cross_entropy(logits, labels, lam_hat, s, implementation="reference"), rtol=1e-5)
    plain = mm.MultiMix(n, implementation="triton").from_logits(logits[0], labels, rng(5))
    lam = triton_draw.weights(int(draw_seed(rng(5))), n, b, b, 0.5, 2.0, 1, DEVICE)[0]
    assert torch.allclose(plain, mixed_cross_entropy(logits[0], labels, lam, implementation="reference"), rtol=1e-5)
    with pytest.raises(ValueError, match="no gradient in targets or attention"):
        mm.DenseMultiMix(n, implementation="triton", detach_attention=False)(features.requires_grad_(), labels, head)


def test_attended_examples_next_to_no_weight() -> None:
    """With a small alpha most mixtures give the one attended example a weight whose reciprocal is infinite."""
    b, n, labels = 16, 64, make_targets("index", 16, 5)
    a = torch.zeros(b, 2)
    a[:, 0], a[3, 1] = 1, 1
    logits = normal(2, b, 5, seed=8).float()
    wanted = expected(logits, labels, a, weights(n, b, alpha=(0.02, 0.02), positions=2))
    launch = Launch(16, 16, 16, 16, 4, 2, 1)
    on_device = logits.to(DEVICE), labels.to(DEVICE), a.to(DEVICE)
    found = triton_loss.sums(*on_device, SEED, n, b, 0.02, 0.02, True, "tf32x3", launch)
    assert float(wanted[1][1]) < n / 4
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours.cpu().double(), theirs, rtol=1e-4, atol=1e-5)


def test_a_loss_without_any_attention_is_zero() -> None:
    logits = normal(2, 4, 3, seed=0).float().to(DEVICE).requires_grad_()
    options = {
        "n": 5,
        "m": None,
        "low": torch.tensor(1.0),
        "high": torch.tensor(1.0),
        "normalize": "position",
        "implementation": "triton",
    }
    targets = make_targets("index", 4, 3).to(DEVICE)
    loss = sampled_cross_entropy(logits, targets, torch.zeros(4, 2, device=DEVICE), torch.tensor(1), **options)
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, logits)[0].any()
