"""The encoders written here, against the definitions of the code they follow, written again as plain functions."""

import pytest
import torch
from torch.nn import functional as F

from multimix.models import preactresnet, smallnet, wide_resnet


def count(model):
    return sum(p.numel() for p in model.parameters())


def randomize(model):
    """Batch norms at their initial state are near the identity and would hide a misplaced one."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for t, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                    t.copy_(torch.rand(t.shape, generator=g) + low)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=g) + 0.5)
    return model.eval()


class Functional:
    """Evaluates layers by the names of their parameters."""

    def __init__(self, model):
        self.p = dict(model.state_dict())

    def conv(self, x, name, stride=1):
        w = self.p[f"{name}.weight"]
        return F.conv2d(x, w, self.p.get(f"{name}.bias"), stride=stride, padding=w.shape[-1] // 2)

    def bn(self, x, name):
        stats = (self.p[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *stats)

    def classify(self, x):
        return F.linear(x.mean((2, 3)), self.p["classifier.weight"], self.p["classifier.bias"])


@pytest.mark.parametrize(("depth", "blocks"), [(10, (1, 1, 1, 1)), (18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_preactresnet_is_alignmixups(depth, blocks):
    model = randomize(preactresnet(depth, num_classes=7, width=4))
    f, x = Functional(model), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    h = F.relu(f.bn(f.conv(x, "stages.0.0"), "stages.0.1"))
    shapes = []
    for stage, number in enumerate(blocks):
        for block in range(number):
            name = f"stages.{stage}.{block + (3 if stage == 0 else 0)}"
            stride = 2 if stage > 0 and block == 0 else 1
            a = F.relu(f.bn(h, f"{name}.bn1"))
            out = f.conv(F.relu(f.bn(f.conv(a, f"{name}.conv1", stride), f"{name}.bn2")), f"{name}.conv2")
            h = out + (f.conv(a, f"{name}.shortcut", stride) if f"{name}.shortcut.weight" in f.p else a)
        shapes.append(tuple(h.shape[1:]))
        torch.testing.assert_close(model.features(x, stop=stage + 1), h, rtol=1e-4, atol=1e-4)
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    torch.testing.assert_close(model(x), f.classify(h), rtol=1e-4, atol=1e-4)
    assert model.features(x).min() < 0, "no ReLU follows the last block"


@pytest.mark.parametrize("classes", [10, 100])
def test_preactresnet18_has_as_many_parameters_as_its_definition(classes):
    total = 3 * 64 * 9 + 2 * 64  # stem
    inputs = 64
    for outputs in (64, 128, 256, 512):
        for first in (True, False):
            total += 2 * inputs + inputs * outputs * 9 + 2 * outputs + outputs * outputs * 9
            total += inputs * outputs if first and outputs != inputs else 0
            inputs = outputs
    total += 512 * classes + classes
    assert count(preactresnet(18, num_classes=classes)) == total
    assert round(total / 1e6, 1) == 11.2  # as published


@pytest.mark.parametrize(("depth", "widen"), [(10, 2), (16, 1), (22, 1)])
def test_wide_resnet_is_alignmixups(depth, widen):
    model = randomize(wide_resnet(depth, widen, num_classes=7))
    f, x = Functional(model), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    h = f.conv(x, "stages.0.0")
    for stage in range(3):
        for block in range((depth - 4) // 6):
            name = f"stages.{stage}.{block + (1 if stage == 0 else 0)}"
            stride = 2 if stage > 0 and block == 0 else 1
            out = f.conv(F.relu(f.bn(h, f"{name}.bn1")), f"{name}.conv1")
            out = f.conv(F.relu(f.bn(out, f"{name}.bn2")), f"{name}.conv2", stride)
            h = out + (f.conv(h, f"{name}.shortcut", stride) if f"{name}.shortcut.weight" in f.p else h)
        if stage < 2:
            torch.testing.assert_close(model.features(x, stop=stage + 1), h, rtol=1e-4, atol=1e-4)
    h = F.relu(f.bn(h, f"stages.2.{(depth - 4) // 6}"))
    assert h.shape == (2, 64 * widen, 8, 8)
    torch.testing.assert_close(model.features(x), h, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x), f.classify(h), rtol=1e-4, atol=1e-4)


def test_wrn16_8_has_as_many_parameters_as_its_definition():
    def conv(inputs, outputs, k):
        return inputs * outputs * k * k + outputs

    total, inputs = conv(3, 16, 3), 16
    for outputs in (128, 256, 512):
        for _ in range(2):
            total += 2 * inputs + conv(inputs, outputs, 3) + 2 * outputs + conv(outputs, outputs, 3)
            total += conv(inputs, outputs, 1) if inputs != outputs else 0
            inputs = outputs
    total += 2 * 512 + 512 * 10 + 10
    assert count(wide_resnet(16, 8, num_classes=10)) == total
    assert round(total / 1e6, 1) == 11.0  # table 4 of Zagoruyko and Komodakis


@pytest.mark.parametrize("size", [32, 64])
def test_feature_sizes_of_the_paper(size):
    """R-18: 512x4x4 on CIFAR, 512x8x8 on TinyImageNet; WRN16-8: 512x8x8 on CIFAR. Shapes need no arithmetic."""
    images = torch.rand(1, 3, size, size, device="meta")
    assert preactresnet(18, num_classes=2).to("meta").features(images).shape == (1, 512, size // 8, size // 8)
    assert wide_resnet(16, 8, num_classes=2).to("meta").features(images).shape == (1, 512, size // 4, size // 4)


@pytest.mark.parametrize(("size", "side"), [(4, 4), (8, 4), (16, 4), (28, 7), (32, 4), (64, 8)])
def test_smallnet_leaves_enough_positions(size, side):
    model = smallnet(num_classes=10, image_size=size, width=4, channels=1).eval()
    images = torch.rand(2, 1, size, size)
    assert model.features(images).shape == (2, 16, side, side)
    assert model.depth == 4
    assert model(images).shape == (2, 10)


def test_smallnet_parameters():
    w = 16
    convolutions = 9 * (1 * w + w * 2 * w + 2 * w * 4 * w + 4 * w * 4 * w)
    norms = 2 * (w + 2 * w + 4 * w + 4 * w)
    assert count(smallnet(num_classes=10, image_size=8, channels=1)) == convolutions + norms + 4 * w * 10 + 10


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: preactresnet(20, num_classes=2), "one of 10, 18, 34, got 20"),
        (lambda: preactresnet(18, num_classes=2, width=0), "width must be at least 1, got 0"),
        (lambda: wide_resnet(17, 2, num_classes=2), r"6 k \+ 4 .*got 17"),
        (lambda: wide_resnet(4, 2, num_classes=2), "got 4"),
        (lambda: wide_resnet(16, 0, num_classes=2), "widening factor must be at least 1, got 0"),
        (lambda: smallnet(num_classes=2, image_size=8, width=0), "width must be at least 1, got 0"),
    ],
)
def test_bad_sizes(make, said):
    with pytest.raises(ValueError, match=said):
        make()
