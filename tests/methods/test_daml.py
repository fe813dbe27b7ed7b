"""DAML against its definition: loops over examples, the Beta marginals of its weights, and weights read off pixels."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from tests.methods.conftest import numbered, seeded
from torch import nn

from multimix.methods import CutMix, Daml, DenseLoss, Either, parse
from multimix.models import SplitModel

DOMAIN = torch.tensor([0, 0, 1, 2, 1, 2, 2])


def ready(model: SplitModel, method: Daml, *, trained: bool = True) -> Daml:
    """Set up, with heads that differ as after training."""
    method.setup(model)
    if trained:
        with torch.no_grad():
            method.weight.copy_(torch.randn(method.weight.shape, generator=seeded(8)))
            method.bias.copy_(torch.randn(method.bias.shape, generator=seeded(9)))
    return method


def test_weights_pick_one_example_of_every_domain():
    lam, head = Daml().draw(DOMAIN, seeded(0))
    assert head.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.allclose(lam.sum(1), torch.ones(7))
    for row in lam:
        chosen = DOMAIN[row > 0]
        assert chosen.unique().numel() == chosen.numel()


def test_weights_are_dirichlet_and_examples_of_a_domain_equally_likely():
    """The weight of domain j under Dir(alpha) is Beta(alpha_j, sum of the others)."""
    domain = torch.tensor([0, 1, 2, 0, 1, 2, 2, 2]).repeat(16)
    method = Daml(own=0.6, other=0.2)
    own, other, picks = [], [], []
    for seed in range(20):
        lam, head = method.draw(domain, seeded(seed))
        of_domain = torch.stack([lam[:, domain == k].sum(1) for k in range(3)], dim=1)
        own.append(of_domain[torch.arange(len(head)), head])
        other.append(of_domain[torch.arange(len(head)), (head + 1) % 3])
        picks.append(lam[:, domain == 2].argmax(1)[of_domain[:, 2] > 1e-6])
    assert stats.kstest(torch.cat(own).double().numpy(), stats.beta(0.6, 0.4).cdf).pvalue > 1e-3
    assert stats.kstest(torch.cat(other).double().numpy(), stats.beta(0.2, 0.8).cdf).pvalue > 1e-3
    counts = torch.cat(picks).bincount(minlength=64)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_domain_that_is_absent_lends_its_weight_to_nobody():
    """One example at most of each domain that is there, whose weights are Dirichlet among themselves."""
    domain, weights = torch.tensor([1, 1, 2, 2] * 8), []
    for seed in range(20):
        lam, head = Daml(own=0.6, other=0.2).draw(domain, seeded(seed))
        assert torch.allclose(lam.sum(1), torch.ones(32))
        for row in lam:
            chosen = domain[row > 0]
            assert chosen.unique().numel() == chosen.numel()
        weights.append(lam[:, domain == 1].sum(1)[head == 0])
    assert stats.kstest(torch.cat(weights).double().numpy(), stats.beta(0.2, 0.2).cdf).pvalue > 1e-3


def test_tiny_concentrations_pick_one_domain():
    lam, head = Daml(own=1e-8, other=1e-30).draw(DOMAIN, seeded(0))
    assert torch.isfinite(lam).all()
    assert lam.amax(1).tolist() == [1.0] * 7
    assert torch.equal(DOMAIN[lam.argmax(1)], head)


def test_targets_are_what_the_pixels_show(model):
    """Image i is i + 1 everywhere and the only one of class i of 5, so its weight can be read off."""
    domain = torch.tensor([0, 1, 2, 1, 0])
    mixed = Daml(layer=0).mixed(model, numbered(5), torch.arange(5), seeded(3), domain=domain)
    assert mixed.layer == 0
    expected = mixed.targets @ torch.arange(1.0, 6)
    assert torch.allclose(mixed.features, expected[:, None, None, None].expand_as(mixed.features))
    assert torch.allclose(mixed.targets.sum(1), torch.ones(5))


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_loss_is_its_definition(model, images, labels, layer):
    """With two domains the teacher is the other head, so only the mixtures are random."""
    domain = torch.tensor([0, 0, 1, 0, 1, 1, 0])
    method = ready(model, Daml(0.7, 0.3, layer=layer, domains=2, mixing=2.5, distillation=0.7, temperature=3.0))
    out = method(model, images, labels, seeded(4), domain=domain)
    lam, head = method.draw(domain, seeded(4))

    weights = [model.classifier.weight + method.weight[k] - method.weight.mean(0) for k in range(2)]
    biases = [model.classifier.bias + method.bias[k] - method.bias.mean(0) for k in range(2)]

    def predict(k, z):
        return z @ weights[k].T + biases[k]

    stop = model.depth if layer is None else layer
    features = model.features(images, stop=stop)
    z = model.pool(model.features(features, start=stop))
    total = torch.zeros(())
    for i in range(7):
        logits = predict(int(domain[i]), z[i])
        total = total - logits.log_softmax(0)[labels[i]] / 7
        teacher = (predict(1 - int(domain[i]), z[i]) / 3).softmax(0).detach()
        log_student = (logits / 3).log_softmax(0)
        total = total + 0.7 * 9 * (teacher * (teacher.log() - log_student)).sum() / 7
        mixture = sum(lam[i, j] * features[j] for j in range(7))
        log_p = predict(int(head[i]), model.pool(model.features(mixture[None], start=stop))[0]).log_softmax(0)
        total = total - 2.5 * sum(lam[i, j] * log_p[labels[j]] for j in range(7)) / 7
    assert torch.allclose(out.loss, total, atol=1e-5)
    parameters = [*model.parameters(), *method.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(out.loss, parameters), torch.autograd.grad(total, parameters), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_teacher_lies_between_the_other_heads(model, images):
    """With three domains, the loss of each draw is within those of the two pure teachers (KL is convex in them)."""
    method = ready(model, Daml(mixing=0))
    heads = method._heads(model.embed(images), model(images))
    own = heads[torch.arange(7), DOMAIN]

    def divergence(teacher):
        return (teacher * (teacher.log() - (own / 2).log_softmax(1))).sum(1).mean() * 4

    p = (heads / 2).softmax(2)
    corners = [divergence(p[torch.arange(7), (DOMAIN + k) % 3]) for k in (1, 2)]
    draws = [method._distill(heads, own, DOMAIN, seeded(seed)) for seed in range(50)]
    assert all(draw <= sum(corners) for draw in draws)
    assert torch.stack(draws).std() > 0


def test_classifier_is_the_mean_of_the_heads(model, images, labels):
    method = ready(model, Daml())
    out = method(model, images, labels, seeded(0), domain=DOMAIN)
    assert torch.equal(out.logits, model(images))
    assert torch.allclose(method._heads(model.embed(images), model(images)).mean(1), model(images), atol=1e-5)


@pytest.mark.parametrize("domain", [DOMAIN, torch.zeros(7, dtype=torch.int64), torch.tensor([2, 0] * 4)[:7]])
@pytest.mark.parametrize("b", [1, 7])
def test_protocol(model, images, labels, domain, b):
    images, labels, domain, kept = images[:b], labels[:b], domain[:b], images[:b].clone()
    state = torch.get_rng_state()
    method = ready(model, Daml())
    out = method(model, images, labels, seeded(2), domain=domain)
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in (*model.parameters(), *method.parameters()))
    assert torch.equal(method(model, images, labels, seeded(2), domain=domain).loss, out.loss)
    one_hot = nn.functional.one_hot(labels, 5).float()
    assert torch.allclose(method(model, images, one_hot, seeded(2), domain=domain).loss, out.loss, atol=1e-5)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_composes(model, images, labels):
    method = Either(Daml(), CutMix(), p=0.5)
    method.setup(model)
    assert method.needs == ("domain",)
    for seed in range(4):
        assert torch.isfinite(method(model, images, labels, seeded(seed), domain=DOMAIN).loss)
    dense = DenseLoss(parse("daml(layer=1)"))
    assert torch.isfinite(dense(model, images, labels, seeded(0), domain=DOMAIN).loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"own": 0}, "own must be a positive number, got 0"),
        ({"domains": 1}, "domains must be at least 2, got 1"),
        ({"mixing": -1}, "mixing must be a number of at least 0, got -1"),
        ({"distillation": float("nan")}, "distillation must be a number of at least 0, got nan"),
        ({"layer": -1}, "layer must be at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Daml(**options)


def test_bad_calls(model, images, labels):
    with pytest.raises(ValueError, match="call setup"):
        Daml()(model, images, labels, domain=DOMAIN)
    method = ready(model, Daml(domains=2))
    with pytest.raises(ValueError, match="numbered from 0 to 1 for domains=2, got 0 to 2: set domains"):
        method(model, images, labels, domain=DOMAIN)
    with pytest.raises(ValueError, match=r"one whole number for each of the 7 images, got none"):
        method(model, images, labels)
    with pytest.raises(ValueError, match=r"torch.int64 of shape \(3,\)"):
        method(model, images, labels, domain=DOMAIN[:3])
    model.classifier = nn.Sequential(nn.Linear(6, 5))
    with pytest.raises(ValueError, match=r"one nn\.Linear, to give each domain its own, got Sequential"):
        Daml().setup(model)


def test_the_domains_of_the_data_are_checked_through_every_wrapper():
    for text in ("daml(domains=2)", "either(erm, daml(domains=2))", "soft-targets(daml(domains=2))"):
        method = parse(text)
        method.check_extras({"domain": torch.tensor([0, 1])})
        with pytest.raises(ValueError, match="numbered from 0 to 1 for domains=2, got -1 to 2: set domains"):
            method.check_extras({"domain": torch.tensor([0, 2, -1])})
    DenseLoss(Daml(domains=4)).check_extras({"domain": DOMAIN})


def test_more_heads_than_domains_train(model, images, labels):
    method = ready(model, Daml(domains=5))
    method.check_extras({"domain": DOMAIN})
    loss = method(model, images, labels, seeded(0), domain=DOMAIN).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (method.weight, method.bias))


def test_learns_what_the_domains_share():
    """The class is the brighter half; the domain is the bright channel. Tested on a mixture of channels never seen."""

    def batch(count, seed, channel):
        g = seeded(seed)
        images = 0.3 * torch.rand(count, 3, 8, 8, generator=g)
        labels = torch.randint(2, (count,), generator=g)
        rows = torch.arange(count)
        images[rows, channel[rows], :4] += 0.6 * (labels == 0)[:, None, None]
        images[rows, channel[rows], 4:] += 0.6 * (labels == 1)[:, None, None]
        return images, labels

    stages = [nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SplitModel(stages, nn.Flatten(), nn.Linear(32, 2))
    method = Daml()
    method.setup(net)
    optimizer = torch.optim.SGD([*net.parameters(), *method.parameters()], lr=0.1, momentum=0.9)
    domain = torch.arange(30) % 3
    before = method.weight.clone()
    for step in range(80):
        images, labels = batch(30, step, domain)
        optimizer.zero_grad()
        method(net, images, labels, seeded(step), domain=domain).loss.backward()
        optimizer.step()
    images, labels = batch(200, 999, domain[:1].expand(200))
    images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert (net(images).argmax(1) == labels).float().mean() > 0.95
    assert not torch.equal(method.weight, before)
