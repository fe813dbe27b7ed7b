"""Evaluation of trained classifiers: accuracy, calibration and the embedding space.

Models map pixels in [0, 1] to logits; the normalisation is inside the model.

>>> import torch
>>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
>>> round(accuracy(logits, labels), 3)
0.667
"""

from .calibration import Reliability, expected_calibration_error, reliability
from .classification import accuracy, negative_log_likelihood, per_class_accuracy
from .embedding_space import alignment, uniformity
from .inference import embeddings, predict

__all__ = [
    "Reliability",
    "accuracy",
    "alignment",
    "embeddings",
    "expected_calibration_error",
    "negative_log_likelihood",
    "per_class_accuracy",
    "predict",
    "reliability",
    "uniformity",
]
