"""Intrusion distance against float64 loops over all pairs, and mixed embeddings of every kind of method."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import multimix.evaluation as ev
from multimix import methods
from multimix.criteria.multimix import draw_weights
from multimix.evaluation import intrusion
from multimix.models import SplitModel


def example(seed: int, n: int = 12, bank: int = 30, d: int = 3, c: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shares = torch.rand(n, c, generator=g) ** 4
    labels = torch.cat([torch.arange(c), torch.randint(c, (bank - c,), generator=g)])
    return (
        torch.randn(n, d, generator=g),
        shares / shares.sum(1, keepdim=True),
        torch.randn(bank, d, generator=g),
        labels,
    )


def by_loops(
    mixed: Tensor, shares: Tensor, z: Tensor, labels: Tensor, threshold: float, normalize: bool
) -> list[float]:
    rows = []
    for point, weights in zip(mixed.double().tolist(), shares.tolist(), strict=True):
        best = math.inf
        for other, label in zip(z.double().tolist(), labels.tolist(), strict=True):
            if weights[label] > threshold:
                continue
            p, q = ([x / math.hypot(*v) for x in v] if normalize else v for v in (point, other))
            best = min(best, sum((a - b) ** 2 for a, b in zip(p, q, strict=True)))
        rows.append(best)
    return rows


@given(st.integers(0, 10**6), st.sampled_from([None, 0.05, 0.4, 0.9]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_nearest_embedding_of_a_class_that_is_not_mixed(seed: int, threshold: float | None, normalize: bool) -> None:
    mixed, shares, z, labels = example(seed)
    limit = 1 / 6 if threshold is None else threshold
    shares = shares.double()
    expected = by_loops(mixed, shares, z, labels, limit, normalize)
    if math.inf in expected:
        with pytest.raises(ValueError, match="no class is left"):
            ev.intrusion_distances(mixed, shares, z, labels, threshold=threshold, normalize=normalize)
        return
    found = ev.intrusion_distances(mixed, shares, z, labels, threshold=threshold, normalize=normalize)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    mean = ev.intrusion_distance(mixed, shares, z, labels, threshold=threshold, normalize=normalize)
    assert mean == pytest.approx(sum(expected) / len(expected), rel=1e-9)


def test_a_common_mean_far_from_the_origin_changes_nothing() -> None:
    mixed, shares, z, labels = example(3)
    far, bank = mixed.double() + 1e7, z.double() + 1e7
    expected = by_loops(far, shares, bank, labels, 0.4, False)
    found = ev.intrusion_distances(far, shares, bank, labels, threshold=0.4, normalize=False)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_chunks_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = example(1)
    whole = ev.intrusion_distances(*arguments)
    monkeypatch.setattr(intrusion, "_ENTRIES", 64)
    torch.testing.assert_close(ev.intrusion_distances(*arguments), whole, rtol=1e-12, atol=0.0)  # float64 sums


def test_the_default_threshold_leaves_a_class_for_any_mixture() -> None:
    even = torch.full((1, 3), 1 / 3)
    for shares in (even, torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.34, 0.35, 0.31]])):
        assert math.isfinite(ev.intrusion_distance(torch.zeros(1, 2), shares, torch.ones(3, 2), torch.arange(3)))


def test_a_mixture_of_all_classes_is_refused_at_threshold_0() -> None:
    shares = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"1 of 2 mixed embeddings .*\(3 classes\) .* above 0, .* raise the threshold"):
        ev.intrusion_distance(torch.zeros(2, 2), shares, torch.ones(3, 2), torch.arange(3), threshold=0)


def test_a_class_that_the_bank_lacks_is_nothing_to_intrude_on() -> None:
    shares = torch.tensor([[0.5, 0.5, 0.0]])
    with pytest.raises(ValueError, match=r"1 of 1 mixed embeddings .*\(2 classes\) .* so that no class is left"):
        ev.intrusion_distance(torch.zeros(1, 2), shares, torch.ones(2, 2), torch.arange(2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    mixed, targets, embeddings, labels = example(0)
    expected = ev.intrusion_distances(mixed, targets, embeddings, labels)
    assert torch.equal(ev.intrusion_distances(mixed, targets, embeddings, labels.to(dtype)), expected)
    with pytest.raises(TypeError, match=r"integer type, got torch\.float32"):
        ev.intrusion_distances(mixed, targets, embeddings, labels.float())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mixed": torch.zeros(2, 5)}, "same dimension, got 5 and 2"),
        ({"mixed": torch.zeros(0, 2)}, r"mixed must have shape \(N, d\)"),
        ({"targets": torch.zeros(3, 3)}, r"targets must have shape \(2, c\)"),
        ({"labels": torch.tensor([0, 1])}, r"labels must have shape \(3,\), got \(2,\)"),
        ({"labels": torch.tensor([0, 1, 3])}, "class indices below c = 3, .* got 0 to 3"),
        ({"threshold": 1.0}, r"threshold must lie in \[0, 1\), got 1.0"),
    ],
)
def test_what_does_not_fit(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "mixed": torch.zeros(2, 2),
        "targets": torch.eye(3)[:2],
        "embeddings": torch.ones(3, 2),
        "labels": torch.arange(3),
    }
    with pytest.raises(ValueError, match=message):
        ev.intrusion_distance(**{**arguments, **changed})  # type: ignore[arg-type]


def net() -> SplitModel:
    torch.manual_seed(0)
    stages = [nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))]
    return SplitModel(stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, 5)).eval()


def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 5


def test_what_a_method_mixes_by_and_the_data_lack_is_named() -> None:
    with pytest.raises(ValueError, match="Daml needs domain for every example, which these data do not have"):
        ev.mixed_embeddings(methods.parse("daml"), net(), *batch())


@pytest.mark.parametrize("name", ["input-mixup", "cutmix", "manifold-mixup(layers=(1, 2))"])
def test_mixers_go_through_the_rest_of_the_network(name: str) -> None:
    model, (images, targets), method = net(), batch(), methods.parse(name)
    found = ev.mixed_embeddings(method, model, images, targets, torch.Generator().manual_seed(4))
    features, layer, soft = method.mixed(model, images, targets, torch.Generator().manual_seed(4))
    expected = model.features(features, start=layer).mean((2, 3))
    torch.testing.assert_close(found.embeddings, expected.detach())
    torch.testing.assert_close(found.targets, soft)
    assert not found.embeddings.requires_grad


@pytest.mark.parametrize(
    "name",
    ["multimix-alone(n=40)", "multimix-alone(n=40, m=3)", "multimix-alone(n=inf)", "multimix-alone(n=40, layer=2)"],
)
def test_multimix_combines_clean_embeddings(name: str) -> None:
    model, (images, _) = net(), batch()
    # With a class for each example the mixed targets are Lambda itself.
    model.classifier = nn.Linear(8, 10)
    found = ev.mixed_embeddings(methods.parse(name), model, images, torch.arange(10))
    torch.testing.assert_close(found.embeddings, found.targets @ model.embed(images).detach(), rtol=1e-4, atol=1e-5)
    assert len(found.embeddings) == (10 if "inf" in name else 40)
    if "m=3" in name:
        assert ((found.targets > 0).sum(1) == 3).all()


def test_dense_multimix_averages_its_mixed_features() -> None:
    model, (images, targets) = net(), batch()
    found = ev.mixed_embeddings(methods.DenseMultiMix(n=2000, alpha=1.0), model, images, targets)
    torch.testing.assert_close(found.targets.sum(1), torch.ones(2000))
    # E of M-hat is not even over examples, but a convex combination stays in the box of the features.
    positions = model.features(images).detach().flatten(2)
    low, high = positions.amin((0, 2)), positions.amax((0, 2))
    assert ((found.embeddings >= low - 1e-5) & (found.embeddings <= high + 1e-5)).all()
    uniform = methods.DenseMultiMix(n=20000, alpha=1.0, attention="uniform")
    mean = ev.mixed_embeddings(uniform, model, images, targets).embeddings.mean(0)
    torch.testing.assert_close(mean, model.embed(images).mean(0).detach(), rtol=0.02, atol=0.005)


@pytest.mark.parametrize(
    "name", ["multimix-alone(n=40)", "multimix-alone(n=40, layer=1)", "dense-multimix-alone(n=40)"]
)
def test_the_mixtures_follow_the_generator(name: str) -> None:
    method, model = methods.parse(name), net()
    first, again, other = (
        ev.mixed_embeddings(method, model, *batch(), torch.Generator().manual_seed(seed)).targets for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "name", ["multimix-alone(n=40, m=10)", "multimix-alone(n=40, m=10, layer=1)", "dense-multimix-alone(n=40)"]
)
def test_models_of_any_precision(name: str) -> None:
    method, (images, targets) = methods.parse(name), batch()

    def found(dtype: torch.dtype, *, autocast: bool = False) -> ev.MixedEmbeddings:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return ev.mixed_embeddings(
                method, net().to(dtype), images.to(dtype), targets, torch.Generator().manual_seed(4)
            )

    expected = found(torch.float32)
    for dtype, autocast in ((torch.float64, False), (torch.bfloat16, False), (torch.float32, True)):
        mixed = found(dtype, autocast=autocast)
        assert mixed.targets.dtype == torch.float32
        torch.testing.assert_close(mixed.targets.sum(1), torch.ones(40))
        if dtype != torch.float64:  # whose weights are other draws
            assert (mixed.embeddings.float() - expected.embeddings).abs().max() < 0.03
    # But for the attention, which features in bfloat16 decide, the targets are those of float32.
    if "dense" not in name:
        assert torch.equal(found(torch.float32, autocast=True).targets, expected.targets)


def test_positions_that_nobody_attends_to_count_for_nothing() -> None:
    model = SplitModel([nn.Identity()], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(3, 5))
    features = batch()[0][:, :, :2, :2]
    features[:, :, 0, 1] = 0
    found = ev.mixed_embeddings(methods.DenseMultiMix(n=20), model, features, torch.arange(10) % 5)
    torch.testing.assert_close(found.targets.sum(1), torch.ones(20))


@pytest.mark.parametrize("attention", ["gap", "cam"])
def test_dense_multimix_by_loops(attention: str) -> None:
    """Positions weighted by (9) and (11), and then the mean over those that anybody attends to."""
    model = SplitModel([nn.Identity()], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(3, 6)).double()
    # With a class for each example the mixed targets are the weights of the examples.
    features, targets = batch()[0][:6, :, :2, :3].double() - 0.3, torch.arange(6).flip(0)
    features[:, :, 0, 1] = 0  # nobody attends to it
    method = methods.DenseMultiMix(n=7, attention=attention)
    lam = draw_weights(method.criterion, 7, 6, 6, features, torch.Generator().manual_seed(4)).tolist()
    found = ev.mixed_embeddings(method, model, features, targets, torch.Generator().manual_seed(4))
    tokens, rows = features.flatten(2).mT.tolist(), model.classifier.weight.tolist()
    a = []
    for example, label in zip(tokens, targets.tolist(), strict=True):
        u = [sum(column) / 6 for column in zip(*example, strict=True)] if attention == "gap" else rows[label]
        scores = [max(sum(x * y for x, y in zip(z, u, strict=True)), 0.0) for z in example]
        a.append([score / sum(scores) if sum(scores) else 1 / 6 for score in scores])
    for n in range(7):
        z, weights, attended = [0.0] * 3, [0.0] * 6, 0
        for r in range(6):
            total = sum(lam[r][n][k] * a[k][r] for k in range(6))
            attended += total > 0
            for k in range(6) if total else ():
                share = lam[r][n][k] * a[k][r] / total
                weights[int(targets[k])] += share
                z = [old + share * x for old, x in zip(z, tokens[k][r], strict=True)]
        assert attended < 6
        assert found.embeddings[n].tolist() == pytest.approx([x / attended for x in z], abs=1e-9)
        assert found.targets[n].tolist() == pytest.approx([x / attended for x in weights], abs=1e-6)


def test_dense_multimix_needs_embeddings_that_are_means() -> None:
    model, (images, targets) = net(), batch()
    model.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="mean over positions, got Sequential"):
        ev.mixed_embeddings(methods.DenseMultiMix(), model, images, targets)


def test_what_a_method_mixes_with() -> None:
    assert list(ev.mixings(methods.parse("dense-multimix"))) == ["DenseMultiMix", "InputMixup"]
    assert list(ev.mixings(methods.parse("dense-loss(cutmix)"))) == ["CutMix"]
    assert ev.mixings(methods.parse("erm")) == {}
    twice = ev.mixings(methods.parse("either(input-mixup(alpha=0.2), either(input-mixup(alpha=2.0), cutmix))"))
    assert list(twice) == ["InputMixup", "InputMixup 2", "CutMix"]
    assert twice["InputMixup"] is not twice["InputMixup 2"]
    with pytest.raises(ValueError, match="Erm has no mixed embeddings"):
        ev.mixed_embeddings(methods.Erm(), net(), *batch())
