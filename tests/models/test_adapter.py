"""Models of torchvision and timm, split: the same logits, in stages that make sense."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from multimix.models import Pool, SplitModel, split
from multimix.models.pool import WholePool

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def original(name, **options):
    library, _, rest = name.partition(":")
    torch.manual_seed(0)
    if library == "torchvision":
        return torchvision.models.get_model(rest, **options).eval()
    return timm.create_model(rest, **options).eval()


# name: size of the images, features, stages, kind of the pool
AVERAGE, NECK, WHOLE, TOKEN = "average", "neck", "whole", "token"
QUICK = {
    "torchvision:resnet18": (64, (512, 2, 2), 4, AVERAGE),
    "torchvision:mobilenet_v3_small": (64, (576, 2, 2), 4, NECK),
    "torchvision:alexnet": (96, (256, 6, 6), 4, WHOLE),
    "torchvision:shufflenet_v2_x0_5": (64, (1024, 2, 2), 4, AVERAGE),
    "timm:resnetv2_18": (64, (512, 2, 2), 4, AVERAGE),
    "timm:convnext_atto": (64, (320, 2, 2), 4, NECK),
    "timm:vit_tiny_patch16_224": (64, (17, 192), 5, TOKEN),
    "timm:mobilenetv3_small_050": (64, (288, 2, 2), 4, NECK),
    "timm:mixer_s32_224": (64, (4, 512), 5, AVERAGE),
    "timm:ghostnet_050": (64, (480, 2, 2), 4, NECK),
}
MORE = {
    "torchvision:densenet121": (64, (1024, 2, 2), 4, AVERAGE),
    "torchvision:swin_t": (64, (768, 2, 2), 4, AVERAGE),
    "torchvision:resnext50_32x4d": (64, (2048, 2, 2), 4, AVERAGE),
    "torchvision:efficientnet_b0": (64, (1280, 2, 2), 4, NECK),
    "torchvision:convnext_tiny": (64, (768, 2, 2), 4, NECK),
    "torchvision:vit_b_16": (224, (197, 768), 5, TOKEN),
    "torchvision:swin_v2_t": (64, (768, 2, 2), 4, AVERAGE),
    "torchvision:regnet_y_400mf": (64, (440, 2, 2), 4, AVERAGE),
    "torchvision:vgg11_bn": (64, (512, 7, 7), 4, WHOLE),
    "torchvision:mnasnet0_5": (64, (1280, 2, 2), 4, NECK),
    "torchvision:mobilenet_v2": (64, (1280, 2, 2), 4, NECK),
    "torchvision:maxvit_t": (224, (512, 7, 7), 4, NECK),
    "timm:resnet18": (64, (512, 2, 2), 4, AVERAGE),
    "timm:efficientnet_b0": (64, (1280, 2, 2), 4, AVERAGE),
    "timm:deit_tiny_patch16_224": (224, (197, 192), 5, TOKEN),
    "timm:beit_base_patch16_224": (224, (197, 768), 5, NECK),
    "timm:swin_tiny_patch4_window7_224": (224, (768, 7, 7), 4, AVERAGE),
    "timm:cait_xxs24_224": (224, (197, 192), 5, TOKEN),
    "timm:xcit_nano_12_p16_224": (224, (197, 128), 1, TOKEN),
    "timm:poolformer_s12": (64, (512, 2, 2), 4, NECK),
    "timm:pvt_v2_b0": (64, (256, 2, 2), 4, AVERAGE),
    "timm:hrnet_w18_small": (64, (2048, 2, 2), 3, AVERAGE),
    "timm:tresnet_m": (64, (2048, 2, 2), 4, AVERAGE),
    "timm:vgg11": (64, (512, 2, 2), 4, WHOLE),
    "timm:mobilevit_xxs": (64, (320, 2, 2), 4, AVERAGE),
    "timm:coatnet_0_rw_224": (224, (768, 7, 7), 4, AVERAGE),
    "timm:davit_tiny": (64, (768, 2, 2), 4, NECK),
    "timm:resmlp_12_224": (224, (196, 384), 5, AVERAGE),
    "timm:convmixer_768_32": (63, (768, 9, 9), 5, AVERAGE),
}
CASES = [
    *(pytest.param(name, *what, id=name) for name, what in QUICK.items()),
    *(pytest.param(name, *what, id=name, marks=pytest.mark.slow) for name, what in MORE.items()),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "size", "shape", "depth", "kind"), CASES)
def test_split_is_the_same_model(name, size, shape, depth, kind):
    fixed = name.startswith("timm:") and timm.get_pretrained_cfg(name.removeprefix("timm:")).fixed_input_size
    whole = original(name, **({"img_size": size} if fixed else {}))
    fresh = copy.deepcopy(whole)  # drawing the weights of another takes longer
    parts = split(whole)
    images = torch.rand(3, 3, size, size)
    logits = whole(images)

    # The same function of the same parameters. Where the last layer was a 1x1 convolution, the sum has another order.
    torch.testing.assert_close(parts(images), logits, rtol=0, atol=1e-6 * max(1.0, logits.abs().max().item()))
    assert sum(p.numel() for p in parts.parameters()) == sum(p.numel() for p in whole.parameters())
    assert type(parts.classifier) is nn.Linear
    features = parts.features(images)
    assert tuple(features.shape[1:]) == shape
    assert parts.depth == depth
    assert torch.equal(parts.classifier(parts.embed(images)), parts(images))

    # And back: other weights, under the names that a fresh model of the library takes.
    for parameter in parts.parameters():
        parameter.mul_(0.9)
    changed = parts(images)
    fresh.load_state_dict(copy.deepcopy(parts.original_state_dict()))
    torch.testing.assert_close(fresh(images), changed, rtol=0, atol=1e-6 * max(1.0, changed.abs().max().item()))
    for parameter in parts.parameters():
        parameter.div_(0.9)
    logits = whole(images)

    # Every layer can be the mixing layer: the rest of the network takes other examples, and does not write into them.
    for layer in range(parts.depth + 1):
        hidden = parts.features(images, stop=layer)
        kept = hidden.clone()
        rest = parts.head(parts.features(hidden[1:].contiguous(), start=layer))
        torch.testing.assert_close(rest, logits[1:], rtol=1e-3, atol=1e-4 * max(1.0, logits.abs().max().item()))
        assert torch.equal(parts.head(parts.features(hidden, start=layer)), parts(images))
        assert torch.equal(hidden, kept)

    assert isinstance(parts.pool, Pool) == (kind == NECK)
    assert isinstance(parts.pool, WholePool) == (kind == WHOLE)
    if kind == WHOLE:
        with pytest.raises(ValueError, match="neither averages positions nor chooses a token"):
            parts.dense(features)
        return
    dense = parts.classifier(as_tokens(parts.dense(features)))
    if parts.prefix_tokens:
        positions = features[:, parts.prefix_tokens :]
        assert dense.shape == (*positions.shape[:2], parts.num_classes)
        if kind == TOKEN:
            assert torch.equal(parts.pool(features), features[:, 0])
    else:
        # What the network says when a position is all that it sees is what the dense classifier says there.
        tokens = as_tokens(features)
        for position in {0, 1, tokens.shape[1] - 1}:
            alone = tokens[:, position : position + 1]
            alone = alone if features.ndim == 3 else alone.mT[..., None]
            torch.testing.assert_close(dense[:, position], parts.head(alone), rtol=1e-4, atol=1e-4)


def as_tokens(x):
    return x if x.ndim == 3 else x.flatten(2).mT


def test_published_parameter_counts():
    for name in ("ResNet18", "MobileNet_V3_Small", "ShuffleNet_V2_X0_5"):
        about = getattr(torchvision.models, f"{name}_Weights").DEFAULT.meta
        parts = split(original(f"torchvision:{name.lower()}"))
        assert sum(p.numel() for p in parts.parameters()) == about["num_params"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: original("torchvision:mobilenet_v3_small"),
        lambda: original("timm:ghostnet_050"),
        lambda: original("timm:efficientnet_b0", drop_rate=0.3, drop_path_rate=0.2),
        lambda: original("timm:vit_tiny_patch16_224", img_size=32, drop_rate=0.2, drop_path_rate=0.2),
    ],
)
def test_training_is_the_same_too(make):
    """Batch statistics, stochastic depth, dropout in modules and dropout as a function of `self.training`."""
    whole = make()
    parts = split(copy.deepcopy(whole))
    assert not any(module.training for module in parts.modules())
    images = torch.rand(4, 3, 32, 32)
    for mode in (True, False):
        whole.train(mode)
        parts.train(mode)
        first, second = [], []
        for seed in (3, 4):  # batch statistics move with every call, so both are called equally often
            torch.manual_seed(seed)
            first.append(whole(images))
            torch.manual_seed(seed)
            second.append(parts(images))
        assert all(map(torch.equal, first, second))
        assert torch.equal(*second) != mode, "chance plays a part in training only"


def test_what_is_made_of_parameters_once_reaches_every_block_that_reads_it():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.gains = nn.Parameter(torch.randn(4))
            self.first, self.second = (nn.Conv2d(channels, 4, 3, stride=2) for channels in (3, 4))
            self.head = nn.Linear(4, 5)

        def forward(self, images):
            share = self.gains.softmax(0).view(1, 4, 1, 1)
            x = self.second(self.first(images).relu() * share).relu() * share
            return self.head(x.mean((2, 3)))

    whole, images = Shared(), torch.rand(2, 3, 16, 16)
    parts = split(whole, image_size=16)
    assert parts.depth >= 2
    torch.testing.assert_close(parts(images), whole.eval()(images), rtol=0, atol=0)
    parts(images).sum().backward()
    assert whole.gains.grad.abs().sum() > 0


def test_a_token_less_begins_no_stage():
    class Drops(nn.Module):
        """Its class token goes before the last block."""

        def __init__(self):
            super().__init__()
            self.patches, self.token = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 1, 8))
            self.one, self.two, self.three, self.head = (nn.Linear(8, size) for size in (8, 8, 8, 5))

        def forward(self, x):
            x = self.patches(x).flatten(2).mT
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            x = self.two(F.gelu(self.one(x)))[:, 1:]
            return self.head(self.three(x).mean(1))

    whole, images = Drops(), torch.rand(2, 3, 32, 32)
    parts = split(whole, image_size=32)
    assert parts.depth == 1
    assert torch.equal(parts(images), whole(images))


def test_dropout_before_the_classifier_is_applied_at_every_position_in_training():
    whole = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5)
    )
    parts = split(whole, image_size=16).train()
    features = parts.features(torch.rand(4, 3, 16, 16))
    assert 0.3 < (parts.dense(features) == 0).float().mean() < 0.7
    assert torch.equal(parts.eval().dense(features), features)


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.fc = (
            nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 9), nn.Linear(9, 12), nn.Linear(12, 5),
        )  # fmt: skip


def test_channels_last_models_may_take_views():
    class Views(ChannelsLast):
        def forward(self, x):
            x = F.gelu(self.one(self.stem(x).permute(0, 2, 3, 1)))
            rows = x.view(-1, 8, 2, 16 * 9)[:, :, 1]
            x = F.gelu(self.two(rows.reshape(-1, 8, 16, 9)[:, :, ::2] + x[:, ::2, ::2]))
            return self.fc(x.mean((1, 2)))

    whole = Views()
    parts, images = split(whole, image_size=64), torch.rand(2, 3, 64, 64)
    assert [tuple(parts.features(images, stop=k).shape[1:]) for k in (1, 2)] == [(9, 16, 16), (12, 8, 8)]
    # As mixed features are: channels second in memory too.
    features = parts.features(images, stop=1).contiguous()
    torch.testing.assert_close(parts.head(parts.features(features, start=1)), whole(images), rtol=1e-5, atol=1e-6)


def test_modules_may_write_into_the_list_they_get():
    class Concatenate(nn.Module):
        def forward(self, maps):
            maps.append(maps[0] * maps[1])
            return torch.cat(maps, 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3, stride=2)
            self.join, self.head = Concatenate(), nn.Linear(12, 5)

        def forward(self, x):
            return self.head(self.join([self.first(x), self.second(x)]).mean((2, 3)))

    whole, images = Net(), torch.rand(2, 3, 16, 16)
    assert torch.equal(split(whole, image_size=16)(images), whole(images))


def test_modes_of_the_model_are_kept():
    whole = original("timm:ghostnet_050").train()
    whole.bn1.eval()
    buffers = copy.deepcopy(dict(whole.named_buffers()))
    parts = split(whole)
    assert whole.training
    assert not whole.bn1.training
    assert parts.training
    assert [name for name, module in parts.named_modules() if not module.training] == ["stages.0.bn1"]
    assert all(torch.equal(buffers[name], buffer) for name, buffer in whole.named_buffers())
    assert all(p.requires_grad for p in parts.parameters())


def test_the_parts_are_the_models_own():
    whole = original("torchvision:resnet18")
    parts = split(whole)
    assert parts.stages[1].layer2.get_submodule("0.conv1") is whole.layer2[0].conv1
    assert parts.classifier is whole.fc


@pytest.mark.parametrize("last", [nn.Conv2d(8, 5, 1), nn.Sequential(nn.Flatten(), nn.Linear(8, 5))])
def test_what_is_frozen_stays_frozen(last):
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), last, nn.Flatten()]
    assert not any(p.requires_grad for p in split(nn.Sequential(*layers).requires_grad_(False)).parameters())


def test_normalisation_is_added():
    whole = original("torchvision:resnet18")
    parts = split(whole, mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3])
    images = torch.rand(2, 3, 64, 64)
    normal = torchvision.transforms.functional.normalize(images, [0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    assert torch.equal(parts(images), whole(normal))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_normalisation_in_the_precision_of_the_model(dtype):
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    whole = nn.Sequential(*layers).to(dtype)
    parts = split(whole, mean=[0.5, 0.25, 0.5], std=[0.5, 0.25, 0.125])
    images = torch.rand(2, 3, 16, 16).to(dtype)
    mean, std = (torch.tensor(values, dtype=dtype).view(3, 1, 1) for values in ([0.5, 0.25, 0.5], [0.5, 0.25, 0.125]))
    assert torch.equal(parts(images), whole((images - mean) / std))


class Odd(nn.Module):
    """Small models of every kind that cannot be split."""

    def __init__(self, tail):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)
        self.tail = tail

    def forward(self, x):
        return self.tail(self, self.body(x))


def mean(x):
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Odd(lambda s, x: s.head(mean(x)).softmax(-1)), "the last thing it does is softmax, not a linear layer"),
        (Odd(lambda s, x: (s.head(mean(x)), x)), "it does not return one tensor, the logits"),
        (Odd(lambda s, x: s.head(mean(x)) if x.sum() > 0 else x), "cannot be traced: symbolically traced variables"),
        (Odd(lambda s, x: s.head(mean(x) * (2 if s.training else 1))), "not do the same in training and in evaluation"),
        (Odd(lambda s, x: s.head(x.flatten(2).mT)), "features that are not pooled"),
        (Odd(lambda s, x: s.head(mean(x) + torch.randn_like(mean(x)))), "its forward random"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 128 * 128, 5)), "none of its layers gives features with several"),
        (nn.Sequential(nn.Conv2d(3, 8, 64), nn.Flatten(), nn.Linear(8, 5)), "it fails on images of 128x128, 224x224"),
        (nn.Identity(), "no linear layer"),
    ],
)
def test_models_that_cannot_be_split(model, said):
    with pytest.raises(ValueError, match=r"^cannot split ") as caught:
        split(model)
    message = str(caught.value)
    assert message.startswith(f"cannot split {type(model).__name__} into stages, pool and classifier: ")
    assert said in message
    assert message.endswith("Build one by hand: multimix.models.SplitModel(stages, pool, classifier)")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "torchvision:squeezenet1_1",
            {},
            "classifier.3 (AdaptiveAvgPool2d), not a linear layer (its last is classifier.1)",
        ),
        ("timm:deit_tiny_distilled_patch16_224", {}, "truediv, not a linear layer (its last is head_dist)"),
        ("timm:test_resnet", {"num_classes": 0}, "made without a classifier, num_classes=0"),
        ("timm:vit_tiny_patch16_224", {"dynamic_img_size": True}, "its forward cannot be traced"),
    ],
)
def test_library_models_that_cannot_be_split(name, options, said):
    with pytest.raises(ValueError, match=r"^cannot split ") as caught:
        split(original(name, **options))
    assert said in str(caught.value)


def test_an_image_size_that_the_model_does_not_tell():
    model = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(), nn.Linear(8 * 25, 5))
    with pytest.raises(ValueError, match="give an image_size that it takes"):
        split(model)
    parts = split(model, image_size=40)
    images = torch.rand(2, 3, 40, 40)
    assert torch.equal(parts(images), model(images))
    assert isinstance(parts.pool, WholePool)


def test_only_unsplit_modules():
    with pytest.raises(TypeError, match="not split yet, got SplitModel"):
        split(SplitModel([nn.Identity()], nn.Flatten(), nn.Linear(1, 1)))
    with pytest.raises(TypeError, match="got str"):
        split("resnet18")


def test_blocks_of_a_network_of_one_resolution_are_shared_out_evenly():
    """torchvision's ViT has its blocks inside an encoder module, and reshapes between the patches and the tokens."""
    torch.manual_seed(0)
    whole = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=6, num_heads=2, hidden_dim=24, mlp_dim=32, num_classes=5
    ).eval()
    nn.init.normal_(whole.heads.head.weight)  # zero in the original
    parts, images = split(whole), torch.rand(2, 3, 32, 32)
    assert torch.equal(parts(images), whole(images))
    blocks = [sorted({n.split(".")[2] for n, _ in s.named_parameters() if "layers" in n}) for s in parts.stages]
    assert [len(names) for names in blocks] == [0, 1, 2, 1, 2]
    assert {tuple(parts.features(images, stop=k).shape) for k in range(1, 6)} == {(2, 17, 24)}
    assert parts.dense(parts.features(images)).shape == (2, 16, 24)


def test_channels_last_models_give_channels_second():
    class Last(ChannelsLast):
        def forward(self, x):
            x = F.gelu(self.one(self.stem(x).permute(0, 2, 3, 1)))
            x = F.gelu(self.two(x[:, ::2, ::2]))
            return self.fc(x.mean((1, 2)))

    torch.manual_seed(0)
    whole = Last()
    parts, images = split(whole), torch.rand(2, 3, 64, 64)
    assert [tuple(parts.features(images, stop=k + 1).shape[1:]) for k in range(parts.depth)] == [
        (9, 16, 16),
        (12, 8, 8),
    ]
    torch.testing.assert_close(parts(images), whole(images), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.classifier(as_tokens(parts.dense(parts.features(images)))).mean(1), whole(images))
