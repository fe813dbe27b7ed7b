"""Input mixup and CutMix: images that carry their own number, so that the targets can be read off the pixels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.methods.conftest import numbered, seeded

from multimix.methods import CutMix, Either, Erm, FMix, InputMixup, OptTransMix, ZetaMixup
from multimix.methods.pairs import Pairing

METHODS = [
    InputMixup(), InputMixup(alpha=0.2), CutMix(), CutMix(alpha=0.3), Either(CutMix(), InputMixup(), p=0.5), FMix(),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=str)
@given(b=st.integers(1, 9), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_targets_match_what_was_mixed(method, b: int, seed: int) -> None:
    images, labels = numbered(b), torch.arange(b)
    mixed, soft = method.mix(images, labels, b, seeded(seed))
    # With class i on image i, whose pixels are i + 1, the mean pixel must be the mean class number under the targets.
    assert torch.allclose(mixed.mean((1, 2, 3)), soft @ torch.arange(1.0, b + 1), atol=1e-4)
    assert torch.allclose(soft.sum(1), torch.ones(b))
    assert (soft > 0).sum(1).max() <= 2
    assert torch.equal(images, numbered(b))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_same_generator_same_result_and_global_rng_untouched(method) -> None:
    before = torch.get_rng_state()
    results = [method.mix(numbered(6), torch.arange(6), 6, seeded(3)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    other = method.mix(numbered(6), torch.arange(6), 6, seeded(4))
    assert not torch.equal(results[0][0], other[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_soft_targets_are_mixed_like_indices(method) -> None:
    labels = torch.tensor([2, 0, 1, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    for_index = method.mix(numbered(4), labels, 3, seeded(0))[1]
    for_soft = method.mix(numbered(4), one_hot, 3, seeded(0))[1]
    assert torch.allclose(for_index.double(), for_soft)


def test_mixup_factor_is_beta_and_shared_by_the_batch() -> None:
    factors = []
    for seed in range(2000):
        _, soft = InputMixup(alpha=0.7).mix(numbered(2, size=1), torch.arange(2), 2, seeded(seed))
        if soft[0, 1] == 0:  # each is its own partner
            continue
        assert torch.allclose(soft[0], soft[1].flip(0))
        factors.append(float(soft[0, 0]))
    assert 900 < len(factors) < 1100
    assert stats.kstest(factors, stats.beta(0.7, 0.7).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("n", "m"), [(None, 3), (17, 2), (40, 5), (3, 64)])
def test_beyond_pairs_and_beyond_the_mini_batch(n: int | None, m: int) -> None:
    b = 6
    mixed, soft = InputMixup(alpha=(0.5, 2.0), n=n, m=m).mix(numbered(b), torch.arange(b), b, seeded(1))
    assert mixed.shape[0] == soft.shape[0] == (n or b)
    assert torch.equal((soft > 0).sum(1), torch.full((n or b,), min(m, b)))
    assert torch.allclose(mixed.mean((1, 2, 3)), soft @ torch.arange(1.0, b + 1), atol=1e-4)
    # Every mixed image has weights of its own.
    assert len(soft.unique(dim=0)) == (n or b)


def test_a_range_of_alpha_may_be_a_list() -> None:
    """With weights of its own for every image, as a tuple has."""
    for method in (InputMixup(alpha=(0.5, 2.0)), InputMixup(alpha=[0.5, 2.0])):
        _, soft = method.mix(numbered(6), torch.arange(6), 6, seeded(1))
        assert len(soft.amax(1).unique()) == 6


def test_a_combination_of_pairs_has_beta_weights() -> None:
    _, soft = InputMixup(alpha=0.7, n=4000, m=2).mix(numbered(5, size=1), torch.arange(5), 5, seeded(0))
    larger = soft.max(1).values.double()
    folded = lambda x: stats.beta(0.7, 0.7).cdf(x) - stats.beta(0.7, 0.7).cdf(1 - x)  # noqa: E731
    assert stats.kstest(larger, folded).pvalue > 1e-3


@pytest.mark.parametrize("options", [{"n": 0}, {"m": 0}, {"alpha": (2.0, 0.5)}, {"alpha": 0}])
def test_combinations_that_do_not_exist(options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        InputMixup(**options)


def test_cutmix_box_is_the_published_one() -> None:
    # As rand_bbox of the authors has it, whose boxes have no odd sides but at the border.
    size = 33
    for seed in range(300):
        generator, pixels = seeded(seed), torch.arange(size)
        lam, partner = Pairing.draw(2, 1.0, generator, pixels.device)
        half = int(size * math.sqrt(1 - lam)) // 2
        offsets = [pixels - torch.randint(size, (), generator=generator) for _ in ("rows", "columns")]
        rows, columns = ((-half <= offset) & (offset < half) for offset in offsets)
        mixed, soft = CutMix().mix(numbered(2, size), torch.arange(2), 2, seeded(seed))
        pasted = mixed[0, 0] != 1
        assert torch.equal(pasted, rows[:, None] & columns & (partner[0] == 1))
        assert math.isclose(float(soft[0, 1]), float(pasted.float().mean()), abs_tol=1e-6)


def test_cutmix_box_of_an_image_that_is_not_square() -> None:
    for seed in range(100):
        generator, inside = seeded(seed), []
        lam, partner = Pairing.draw(2, 1.0, generator, torch.device("cpu"))
        for size in (6, 29):
            half = int(size * math.sqrt(1 - lam)) // 2
            offset = torch.arange(size) - torch.randint(size, (), generator=generator)
            inside.append((-half <= offset) & (offset < half))
        mixed, _ = CutMix().mix(numbered(2, 29)[..., :6, :], torch.arange(2), 2, seeded(seed))
        assert torch.equal(mixed[0, 0] != 1, inside[0][:, None] & inside[1] & (partner[0] == 1))


def test_cutmix_area_distribution_matches_an_independent_simulation() -> None:
    rng = torch.Generator().manual_seed(123)
    simulated, ours = [], []
    for seed in range(1500):
        lam = float(torch.rand((), generator=rng))
        cut = int(32 * math.sqrt(1 - lam))
        cy, cx = (int(torch.randint(32, (), generator=rng)) for _ in range(2))
        height, width = (max(0, min(32, c + cut // 2) - max(0, c - cut // 2)) for c in (cy, cx))
        simulated.append(height * width / 1024)
        mixed, _ = CutMix().mix(numbered(3, 32), torch.arange(3), 3, seeded(seed))
        changed = [float((mixed[i] != i + 1).float().mean()) for i in range(3)]
        if max(changed) > 0:
            ours.append(max(changed))
    nonzero = [area for area in simulated if area > 0]
    assert stats.ks_2samp(nonzero, ours).pvalue > 1e-3


def test_loss_is_the_mixture_of_the_two_cross_entropies(model, images, labels) -> None:
    mixed, soft = InputMixup().mix(images, labels, 5, seeded(5))
    out = InputMixup()(model, images, labels, seeded(5))
    log_p = model(mixed).log_softmax(1)
    assert torch.allclose(out.loss, -(soft * log_p).sum(1).mean())
    assert out.logits is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: InputMixup(alpha=0), ValueError, r"alpha must be positive and finite, with low <= high, got 0"),
        (lambda: InputMixup().mix(numbered(2), torch.arange(3), 3), ValueError, r"class indices of shape \(2,\)"),
        (lambda: InputMixup().mix(numbered(2), torch.tensor([0, 9]), 3), ValueError, r"in \[0, 2\] for 3 classes"),
        (lambda: CutMix().mix(torch.rand(2, 3), torch.arange(2), 2), ValueError, r"images must be \(b, channels"),
        (lambda: InputMixup().mix(numbered(2), torch.arange(2), 2.0), TypeError, "num_classes must be an integer"),
        (lambda: InputMixup().mix(numbered(2)[:0], torch.arange(0), 2), ValueError, r"at least one example"),
        (
            lambda: InputMixup().mix(numbered(2).byte(), torch.arange(2), 2),
            TypeError,
            r"got torch.uint8: divide them by",
        ),
        (lambda: Either(Erm(), CutMix(), 0.0).mix(numbered(2), torch.arange(2), 2), TypeError, "only mix inputs"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("method", [InputMixup(n=5), InputMixup(m=3), ZetaMixup(), OptTransMix()], ids=str)
def test_bytes_are_refused_where_they_would_be_cut_off(method) -> None:
    with pytest.raises(TypeError, match=r"floating-point pixels in .*got torch.uint8: divide them by 255"):
        method.mix(torch.full((4, 3, 8, 8), 200, dtype=torch.uint8), torch.arange(4), 4, seeded(0))


def test_the_number_of_classes_is_that_of_soft_targets() -> None:
    images, labels = numbered(6), torch.arange(6)
    several = torch.zeros(len(labels), 5)
    several[:, :3] = 1.0  # several labels of an image: not probabilities
    for method in (InputMixup(), CutMix(), FMix(), Either(CutMix(), InputMixup())):
        told = method.mix(images, several, 5, seeded(1))
        found = method.mix(images, several, generator=seeded(1))
        assert all(torch.equal(a, b) for a, b in zip(told, found, strict=True))
        assert torch.allclose(found[1], several)  # all have the same
        with pytest.raises(
            ValueError, match="the number of classes cannot be told: give num_classes, or probabilities"
        ):
            method.mix(images, labels)
