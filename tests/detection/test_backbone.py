"""The backbone gives the classifier's own features, and leaves the classifier as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from multimix import models
from multimix.detection import Backbone
from multimix.models import GlobalAveragePool, SplitModel


@pytest.fixture
def classifier() -> SplitModel:
    g = torch.Generator().manual_seed(0)
    model = models.build(
        "preactresnet18-w8", num_classes=5, image_size=32, mean=(0.4,) * 3, std=(0.2,) * 3, generator=g
    )
    model.train()(torch.rand(8, 3, 32, 32, generator=g))
    return model.eval()


def test_maps_are_the_features_of_the_classifier(classifier: SplitModel) -> None:
    images = torch.rand(2, 3, 40, 56)
    maps = Backbone(classifier)(classifier.normalize(images))
    assert list(maps) == ["0", "1", "2", "3"]
    for number, found in maps.items():
        torch.testing.assert_close(found, classifier.features(images, stop=int(number) + 1), rtol=0, atol=0)


def test_of_stages_of_one_resolution_the_last_counts() -> None:
    halving, same = nn.Conv2d(3, 3, 3, 2, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    model = SplitModel([halving, same, halving, same, same], GlobalAveragePool(), nn.Linear(3, 2))
    backbone = Backbone(model)
    assert (backbone.strides, list(backbone(torch.rand(1, 3, 16, 16)))) == ((2, 4), ["1", "4"])


def test_batch_normalisation_and_frozen_stages_stay(classifier: SplitModel) -> None:
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    backbone = Backbone(classifier, frozen_stages=2).train()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(x.square().mean() for x in backbone(torch.rand(4, 3, 32, 32)).values()).backward()
    optimizer.step()
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    convolutions = {f"{name}.weight" for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
    assert changed == {name for name in convolutions if not name.startswith(("stages.0.", "stages.1."))}
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())


def test_of_a_frozen_classifier_everything_can_be_trained(classifier: SplitModel) -> None:
    backbone = Backbone(copy.deepcopy(classifier).requires_grad_(False))
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.weight.requires_grad for module in convolutions)


def test_a_library_model_has_its_usual_strides() -> None:
    model = models.build("torchvision:resnet18", num_classes=5, image_size=64)
    backbone = Backbone(model)
    assert (backbone.strides, backbone.channels) == ((4, 8, 16, 32), (64, 128, 256, 512))


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def test_networks_without_maps_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"cannot be the backbone of a detector: its stage 0 .*It must be convolutional"
    ):
        Backbone(models.build("timm:vit_tiny_patch16_224", num_classes=5, image_size=32))
    last = SplitModel([nn.Conv2d(3, 8, 3, 2, padding=1), ChannelsLast()], GlobalAveragePool(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"its stage 1 gives \(1, 128, 96, 8\) for an image of 256 x 192 pixels"):
        Backbone(last)


def test_a_last_stage_that_pools_to_a_fixed_size_is_left_out() -> None:
    pooled = nn.Sequential(nn.Conv2d(4, 4, 3, 2, padding=1), nn.AdaptiveAvgPool2d(7))
    model = SplitModel([nn.Conv2d(3, 4, 3, 2, padding=1), pooled], GlobalAveragePool(), nn.Linear(4, 2))
    backbone = Backbone(model)
    assert (backbone.strides, len(backbone.stages)) == ((2,), 1)


@pytest.mark.parametrize("name", ["vgg11_bn", "mobilenet_v3_small", "densenet121"])
def test_networks_of_other_makes(name: str) -> None:
    backbone = Backbone(models.build(f"torchvision:{name}", num_classes=5, image_size=64))
    maps = backbone(torch.rand(1, 3, 96, 64))
    for stride, channels, found in zip(backbone.strides, backbone.channels, maps.values(), strict=True):
        assert found.shape == (1, channels, 96 // stride, 64 // stride)


def test_mixed_precision_is_of_the_encoder_alone(classifier: SplitModel) -> None:
    images = torch.rand(2, 3, 32, 32)
    plain, mixed = (Backbone(classifier, mixed_precision=on)(images)["3"] for on in (False, True))
    assert mixed.dtype == torch.float32
    assert not torch.equal(plain, mixed)
    torch.testing.assert_close(plain, mixed, rtol=0.05, atol=0.05 * plain.abs().max().item())


def test_more_frozen_stages_than_there_are_are_refused(classifier: SplitModel) -> None:
    with pytest.raises(ValueError, match=r"frozen_stages must lie between 0 and the model's 4, got 5"):
        Backbone(classifier, frozen_stages=5)
