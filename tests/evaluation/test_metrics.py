"""Accuracy, likelihood and calibration against loops, closed forms and torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

from multimix.evaluation import (
    accuracy,
    adaptive_calibration_error,
    classwise_calibration_error,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    per_class_accuracy,
    reliability,
)


def predictions(seed: int, n: int, c: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, c, generator=g), torch.randint(c, (n,), generator=g)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_accuracy_counts_labels_among_the_k_largest(k: int) -> None:
    logits, labels = predictions(0, 200, 7)
    loop = sum(
        label in sorted(range(7), key=lambda j: -row[j])[:k]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert accuracy(logits, labels, k=k) == pytest.approx(loop / 200, abs=1e-12)
    theirs = multiclass_accuracy(logits, labels, num_classes=7, top_k=k, average="micro")
    assert accuracy(logits, labels, k=k) == pytest.approx(theirs.item(), abs=1e-6)


def test_per_class_accuracy_equals_torchmetrics_and_averages_to_the_accuracy() -> None:
    logits, labels = predictions(1, 300, 6)
    ours = per_class_accuracy(logits, labels)
    theirs = multiclass_accuracy(logits, labels, num_classes=6, average="none")
    torch.testing.assert_close(ours, theirs.double(), atol=1e-6, rtol=0)
    shares = torch.bincount(labels, minlength=6) / 300
    assert (ours * shares).sum().item() == pytest.approx(accuracy(logits, labels))


def test_per_class_accuracy_of_an_absent_class_is_nan() -> None:
    assert per_class_accuracy(torch.eye(3)[:2], torch.tensor([0, 1]))[2].isnan()


def test_confusion_matrix_equals_scikit_learn() -> None:
    logits, labels = predictions(2, 300, 6)
    assert confusion_matrix(logits, labels).tolist() == metrics.confusion_matrix(labels, logits.argmax(1)).tolist()


def test_likelihood_equals_the_loop_and_survives_extreme_logits() -> None:
    logits, labels = predictions(2, 100, 5)
    loop = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        loop -= math.log(math.exp(row[label]) / sum(map(math.exp, row)))
    assert negative_log_likelihood(logits, labels) == pytest.approx(loop / 100, rel=1e-12)
    assert negative_log_likelihood(torch.tensor([[1e4, 0.0]]), torch.tensor([1])) == pytest.approx(1e4)


def ece_by_loop(probabilities: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        index = next(k for k in range(bins) if confidence <= (k + 1) / bins or k == bins - 1)
        members[index].append((confidence, row.index(confidence) == label))
    error = 0.0
    for bin_members in members:
        if bin_members:
            mean_confidence = sum(c for c, _ in bin_members) / len(bin_members)
            mean_accuracy = sum(right for _, right in bin_members) / len(bin_members)
            error += len(bin_members) / len(labels) * abs(mean_accuracy - mean_confidence)
    return error


@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(2, 12), st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_calibration_error_equals_the_loop(seed: int, n: int, c: int, bins: int) -> None:
    logits, labels = predictions(seed, n, c)
    p = logits.double().softmax(1)
    assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(ece_by_loop(p, labels, bins), abs=1e-9)


@pytest.mark.parametrize(("bins", "scale"), [(15, 1.0), (10, 4.0), (1, 2.0)])
def test_calibration_error_equals_torchmetrics(bins: int, scale: float) -> None:
    logits, labels = predictions(3, 500, 10, scale)
    p = logits.softmax(1)
    theirs = multiclass_calibration_error(p, labels, num_classes=10, n_bins=bins, norm="l1")
    assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(theirs.item(), abs=1e-5)


def test_a_perfectly_calibrated_predictor_has_no_calibration_error() -> None:
    p = torch.tensor([[0.75, 0.25]]).expand(8, 2)
    assert expected_calibration_error(p, torch.tensor([0] * 6 + [1] * 2)) == 0.0


def test_reliability_bins_every_example_once_with_the_upper_edge_inside() -> None:
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.75, 0.25], [0.6, 0.4]], dtype=torch.float64)
    diagram = reliability(p, torch.tensor([0, 0, 1, 0]), bins=4)
    assert diagram.counts.tolist() == [0, 1, 2, 1]
    assert diagram.confidences[1:].tolist() == pytest.approx([0.5, 0.675, 1.0])
    assert diagram.accuracies[1:].tolist() == [1.0, 0.5, 1.0]
    assert diagram.accuracies[0].isnan()
    assert diagram.confidences[0].isnan()


def test_half_precision_probabilities_of_many_classes_are_accepted() -> None:
    logits, labels = predictions(4, 50, 1000, 1.0)
    exact = expected_calibration_error(logits.softmax(1), labels)
    assert expected_calibration_error(logits.softmax(1).half(), labels) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_count_as_those_of_64_bits(dtype: torch.dtype) -> None:
    logits, labels = predictions(5, 400, 100)
    narrow, p = labels.to(dtype), logits.softmax(1)
    # 99 * 100 is beyond bytes.
    assert torch.equal(confusion_matrix(logits, narrow), confusion_matrix(logits, labels))
    assert accuracy(logits, narrow, k=5) == accuracy(logits, labels, k=5)
    assert torch.equal(per_class_accuracy(logits, narrow).nan_to_num(), per_class_accuracy(logits, labels).nan_to_num())
    assert negative_log_likelihood(logits, narrow) == negative_log_likelihood(logits, labels)
    for error in (expected_calibration_error, adaptive_calibration_error, classwise_calibration_error):
        assert error(p, narrow) == error(p, labels)


def classwise_by_loop(p: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    n, c = p.shape
    error = 0.0
    for k in range(c):
        for low in range(bins):
            # A bin ends with its upper edge; the first has 0 as well.
            members = [i for i in range(n) if low < bins * p[i, k] <= low + 1 or (low == 0 and p[i, k] == 0)]
            gap = sum(float(labels[i] == k) - float(p[i, k]) for i in members)
            error += abs(gap) / n / c
    return error


def test_classwise_error_equals_the_loop_at_the_edges_too() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.25, 0.0], [0.25, 0.5, 0.25], [0.5, 0.5, 0.0]]).double()
    labels = torch.tensor([0, 1, 1, 2])
    assert classwise_calibration_error(p, labels, bins=4) == pytest.approx(classwise_by_loop(p, labels, 4), abs=1e-12)
    # Classes count where they are not predicted too.
    logits, labels = predictions(7, 50, 4, 1.0)
    p = logits.double().softmax(1)
    assert classwise_calibration_error(p, labels, bins=5) == pytest.approx(classwise_by_loop(p, labels, 5), abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 12), st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_adaptive_error_equals_the_loop(seed: int, n: int, c: int, bins: int) -> None:
    """In the order of confidence, example i is in bin k where i / n lies in [k / bins, (k + 1) / bins)."""
    logits, labels = predictions(seed, n, c)
    p = logits.double().softmax(1)
    order = sorted(range(n), key=lambda i: p[i].max().item())
    error, sizes = 0.0, set()
    for k in range(bins):
        members = [order[i] for i in range(n) if k * n <= i * bins < (k + 1) * n]
        sizes.add(len(members))
        error += abs(sum(float(p[i].argmax() == labels[i]) - p[i].max().item() for i in members)) / n
    assert max(sizes) - min(sizes) <= 1
    assert adaptive_calibration_error(p, labels, bins=bins) == pytest.approx(error, abs=1e-12)
    # One bin is the difference of the means, which no division into bins can fall below.
    one_bin = abs(p.amax(1).mean().item() - accuracy(p, labels))
    assert adaptive_calibration_error(p, labels, bins=1) == pytest.approx(one_bin, abs=1e-12)
    assert error >= one_bin - 1e-12


def test_adaptive_error_does_not_depend_on_the_order_of_equal_confidences() -> None:
    g = torch.Generator().manual_seed(6)
    confidence = torch.tensor([0.6, 0.7, 0.7, 0.7, 0.9])[torch.randint(5, (100,), generator=g)].double()
    p, labels = torch.stack([confidence, 1 - confidence], 1), torch.randint(2, (100,), generator=g)
    found = {
        round(adaptive_calibration_error(p[order], labels[order], bins=15), 12)
        for order in (torch.randperm(100, generator=g) for _ in range(20))
    }
    assert len(found) == 1
    # Of one confidence, every bin has the mean accuracy.
    same = p.new_tensor([[0.75, 0.25]]).expand(100, 2)
    right = (labels == 0).double().mean().item()
    assert adaptive_calibration_error(same, labels, bins=15) == pytest.approx(abs(right - 0.75))


@pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error, classwise_calibration_error])
def test_calibration_errors_have_fifteen_bins(error: Callable[..., float]) -> None:
    p = predictions(8, 200, 5)[0].double().softmax(1)
    # Nearly calibrated, since the bins do not matter where all of them are off to the same side.
    labels = p.multinomial(1, generator=torch.Generator().manual_seed(9))[:, 0]
    assert error(p, labels) == error(p, labels, bins=15)
    assert error(p, labels) not in [error(p, labels, bins=bins) for bins in (10, 14, 16, 20)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: accuracy(torch.ones(3), torch.zeros(3).long()), ValueError, r"\(N, c\).*got \(3,\)"),
        (lambda: accuracy(torch.ones(0, 4), torch.zeros(0).long()), ValueError, r"N >= 1.*got \(0, 4\)"),
        (lambda: accuracy(torch.ones(3, 4), torch.zeros(2).long()), ValueError, r"shape \(3,\).*got \(2,\)"),
        (lambda: accuracy(torch.tensor([[0.0, math.nan]]), torch.tensor([1])), ValueError, "logits must be numbers"),
        (lambda: accuracy(torch.ones(3, 4), torch.zeros(3)), TypeError, "integer type, got torch.float32"),
        (lambda: accuracy(torch.ones(3, 4), torch.tensor([0, 1, 4])), ValueError, r"\[0, 4\).*got 0 to 4"),
        (
            lambda: accuracy(torch.ones(3, 4), torch.tensor([0, 1, 2]), k=5),
            ValueError,
            "between 1 and .* 4, got 5",
        ),
        (
            lambda: accuracy(torch.ones(3, 4), torch.tensor([0, 1, 2]), k=0),
            ValueError,
            "between 1 and .* 4, got 0",
        ),
        (
            lambda: negative_log_likelihood(torch.ones(3, 4), torch.tensor([0, -1, 2])),
            ValueError,
            "got -1 to 2",
        ),
        (
            lambda: expected_calibration_error(torch.tensor([[4.0, -2.0]]), torch.tensor([0])),
            ValueError,
            r"softmax\(dim=1\)",
        ),
        (lambda: reliability(torch.tensor([[1.5, -0.5]]), torch.tensor([0])), ValueError, "rows that are non-negative"),
        (
            lambda: expected_calibration_error(torch.full((1, 2), math.nan), torch.tensor([0])),
            ValueError,
            "probabilities must be numbers, got NaN for 1 of 1 examples",
        ),
        (lambda: reliability(torch.eye(2), torch.tensor([0, 1]), bins=0), ValueError, "at least 1, got 0"),
    ],
)
def test_errors_name_what_was_received(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
