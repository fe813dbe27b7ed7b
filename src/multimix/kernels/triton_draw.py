# mypy: disable-error-code="no-untyped-def, import-untyped"
"""Interpolation weights drawn in registers by a counter-based generator, for Triton kernels.

Every random word is Philox4x32-7 of (mixture, example, position, attempt), keyed by a 64-bit seed: a weight depends on
what it belongs to and on nothing else, so any kernel can draw it again, whatever its blocks are. Seven rounds are the
fewest that passed all of BigCrush (Salmon et al. 2011). Gamma variates are exact: an exponential variate, warped, for
alpha up to 2, else the method of Marsaglia and Tsang (2000), repeated until accepted. The draws are not those of
`multimix.functional.sample_weights`, whose generator is another one; their distribution is the same.

Shape suffixes: P positions, N mixed examples (or a block of them), B batch (padded to a power of two in kernels), by
columns (k, g) K x G.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ..functional._gamma.warped_exponential import FIT, HIGH, MOST_SHAPE
from ..functional.loss import negligible
from ..functional.sampling import ALPHA_LEAST, ALPHA_MOST

# The last counter: attempts at a gamma variate count from 0; what else is drawn has a number they never reach.
_ALPHA = tl.constexpr(1 << 30)
_SUBSET = tl.constexpr((1 << 30) + 1)
_NEGLIGIBLE = tl.constexpr(negligible(torch.float32))
_ROUNDS = tl.constexpr(7)

_LOG2_E = tl.constexpr(math.log2(math.e))
_LN_2 = tl.constexpr(math.log(2))
_LOG2_HIGH = tl.constexpr(math.log2(HIGH))
_S0, _S1, _S2 = map(tl.constexpr, FIT[0])
_C0, _C1, _C2 = map(tl.constexpr, FIT[1])
_P0, _P1, _P2 = map(tl.constexpr, FIT[2])
_Q0, _Q1, _Q2 = map(tl.constexpr, FIT[3])


@triton.jit
def _words(purpose, columns, rows, position, seed_low, seed_high):
    """Four blocks of random uint32. `columns` and `rows` broadcast against each other."""
    example = (columns + rows * 0).to(tl.uint32)
    zero = example * 0
    mixture, place = zero + rows.to(tl.uint32), zero + position.to(tl.uint32)
    key_low, key_high = seed_low.to(tl.uint32, bitcast=True), seed_high.to(tl.uint32, bitcast=True)
    return tl.philox_impl(mixture, example, place, zero + purpose, zero + key_low, zero + key_high, _ROUNDS)


INTERPRETED = not isinstance(_words, triton.JITFunction)
"""Whether kernels run on the CPU, because TRITON_INTERPRET=1 was set when Triton was imported."""
_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def _log2(x):
    """To about 4e-7, by the device's special function unit, in a fifth of the instructions: variates are off by about
    the spacing of float32 numbers, less than any number of draws could tell."""
    if _INTERPRETED:
        return tl.log2(x)
    else:
        return libdevice.fast_log2f(x)


@triton.jit
def _uniform(words):
    """U(0, 1] with all 32 bits: never 0, so that the logarithm is finite."""
    return words.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def _normal_pair(words_a, words_b):
    """Two independent standard normal variates, by Box and Muller."""
    radius = tl.sqrt(tl.maximum(-1.3862943611198906 * _log2(_uniform(words_a)), 0.0))
    # An angle pi v, v in [-1, 1]. These polynomials (Chebyshev, in v^2) are as good as float32 allows, and unlike the
    # library's functions have no branch for huge arguments.
    v = words_b.to(tl.int32, bitcast=True).to(tl.float32) * 4.656612873077393e-10
    t = v * v
    cos = 0.0015936782583594322 * t - 0.025358285754919052
    cos = ((cos * t + 0.23502902686595917) * t - 1.3351579904556274) * t + 4.058694839477539
    cos = (cos * t - 4.93480110168457) * t + 1.0
    sin = 0.00039523682789877057 * t - 0.007275184616446495
    sin = ((sin * t + 0.08208174258470535) * t - 0.5992422103881836) * t + 2.5501604080200195
    sin = ((sin * t - 5.167712688446045) * t + 3.1415927410125732) * v
    return radius * cos, radius * sin


@triton.jit
def _marsaglia_tsang(shape_N, words_a, words_b, words_c):
    """An attempt at a Gamma(shape) variate over shape - 1/3: its logarithm to base 2, and whether it is accepted (see
    `functional._gamma.marsaglia_tsang`); one in thirty is not."""
    d_N = shape_N - 0.3333333333333333
    x, _ = _normal_pair(words_a, words_b)
    root = 1.0 + x / tl.sqrt(9.0 * d_N)
    log_v = 3.0 * _log2(tl.where(root > 0.0, root, 1.0))
    bound = 0.5 * x * x + d_N * (1.0 - root * root * root + _LN_2 * log_v)
    return log_v, (root > 0.0) & (_LN_2 * _log2(_uniform(words_c)) < bound)


@triton.jit
def _parabola(x, c0: tl.constexpr, c1: tl.constexpr, c2: tl.constexpr):
    return (c2 * x + c1) * x + c0


@triton.jit
def _warped_exponential(shape_N, words_a, words_b):
    """An attempt at a Gamma(shape) variate over C(shape), shape in [1/2, 2]: its logarithm to base 2, and whether it is
    accepted; one in 148 is not. What the names mean is in `functional._gamma.warped_exponential`."""
    log_N = _LN_2 * _log2(shape_N)
    log_s_N = _LOG2_E * _parabola(log_N, _S0, _S1, _S2)
    log_c_N = log_s_N + _LOG2_E * _parabola(log_N, _C0, _C1, _C2)
    c1_N, c2_N = _parabola(log_N, _P0, _P1, _P2), _parabola(log_N, _Q0, _Q1, _Q2)
    k_N = 1.0 / shape_N - 1.0
    # log2(C^a / (Gamma(a) s HIGH)) to 3e-5; any error of it is a factor of the chances of all variates alike.
    constant_N = (0.00848262 * log_N + 0.01485666) * log_N + 0.02523859
    constant_N = ((constant_N * log_N - 0.00482547) * log_N + 1.41877615) * log_N + 0.00101769 - _LOG2_HIGH
    bits = tl.maximum(-_log2(_uniform(words_a)), 1e-7)  # E / log 2; rounding makes 0 of one in 10^8
    x = bits * (_LN_2 * tl.exp2(-log_s_N))
    y, log_x = tl.rsqrt(x), _log2(x)
    p = ((y + c2_N) * y + c1_N) * y + 1.0
    third_of_slope = ((y + 0.6666666666666666 * c2_N) * y + 0.3333333333333333 * c1_N) * y  # y P' / 3
    log_t = log_x - (0.6666666666666666 * k_N) * _log2(p)
    log_r = shape_N * log_t - log_x - (_LOG2_E * tl.exp2(log_c_N)) * tl.exp2(log_t) + bits + constant_N
    return log_t, _uniform(words_b) * p < tl.exp2(log_r) * (p + k_N * third_of_slope)


@triton.jit
def _attempt(shape_N, w0, w1, w2, WARPED: tl.constexpr):
    if WARPED:
        return _warped_exponential(shape_N, w0, w1)
    else:
        return _marsaglia_tsang(shape_N, w0, w1, w2)


@triton.jit
def _interleave(x_HGN, y_HGN, K: tl.constexpr, G: tl.constexpr):
    """(K, G, N), of x where k is even and of y where it is odd."""
    both_HGN2 = tl.join(x_HGN, y_HGN)
    return tl.reshape(tl.permute(both_HGN2, (0, 3, 1, 2)), (K, G, x_HGN.shape[2]))


@triton.jit
def _log_gamma_variates(
    alpha_N, wanted_KGN, rows_N, position, seed_low, seed_high,
    WARPED: tl.constexpr, BOOSTED: tl.constexpr, K: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """Logarithms to base 2 of Gamma(alpha) variates, those of a mixture up to a constant, which normalisation removes.

    Column k G + g is at (k, g). Few are rejected, so they are not drawn again all together: every group, the columns of
    the same g, which a thread holds, draws again one of its own at a time, at a K-th of the cost.
    """
    alpha_N, rows_N = alpha_N[None, :], rows_N[None, :]
    k_K, g_G1 = tl.arange(0, K)[:, None, None], tl.arange(0, G)[:, None]
    least: tl.constexpr = 0.5 if WARPED else 1.0
    # Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha).
    shape_N = tl.where(alpha_N < least, alpha_N + 1.0, alpha_N) if BOOSTED else alpha_N
    if WARPED and not BOOSTED:  # two words are enough: a block of four is for two columns, k = 2 h and 2 h + 1
        h_H = tl.arange(0, K // 2)[:, None, None]
        w0, w1, w2, w3 = _words(0, h_H * G + g_G1[None], rows_N[None], position, seed_low, seed_high)
        w0, w1 = _interleave(w0, w2, K, G), _interleave(w1, w3, K, G)
    else:
        w0, w1, w2, w3 = _words(0, k_K * G + g_G1[None], rows_N[None], position, seed_low, seed_high)
    log_g, accepted = _attempt(shape_N[None], w0, w1, w2, WARPED)
    log_g = tl.where(accepted, log_g, 0.0)
    if BOOSTED:
        log_g += _log2(_uniform(w3)) * tl.where(alpha_N < least, 1.0 / alpha_N, 0.0)[None]
    pending = wanted_KGN & (accepted == 0)
    attempt_GN = g_G1 * 0 + rows_N * 0 + 1
    k_GN = tl.min(tl.where(pending, k_K, K), 0)
    while tl.min(k_GN) < K:
        v0, v1, v2, _ = _words(attempt_GN, k_GN * G + g_G1, rows_N, position, seed_low, seed_high)
        found_GN, accepted_GN = _attempt(shape_N, v0, v1, v2, WARPED)
        here = (k_K == k_GN[None]) & accepted_GN[None]
        log_g = tl.where(here, log_g + found_GN[None], log_g)
        pending = pending & (here == 0)
        attempt_GN = tl.where(accepted_GN, 1, attempt_GN + 1)
        k_GN = tl.min(tl.where(pending, k_K, K), 0)
    return log_g


@triton.jit
def _subset(valid_KGN, columns_KG1, rows_11N, position, seed_low, seed_high, m):
    """A uniformly random m-subset of the columns for every mixture: those of the m smallest random keys.

    The m-th smallest key is found bit by bit, by counting. Its index in the low bits keeps the keys of a mixture
    distinct; the 22 bits above (or more) are random.
    """
    key, _, _, _ = _words(_SUBSET, columns_KG1, rows_11N, position, seed_low, seed_high)
    # 31 bits, so that comparisons are the same signed and unsigned.
    key = (((key >> 1) & 0x7FFFFE00) | columns_KG1.to(tl.uint32)).to(tl.int32)
    bound = rows_11N.to(tl.int32) * 0
    for step in range(31):
        candidate = bound + (1 << (30 - step))
        below = tl.sum(tl.sum(tl.where(valid_KGN & (key < candidate), 1, 0), 0), 0)[None, None, :]
        bound = tl.where(below < m, candidate, bound)
    return valid_KGN & (key <= bound)


@triton.jit
def draw(
    rows_N, position, attention_B, seed_low, seed_high, b, m, low, high,
    SUBSET: tl.constexpr, WARPED: tl.constexpr, BOOSTED: tl.constexpr, BB: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Weights scaled by attention and normalised, (10)-(11), (B, N), and s (14) of every mixture, (N,).

    A mixture is a lane's, so that what depends on the mixture alone is computed once for all the columns of a thread.
    """
    K: tl.constexpr = 8
    G: tl.constexpr = BB // K
    columns_KG1 = (tl.arange(0, K)[:, None] * G + tl.arange(0, G)[None, :])[:, :, None]
    rows_11N = rows_N[None, None, :]
    chosen_KGN = (columns_KG1 < b) & (rows_11N >= 0)
    if SUBSET:
        chosen_KGN = _subset(chosen_KGN, columns_KG1, rows_11N, position, seed_low, seed_high, m)
    w_N, _, _, _ = _words(_ALPHA, rows_N * 0, rows_N, position, seed_low, seed_high)
    alpha_N = low + (high - low) * _uniform(w_N)
    log_g_KGN = _log_gamma_variates(alpha_N, chosen_KGN, rows_N, position, seed_low, seed_high, WARPED, BOOSTED, K, G)
    log_g_KGN = tl.where(chosen_KGN, log_g_KGN, -float("inf"))
    if BOOSTED or not WARPED:  # else they are moderate
        log_g_KGN -= tl.max(tl.max(log_g_KGN, 0), 0)[None, None, :]
    g_KGN = tl.exp2(log_g_KGN)
    M_KGN = g_KGN * tl.reshape(attention_B, (K, G))[:, :, None]
    sum_N = tl.sum(tl.sum(M_KGN, 0), 0)
    s_N = sum_N / tl.sum(tl.sum(g_KGN, 0), 0)
    s_N = tl.where(s_N < _NEGLIGIBLE, 0.0, s_N)  # `functional.loss.counted`: the reciprocal of less is infinite
    lam_KGN = M_KGN * (1.0 / tl.where(s_N > 0.0, sum_N, 1.0))[None, None, :]
    return tl.reshape(lam_KGN, (BB, N)), s_N


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def _write(
    lam_ptr, seed_low, seed_high, n, b, m, low, high,
    SUBSET: tl.constexpr, WARPED: tl.constexpr, BOOSTED: tl.constexpr, BN: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0)
    rows_N, columns_B = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BB)
    ones_B = tl.full((BB,), 1.0, tl.float32)
    lam_BN, _ = draw(rows_N, position, ones_B, seed_low, seed_high, b, m, low, high, SUBSET, WARPED, BOOSTED, BB, BN)
    row_N = position.to(tl.int64) * n + rows_N
    inside_BN = (columns_B < b)[:, None] & (rows_N < n)[None, :]
    tl.store(lam_ptr + row_N[None, :] * b + columns_B[:, None], lam_BN, mask=inside_BN)


def weights(seed: int, n: int, b: int, m: int, low: float, high: float, positions: int, device: torch.device) -> Tensor:
    """The weights (positions, n, b) that the kernels draw from this seed, before attention, written to memory."""
    lam_PNB = torch.empty(positions, n, b, device=device, dtype=torch.float32)
    BB = max(16, triton.next_power_of_2(b))
    BN = max(1, 4096 // BB)
    grid = (positions, triton.cdiv(n, BN))
    with torch.cuda.device_of(lam_PNB):
        _write[grid](lam_PNB, *halves(seed), n, b, m, **concentration(low, high), SUBSET=m < b, BN=BN, BB=BB)
    return lam_PNB


def concentration(low: float, high: float) -> dict[str, float | bool]:
    """The range of alpha and how to draw from it, as arguments of the kernels."""
    low, high = (min(max(end, ALPHA_LEAST), ALPHA_MOST) for end in (low, high))
    warped = high <= MOST_SHAPE
    return {"low": low, "high": high, "WARPED": warped, "BOOSTED": low < (0.5 if warped else 1.0)}


def halves(seed: int) -> tuple[int, int]:
    """A 64-bit seed as two signed 32-bit integers, which Triton passes without a change of type."""
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    return low - ((low >> 31) << 32), high - ((high >> 31) << 32)
