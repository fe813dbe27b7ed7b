"""Accuracy, likelihood and calibration on the test set, by class too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .. import evaluation
from ..reports.section import Section
from . import accuracy_page
from .part import Legend, Part, Results, Subject
from .store import Store


@dataclass(frozen=True, kw_only=True)
class Accuracy(Part):
    """Accuracy and calibration on all test images."""

    name: ClassVar[str] = "accuracy"

    bins: int = 15
    """Number of confidence bins of the calibration errors and of the reliability diagram."""

    def __post_init__(self) -> None:
        if not 1 <= self.bins <= 1000:
            raise ValueError(f"bins must be between 1 and 1000, got {self.bins}")

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """Accuracies and errors are fractions; None stands for what has no value, as JSON has no NaN.

        `confusion` lists (class, predicted class, number of test images) where that is not 0.
        """
        say(f"classifying {len(subject.test)} test images")
        logits, labels = evaluation.predict(subject.model, subject.loader())
        probabilities = logits.double().softmax(dim=1)
        diagram = evaluation.reliability(probabilities, labels, self.bins)
        confusion = evaluation.confusion_matrix(logits, labels).cpu()
        return {
            "examples": len(labels),
            "class_names": list(subject.class_names),
            "accuracy": evaluation.accuracy(logits, labels),
            "top5": evaluation.accuracy(logits, labels, k=5) if logits.shape[1] > 5 else None,
            "nll": evaluation.negative_log_likelihood(logits, labels),
            "ece": evaluation.expected_calibration_error(probabilities, labels, self.bins),
            "adaptive_ece": evaluation.adaptive_calibration_error(probabilities, labels, self.bins),
            "classwise_ece": evaluation.classwise_calibration_error(probabilities, labels, self.bins),
            "confidence": probabilities.amax(dim=1).mean().item(),
            "per_class_accuracy": _plain(evaluation.per_class_accuracy(logits, labels)),
            "reliability": {
                "confidences": _plain(diagram.confidences),
                "accuracies": _plain(diagram.accuracies),
                "counts": diagram.counts.tolist(),
            },
            "confusion": [[i, j, int(confusion[i, j])] for i, j in confusion.nonzero().tolist()],
        }

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        shown = {"top-1, % ↑": 100 * result["accuracy"]}
        if result["top5"] is not None:
            shown["top-5, % ↑"] = 100 * result["top5"]
        return shown | {"NLL ↓": result["nll"], "ECE, % ↓": 100 * result["ece"]}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return accuracy_page.sections(results, legend.colors)


def _plain(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]
