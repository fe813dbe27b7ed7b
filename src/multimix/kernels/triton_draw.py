# mypy: disable-error-code="no-untyped-def, import-untyped"
"""Interpolation weights drawn in registers by a counter-based generator, for Triton kernels.

Every random word is Philox4x32-7 of (example, mixture, position, purpose), keyed by a 64-bit seed: a weight depends on
what it belongs to and on nothing else, so any kernel can draw it again, whatever its blocks are. Seven rounds are the
fewest that passed all of BigCrush (Salmon et al. 2011); drawing is most of the kernel's time. Gamma variates are exact:
Marsaglia and Tsang (2000), repeated until accepted. The draws are not those of `multimix.functional.sample_weights`,
whose generator is another one; their distribution is the same.

Shape suffixes: P positions, N mixed examples (or a block of them), B batch (padded to a power of two in kernels).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

# The last counter: attempts at a gamma variate count from 0; what else is drawn has a number they never reach.
_ALPHA = tl.constexpr(1 << 30)
_SUBSET = tl.constexpr((1 << 30) + 1)
_ROUNDS = tl.constexpr(7)

ALPHA_LEAST = 1e-30
"""With this alpha a row is one-hot to any precision; with one much smaller, log(u) / alpha would overflow."""


@triton.jit
def _words(purpose, columns, rows, position, seed_low, seed_high):
    """Four blocks of random uint32. `columns` and `rows` broadcast against each other."""
    example = (columns + rows * 0).to(tl.uint32)
    zero = example * 0
    mixture, place = zero + rows.to(tl.uint32), zero + position.to(tl.uint32)
    key_low, key_high = seed_low.to(tl.uint32, bitcast=True), seed_high.to(tl.uint32, bitcast=True)
    return tl.philox_impl(example, mixture, place, zero + purpose, zero + key_low, zero + key_high, _ROUNDS)


INTERPRETED = not isinstance(_words, triton.JITFunction)
"""Whether kernels run on the CPU, because TRITON_INTERPRET=1 was set when Triton was imported."""
_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def _log(x):
    """To about 4e-7, by the device's special function unit, in a fifth of the instructions: variates are off by about
    the spacing of float32 numbers, less than any number of draws could tell."""
    if _INTERPRETED:
        return tl.log(x)
    else:
        return libdevice.fast_logf(x)


@triton.jit
def _uniform(words):
    """U(0, 1] with all 32 bits: never 0, so that the logarithm is finite."""
    return words.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def _normal_pair(words_a, words_b):
    """Two independent standard normal variates, by Box and Muller."""
    radius = tl.sqrt(tl.maximum(-2.0 * _log(_uniform(words_a)), 0.0))
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
def _marsaglia_tsang(d, c, x, words):
    """One attempt: log v, where d v is Gamma(d + 1/3) if accepted, and whether it is (see `functional.sampling`)."""
    root = 1.0 + c * x
    log_v = 3.0 * _log(tl.where(root > 0.0, root, 1.0))
    bound = 0.5 * x * x + d * (1.0 - root * root * root + log_v)
    return log_v, (root > 0.0) & (_log(_uniform(words)) < bound)


@triton.jit
def _log_gamma_variates(alpha_N1, columns_1B, rows_N1, wanted_NB, position, seed_low, seed_high):
    """log of Gamma(alpha) variates, each row up to a constant, which normalisation removes."""
    # For alpha < 1, Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha).
    exponent = tl.where(alpha_N1 < 1.0, 1.0 / alpha_N1, 0.0)
    d = tl.where(alpha_N1 < 1.0, alpha_N1 + 1.0, alpha_N1) - 0.3333333333333333
    c = 1.0 / tl.sqrt(9.0 * d)
    w0, w1, w2, w3 = _words(0, columns_1B, rows_N1, position, seed_low, seed_high)
    x, _ = _normal_pair(w0, w1)
    log_v, accepted = _marsaglia_tsang(d, c, x, w2)
    log_g = _log(_uniform(w3)) * exponent + tl.where(accepted, log_v, 0.0)
    pending = wanted_NB & (accepted == 0)
    attempt = 1
    # One in thirty needs another attempt; its words hold two.
    while tl.max(tl.max(pending.to(tl.int32), 1), 0) > 0:
        w0, w1, w2, w3 = _words(attempt, columns_1B, rows_N1, position, seed_low, seed_high)
        x, y = _normal_pair(w0, w1)
        log_v, accepted = _marsaglia_tsang(d, c, x, w2)
        log_g = tl.where(pending & accepted, log_g + log_v, log_g)
        pending = pending & (accepted == 0)
        log_v, accepted = _marsaglia_tsang(d, c, y, w3)
        log_g = tl.where(pending & accepted, log_g + log_v, log_g)
        pending = pending & (accepted == 0)
        attempt += 1
    return log_g


@triton.jit
def _subset(valid_NB, columns_1B, rows_N1, position, seed_low, seed_high, m):
    """A uniformly random m-subset of the columns in every row: those of the m smallest random keys.

    The m-th smallest key is found bit by bit, by counting. Its index in the low bits keeps the keys of a row
    distinct; the 22 bits above (or more) are random.
    """
    key, _, _, _ = _words(_SUBSET, columns_1B, rows_N1, position, seed_low, seed_high)
    # 31 bits, so that comparisons are the same signed and unsigned.
    key = (((key >> 1) & 0x7FFFFE00) | columns_1B.to(tl.uint32)).to(tl.int32)
    bound = rows_N1.to(tl.int32) * 0
    for step in range(31):
        candidate = bound + (1 << (30 - step))
        below = tl.sum(tl.where(valid_NB & (key < candidate), 1, 0), 1)[:, None]
        bound = tl.where(below < m, candidate, bound)
    return valid_NB & (key <= bound)


@triton.jit
def draw(
    rows_N, columns_B, position, attention_B, seed_low, seed_high, b, m, low, high,
    SUBSET: tl.constexpr,
):  # fmt: skip
    """Weights scaled by attention and normalised, (10)-(11), (N, B), and s (14) of every row, (N,)."""
    rows_N1, columns_1B = rows_N[:, None], columns_B[None, :]
    chosen_NB = (columns_1B < b) & (rows_N1 >= 0)
    if SUBSET:
        chosen_NB = _subset(chosen_NB, columns_1B, rows_N1, position, seed_low, seed_high, m)
    w_N1, _, _, _ = _words(_ALPHA, rows_N1 * 0, rows_N1, position, seed_low, seed_high)
    alpha_N1 = low + (high - low) * _uniform(w_N1)
    log_g_NB = _log_gamma_variates(alpha_N1, columns_1B, rows_N1, chosen_NB, position, seed_low, seed_high)
    log_g_NB = tl.where(chosen_NB, log_g_NB, -float("inf"))
    g_NB = tl.exp(log_g_NB - tl.max(log_g_NB, 1)[:, None])
    M_NB = g_NB * attention_B[None, :]
    sum_N = tl.sum(M_NB, 1)
    lam_NB = M_NB / tl.where(sum_N > 0.0, sum_N, 1.0)[:, None]
    return lam_NB, sum_N / tl.sum(g_NB, 1)


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def _write(lam_ptr, seed_low, seed_high, n, b, m, low, high, SUBSET: tl.constexpr, BN: tl.constexpr, BB: tl.constexpr):
    position = tl.program_id(0)
    rows_N, columns_B = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BB)
    ones_B = tl.full((BB,), 1.0, tl.float32)
    lam_NB, _ = draw(rows_N, columns_B, position, ones_B, seed_low, seed_high, b, m, low, high, SUBSET)
    row_NB = (position.to(tl.int64) * n + rows_N)[:, None]
    inside_NB = (rows_N < n)[:, None] & (columns_B < b)[None, :]
    tl.store(lam_ptr + row_NB * b + columns_B[None, :], lam_NB, mask=inside_NB)


def weights(seed: int, n: int, b: int, m: int, low: float, high: float, positions: int, device: torch.device) -> Tensor:
    """The weights (positions, n, b) that the kernels draw from this seed, before attention, written to memory."""
    lam_PNB = torch.empty(positions, n, b, device=device, dtype=torch.float32)
    BB = max(16, triton.next_power_of_2(b))
    BN = max(1, 4096 // BB)
    low, high = max(low, ALPHA_LEAST), max(high, ALPHA_LEAST)
    grid = (positions, triton.cdiv(n, BN))
    with torch.cuda.device_of(lam_PNB):
        _write[grid](lam_PNB, *halves(seed), n, b, m, low, high, SUBSET=m < b, BN=BN, BB=BB)
    return lam_PNB


def halves(seed: int) -> tuple[int, int]:
    """A 64-bit seed as two signed 32-bit integers, which Triton passes without a change of type."""
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    return low - ((low >> 31) << 32), high - ((high >> 31) << 32)
