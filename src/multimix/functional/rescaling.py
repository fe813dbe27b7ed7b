"""How much weaker than cross entropy's the gradient of the mixed loss is, and the factor that undoes it."""

from __future__ import annotations

import math

from ._checks import Alpha, check_alpha, check_count

SMALL_ALPHA = 0.02
"""A preset of this project for short schedules and mini-batches of about 128; the paper draws alpha from [0.5, 2].

By sums of squared weights a mixture then holds 3.5 examples, not 67, and the gradient that tells examples apart is
3.6 times weaker than cross entropy's instead of 140 times. Evidence: docs/study.md.

>>> round(rescaling_factor(128, alpha=SMALL_ALPHA), 2)
3.56
"""


def rescaling_factor(b: int, m: int | None = None, alpha: Alpha = (0.5, 2.0)) -> float:
    """The inverse of what mixing leaves of the gradient that tells examples apart, to first order around the mean.

    This project's own derivation (docs/numerics.md). For lambda ~ Dir(alpha) at a random m-subset of b examples,

        E lambda_i^2 - E lambda_i lambda_j = (1 + alpha (b - m) / (b - 1)) / (b (m alpha + 1)),

    where one-hot weights, that is cross entropy, have 1 / b. The factor is the inverse of the ratio: m alpha + 1 for
    m = b, 1 for m = 1 and for alpha -> 0. For alpha ~ U[low, high] the ratio is averaged over alpha.

    Args:
        b, m, alpha: as in `sample_weights`.

    Raises:
        TypeError, ValueError: not counts, m > b, alpha <= 0.

    >>> rescaling_factor(128, alpha=1.0)
    129.0
    >>> round(rescaling_factor(128), 1)  # the paper's defaults
    139.7
    >>> round(rescaling_factor(128, m=2, alpha=1.0), 2)
    1.51
    """
    low, high = check_alpha(alpha)
    b = check_count("b", b)
    m = b if m is None else check_count("m", m, most=b)
    # log1p(x) / x, over a range too narrow for the difference of two logarithms.
    x = m * (high - low) / (m * low + 1)
    mean_inverse = (math.log1p(x) / x if x else 1.0) / (m * low + 1)
    outside = 1.0 if b == 1 else (b - m) / (b - 1)
    # (1 + alpha x) / (m alpha + 1) = x / m + (1 - x / m) / (m alpha + 1)
    return 1 / (outside / m + (1 - outside / m) * mean_inverse)
