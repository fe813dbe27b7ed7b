"""AugMix: its operations against torchvision's transform, its views one image at a time, its loss in float64."""

import collections

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from tests.methods.conftest import seeded
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from multimix.functional import sample_weights
from multimix.methods import AugMix, augmentations
from multimix.methods.augmentations import COLOUR, GEOMETRIC, TONAL, apply, augment_in_chains
from multimix.methods.augmix import jensen_shannon

REFERENCE = v2.AugMix()


def by_torchvision(images: torch.Tensor, name: str, level: int, sign: int) -> torch.Tensor:
    magnitudes, signed = REFERENCE._AUGMENTATION_SPACE[name]
    bins = magnitudes(10, *images.shape[-2:])
    magnitude = 0.0 if bins is None else float(bins[level]) * (sign if signed else 1)
    return REFERENCE._apply_image_or_video_transform(
        images, name, magnitude, interpolation=REFERENCE.interpolation, fill=REFERENCE._fill
    )


def test_the_operations_are_those_of_torchvision() -> None:
    assert set(GEOMETRIC + TONAL) == set(REFERENCE._PARTIAL_AUGMENTATION_SPACE)
    assert set(GEOMETRIC + TONAL + COLOUR) == set(REFERENCE._AUGMENTATION_SPACE)
    signed = {name for name, (_, signed) in REFERENCE._AUGMENTATION_SPACE.items() if signed}
    assert signed == set(GEOMETRIC + COLOUR)


@pytest.mark.parametrize("name", GEOMETRIC + TONAL + COLOUR)
@pytest.mark.parametrize("shape", [(3, 3, 16, 27), (2, 1, 54, 9)])
def test_every_operation_is_torchvision_s(name: str, shape: tuple[int, ...]) -> None:
    images = torch.randint(256, shape, generator=seeded(0), dtype=torch.uint8)
    images[-1] = 7  # of one colour
    for level in range(10):
        for sign in (1, -1):
            # One image at a time there, all at once here.
            expected = torch.cat([by_torchvision(image[None], name, level, sign) for image in images])
            assert torch.equal(apply(images, name, level, sign), expected), (level, sign)


@pytest.mark.parametrize(("depth", "all_ops"), [(None, False), (None, True), (4, False)])
def test_chains_are_the_operations_in_order_one_image_at_a_time(depth, all_ops: bool, monkeypatch) -> None:
    """Each operation notes itself on the image, so that the chain of every image can be replayed."""
    n, noted = 40, collections.defaultdict(list)

    def note(images: torch.Tensor, name: str, level: int, sign: int) -> torch.Tensor:
        for image in images:
            noted[int(image[0, 0, 0])].append((name, level, sign))
        return images

    tagged = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(augmentations, "apply", note)
        augment_in_chains(tagged, seeded(5), severity=4, depth=depth, all_ops=all_ops)
    images = torch.randint(256, (n, 3, 12, 12), generator=seeded(6), dtype=torch.uint8)
    kept = images.clone()
    chained = augment_in_chains(images, seeded(5), severity=4, depth=depth, all_ops=all_ops)
    for i in range(n):
        expected = images[i : i + 1]
        for operation in noted[i]:
            expected = apply(expected, *operation)
        assert torch.equal(chained[i : i + 1], expected)
        assert len(noted[i]) in ((1, 2, 3) if depth is None else (depth,))
    assert torch.equal(images, kept)


def test_operations_levels_signs_and_depths_are_uniform(monkeypatch) -> None:
    n, counts = 6000, collections.Counter()
    depth = torch.zeros(n)

    def note(images: torch.Tensor, name: str, level: int, sign: int) -> torch.Tensor:
        counts[name, level, sign] += len(images)
        return images + 1

    monkeypatch.setattr(augmentations, "apply", note)
    blank = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    depth = augment_in_chains(blank, seeded(1), severity=3, depth=None, all_ops=False).flatten()
    assert stats.chisquare(np.bincount(depth.numpy())[1:]).pvalue > 1e-3
    assert len(np.bincount(depth.numpy())) == 4
    assert len(counts) == 9 * 3 * 2
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_views_are_the_mixture_of_the_chains() -> None:
    b, k = 3, 4
    images = torch.rand(b, 3, 10, 11, generator=seeded(0), dtype=torch.float64)
    method = AugMix(severity=2, mixture_width=k, alpha=0.7)
    views = method.views(images, seeded(8))
    replay = seeded(8)
    shares = sample_weights(2 * b, 2, alpha=0.7, generator=replay).double()
    weights = sample_weights(2 * b, k, alpha=0.7, generator=replay).double()
    bytes_ = (images * 255).round().byte()
    chains = augment_in_chains(bytes_.repeat(2 * k, 1, 1, 1), replay, severity=2, depth=None, all_ops=False) / 255.0
    for view in range(2):
        for i in range(b):
            row = view * b + i
            mixture = sum(weights[row, j] * chains[(j * 2 + view) * b + i].double() for j in range(k))
            expected = shares[row, 0] * images[i] + shares[row, 1] * mixture
            assert torch.allclose(views[view, i], expected, atol=1e-6)
    assert not torch.allclose(views[0], views[1], atol=1e-3)


def test_the_views_take_the_depth_and_all_operations_where_asked() -> None:
    images = torch.randint(256, (3, 3, 10, 11), generator=seeded(0)).float() / 255
    views = AugMix(severity=2, mixture_width=1, chain_depth=4, all_ops=True).views(images, seeded(8))
    replay = seeded(8)
    shares = sample_weights(6, 2, alpha=1.0, generator=replay).view(2, 3, 2, 1, 1, 1)
    sample_weights(6, 1, alpha=1.0, generator=replay)
    bytes_ = (images * 255).round().byte().repeat(2, 1, 1, 1)
    chains = augment_in_chains(bytes_, replay, severity=2, depth=4, all_ops=True).view(2, *images.shape) / 255
    assert torch.allclose(views, shares[:, :, 0] * images + shares[:, :, 1] * chains, atol=1e-6)


def test_views_are_the_same_under_autocast() -> None:
    """Which would sample images at rounded positions, grey levels off."""
    images, method = torch.rand(4, 3, 64, 64, generator=seeded(0)), AugMix(severity=8, all_ops=True)
    plain = method.views(images, seeded(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.views(images, seeded(8)), plain)


@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_jensen_shannon_in_float64(scale: float) -> None:
    logits = torch.randn(3, 6, 5, generator=seeded(0), dtype=torch.float64) * scale
    total = 0.0
    for p in zip(*logits.softmax(2).numpy(), strict=True):
        mixture = sum(p) / 3
        total += sum(stats.entropy(each, mixture) for each in p) / 3
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        assert float(jensen_shannon(*logits.to(dtype))) == pytest.approx(total / 6, rel=tolerance)
    pairs = [jensenshannon(p, q) ** 2 for p, q in zip(*logits[:2].softmax(2).numpy(), strict=True)]
    assert float(jensen_shannon(*logits[:2])) == pytest.approx(np.mean(pairs), rel=1e-10)


@pytest.mark.parametrize("autocast", [True, False])
def test_jensen_shannon_of_rounded_logits_that_nearly_agree(autocast) -> None:
    base = 0.1 * torch.randn(64, 100, generator=seeded(0))
    logits = [(base + 0.003 * torch.randn(64, 100, generator=seeded(k))).bfloat16() for k in (1, 2, 3)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = jensen_shannon(*logits)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(jensen_shannon(*(each.double() for each in logits))), rel=0.02)


def test_gradient_is_finite_where_probabilities_vanish() -> None:
    logits = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    jensen_shannon(logits, -logits, logits.flip(1)).backward()
    assert torch.isfinite(logits.grad).all()


def test_loss_is_cross_entropy_and_twelve_times_the_divergence(model, images, labels) -> None:
    model = model.double()
    images = images.double()
    views = AugMix().views(images, seeded(3))
    clean, *augmented = (model(each).double() for each in (images, *views))
    p = torch.stack([each.softmax(1) for each in (clean, *augmented)])
    divergence = (p * (p / p.mean(0)).log()).sum(2).mean()
    out = AugMix()(model, images, labels, seeded(3))
    assert out.loss.item() == pytest.approx((cross_entropy(clean, labels) + 12 * divergence).item(), rel=1e-9)
    assert torch.allclose(out.logits, clean)
    plain = AugMix(consistency=1e-9)(model, images, labels, seeded(3)).loss
    assert plain.item() == pytest.approx(cross_entropy(clean, labels).item(), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (5, 3, 7, 4), (2, 3, 1, 1)])
def test_any_shape_and_the_global_generator(shape) -> None:
    images = torch.rand(shape, generator=seeded(0))
    kept, state = images.clone(), torch.get_rng_state()
    views = AugMix(all_ops=True).views(images, seeded(1))
    assert views.shape == (2, *shape)
    assert torch.equal(views, AugMix(all_ops=True).views(images, seeded(1)))
    assert not torch.equal(views, AugMix(all_ops=True).views(images, seeded(2)))
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AugMix(severity=0), "severity must be"),
        (lambda: AugMix(severity=11), "severity must be between 1 and 10, got 11"),
        (lambda: AugMix(chain_depth=0), "chain_depth must be"),
        (lambda: AugMix(mixture_width=0), "mixture_width must be"),
        (lambda: AugMix(alpha=0), "alpha must be a positive number"),
        (lambda: AugMix().views(torch.rand(2, 4, 8, 8)), r"AugMix needs images \(b, 1 or 3, height, width\)"),
        (lambda: apply(torch.zeros(1, 1, 2, 2).byte(), "Blur", 0, 1), "unknown operation 'Blur'"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_views_of_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"images must be floating-point pixels .* got torch.uint8: divide them by 255"):
        AugMix().views(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
