"""The barycenter network of AutoMix (2020): what it starts as, what it is trained for, and by whom."""

import pytest
import torch
from tests.methods.conftest import seeded
from torch import nn
from torch.nn import functional as F

from multimix.methods import BarycenterAutoMix
from multimix.methods.barycenter import BarycenterNetwork
from multimix.methods.pairs import Pairing


@pytest.fixture
def method(model) -> BarycenterAutoMix:
    method = BarycenterAutoMix(width=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        method.setup(model)
        nn.init.normal_(method.generator.last.weight)
    return method


def test_untrained_it_is_input_mixup() -> None:
    first, second = torch.rand(2, 4, 3, 8, 8, generator=seeded(0))
    mixed = BarycenterNetwork(3, width=8)(first, second, 0.3)
    assert torch.allclose(mixed, 0.3 * first + 0.7 * second, atol=2e-3)


@pytest.mark.parametrize("size", [(3, 2), (7, 9), (8, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_pixels_in_range(size, channels: int) -> None:
    network = BarycenterNetwork(channels, width=8)
    nn.init.normal_(network.last.weight, std=5.0)
    first = torch.rand(2, channels, *size, generator=seeded(0))
    mixed = network(first, first.flip(0), 0.5)
    assert mixed.shape == first.shape
    assert 0 <= mixed.min() <= mixed.max() <= 1
    assert torch.allclose(network(first[:1], first[1:], 0.5), mixed[:1], atol=1e-4)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_loss_is_the_sum_of_its_parts(method, model, images, labels, weight: float) -> None:
    method.weight = weight
    out = method(model, images, labels, seeded(0))
    lam, partner = Pairing.draw(7, 1.0, seeded(0), images.device)
    mixed = method.generator(images, images[partner], lam)
    expected = F.cross_entropy(model(images), labels)
    expected = expected + lam * F.cross_entropy(model(mixed), labels)
    expected = expected + (1 - lam) * F.cross_entropy(model(mixed), labels[partner])
    # The ends are constants: they are not to move towards what lies between them.
    ends, between = model.embed(images).detach().double(), model.embed(mixed).double()
    for i in range(7):
        for share, j in ((lam, i), (1 - lam, int(partner[i]))):
            expected = expected + weight * share * ((between[i] - ends[j]) ** 2).sum() / (7 * 6)
    assert torch.allclose(out.loss.double(), expected.double(), atol=1e-5)
    assert torch.equal(out.logits, model(images))
    trained = [*model.parameters(), *method.parameters()]
    found, wanted = (torch.autograd.grad(loss, trained) for loss in (out.loss, expected))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_both_are_trained_and_the_ends_are_not_pulled(method, model, images, labels) -> None:
    method.weight = 0.0
    method(model, images, labels, seeded(0)).loss.backward()
    without = model.classifier.weight.grad.clone()
    model.zero_grad()
    method.weight = 1e6
    method(model, images, labels, seeded(0)).loss.backward()
    # The barycenter loss ends at the embeddings, so that the classifier's last layer does not see it.
    assert torch.allclose(model.classifier.weight.grad, without, atol=1e-5)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.generator.parameters())


def test_training_brings_the_mixed_embedding_to_the_barycenter(model, images, labels) -> None:
    torch.manual_seed(0)
    method = BarycenterAutoMix(width=8)
    method.setup(model)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    lam, partner = Pairing.draw(7, 1.0, seeded(0), images.device)
    with torch.no_grad():
        ends = model.embed(images)
        barycenter = lam * ends + (1 - lam) * ends[partner]

    def distance() -> float:
        with torch.no_grad():
            return float((model.embed(method.generator(images, images[partner], lam)) - barycenter).square().mean())

    before = distance()
    method.weight = 1e4  # the classifier is random here
    for _ in range(40):
        optimizer.zero_grad()
        method(model, images, labels, seeded(0)).loss.backward()
        optimizer.step()
    assert distance() < 0.5 * before


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


def test_bad_input(model, images, labels) -> None:
    with pytest.raises(ValueError, match="width must be a multiple of 8, got 12"):
        BarycenterAutoMix(width=12)
    with pytest.raises(ValueError, match="weight must be a number of at least 0"):
        BarycenterAutoMix(weight=-1.0)
    with pytest.raises(ValueError, match=r"call setup\(model\) before the optimiser"):
        BarycenterAutoMix()(model, images, labels)
