import random
import re
from urllib.error import URLError

import numpy as np
import pytest
import torch

from multimix.models import build, from_timm

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "size", "features", "depth"),
    [
        ("preactresnet18-w4", 32, (32, 4, 4), 4),
        ("preactresnet10-w2", 64, (16, 8, 8), 4),
        ("wrn10-1", 32, (64, 8, 8), 3),
        ("smallnet", 8, (64, 4, 4), 4),
        ("smallnet-w4", 32, (16, 4, 4), 4),
        ("timm:vit_tiny_patch16_224", 48, (10, 192), 5),
        ("torchvision:shufflenet_v2_x0_5", 64, (1024, 2, 2), 4),
    ],
)
def test_names(name, size, features, depth):
    model = build(name, num_classes=7, image_size=size, generator=generator())
    assert all(module.training for module in model.modules())
    images = torch.rand(2, 3, size, size)
    model.eval()
    assert model.depth == depth
    assert model.features(images).shape == (2, *features)
    assert model(images).shape == (2, 7)
    assert isinstance(model.classifier, torch.nn.Linear)
    assert model.num_classes == 7


def test_resnet50_is_torchvisions():
    model = build("resnet50", num_classes=1000, image_size=224, generator=generator()).eval()
    assert count(model) == torchvision.models.ResNet50_Weights.DEFAULT.meta["num_params"] == 25_557_032
    x, shapes = torch.rand(1, 3, 224, 224), []
    with torch.no_grad():
        for stage in model.stages:
            x = stage(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    assert [sorted({name.split(".")[0] for name, _ in stage.named_parameters()}) for stage in model.stages] == [
        ["bn1", "conv1", "layer1"], ["layer2"], ["layer3"], ["layer4"],
    ]  # fmt: skip


def test_vit_s16_is_timms():
    model = build("vit-s16", num_classes=1000, image_size=224, generator=generator()).eval()
    assert count(model) == 22_050_664  # ViT-S/16 of DeiT and timm
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        embedded = model.features(x, stop=1)
        features = model.features(embedded, start=1)
    assert embedded.shape == features.shape == (1, 197, 384)
    assert model.dense(features).shape == (1, 196, 384)
    assert torch.equal(model.pool(features), features[:, 0])
    blocks = [
        sorted({n.split(".")[1] for n, _ in s.named_parameters() if n.startswith("blocks.")}) for s in model.stages
    ]
    assert blocks == [[], ["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["10", "11", "9"]]
    norms = [any(n.startswith("norm.") for n, _ in stage.named_parameters()) for stage in model.stages]
    assert norms == [False, False, False, False, True]


def test_vit_s16_mean_differs_in_the_pool_only():
    token = build("vit-s16", num_classes=10, image_size=32, generator=generator()).eval()
    mean = build("vit-s16-mean", num_classes=10, image_size=32, generator=generator()).eval()
    assert {k: v.shape for k, v in token.state_dict().items()} == {k: v.shape for k, v in mean.state_dict().items()}
    mean.load_state_dict(token.state_dict())
    x = torch.rand(2, 3, 32, 32)
    features = token.features(x)
    torch.testing.assert_close(mean.features(x), features)
    torch.testing.assert_close(mean.embed(x), features[:, 1:].mean(1))
    torch.testing.assert_close(mean.dense(features), features[:, 1:])


@pytest.mark.parametrize("name", ["smallnet", "preactresnet10-w4", "timm:test_resnet", "torchvision:mnasnet0_5"])
def test_weights_depend_on_the_generator_alone(name):
    def states():
        return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.initial_seed()  # noqa: NPY002

    torch.manual_seed(5)
    before = states()
    first = build(name, num_classes=3, image_size=64, generator=generator(1)).state_dict()
    after = states()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(6)
    again = build(name, num_classes=3, image_size=64, generator=generator(1)).state_dict()
    other = build(name, num_classes=3, image_size=64, generator=generator(2)).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_without_generator_models_differ_and_follow_the_seed():
    def weights():
        return build("smallnet", num_classes=3, image_size=8).classifier.weight.detach()

    torch.manual_seed(1)
    a, b = weights(), weights()
    torch.manual_seed(2)
    weights()
    torch.manual_seed(1)
    assert torch.equal(weights(), a)
    assert not torch.equal(a, b)


def test_channels_follow_the_mean():
    assert build("smallnet", num_classes=3, image_size=8, mean=[0.3], std=[0.4])(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    one = build("timm:test_resnet", num_classes=3, image_size=32, channels=1)
    assert one(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match="mean has 3 values for images of 1 channels"):
        build("smallnet", num_classes=3, image_size=8, mean=[0.3] * 3, std=[0.4] * 3, channels=1)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet18", {}, "unknown model 'resnet18': did you mean torchvision:resnet18?"),
        ("resnet18", {"pretrained": True}, "did you mean torchvision:resnet18?"),
        ("vit_small_patch16_224", {}, "did you mean timm:vit_small_patch16_224?"),
        ("PreActResNet18", {}, "did you mean preactresnet18?"),
        ("smalnet", {}, "did you mean smallnet?"),
        ("qqq", {}, "known: preactresnet18, "),
        ("torchvision:resnet19", {}, "torchvision has no classifier 'resnet19': did you mean resnet18?"),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "torchvision has no classifier"),
        ("timm:resnet_18", {}, "did you mean resnet18?"),
        ("timm:resnet18.nonsense", {}, "timm.list_pretrained() lists the tags"),
        ("wrn16-8", {"pretrained": True}, "no published weights for wrn16-8"),
        ("timm:mixer_s32_224", {"pretrained": True}, "timm has no weights for mixer_s32_224"),
        ("resnet50", {"channels": 1}, "use timm:resnet50, or RGB images"),
        ("preactresnet20", {}, "depth of a PreAct-ResNet"),
        ("timm:inception_v3", {}, "timm:inception_v3 fails on images of 32x32"),
        ("torchvision:maxvit_t", {}, "cannot be made for images of 32x32: Input size"),
        ("smallnet", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ("smallnet", {"image_size": 0}, "image_size must be at least 1, got 0"),
        ("smallnet", {"channels": 0}, "channels must be at least 1, got 0"),
    ],
)
def test_mistakes(name, options, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        build(name, **{"num_classes": 3, "image_size": 32} | options)
    assert "\n" not in str(caught.value)


def test_pretrained_torchvision_weights_arrive_with_their_normalisation(monkeypatch):
    published = torchvision.models.resnet18()
    urls = []

    def download(url, *args, **kwargs):
        urls.append(url)
        return published.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    options = {"image_size": 64, "mean": [0.1] * 3, "std": [0.9] * 3, "pretrained": True, "generator": generator()}
    model = build("torchvision:resnet18", num_classes=1000, **options).eval()
    assert urls == [torchvision.models.ResNet18_Weights.DEFAULT.url]
    images = torch.rand(2, 3, 64, 64)
    normalised = torchvision.transforms.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.equal(model(images), published.eval()(normalised))

    fewer = build("torchvision:resnet18", num_classes=5, **options).eval()
    assert torch.equal(fewer.embed(images), model.embed(images))
    assert fewer.classifier.weight.shape == (5, 512)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_pretrained_inceptions_are_those_of_torchvision(name, monkeypatch):
    published = torchvision.models.get_model(name, init_weights=False, transform_input=True)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: published.state_dict())
    model = build(f"torchvision:{name}", num_classes=1000, image_size=96, pretrained=True).eval()
    assert not any("aux" in key.lower() for key in model.state_dict())
    images = torch.rand(2, 3, 96, 96)
    normalised = torchvision.transforms.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(model(images), published.eval()(normalised))


def test_pretrained_timm_weights_arrive_with_their_normalisation(tmp_path, monkeypatch):
    published = timm.create_model("test_resnet")
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda *a, **k: create(*a, **k, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}),
    )
    model = from_timm("test_resnet", num_classes=published.num_classes, image_size=64, pretrained=True).eval()
    images, about = torch.rand(2, 3, 64, 64), timm.get_pretrained_cfg("test_resnet")
    normalised = torchvision.transforms.functional.normalize(images, list(about.mean), list(about.std))
    assert torch.equal(model(images), published.eval()(normalised))


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def download(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.raises(OSError, match=r"torchvision:resnet18 could not be .*no network.*use pretrained=False"):
        build("torchvision:resnet18", num_classes=5, image_size=64, pretrained=True)
    monkeypatch.setattr(timm, "create_model", download)
    with pytest.raises(OSError, match=r"timm:resnet18 could not be .*no network.*HF_HOME"):
        build("timm:resnet18", num_classes=5, image_size=64, pretrained=True)
