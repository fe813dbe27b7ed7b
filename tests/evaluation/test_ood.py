"""Out-of-distribution measures, scores and detectors against scikit-learn, pytorch-ood and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood import detector as po
from pytorch_ood.metrics import OODMetrics
from sklearn import metrics as skm
from torch import nn

import multimix.evaluation as ev
from multimix.models import SplitModel

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=40)


@given(SCORES, SCORES)
@settings(max_examples=150, deadline=None)
def test_with_ties_as_scikit_learn_and_by_all_thresholds(inside: list[int], outside: list[int]) -> None:
    found = ev.ood_metrics(torch.tensor(inside).float(), torch.tensor(outside).float())
    y = np.array([1] * len(inside) + [0] * len(outside))
    s = np.array(inside + outside, dtype=float)
    assert found["auroc"] == pytest.approx(skm.roc_auc_score(y, s), abs=1e-12)
    assert found["aupr_in"] == pytest.approx(skm.average_precision_score(y, s), abs=1e-12)
    assert found["aupr_out"] == pytest.approx(skm.average_precision_score(1 - y, -s), abs=1e-12)
    rates = [
        (sum(a >= t for a in inside) / len(inside), sum(b >= t for b in outside) / len(outside)) for t in range(10)
    ]
    assert found["fpr95"] == pytest.approx(min(fpr for tpr, fpr in rates if tpr >= 0.95), abs=1e-12)
    best = 1 - min((1 - tpr + fpr) / 2 for tpr, fpr in rates)
    assert found["detection_accuracy"] == pytest.approx(best, abs=1e-12)


def test_roc_curve_is_that_of_scikit_learn() -> None:
    g = torch.Generator().manual_seed(0)
    inside, outside = torch.randint(5, 20, (60,), generator=g), torch.randint(0, 15, (30,), generator=g)
    fpr, tpr = ev.roc_curve(inside.float(), outside.float())
    y = [1] * 60 + [0] * 30
    expected_fpr, expected_tpr, _ = skm.roc_curve(y, [*inside.tolist(), *outside.tolist()], drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr, atol=1e-12)
    np.testing.assert_allclose(tpr, expected_tpr, atol=1e-12)


def test_metrics_are_those_of_pytorch_ood() -> None:
    g = torch.Generator().manual_seed(1)
    inside, outside = torch.randn(400, generator=g) + 1, torch.randn(300, generator=g)
    theirs = OODMetrics()
    # There scores are higher for outliers, and outliers have negative labels.
    theirs.update(-torch.cat([inside, outside]), torch.tensor([0] * 400 + [-1] * 300))
    expected, found = theirs.compute(), ev.ood_metrics(inside, outside)
    assert found["auroc"] == pytest.approx(float(expected["AUROC"]), abs=1e-5)
    # Theirs is the share of inliers rejected where 95 % of the outliers are; ODIN's, and ours, the other way round.
    exchanged = ev.ood_metrics(-outside, -inside)
    assert exchanged["fpr95"] == pytest.approx(float(expected["FPR95TPR"]), abs=1e-5)
    # Which class AUPR-IN has as positive is a convention; both areas must be there.
    theirs_pr = sorted(float(expected[key]) for key in ("AUPR-IN", "AUPR-OUT"))
    assert sorted([found["aupr_in"], found["aupr_out"]]) == pytest.approx(theirs_pr, abs=5e-3)


def test_constant_scores_tell_nothing() -> None:
    found = ev.ood_metrics(torch.ones(30), torch.ones(10))
    assert found == {"auroc": 0.5, "aupr_in": 0.75, "aupr_out": 0.25, "fpr95": 1.0, "detection_accuracy": 0.5}


def test_higher_is_more_in_distribution() -> None:
    found = ev.ood_metrics(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    assert found["auroc"] == 0
    assert found["fpr95"] == 1


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        (torch.zeros(0), torch.zeros(3), r"scores_in must have shape \(N,\) with N >= 1, got \(0,\)"),
        (torch.zeros(3), torch.zeros(3, 1), r"scores_out must have shape"),
        (torch.zeros(3), torch.tensor([0.0, math.nan]), "scores_out must not contain NaN, got 1 among 2"),
    ],
)
def test_scores_that_cannot_be_compared(inside: torch.Tensor, outside: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ev.ood_metrics(inside, outside)


def test_scores_of_logits_are_those_of_pytorch_ood() -> None:
    logits = 4 * torch.randn(50, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    identity = nn.Identity()
    cases = {
        ev.max_softmax: po.MaxSoftmax(identity),
        ev.max_logit: po.MaxLogit(identity),
        ev.entropy: po.Entropy(identity),
        ev.energy: po.EnergyBased(identity),
    }
    for score, detector in cases.items():
        torch.testing.assert_close(score(logits), -detector.predict(logits), rtol=0, atol=1e-6)


def test_energy_at_a_temperature() -> None:
    logits = [1.0, -2.0, 0.5]
    expected = 3 * math.log(sum(math.exp(x / 3) for x in logits))
    assert ev.energy(torch.tensor([logits]), temperature=3).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        ev.energy(torch.zeros(1, 2), temperature=0)


def test_confident_logits_do_not_tie() -> None:
    logits = torch.tensor([[20.0, 0.0], [21.0, 0.0]])
    low, high = ev.max_softmax(logits).tolist()
    assert low < high


def test_entropy_of_impossible_classes_is_finite() -> None:
    assert ev.entropy(torch.tensor([[0.0, -math.inf]])).item() == 0


def net(d: int = 6, c: int = 4) -> SplitModel:
    torch.manual_seed(0)
    return SplitModel([nn.Flatten(), nn.Linear(12, d)], nn.Identity(), nn.Linear(d, c)).eval()


def training(n: int = 200, d: int = 6, c: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % c
    return torch.randn(n, d, generator=g) + 3 * nn.functional.one_hot(labels, d), labels


@pytest.mark.parametrize("narrowest", [1.0, 0.01])
def test_mahalanobis_ranks_as_the_distance_to_the_nearest_class(narrowest: float) -> None:
    z, labels = training()
    labels = labels * 2  # classes without training images
    x = 4 * torch.randn(30, 6, generator=torch.Generator().manual_seed(4))
    scale = torch.linspace(1, narrowest, 6)
    z, x = z * scale, x * scale
    found = ev.fit_detector("mahalanobis", net(), z, labels)(x)
    z64, y = z.double().numpy(), labels.numpy()
    means = {k: z64[y == k].mean(0) for k in set(y.tolist())}
    centred = np.stack([row - means[k] for row, k in zip(z64, y.tolist(), strict=True)])
    precision = np.linalg.inv(centred.T @ centred / len(centred))
    expected = [-min((r - m) @ precision @ (r - m) for m in means.values()) / 2 for r in x.double().numpy()]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("d", "n", "rank"), [(64, 40, 64), (64, 2000, 10), (300, 100, 300)])
def test_mahalanobis_with_fewer_images_or_directions_than_dimensions(d: int, n: int, rank: int) -> None:
    # Within a class embeddings differ in `rank` directions at most. What lies off them, and off the line through the
    # two means, is far from both classes, however near in Euclidean distance.
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d, d, generator=g)).Q
    means, y = 2 * torch.randn(2, d, generator=g), torch.arange(n) % 2

    def images(count: int) -> torch.Tensor:
        return means[y[:count]] + torch.randn(count, rank, generator=g) @ basis[:, :rank].mT

    z = images(n)
    score = ev.fit_detector("mahalanobis", net(d), z, y)
    inside, outside = score(images(min(n, 40))), score(means.mean(0) + 1.5 * torch.randn(40, d, generator=g))
    assert (inside <= 0).all()
    assert (outside <= 0).all()
    assert ev.ood_metrics(inside, outside)["auroc"] > 0.99
    # Half of the mean squared norm in n - 2 directions of unit variance, of n images about the means of two halves.
    if n > rank:
        assert score(z).mean().item() == pytest.approx(-rank / 2, rel=0.02)


def test_knn_is_the_distance_to_the_fiftieth_neighbour() -> None:
    z, labels = training()
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(5))
    unit, unit_x = nn.functional.normalize(z, dim=1), nn.functional.normalize(x, dim=1)
    expected = -torch.cdist(unit_x, unit).kthvalue(50, dim=1).values
    torch.testing.assert_close(ev.fit_detector("knn", net(), z, labels)(x).float(), expected, rtol=1e-4, atol=1e-5)


def test_react_is_the_energy_of_clipped_embeddings() -> None:
    model = net()
    z, labels = training()
    x = 5 * torch.randn(20, 6, generator=torch.Generator().manual_seed(6))
    clipped = x.clamp(max=float(np.percentile(z.numpy(), 90)))
    found = ev.fit_detector("react", model, z, labels)(x)
    torch.testing.assert_close(found, model.classifier(clipped).logsumexp(1), rtol=1e-4, atol=1e-4)


def test_react_asks_the_classifier_in_evaluation_mode() -> None:
    model = net()
    model.classifier = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), model.classifier)
    z, labels = training()
    found = ev.fit_detector("react", model.train(), z, labels)(z)
    assert all(module.training for module in model.modules())
    assert model.classifier[0].num_batches_tracked == 0, "statistics are those of the training"
    clipped = z.clamp(max=float(np.percentile(z.numpy(), 90)))
    torch.testing.assert_close(found, model.eval().classifier(clipped).logsumexp(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chain", [False, True])
def test_vim_is_the_energy_less_the_virtual_logit(chain: bool) -> None:
    model = net()
    weight, bias = model.classifier.weight.double(), model.classifier.bias.double()
    if chain:
        model.classifier = nn.Sequential(model.classifier, nn.Linear(4, 4))
        last = model.classifier[1]
        weight, bias = last.weight.double() @ weight, last.weight.double() @ bias + last.bias.double()
    z, labels = training()
    x = 3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(7))
    found = ev.fit_detector("vim", model, z, labels)(x)
    origin = -torch.linalg.pinv(weight) @ bias
    centred, query = z.double() - origin, x.double() - origin
    basis = torch.linalg.svd(centred).Vh[3:].mT  # d / 2 principal directions left out
    logits = z.double() @ weight.mT + bias
    alpha = logits.amax(1).mean() / (centred @ basis).norm(dim=1).mean()
    expected = (x.double() @ weight.mT + bias).logsumexp(1) - alpha * (query @ basis).norm(dim=1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_odin_takes_one_signed_step_towards_the_prediction() -> None:
    model = net()
    model.train()
    images = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(8))
    found = ev.odin(model, [(images, torch.zeros(8))], eps=0.05, temperature=1000.0)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    x = images.clone().requires_grad_()
    (model(x) / 1000).log_softmax(1).amax(1).sum().backward()
    expected = (model(images + 0.05 * x.grad.sign()).double() / 1000).softmax(1).amax(1)
    # In single precision, probabilities at this temperature would all but tie.
    torch.testing.assert_close(found.double(), expected, rtol=1e-9, atol=0)


def test_odin_has_the_step_and_temperature_of_its_authors() -> None:
    """Those of the paper's section 4 for CIFAR-10; images of this package are not divided by a standard deviation."""
    model, images = net(), torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(8))
    found = ev.odin(model, [(images, torch.zeros(8))])
    assert torch.equal(found, ev.odin(model, [(images, torch.zeros(8))], eps=0.0014, temperature=1000.0))
    assert not torch.equal(found, ev.odin(model, [(images, torch.zeros(8))], eps=0.0015, temperature=1000.0))


@pytest.mark.parametrize(("d", "kept"), [(6, 3), (767, 383), (768, 512), (1499, 512), (1500, 1000)])
def test_vim_keeps_as_many_dimensions_as_its_authors(d: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ViM/benchmark.py: 1000 from 1500 on, 512 from 768 on (that of ViT-B), else half."""
    asked = []

    class Spy:
        def __init__(self, model: object, dimensions: int, weight: torch.Tensor, bias: torch.Tensor) -> None:
            asked.append(dimensions)

        def fit_features(self, z: torch.Tensor, labels: torch.Tensor) -> None: ...

    monkeypatch.setattr("pytorch_ood.detector.ViM", Spy)
    ev.fit_detector("vim", net(d), torch.zeros(kept + 1, d), torch.zeros(kept + 1).long())
    assert asked == [kept]


def test_odin_asks_the_model_in_evaluation_mode_at_the_given_temperature() -> None:
    model = net()
    model.stages.append(nn.Dropout(0.5))
    model.train()
    images = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(8))
    found = ev.odin(model, [(images, torch.zeros(8))], eps=0.0, temperature=10.0)
    expected = (model.eval()(images).double() / 10).softmax(1).amax(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-9, atol=0)


def test_odin_is_in_full_precision_under_autocast() -> None:
    model, images = net(), torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(8))
    expected = ev.odin(model, [(images, torch.zeros(8))])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ev.odin(model, [(images, torch.zeros(8))]), expected)


def test_odin_of_a_model_without_parameters() -> None:
    model = SplitModel([nn.Identity()], nn.Flatten(), nn.Identity())
    images = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(8))
    found = ev.odin(model, [(images, torch.zeros(8))], eps=0.0, temperature=10.0)
    torch.testing.assert_close(found, (images.flatten(1).double() / 10).softmax(1).amax(1))


def test_scores_that_differ_in_the_last_digits_of_float64_are_told_apart() -> None:
    high, low = torch.tensor([[1 - 1e-12], [1 - 3e-12]], dtype=torch.float64).expand(2, 5)
    assert ev.ood_metrics(high, low)["auroc"] == 1.0


def test_detectors_leave_the_global_random_state_alone() -> None:
    z, labels = training()
    model = net()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ("mahalanobis", "knn", "vim", "react"):
        ev.fit_detector(name, model, z, labels)(z)
    assert torch.equal(before, torch.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()  # noqa: NPY002


def test_what_a_detector_cannot_do() -> None:
    z, labels = training()
    with pytest.raises(ValueError, match="unknown detector 'svm': expected one of mahalanobis, knn"):
        ev.fit_detector("svm", net(), z, labels)
    with pytest.raises(ValueError, match="knn needs at least 50 training images, got 20"):
        ev.fit_detector("knn", net(), z[:20], labels[:20])
    with pytest.raises(ValueError, match="vim needs more training images than the 3 dimensions it keeps, got 3"):
        ev.fit_detector("vim", net(), z[:3], labels[:3])
    # Every distance but those to the means themselves would be infinite.
    with pytest.raises(ValueError, match="mahalanobis needs a class with several different embeddings, got 4 of 4"):
        ev.fit_detector("mahalanobis", net(), z[:4], torch.arange(4))
    with pytest.raises(ValueError, match="got 60 of 4 classes, equal within each"):
        ev.fit_detector("mahalanobis", net(), z[:1].expand(60, -1), torch.arange(60) % 4)
    model = net()
    model.classifier = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with pytest.raises(ValueError, match="vim needs a linear classifier, got Sequential"):
        ev.fit_detector("vim", model, z, labels)
    with pytest.raises(ValueError, match=r"embeddings \(N, d\) and labels \(N,\), got \(200, 6\) and \(3,\)"):
        ev.fit_detector("knn", net(), z, labels[:3])
    with pytest.raises(ValueError, match="yields no batch"):
        ev.odin(net(), [])
    with pytest.raises(TypeError, match=r"got a tensor of shape \(8, 3, 2, 2\): pass \[\(images, labels\)\]"):
        ev.odin(net(), torch.rand(8, 3, 2, 2))
