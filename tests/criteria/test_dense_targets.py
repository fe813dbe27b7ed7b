"""Dense MultiMix with a target at every position, against loops written from (9) to (14)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.functional.oracles import make_targets, normal, rng
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import multimix as mm
from multimix.functional import attention_map, sample_weights
from multimix.random import draw_seed

B, D, C, H, W = 5, 6, 4, 2, 3


def head() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(D, C).double()


def loop(
    z: Tensor,
    y: Tensor,
    a: Tensor,
    classifier: Callable[[Tensor], Tensor],
    n: int,
    alpha: float,
    seed: int,
    pooled: bool,
    m: int | None = None,
) -> Tensor:
    """z (b, r, d), y (b, r, c), a (b, r): one mixture, one position at a time."""
    position, numerators, denominators = [], [], []
    drawn = sample_weights(n, len(z), m, alpha, z.shape[1], rng(int(draw_seed(rng(seed)))), dtype=torch.float64)
    for j, weights in enumerate(drawn):
        numerator = denominator = torch.zeros((), dtype=torch.float64)
        for lam in weights:
            scaled = lam * a[:, j]
            s = scaled.sum()
            if s > 0:
                mixed = sum(scaled[i] / s * z[i, j] for i in range(len(z)))
                target = sum(scaled[i] / s * y[i, j] for i in range(len(z)))
                numerator = numerator - s * (target * classifier(mixed).log_softmax(-1)).sum()
                denominator = denominator + s
        numerators.append(numerator)
        denominators.append(denominator)
        if denominator > 0:
            position.append(numerator / denominator)
    return sum(numerators) / sum(denominators) if pooled else sum(position) / len(position)


@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize("attention", ["gap", "uniform"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_loss_and_gradient_are_the_loop_s(normalize: str, attention: str, soft: bool, implementation: str) -> None:
    features = normal(B, D, H, W, seed=1).requires_grad_()
    maps = torch.randint(C, (B, H, W), generator=rng(2))
    one_hot = nn.functional.one_hot(maps, C).flatten(1, 2)
    y = make_targets("soft", B * H * W, C, seed=5).view(B, H * W, C) if soft else one_hot
    given = y.mT.reshape(B, C, H, W) if soft else maps
    mask = torch.ones(B, H, W, dtype=torch.bool)
    mask[0, 0], mask[:, 1, 2] = False, False  # half of an image, and a position of all
    criterion = mm.DenseMultiMix(7, alpha=0.8, attention=attention, normalize=normalize, implementation=implementation)
    classifier = head()
    if not soft:
        given = given.masked_fill(~mask, 255)  # what is ignored
    loss = criterion(features, given, classifier, mask, rng(9))
    (gradient,) = torch.autograd.grad(loss, features)

    tokens = features.flatten(2).mT.masked_fill(~mask.flatten(1)[..., None], 0)
    a = attention_map(tokens.detach(), attention, "relu", None, None, mask.flatten(1))
    expected = loop(tokens, y.double(), a, classifier, 7, 0.8, 9, normalize == "global")
    (by_loop,) = torch.autograd.grad(expected, features)
    assert torch.allclose(loss, expected.to(loss.dtype), rtol=1e-9)
    assert torch.allclose(gradient, by_loop, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize("of", ["attention", "targets"])
def test_attention_and_targets_have_the_gradient_of_the_loop(of: str, normalize: str) -> None:
    tokens = normal(B, H * W, D, seed=1).requires_grad_()
    y = make_targets("soft", B * H * W, C, seed=5).view(B, H * W, C).requires_grad_(of == "targets")
    criterion = mm.DenseMultiMix(7, alpha=0.8, detach_attention=of == "targets", normalize=normalize)
    classifier, a = head(), attention_map(tokens)
    loss = criterion(tokens, y, classifier, generator=rng(9))
    expected = loop(tokens, y, a.detach() if of == "targets" else a, classifier, 7, 0.8, 9, normalize == "global")
    inputs = [tokens, y] if of == "targets" else [tokens]
    for found, wanted in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("normalize", ["position", "global"])
def test_mixtures_of_m_examples_and_their_rescaling(normalize: str, implementation: str) -> None:
    tokens, y = normal(B, 3, D, seed=1), make_targets("soft", B * 3, C, seed=5).view(B, 3, C)
    criterion = mm.DenseMultiMix(
        7, 2, 0.8, attention="uniform", normalize=normalize, implementation=implementation, rescale=True
    )
    expected = loop(tokens, y, torch.ones(B, 3) / 3, head(), 7, 0.8, 9, normalize == "global", m=2)
    # By second moments, one-hot weights over E lambda_i^2 - E lambda_i lambda_j for Dir(0.8) at 2 of 5 examples.
    factor = (2 * 0.8 + 1) / (1 + 0.8 * 3 / 4)
    assert criterion(tokens, y, head(), generator=rng(9)).item() == pytest.approx(factor * expected.item(), rel=1e-9)


def test_the_same_target_everywhere_is_the_image_s() -> None:
    tokens, labels = normal(B, 3, D, seed=1), torch.arange(B) % C
    for n in (20, math.inf):
        criterion = mm.DenseMultiMix(n, normalize="global")
        one = criterion(tokens, labels, head(), generator=rng(1))
        each = criterion(tokens, labels[:, None].expand(B, 3), head(), generator=rng(1))
        assert each.item() == pytest.approx(one.item(), rel=1e-12)


@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize("soft", [False, True])
def test_the_limit_is_that_of_many_mixtures(normalize: str, soft: bool) -> None:
    b, r = 40, 6
    tokens, mask = normal(b, r, D, seed=1), torch.rand(b, r, generator=rng(3)) < 0.8
    maps = torch.randint(C, (b, r), generator=rng(2)).masked_fill(~mask, -1)
    targets = make_targets("soft", b * r, C, seed=5).view(b, r, C) if soft else maps

    def loss(n: float, targets: Tensor) -> float:
        return mm.DenseMultiMix(n, normalize=normalize)(tokens, targets, head(), mask, rng(4)).item()

    assert loss(math.inf, targets) == pytest.approx(loss(20_000, targets), rel=2e-3)
    others = torch.where(mask, 0, maps)  # of one class
    assert abs(loss(math.inf, others) - loss(math.inf, targets)) > 0.05


@pytest.mark.parametrize("normalize", ["position", "global"])
def test_what_is_kept_for_the_backward_pass(normalize: str) -> None:
    logits = normal(B, H * W, C, seed=1).requires_grad_()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mm.DenseMultiMix(1000, normalize=normalize).from_logits(logits, torch.zeros(B, H * W, dtype=torch.long))
    weights = H * W * 1000 * B
    assert sum(kept) < weights / 10


def test_half_precision_and_flat_maps() -> None:
    features, maps = normal(B, D, H, W, seed=1).bfloat16(), torch.randint(C, (B, H * W), generator=rng(2))
    classifier = nn.Conv2d(D, C, 1).bfloat16()
    flat = mm.DenseMultiMix(9)(features, maps, classifier, generator=rng(4))
    assert flat.dtype == torch.float32
    assert torch.equal(flat, mm.DenseMultiMix(9)(features, maps.view(B, H, W), classifier, generator=rng(4)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_maps_of_other_integers_with_a_mask(dtype) -> None:
    features, maps = normal(B, D, H, W, seed=1).float(), torch.randint(C, (B, H, W), generator=rng(2))
    maps[:, 0, 0] = 255
    classifier, mask = nn.Conv2d(D, C, 1), maps != 255
    wanted, found = (
        mm.DenseMultiMix(9)(features, given, classifier, mask, generator=rng(4)) for given in (maps, maps.to(dtype))
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (
            torch.zeros(B, H, W + 1, dtype=torch.long),
            {},
            r"must be class indices \(5, 2, 3\) or probabilities \(5, c, ",
        ),
        (torch.zeros(B, H, W, C), {}, r"got torch.float32 of shape \(5, 2, 3, 4\): give the classes as the second dim"),
        (torch.zeros(B, H, W + 1, dtype=torch.long), {}, "resize the maps to the features"),
        (
            torch.zeros(B, C + 1, dtype=torch.long),
            {},
            r"for labels of images, indices are \(b,\) and one-hot ones floa",
        ),
        (torch.full((B, H, W), 255), {}, r"got values in \[255, 255\]; leave positions without a label out by mask="),
        (torch.full((B, H, W), -100), {}, r"got values in \[-100, -100\]; leave positions without a label out by mask"),
        (torch.full((B, H, W), C), {}, r"class indices must be in \[0, 3\]"),
        (torch.zeros(B, H, W, dtype=torch.long), {"attention": "cam"}, "use 'gap' or 'uniform' for dense targets"),
        (torch.zeros(B, H, W, dtype=torch.long), {"implementation": "triton"}, "not work for a target for every posi"),
    ],
)
def test_what_does_not_fit(targets: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mm.DenseMultiMix(**{"n": 5, **options})(normal(B, D, H, W, seed=1), targets, head())


@pytest.mark.parametrize("targets", [torch.zeros(B, H * W + 1, dtype=torch.long), torch.zeros(B, H * W, C + 1)])
def test_what_does_not_fit_logits(targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"with the positions in front, are class indices \(6, 5\) or .*\(6, 5, 4\)"):
        mm.DenseMultiMix(5).from_logits(normal(B, H * W, C, seed=1), targets)


@pytest.mark.parametrize("normalize", ["position", "global"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_classifier_that_is_not_linear_gives_the_loop_s_loss(normalize: str, soft: bool) -> None:
    features, maps = normal(B, D, H, W, seed=1), torch.randint(C, (B, H, W), generator=rng(2))
    mask = torch.ones(B, H, W, dtype=torch.bool)
    mask[0, 0] = False
    y = make_targets("soft", B * H * W, C, seed=5).view(B, H * W, C) if soft else nn.functional.one_hot(maps, C)
    given = y.mT.reshape(B, C, H, W) if soft else maps.masked_fill(~mask, 255)
    torch.manual_seed(3)
    classifier = nn.Sequential(nn.Conv2d(D, 8, 1), nn.ReLU(), nn.Conv2d(8, C, 1)).double()
    loss = mm.DenseMultiMix(7, alpha=0.8, normalize=normalize)(features, given, classifier, mask, rng(9))
    tokens = features.flatten(2).mT.masked_fill(~mask.flatten(1)[..., None], 0)
    a = attention_map(tokens, mask=mask.flatten(1))

    def one(embedding: Tensor) -> Tensor:
        return classifier(embedding[None, :, None, None]).flatten()

    expected = loop(tokens, y.reshape(B, H * W, C).double(), a, one, 7, 0.8, 9, normalize == "global")
    assert torch.allclose(loss, expected, rtol=1e-9)


def test_the_loss_is_one_operation_whatever_the_number_of_positions() -> None:
    """A loop over positions took 17 times as long as the equation, every tensor in memory, for 32 x 32 of them."""
    calls: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(str(function))
            return function(*args, **(kwargs or {}))

    with Count():
        mm.DenseMultiMix(5).from_logits(normal(B, 100, C, seed=1), torch.zeros(B, 100, dtype=torch.long))
    assert len(calls) < 100


def test_the_gradient_of_the_gradient_is_the_loop_s() -> None:
    logits, targets = normal(B, 3, C, seed=1).requires_grad_(), torch.randint(C, (B, 3), generator=rng(2))

    def slope(loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), logits)[0]

    found = mm.DenseMultiMix(7, alpha=0.8).from_logits(logits, targets, generator=rng(9))
    y, a = nn.functional.one_hot(targets, C).double(), torch.full((B, 3), 1 / 3, dtype=torch.float64)
    expected = loop(logits, y, a, nn.Identity(), 7, 0.8, 9, pooled=False)
    assert torch.allclose(slope(found), slope(expected), rtol=1e-8, atol=1e-12)


def test_integer_one_hot_labels_are_not_taken_for_positions() -> None:
    """Images of 196 classes in 196 tokens, say."""
    tokens, labels = normal(B, C, D, seed=1), torch.arange(B) % C
    one_hot = nn.functional.one_hot(labels, C)
    criterion, message = mm.DenseMultiMix(5), r"integer targets \(5, 4\) for 4 classes may be one-hot labels"
    with pytest.raises(ValueError, match=message):
        criterion(tokens, one_hot, head())
    with pytest.raises(ValueError, match=message):
        criterion.from_logits(head()(tokens), one_hot)
    with pytest.raises(ValueError, match=message):
        criterion(tokens, one_hot, nn.Sequential(head(), nn.ReLU()))
    maps = torch.randint(C, (B, 2, 2), generator=rng(2))
    assert criterion(tokens.mT.unflatten(2, (2, 2)), maps, head()).isfinite()
