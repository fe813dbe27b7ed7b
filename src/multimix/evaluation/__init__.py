"""Evaluation of trained classifiers: accuracy, calibration, robustness and the embedding space.

Models map pixels in [0, 1] to logits; the normalisation is inside the model.

>>> import torch
>>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
>>> round(accuracy(logits, labels), 3)
0.667
"""

from .attack_checks import Finding, check_attack
from .attacks import fgsm, pgd, pgd_iterates
from .attention import ATTENTIONS, attention_maps
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
from .embedding_space import ClassSpread, alignment, class_spread, effective_rank, uniformity
from .inference import embeddings, predict
from .intrusion import intrusion_distance, intrusion_distances
from .mixed_embeddings import MixedEmbeddings, mixed_embeddings, mixings
from .ood import energy, entropy, max_logit, max_softmax, ood_metrics, roc_curve
from .ood_detectors import fit_detector, odin
from .pointing import PointingGame, pointing_game
from .surrogate import distil

__all__ = [
    "ATTENTIONS",
    "CORRUPTIONS",
    "ClassSpread",
    "Finding",
    "MixedEmbeddings",
    "PointingGame",
    "Reliability",
    "accuracy",
    "adaptive_calibration_error",
    "alignment",
    "attention_maps",
    "autoattack",
    "check_attack",
    "class_spread",
    "classwise_calibration_error",
    "confusion_matrix",
    "corrupt",
    "distil",
    "effective_rank",
    "embeddings",
    "energy",
    "entropy",
    "expected_calibration_error",
    "fgsm",
    "fit_detector",
    "intrusion_distance",
    "intrusion_distances",
    "max_logit",
    "max_softmax",
    "mixed_embeddings",
    "mixings",
    "negative_log_likelihood",
    "odin",
    "ood_metrics",
    "per_class_accuracy",
    "pgd",
    "pgd_iterates",
    "pointing_game",
    "predict",
    "reliability",
    "roc_curve",
    "uniformity",
]
