"""Means over seeds, and paired differences with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..extras import require

ROUNDING = 1e-9
"""What is smaller than this part of the numbers that it was computed from is their rounding."""

Verdict = Literal["higher", "lower", "noise", "unknown"]


class Estimate(NamedTuple):
    """Mean and sample standard deviation of a few values."""

    mean: float
    std: float
    """With n - 1 in the denominator; NaN for a single value."""
    n: int

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN as null."""
        return {"mean": self.mean, "std": None if math.isnan(self.std) else self.std, "n": self.n}


class Difference(NamedTuple):
    """The mean of paired differences and the half-width of its 95 % t-interval."""

    mean: float
    half_width: float
    """NaN for a single pair: one difference says nothing about its own noise."""
    n: int

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies above 0, below 0, around it, or does not exist.

        Of a few rates that happen to differ by the same number of images it would have no width.
        """
        if math.isnan(self.half_width) or (self.half_width == 0 and self.mean != 0):
            return "unknown"
        if self.mean - self.half_width > 0:
            return "higher"
        return "lower" if self.mean + self.half_width < 0 else "noise"

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN as null."""
        return {
            "mean": self.mean,
            "half_width_95": None if math.isnan(self.half_width) else self.half_width,
            "pairs": self.n,
            "verdict": self.verdict,
        }


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and sample standard deviation.

    Raises:
        ValueError: no values.

    >>> estimate([1.0, 2.0, 3.0])
    Estimate(mean=2.0, std=1.0, n=3)
    """
    n = len(values)
    if n == 0:
        raise ValueError("an estimate needs at least one value, got none")
    mean = math.fsum(values) / n
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else math.nan
    return Estimate(mean, std, n)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """`values` minus `baseline`, paired by key (the seed); None when they have no key in common.

    Runs with the same seed share the initial weights and the order of the data, so their difference is less
    noisy than the difference of two means. The interval is Student's, for the mean of the differences; it is
    not corrected for the number of comparisons made. Rates that differ by the same number of images differ by the same
    number up to rounding, which is no spread.

    >>> difference = paired_difference({0: 0.5, 1: 0.7, 2: 0.6}, {0: 0.4, 1: 0.5, 3: 0.9})
    >>> round(difference.mean, 6), round(difference.half_width, 6), difference.n  # 12.706 * 0.0707 / sqrt(2)
    (0.15, 0.63531, 2)
    """
    pairs = [(values[key], baseline[key]) for key in values if key in baseline]
    if not pairs:
        return None
    mean, std, n = estimate([value - reference for value, reference in pairs])
    rounding = ROUNDING * max(abs(number) for pair in pairs for number in pair)
    if abs(mean) <= rounding:
        mean = 0.0
    if std <= rounding:
        std = 0.0
    if n == 1:
        return Difference(mean, math.nan, 1)
    quantile = float(require("scipy.stats", "evaluate").t.ppf(0.975, n - 1))
    return Difference(mean, quantile * std / math.sqrt(n), n)
