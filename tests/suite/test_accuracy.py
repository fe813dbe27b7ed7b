"""The accuracy part against scikit-learn, and what the page makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score, top_k_accuracy_score

from multimix import evaluation
from multimix.suite import Accuracy
from multimix.suite.accuracy_page import _pooled, sections
from multimix.suite.running import measure
from multimix.suite.subjects import run_candidates
from multimix.training import load_run
from multimix.training.setting import load_splits


def test_everything_equals_scikit_learns(digits_run) -> None:  # type: ignore[no-untyped-def]
    path = digits_run("run", seed=3)
    config, model = load_run(path)
    test = load_splits(config).test
    with torch.no_grad():
        p = model(test.images.float() / 255).double().softmax(1).numpy()  # type: ignore[union-attr]
    y = test.labels.numpy()
    (candidate,) = run_candidates([path], which=["last"])
    found = measure(candidate, Accuracy())
    # Attacks call it as it is.
    assert not any(module.training for module in candidate.load().model.modules())
    assert found["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(y, p, k=5))
    assert found["nll"] == pytest.approx(log_loss(y, p), rel=1e-5)
    assert found["per_class_accuracy"] == pytest.approx(list(recall_score(y, p.argmax(1), average=None)))
    matrix = np.zeros((10, 10), dtype=int)
    for i, j, count in found["confusion"]:
        matrix[i, j] = count
    assert (matrix == confusion_matrix(y, p.argmax(1), labels=range(10))).all()
    assert sum(found["reliability"]["counts"]) == found["examples"] == len(y)
    assert found["confidence"] == pytest.approx(p.max(1).mean())


def test_calibration_errors_have_the_bins_asked_for(digits_run) -> None:  # type: ignore[no-untyped-def]
    path = digits_run("run", seed=3)
    config, model = load_run(path)
    test = load_splits(config).test
    with torch.no_grad():
        p = model(test.images.float() / 255).double().softmax(1)  # type: ignore[union-attr]
    (candidate,) = run_candidates([path], which=["last"])
    for bins in (1, 15, 300):
        found = measure(candidate, Accuracy(bins=bins))
        diagram = evaluation.reliability(p, test.labels, bins)
        assert found["reliability"]["counts"] == diagram.counts.tolist()
        assert found["ece"] == pytest.approx(evaluation.expected_calibration_error(p, test.labels, bins), abs=1e-6)
        adaptive = evaluation.adaptive_calibration_error(p, test.labels, bins)
        assert found["adaptive_ece"] == pytest.approx(adaptive, abs=1e-6)
        classwise = evaluation.classwise_calibration_error(p, test.labels, bins)
        assert found["classwise_ece"] == pytest.approx(classwise, abs=1e-6)


def result(confusion: list[list[int]], classes: int) -> dict[str, object]:
    totals = [sum(n for i, _, n in confusion if i == k) for k in range(classes)]
    right = [sum(n for i, j, n in confusion if i == j == k) for k in range(classes)]
    return {
        "examples": sum(totals),
        "class_names": [f"class {k}" for k in range(classes)],
        "per_class_accuracy": [r / t if t else None for r, t in zip(right, totals, strict=True)],
        "confusion": confusion,
        **dict.fromkeys(("accuracy", "top5", "nll", "ece", "adaptive_ece", "classwise_ece", "confidence"), 0.5),
        "reliability": {"confidences": [None, 0.7], "accuracies": [None, 0.5], "counts": [0, 20]},
    }


def test_bins_of_several_runs_are_those_of_all_their_images() -> None:
    first = {"confidences": [None, 0.6, 0.9], "accuracies": [None, 0.5, 1.0], "counts": [0, 10, 30]}
    second = {"confidences": [None, 0.7, None], "accuracies": [None, 0.25, None], "counts": [0, 30, 0]}
    confidences, accuracies, counts = _pooled([first, second])
    assert counts == [0, 40, 30]
    assert confidences == [None, pytest.approx((6 + 21) / 40), 0.9]
    assert accuracies == [None, pytest.approx((5 + 7.5) / 40), 1.0]


def test_many_classes_are_shown_by_their_most_frequent_confusions() -> None:
    a = result([[0, 0, 5], [0, 1, 5], [1, 1, 9], [1, 2, 1], [2, 2, 10]], 30)
    b = result([[0, 0, 10], [1, 1, 7], [1, 2, 3], [2, 2, 10]], 30)
    *_, confused = sections({"a": [a, a], "b": [b]}, {"a": "#000000", "b": "#ffffff"})
    assert confused.table is not None
    assert [[cell.text for cell in row] for row in confused.table.rows] == [
        ["class 0 → class 1", "50.0", "0.0"],
        ["class 1 → class 2", "10.0", "30.0"],
    ]


def test_few_classes_are_shown_as_heat_maps_also_without_a_single_error() -> None:
    perfect = result([[0, 0, 5], [1, 1, 5]], 2)
    *_, confused = sections({"a": [perfect]}, {"a": "#000000"})
    assert [panel.title for panel in confused.panels] == ["a"]
    assert "<svg" in confused.panels[0].svg
