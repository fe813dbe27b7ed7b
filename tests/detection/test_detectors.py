"""Detectors against torchvision's own on the same weights, and what they learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from tests.detection.squares import write_squares
from torch import Tensor
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from multimix import detection, models
from multimix.data.boxes import read_boxes
from multimix.models import SplitModel
from multimix.random import initialising, make_generator


def test_faster_rcnn_on_a_resnet_is_torchvisions() -> None:
    torch.manual_seed(0)
    mean, std = [0.48, 0.46, 0.41], [0.23, 0.22, 0.24]
    classifier = models.build("torchvision:resnet18", num_classes=5, image_size=64, mean=mean, std=std)
    ours = detection.faster_rcnn(classifier, num_classes=4, image_size=48)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    theirs = torchvision.models.detection.FasterRCNN(body, 4, min_size=48, max_size=79, image_mean=mean, image_std=std)
    loaded = body.body.load_state_dict(classifier.original_state_dict(), strict=False)
    assert not loaded.missing_keys
    body.fpn.load_state_dict(ours.backbone.pyramid.state_dict())
    theirs.rpn.load_state_dict(ours.rpn.state_dict())
    theirs.roi_heads.load_state_dict(ours.roi_heads.state_dict())
    images = [torch.rand(3, 60, 80), torch.rand(3, 90, 50)]
    boxes = [torch.tensor([[5.0, 6, 40, 50]]), torch.tensor([[1.0, 2, 30, 80], [20, 20, 45, 60]])]
    targets = [{"boxes": b, "labels": torch.arange(len(b)) + 1} for b in boxes]
    losses = []
    for detector in (ours, theirs):
        torch.manual_seed(1)
        losses.append(detector.train()(images, targets))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.eval()(images), theirs.eval()(images), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)


def test_ssd_on_a_resnet_has_the_maps_of_ssd300() -> None:
    classifier = models.build("torchvision:resnet18", num_classes=5, image_size=64)
    detector = detection.ssd(classifier, num_classes=4, image_size=300)
    maps = detector.backbone(torch.rand(1, 3, 300, 300))
    assert [x.shape[-1] for x in maps.values()] == [38, 19, 10, 5, 3, 2, 1]
    assert detector.anchor_generator.num_anchors_per_location() == [4, 6, 6, 6, 6, 4, 4]
    assert detector.anchor_generator.scales == pytest.approx([0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05])
    predicted = detector.head(list(maps.values()))
    assert predicted["cls_logits"].shape == (1, 38**2 * 4 + (19**2 + 10**2 + 5**2 + 3**2) * 6 + (2**2 + 1) * 4, 4)


def test_a_detector_finds_what_it_was_shown(tmp_path: Path) -> None:
    folder = write_squares(tmp_path / "squares")
    train, test = read_boxes(folder, purpose="training"), read_boxes(folder)
    g = torch.Generator().manual_seed(0)
    normalised = {"mean": (0.2,) * 3, "std": (0.2,) * 3}
    classifier = models.build("smallnet-w16", num_classes=5, image_size=32, **normalised, generator=g)
    classifier.train()(torch.rand(8, 3, 48, 48, generator=g) / 2)
    with initialising(make_generator(0, "detector")):
        detector = detection.ssd(classifier, num_classes=3, image_size=48)
    names = ["blue", "red"]
    shown = detection.DetectionImages(train.images, names, augment="flip", size=48)
    losses = detection.fine_tune(detector, shown, detection.FineTuning(epochs=15, batch_size=6, lr=0.02))
    tested = detection.DetectionImages([*test.images, *test.empty], names, size=48)
    found = detection.average_precision(detection.detect(detector, tested, batch_size=4), tested.images, names)
    assert losses[-1] < losses[0] / 2
    assert found.map_50 > 0.8
    assert set(found.per_class) == {"blue", "red"}


@pytest.mark.parametrize("make", [detection.ssd, detection.faster_rcnn])
def test_grey_classifiers_and_those_without_normalisation(make) -> None:  # type: ignore[no-untyped-def]
    def losses(classifier: SplitModel, channels: int) -> dict[str, Tensor]:
        detector = make(classifier, num_classes=2, image_size=32).train()
        image = torch.rand(channels, 40, 30)
        return detector([image], [{"boxes": torch.tensor([[3.0, 4, 25, 30]]), "labels": torch.tensor([1])}])

    grey = models.build("smallnet", num_classes=5, image_size=8, mean=(0.3,), std=(0.3,))
    plain = models.build("smallnet", num_classes=5, image_size=32)
    alone = models.build("smallnet", num_classes=5, image_size=8, channels=1)
    for classifier, channels in ((grey, 1), (plain, 3), (alone, 1)):
        assert all(loss.isfinite() for loss in losses(classifier, channels).values())


@pytest.mark.parametrize(("frozen", "dtype"), [(0, torch.float32), (2, torch.bfloat16)])
@pytest.mark.parametrize("make", [detection.ssd, detection.faster_rcnn])
def test_frozen_stages_and_mixed_precision_are_those_asked_for(make, frozen: int, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    classifier = models.build("preactresnet18-w8", num_classes=5, image_size=32)
    mixed = dtype == torch.bfloat16
    detector = make(classifier, num_classes=2, image_size=32, frozen_stages=frozen, mixed_precision=mixed).eval()
    stages = detector.backbone.encoder.stages
    trained = [any(weight.requires_grad for weight in stage.parameters()) for stage in stages]
    assert trained == [False] * frozen + [True] * (4 - frozen)
    seen = []
    stages[3].register_forward_hook(lambda module, given, x: seen.append(x.dtype))
    detector([torch.rand(3, 32, 32)])
    assert seen == [dtype]


@pytest.mark.parametrize("make", [detection.ssd, detection.faster_rcnn])
def test_a_detector_is_on_the_device_of_its_classifier(make) -> None:  # type: ignore[no-untyped-def]
    classifier = models.build("smallnet", num_classes=5, image_size=32).to("meta")
    detector = make(classifier, num_classes=2, image_size=32)
    assert {tensor.device.type for tensor in [*detector.parameters(), *detector.buffers()]} == {"meta"}


@pytest.mark.parametrize("make", [detection.ssd, detection.faster_rcnn])
def test_numbers_that_make_no_detector_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    classifier = models.build("smallnet", num_classes=5, image_size=32)
    with pytest.raises(ValueError, match=r"num_classes must be at least 2.*got num_classes=1, image_size=64"):
        make(classifier, num_classes=1, image_size=64)
    with pytest.raises(ValueError, match=r"image_size at least 16 pixels, got num_classes=2, image_size=8"):
        make(classifier, num_classes=2, image_size=8)
