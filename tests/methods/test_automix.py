"""AutoMix: the block from its equation in loops, the loss from its parts, the momentum encoder from its recursion."""

import copy
import math

import pytest
import torch
from tests.methods.conftest import seeded
from torch import nn
from torch.nn import functional as F

from multimix.methods import AutoMix, BarycenterAutoMix
from multimix.methods.mix_block import MixBlock, feature_map
from multimix.methods.momentum import MomentumEncoder
from multimix.methods.pairs import Pairing
from multimix.methods.probing import feature_channels
from multimix.models import SplitModel


@pytest.fixture
def method(model) -> AutoMix:
    method = AutoMix(layer=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        method.setup(model)
        for parameter in method.block.parameters():  # larger than at the start, so that masks differ from one half
            nn.init.normal_(parameter)
    return method


@pytest.mark.parametrize("lam_embedding", [True, False])
def test_block_is_its_equation(lam_embedding: bool) -> None:
    torch.manual_seed(0)
    block = MixBlock(4, lam_embedding=lam_embedding, upsampling="nearest").double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    first, second, lam = torch.randn(2, 4, 2, 3).double(), torch.randn(2, 4, 2, 3).double(), 0.3
    mask = block(first, second, lam, size=(4, 9))
    w, v = block.projection.weight.flatten(1), block.value.weight.flatten()
    for i in range(2):

        def at(features, share, position, i=i):
            z = features[i, :, position // 3, position % 3]
            return torch.cat([z, z.new_tensor([share])]) if lam_embedding else z

        for position in range(6):
            query = w @ at(first, lam, position) + block.projection.bias
            keys = [w @ at(second, 1 - lam, other) + block.projection.bias for other in range(6)]
            scores = [float((query @ key).detach()) / math.sqrt(2) for key in keys]
            total = sum(math.exp(s) for s in scores)
            value = sum(
                math.exp(s) / total * float((v @ at(second, 1 - lam, other) + block.value.bias).detach())
                for other, s in enumerate(scores)
            )
            y, x = position // 3, position % 3
            of_first = mask[i, 0, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3]
            assert torch.allclose(of_first, torch.full_like(of_first, 1 - 1 / (1 + math.exp(-value))))


def test_a_new_block_mixes_half_and_half() -> None:
    features = torch.rand(3, 8, 4, 4)
    assert torch.allclose(MixBlock(8)(features, features.flip(0), 0.9, size=(8, 8)), torch.tensor(0.5), atol=0.03)


def test_block_stays_in_float32_under_autocast() -> None:
    block, features = MixBlock(8), torch.rand(3, 8, 4, 4)
    expected = block(features, features.flip(0), 0.3, size=(7, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block(features, features.flip(0), 0.3, size=(7, 5)), expected)


def _parts(method, model, images, labels, generator):
    """The four losses, written out."""
    soft = F.one_hot(labels, 5).float()
    to_block, to_model = (Pairing.draw(len(images), 2.0, generator, images.device) for _ in range(2))
    features = method.encoder.model.features(images, stop=1).detach()

    def mix(lam, partner):
        mask = method.block(features, features[partner], lam, size=images.shape[-2:])
        return mask, mask * images + (1 - mask) * images[partner]

    def loss(logits, lam, partner):
        return lam * F.cross_entropy(logits, soft) + (1 - lam) * F.cross_entropy(logits, soft[partner])

    mask, mixed = mix(*to_block)
    clean = F.cross_entropy(model(images), labels)
    of_model = loss(model(mix(*to_model)[1].detach()), *to_model)
    of_block = loss(method.encoder.model(mixed), *to_block)
    ratio = ((mask.mean() - to_block.lam).abs() - 0.1).clamp(min=0)
    assert 0.08 < to_model.lam < 0.92
    return clean, of_model, of_block, ratio


# With these, the classifier's lambda is not so near an end that it would get input mixup.
@pytest.mark.parametrize("seed", [2, 3, 4, 5, 6])
def test_loss_is_the_sum_of_its_parts(method, model, images, labels, seed: int) -> None:
    out = method(model, images, labels, seeded(seed))
    clean, of_model, of_block, ratio = _parts(method, model, images, labels, seeded(seed))
    assert torch.allclose(out.loss, clean + of_model + of_block + 0.1 * ratio, atol=1e-5)
    assert torch.equal(out.logits, model(images))


def test_who_is_trained_by_what(method, model, images, labels) -> None:
    for parameter in method.encoder.model.parameters():  # a teacher unlike the model
        parameter.mul_(1.1)
    method(model, images, labels, seeded(2)).loss.backward()
    clean, of_model, of_block, ratio = _parts(method, model, images, labels, seeded(2))
    for module, loss in ((model, clean + of_model), (method.block, of_block + 0.1 * ratio)):
        expected = torch.autograd.grad(loss, list(module.parameters()))
        for parameter, gradient in zip(module.parameters(), expected, strict=True):
            assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert all(p.grad is None for p in method.encoder.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.block.parameters())
    assert not any(p.requires_grad for p in method.encoder.parameters())


def test_near_the_ends_the_classifier_gets_input_mixup(model, images, labels) -> None:
    method = AutoMix(layer=1, lam_margin=0.4999, mask_loss=0.0)
    method.setup(model)
    generator = seeded(4)
    Pairing.draw(7, 2.0, generator, images.device)
    lam, partner = Pairing.draw(7, 2.0, generator, images.device)
    with_block = method(model, images, labels, seeded(4)).loss
    logits = model(lam * images + (1 - lam) * images[partner])
    mixed = lam * F.cross_entropy(logits, labels) + (1 - lam) * F.cross_entropy(logits, labels[partner])
    _, _, of_block, _ = _parts(method, model, images, labels, seeded(4))
    assert torch.allclose(with_block, F.cross_entropy(model(images), labels) + mixed + of_block, atol=1e-5)


@pytest.mark.parametrize("b", [1, 7])
def test_protocol(method, model, images, labels, b: int) -> None:
    images, labels = images[:b], labels[:b]
    kept, state = images.clone(), torch.get_rng_state()
    loss = method(model, images, labels, seeded(2)).loss
    assert torch.isfinite(loss)
    assert torch.equal(loss, method(model, images, labels, seeded(2)).loss)
    assert torch.allclose(loss, method(model, images, F.one_hot(labels, 5).float(), seeded(2)).loss, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)


def test_images_that_are_not_square_and_not_a_multiple_of_the_stride(method, model) -> None:
    assert torch.isfinite(method(model, torch.rand(3, 3, 9, 13), torch.tensor([0, 1, 2]), seeded(0)).loss)


def test_momentum_encoder_is_its_recursion(model) -> None:
    follower = MomentumEncoder(model, start=0.9, end=0.99, steps=20)
    expected = [p.detach().double().clone() for p in model.parameters()]
    for t in range(25):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=seeded(t)), alpha=0.1)
        follower.follow(model)
        rising = 0.99 - 0.09 * (math.cos(math.pi * t / 20) + 1) / 2
        mu = 0.9 if t < 2 else rising if t < 20 else 0.99
        expected = [mu * e + (1 - mu) * p.detach().double() for e, p in zip(expected, model.parameters(), strict=True)]
    for mine, e in zip(follower.model.parameters(), expected, strict=True):
        assert torch.allclose(mine.double(), e, atol=1e-5)


def test_momentum_encoder_normalises_by_its_own_mini_batches_whatever_the_mode_of_the_model() -> None:
    net = SplitModel([nn.BatchNorm2d(3)], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(3, 2)).eval()
    follower = MomentumEncoder(net, start=0.9, end=1.0, steps=10)
    features = follower.model.features(torch.rand(4, 3, 5, 5, generator=seeded(0)))
    assert torch.allclose(features.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)


def test_state_dictionary_holds_block_encoder_and_position(method, model, images, labels) -> None:
    for _ in range(3):
        method.after_step(model)
    other_model = copy.deepcopy(model)
    nn.init.normal_(other_model.classifier.weight)
    other = AutoMix(layer=1)
    other.setup(other_model)
    other.load_state_dict(method.state_dict())
    assert other.encoder.step == 3
    assert torch.equal(other(model, images, labels, seeded(0)).loss, method(model, images, labels, seeded(0)).loss)


def test_setup_leaves_the_model_as_it_was() -> None:
    with torch.random.fork_rng(devices=[]):
        net = SplitModel([nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)), nn.Conv2d(6, 4, 3)],
                         nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 3))  # fmt: skip
        before = copy.deepcopy(net.state_dict())
        method = AutoMix()
        method.setup(net)
    assert method.block.value.in_channels == 7
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert net.training


class Tokens(nn.Module):
    def forward(self, images):
        tokens = F.avg_pool2d(images, 4).flatten(2).mT
        return torch.cat([torch.full_like(tokens[:, :1], 9.0), tokens], dim=1)


def test_tokens_become_a_map() -> None:
    net = SplitModel([Tokens()], nn.Flatten(), nn.Linear(4, 2), prefix_tokens=1)
    images = torch.rand(2, 3, 8, 16)
    assert torch.allclose(feature_map(net, images, 1), F.avg_pool2d(images, 4))
    narrower = images[..., :15]  # three columns of patches, and three pixels that belong to none
    assert torch.allclose(feature_map(net, narrower, 1), F.avg_pool2d(narrower, 4))
    with pytest.raises(ValueError, match="9 patch tokens do not tile images of 8x16"):
        feature_map(SplitModel([Tokens()], nn.Flatten(), nn.Linear(4, 2)), images, 1)


@pytest.mark.parametrize("told", [48, (48, 48), [48, 24], (3, 24, 48)])
def test_channels_of_a_model_of_one_size(told) -> None:
    class Picky(nn.Module):
        img_size = told

        def forward(self, x):
            assert x.shape[-2:] == ((told, told) if told == 48 else tuple(told[-2:]))
            return torch.cat([x, x], 1)

    assert feature_channels(SplitModel([Picky()], nn.Flatten(), nn.Linear(4, 2)), 1) == 6
    with pytest.raises(ValueError, match=r"stage 1 gives \(1, \d+\): choose another layer"):
        feature_channels(SplitModel([nn.Flatten()], nn.Flatten(), nn.Linear(4, 2)), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha must be a positive number"),
        ({"upsampling": "cubic"}, "upsampling"),
        ({"lam_margin": 0.5}, r"lam_margin must be in \[0, 0.5\)"),
        ({"lam_margin": None}, "lam_margin must be a number of at least 0, got None"),
        ({"mask_loss": float("inf")}, "mask_loss must be a number of at least 0, got inf"),
        ({"mask_margin": "0.1"}, r"mask_margin must lie in \[0, 1\], got '0.1'"),
        ({"momentum": "0.9"}, r"momentum must lie in \[0, 1\], got '0.9'"),
        ({"final_momentum": 1.5}, r"final_momentum must lie in \[0, 1\], got 1.5"),
        ({"momentum": 0.9, "final_momentum": 0.8}, "momentum <= final_momentum"),
        ({"momentum_steps": 0}, "momentum_steps must be at least 1"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        AutoMix(**options)


def test_errors_in_use(model, images, labels) -> None:
    with pytest.raises(ValueError, match=r"call setup\(model\) before the optimiser"):
        AutoMix()(model, images, labels)
    with pytest.raises(ValueError, match="layer must be between 1 and 2, got 3"):
        AutoMix(layer=3).setup(model)


@pytest.mark.parametrize("make", [lambda: AutoMix(layer=1), lambda: BarycenterAutoMix(width=8)])
def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone(model, make) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            method = make()
            method.setup(model)
            assert torch.equal(torch.get_rng_state(), before)
        return [p.detach() for p in method.parameters() if p.requires_grad]

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
