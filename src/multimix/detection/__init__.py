"""Transfer to object detection (section 4.3, Table 5): the encoder of a trained classifier as the backbone of an SSD
or a Faster R-CNN, fine-tuned on boxes and judged by its mean average precision.

>>> import torch
>>> from multimix import detection, models
>>> classifier = models.build("preactresnet18-w8", num_classes=10, image_size=32)
>>> detector = detection.ssd(classifier, num_classes=3, image_size=64)
>>> boxes = {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([2])}
>>> sorted(detector.train()([torch.rand(3, 80, 60)], [boxes]))
['bbox_regression', 'classification']
"""

from .backbone import Backbone
from .detectors import faster_rcnn, ssd
from .fine_tuning import FineTuning, fine_tune
from .images import DetectionImages
from .precision import AveragePrecision, average_precision, detect

__all__ = [
    "AveragePrecision",
    "Backbone",
    "DetectionImages",
    "FineTuning",
    "average_precision",
    "detect",
    "faster_rcnn",
    "fine_tune",
    "ssd",
]
