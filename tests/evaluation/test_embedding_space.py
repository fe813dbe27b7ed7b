"""Alignment, uniformity, spread and rank against brute force and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix.evaluation import alignment, class_spread, effective_rank, embedding_space, uniformity


def cloud(seed: int, n: int, d: int, c: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % c
    return torch.randn(n, d, generator=g) + labels[:, None], labels


def distances(z: torch.Tensor, normalize: bool) -> list[list[float]]:
    rows = z.double().tolist()
    if normalize:
        rows = [[x / math.hypot(*row) for x in row] for row in rows]
    return [[math.dist(a, b) for b in rows] for a in rows]


@given(st.integers(0, 10**6), st.integers(5, 30), st.booleans(), st.sampled_from([0.5, 1, 2, 3.0]))
@settings(max_examples=25, deadline=None)
def test_alignment_is_the_mean_over_pairs_of_a_class(seed: int, n: int, normalize: bool, alpha: float) -> None:
    z, labels = cloud(seed, n, 3, 4)
    d = distances(z, normalize)
    powers = [d[i][j] ** alpha for i in range(n) for j in range(n) if i != j and labels[i] == labels[j]]
    expected = sum(powers) / len(powers)
    assert alignment(z, labels, normalize=normalize, alpha=alpha) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 30), st.booleans(), st.sampled_from([0.1, 1, 2, 5.0]))
@settings(max_examples=25, deadline=None)
def test_uniformity_is_the_log_of_the_mean_kernel(seed: int, n: int, normalize: bool, t: float) -> None:
    z, _ = cloud(seed, n, 3, 4)
    d = distances(z, normalize)
    kernel = [math.exp(-t * d[i][j] ** 2) for i in range(n) for j in range(n) if i != j]
    assert uniformity(z, normalize=normalize, t=t) == pytest.approx(math.log(sum(kernel) / len(kernel)), rel=1e-6)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z, labels = cloud(0, 50, 4, 3)
    whole = alignment(z, labels), uniformity(z)
    monkeypatch.setattr(embedding_space, "_ROWS", 7)
    assert (alignment(z, labels), uniformity(z)) == pytest.approx(whole, rel=1e-12)


def test_points_far_apart_stay_finite() -> None:
    assert uniformity(torch.tensor([[0.0], [100.0]]), t=2) == pytest.approx(-20000)


def test_a_common_mean_far_from_the_origin_changes_nothing() -> None:
    """All positive embeddings, after a ReLU, have one; more than 25 rows, which PyTorch multiplies."""
    z, labels = cloud(3, 120, 6, 3)
    far = z.double() + 1e7
    pairs = distances(far, normalize=False)
    others = [(i, j) for i in range(120) for j in range(120) if i != j]
    kernel = sum(math.exp(-2 * pairs[i][j] ** 2) for i, j in others) / len(others)
    assert uniformity(far) == pytest.approx(math.log(kernel), rel=1e-9)
    for alpha in (0.05, 2):
        same = [pairs[i][j] ** alpha for i, j in others if labels[i] == labels[j]]
        assert alignment(far, labels, alpha=alpha) == pytest.approx(sum(same) / len(same), rel=1e-9)


def test_bounds_on_the_unit_sphere() -> None:
    # Two antipodal clusters are the largest alignment of a class: half the pairs at squared distance 4.
    n = 100
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(n // 2, 1)
    assert alignment(z, torch.zeros(n).long(), normalize=True) == pytest.approx(2 * n / (n - 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignment(torch.ones(3), torch.zeros(3).long()), r"\(N, d\).*got \(3,\)"),
        (lambda: alignment(torch.ones(3, 2), torch.zeros(4).long()), r"shape \(3,\).*got \(4,\)"),
        (lambda: alignment(torch.ones(3, 2), torch.arange(3)), "none of the 3 classes"),
        (
            lambda: alignment(torch.ones(3, 2), torch.zeros(3).long(), alpha=0),
            "alpha must be positive, got 0",
        ),
        *(
            (
                lambda measure=measure, shape=shape: measure(torch.ones(shape)),
                rf"N, d >= 1, got \({shape[0]}, {shape[1]}\)",
            )
            for measure in (uniformity, effective_rank)
            for shape in ((3, 0), (0, 3))
        ),
        (lambda: uniformity(torch.ones(1, 2)), r"at least 2 rows, got \(1, 2\)"),
        (lambda: uniformity(torch.ones(3, 2), t=-1), "t must be positive, got -1"),
    ],
)
def test_errors_name_what_was_received(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@given(st.integers(0, 10**6), st.integers(8, 30), st.booleans())
@settings(max_examples=20, deadline=None)
def test_class_spread_by_loops(seed: int, n: int, normalize: bool) -> None:
    z, labels = cloud(seed, n, 3, 4)
    rows = z.double().tolist()
    if normalize:
        rows = [[x / math.hypot(*row) for x in row] for row in rows]
    groups = [[row for row, label in zip(rows, labels.tolist(), strict=True) if label == k] for k in range(4)]

    def mean(points: list[list[float]]) -> list[float]:
        return [sum(column) / len(points) for column in zip(*points, strict=True)]

    within = sum(math.dist(row, mean(group)) ** 2 for group in groups for row in group) / n
    between = sum(len(group) * math.dist(mean(group), mean(rows)) ** 2 for group in groups) / n
    found = class_spread(z, labels, normalize=normalize)
    assert found.within == pytest.approx(within, rel=1e-6)
    assert found.between == pytest.approx(between, rel=1e-6)
    assert found.ratio == pytest.approx(within / between, rel=1e-6)
    assert found.within + found.between == pytest.approx(
        sum(math.dist(row, mean(rows)) ** 2 for row in rows) / n, rel=1e-6
    )


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_equal_singular_values_is_their_number(rank: int) -> None:
    # Columns of a Hadamard-like orthogonal matrix without the constant one are centred and equally long.
    q = torch.linalg.qr(torch.cat([torch.ones(20, 1), torch.randn(20, rank)], 1).double()).Q[:, 1:]
    z = 5 * torch.nn.functional.pad(q, (0, 4)) + 7
    assert effective_rank(z) == pytest.approx(rank, rel=1e-9)


def test_effective_rank_is_the_exponential_of_an_entropy() -> None:
    z = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    # Singular values 3 sqrt(2) and sqrt(2), in shares 3/4 and 1/4.
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(z) == pytest.approx(expected, rel=1e-9)


def test_spread_and_rank_need_something_to_compare() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        class_spread(torch.rand(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        class_spread(torch.rand(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="at least 2 different embeddings, got 5 that are all equal"):
        effective_rank(torch.full((5, 3), 0.1))
    with pytest.raises(ValueError, match="at least 2 different embeddings, got 1"):
        effective_rank(torch.rand(1, 3))
    with pytest.raises(ValueError, match="embeddings must be finite, but 1 of 3 are not"):
        effective_rank(torch.tensor([[0.0, 1.0], [2.0, float("nan")], [3.0, 4.0]]))
