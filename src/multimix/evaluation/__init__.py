"""Evaluation of trained classifiers: accuracy, calibration, robustness and the embedding space.

Models map pixels in [0, 1] to logits; the normalisation is inside the model.

>>> import torch
>>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
>>> round(accuracy(logits, labels), 3)
0.667
"""

from .attack_checks import Finding, check_attack
from .attacks import fgsm, pgd, pgd_iterates
from .autoattack import autoattack
from .calibration import (
    Reliability,
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    reliability,
)
from .classification import accuracy, confusion_matrix, negative_log_likelihood, per_class_accuracy
from .corruptions import CORRUPTIONS, corrupt
from .embedding_space import alignment, uniformity
from .inference import embeddings, predict
from .surrogate import distil

__all__ = [
    "CORRUPTIONS",
    "Finding",
    "Reliability",
    "accuracy",
    "adaptive_calibration_error",
    "alignment",
    "autoattack",
    "check_attack",
    "corrupt",
    "distil",
    "embeddings",
    "classwise_calibration_error",
    "confusion_matrix",
    "expected_calibration_error",
    "fgsm",
    "negative_log_likelihood",
    "per_class_accuracy",
    "pgd",
    "pgd_iterates",
    "predict",
    "reliability",
    "uniformity",
]
