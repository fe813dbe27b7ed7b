"""FGSM and PGD against torchattacks and foolbox from the same start, and their constraints as properties."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multimix.evaluation.attacks import Norm, fgsm, input_gradient, pgd, pgd_iterates
from multimix.evaluation.autoattack import autoattack


def problem(seed: int = 0, n: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    """A small smooth network in float64, so that rounding does not turn the sign of a gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(216, 5)
        ).double()
        net(torch.rand(50, 3, 8, 8).double())
        return net.eval(), torch.rand(n, 3, 8, 8).double(), torch.randint(5, (n,))


def numpy_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # noqa: NPY002


def lengths(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def test_fgsm_is_torchattacks_and_the_formula() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    net, images, labels = problem()
    ours = fgsm(net, images, labels, 8 / 255)
    torch.testing.assert_close(ours, torchattacks.FGSM(net, eps=8 / 255)(images, labels), rtol=0, atol=1e-12)
    x = images.clone().requires_grad_()
    nn.functional.cross_entropy(net(x), labels).backward()
    assert x.grad is not None
    torch.testing.assert_close(ours, (images + 8 / 255 * x.grad.sign()).clamp(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_linf_is_torchattacks(random_start: bool) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    net, images, labels = problem()
    theirs = torchattacks.PGD(net, eps=0.1, alpha=0.03, steps=15, random_start=random_start)
    with torch.random.fork_rng():
        # The global generator with a seed draws what one of our own with the same seed draws.
        torch.manual_seed(7)
        expected = theirs(images, labels)
    g = torch.Generator().manual_seed(7)
    ours = pgd(net, images, labels, 0.1, 0.03, 15, random_start, g)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert (ours != fgsm(net, images, labels, 0.1)).any()


def test_pgd_l2_is_torchattacks() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    net, images, labels = problem()
    expected = torchattacks.PGDL2(net, eps=0.8, alpha=0.2, steps=15, random_start=False)(images, labels)
    ours = pgd(net, images, labels, 0.8, 0.2, 15, random_start=False, norm="l2")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_foolbox_from_the_same_random_start(norm: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    eagerpy = pytest.importorskip("eagerpy")
    net, images, labels = problem()
    eps, step = {"linf": (0.1, 0.03), "l2": (0.8, 0.2)}[norm]
    start = pgd(net, images, labels, eps, step, 0, generator=torch.Generator().manual_seed(3), norm=norm)  # type: ignore[arg-type]
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]

    class SameStart(kind):  # type: ignore[misc, valid-type]
        def get_random_start(self, x0: object, epsilon: float) -> object:
            return eagerpy.astensor(start)

    attack = SameStart(abs_stepsize=step, steps=15, random_start=True)
    expected = attack.run(
        foolbox.PyTorchModel(net, bounds=(0, 1)), images, foolbox.criteria.Misclassification(labels), epsilon=eps
    )
    ours = pgd(net, images, labels, eps, step, 15, generator=torch.Generator().manual_seed(3), norm=norm)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-7)


@given(
    st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.integers(0, 4), st.booleans(),
    st.sampled_from(["linf", "l2"]), st.sampled_from([1, 3]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_images_stay_in_the_ball_and_in_range(seed, eps, step, steps, start, norm, restarts) -> None:  # type: ignore[no-untyped-def]
    net, images, labels = problem(n=3)
    net, images = net.float(), images.float()
    before = images.clone()
    g = torch.Generator().manual_seed(seed)
    adversarial = pgd(net, images, labels, eps, step, steps, start, g, restarts=restarts if start else 1, norm=norm)
    offset = adversarial - images
    size = offset.abs().max() if norm == "linf" else lengths(offset).max()
    assert size <= eps * (1 + 1e-5) + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_are_uniform_in_the_ball(norm: str) -> None:
    net, eps = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), 0.3
    images, labels = torch.full((20_000, 3, 1, 1), 0.5), torch.zeros(20_000, dtype=torch.int64)
    starts = pgd(net, images, labels, eps, 0.1, 0, generator=torch.Generator().manual_seed(0), norm=norm) - images  # type: ignore[arg-type]
    radius = lengths(starts) if norm == "l2" else starts.flatten(1).abs().amax(dim=1)
    # Both balls have three dimensions, so a share of t^3 of the volume lies within t eps.
    for t in (0.3, 0.5, 0.8):
        assert (radius <= t * eps).float().mean().item() == pytest.approx(t**3, abs=0.015)
    assert starts.mean(dim=0).abs().max() < 0.005


def test_restarts_keep_the_worst_and_leave_what_is_broken() -> None:
    net, images, labels = problem(n=60)
    labels = net(images).argmax(1)

    def run(restarts: int) -> Tensor:
        return pgd(net, images, labels, 0.02, 0.01, 3, generator=torch.Generator().manual_seed(1), restarts=restarts)

    one, many = run(1), run(6)
    broken = net(one).argmax(1) != labels
    assert torch.equal(many[broken], one[broken])
    loss = [nn.functional.cross_entropy(net(x), labels, reduction="none") for x in (one, many)]
    assert (loss[1] >= loss[0]).all()
    assert (loss[1] > loss[0]).any()
    assert (net(many).argmax(1) != labels).sum() >= broken.sum() > 0


class Steps(nn.Module):
    """Of the one pixel of an image: wrong at a low loss, right at a high one, and right at a low one."""

    TABLE = torch.tensor([[0.45, 0.55, 0.0], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05], [0.5, 0.3, 0.2]])
    EDGES = torch.tensor([0.1, 0.5, 0.8])

    def forward(self, images: Tensor) -> Tensor:
        return self.TABLE[torch.bucketize(images.detach().flatten(), self.EDGES)].log() + 0 * images.flatten(1)


def test_restarts_take_the_first_that_is_misclassified_or_else_the_highest_loss() -> None:
    """Without steps they are a random search, which a loop over images and attempts has as well."""
    net, images = Steps(), torch.full((60, 1, 1, 1), 0.5)
    labels, draws = torch.zeros(60, dtype=torch.int64), torch.Generator().manual_seed(3)
    attempts: list[list[float]] = [[] for _ in images]
    for _ in range(5):
        left = [k for k, tried in enumerate(attempts) if not any(x <= 0.1 for x in tried)]
        new = pgd(net, images[left], labels[left], 0.5, 0.1, 0, generator=draws)
        for k, pixel in zip(left, new.flatten().tolist(), strict=True):
            attempts[k].append(pixel)

    def worst(tried: list[float]) -> float:
        wrong = [x for x in tried if x <= 0.1]
        # The first among equals.
        return wrong[0] if wrong else min(tried, key=lambda x: 0.4 if x <= 0.5 else 0.9 if x <= 0.8 else 0.5)

    found = pgd(net, images, labels, 0.5, 0.1, 0, generator=torch.Generator().manual_seed(3), restarts=5)
    assert found.flatten().tolist() == [worst(tried) for tried in attempts]
    broken = [len(tried) for tried in attempts if tried[-1] <= 0.1]
    assert len(set(broken)) > 2
    assert len(broken) < 60


def test_restarts_leave_the_ball_no_more_than_one_attempt_does() -> None:
    net, images, labels = problem(n=60)
    labels = net(images).argmax(1)
    found = pgd(net, images, labels, 0.02, 0.02, 3, generator=torch.Generator().manual_seed(1), restarts=6)
    assert (found - images).abs().max() <= 0.02 + 1e-9


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_step_in_l2_has_its_length_however_small_or_large_the_gradient(size: float) -> None:
    images, labels = torch.full((3, 3, 4, 4), 0.5), torch.tensor([0, 1, 1])
    weight = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return x.flatten(1) @ weight

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return size * (gradient @ weight.T).view(-1, 3, 4, 4)

    offset = fgsm(Scaled.apply, images, labels, 0.3, norm="l2") - images
    torch.testing.assert_close(lengths(offset), torch.full((3,), 0.3))


def test_iterates_end_where_pgd_does() -> None:
    net, images, labels = problem()
    runs = [
        list(pgd_iterates(net, images, labels, 0.1, 0.03, k, generator=torch.Generator().manual_seed(2)))
        for k in (3, 7)
    ]
    final = pgd(net, images, labels, 0.1, 0.03, 3, generator=torch.Generator().manual_seed(2))
    assert [len(run) for run in runs] == [4, 8]
    assert torch.equal(runs[0][-1], final)
    assert torch.equal(runs[1][3], final)


def test_a_gradient_does_not_depend_on_the_rest_of_the_batch() -> None:
    net, images, labels = problem()
    alone = torch.cat([input_gradient(net, images[k : k + 1], labels[k : k + 1]) for k in range(len(images))])
    torch.testing.assert_close(input_gradient(net, images, labels), alone, rtol=1e-9, atol=1e-14)


def test_the_model_the_gradients_and_the_global_rng_stay_as_they_were() -> None:
    net, images, labels = problem()
    net.train()
    net[3].eval()
    net[5].weight.requires_grad_(False)
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    rng = torch.get_rng_state(), numpy_state(), random.getstate()
    with torch.no_grad():
        pgd(net, images, labels, 0.1, 0.03, 3, restarts=2)
        fgsm(net, images, labels, 0.1, norm="l2")
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net[5].parameters()] == [False, True]
    assert torch.equal(rng[0], torch.get_rng_state())
    assert rng[1] == numpy_state()
    assert rng[2] == random.getstate()


def test_attacks_in_full_precision_within_inference_mode_and_autocast() -> None:
    net, images, labels = problem()
    net, images = net.float(), images.float()
    expected = pgd(net, images, labels, 0.1, 0.03, 3, random_start=False)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        inside = pgd(net, images.clone(), labels.clone(), 0.1, 0.03, 3, random_start=False)
    assert torch.equal(inside, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_random_start_does_not_depend_on_the_layout_in_memory(norm: Norm) -> None:
    net, images, labels = problem()
    last = images.contiguous(memory_format=torch.channels_last)
    first, other = (
        pgd(net, x, labels, 0.1, 0.03, 0, generator=torch.Generator().manual_seed(0), norm=norm) for x in (images, last)
    )
    # But for the last digit: lengths are summed in another order.
    torch.testing.assert_close(first, other)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    net, images, labels = problem()

    def attack(labels: Tensor) -> Tensor:
        return pgd(net, images, labels, 0.05, 0.02, 3, generator=torch.Generator().manual_seed(0), restarts=2)

    assert torch.equal(attack(labels.to(dtype)), attack(labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pgd_l2_fools_a_model_that_is_sure_of_itself_as_well(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(192, 10, bias=False, dtype=dtype)
    layer.weight.data.uniform_(-0.07, 0.07, generator=generator)
    images, net = torch.rand(60, 3, 8, 8, generator=generator).to(dtype), nn.Sequential(nn.Flatten(), layer)
    labels = net(images).argmax(1)
    fooled = []
    for _ in range(2):
        adversarial = pgd(net, images, labels, 1.0, 0.2, 10, random_start=False, norm="l2")
        fooled.append((net(adversarial).argmax(1) != labels).sum())
        layer.weight.data *= 200  # the borders between classes stay where they are
    layer.weight.data /= 200
    best, second = net(images).topk(2, 1).values.T
    assert (best - second > 27).double().mean() > 0.2  # gradients below 1e-12
    assert fooled[1] >= fooled[0] > 50


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_images_without_a_gradient_stay(norm: Norm, dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).to(dtype)
    net[1].weight.data.zero_()
    images = torch.rand(3, 3, 8, 8).to(dtype)
    assert torch.equal(pgd(net, images, torch.arange(3), 0.5, 0.2, 3, random_start=False, norm=norm), images)


NET, IMAGES, LABELS = problem(n=2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fgsm(NET, IMAGES * 255, LABELS, 0.1), ValueError, r"pixels in \[0, 1\], got values from .* to 2\d\d"),
        (lambda: fgsm(NET, IMAGES - 0.5, LABELS, 0.1), ValueError, "normalisation to the model"),
        (lambda: fgsm(NET, IMAGES * torch.nan, LABELS, 0.1), ValueError, "pixels in"),
        (lambda: fgsm(NET, (255 * IMAGES).byte(), LABELS, 0.1), TypeError, "got torch.uint8: divide them by 255"),
        (lambda: fgsm(NET, IMAGES[0], LABELS, 0.1), ValueError, r"got \(3, 8, 8\)"),
        (lambda: fgsm(NET, IMAGES, LABELS[:1], 0.1), ValueError, r"labels must have shape \(2,\)"),
        (lambda: fgsm(NET, IMAGES, LABELS + 9, 0.1), ValueError, r"labels must lie in \[0, 5\)"),
        (lambda: fgsm(NET, IMAGES, LABELS, -0.1), ValueError, "eps must be a number of at least 0, got -0.1"),
        (lambda: fgsm(NET, IMAGES, LABELS, 8), ValueError, r"got 8: for 8 grey levels pass 8 / 255"),
        (lambda: pgd(NET, IMAGES, LABELS, 0.1, -1, 2), ValueError, "step_size must be"),
        (lambda: pgd(NET, IMAGES, LABELS, 0.1, 0.1, -2), ValueError, "steps must be"),
        (lambda: pgd(NET, IMAGES, LABELS, 0.1, 0.1, 2, norm="l1"), ValueError, "'linf' or 'l2', got 'l1'"),
        (lambda: pgd(NET, IMAGES, LABELS, 0.1, 0.1, 2, restarts=0), ValueError, "at least 1, got 0"),
        (lambda: pgd(NET, IMAGES, LABELS, 0.1, 0.1, 2, False, restarts=2), ValueError, "need random_start=True"),
        (lambda: fgsm(lambda x: NET(x).detach(), IMAGES, LABELS, 0.1), ValueError, "detaches them"),
        (lambda: fgsm(lambda x: NET(x) * torch.inf, IMAGES, LABELS, 0.1), ValueError, "not finite"),
        (lambda: autoattack(NET, IMAGES.double(), LABELS, 0.1), TypeError, "in float32, got torch.float64"),
    ],
)
def test_errors_say_what_came_and_what_to_do(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_autoattack_is_at_least_as_strong_and_borrows_the_global_rng() -> None:
    pytest.importorskip("torchattacks")
    net, images, _ = problem(n=4)
    net, images = net.float(), images.float()
    labels = net(images).argmax(1)
    rng = torch.get_rng_state(), numpy_state(), random.getstate()
    weak = pgd(net, images, labels, 0.05, 0.02, 10, generator=torch.Generator().manual_seed(0))
    strong = autoattack(net, images, labels, 0.05, generator=torch.Generator().manual_seed(0))
    # What withstands it costs thousands of passes, so that is asked for once.
    again = [autoattack(net, images, labels, 0.1, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*again)
    assert (strong - images).abs().max() <= 0.05 + 1e-6
    assert ((net(strong).argmax(1) != labels) >= (net(weak).argmax(1) != labels)).all()
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(rng[0], torch.get_rng_state())
    assert rng[1] == numpy_state()
    assert rng[2] == random.getstate()


def test_autoattack_is_the_authors_standard_version(monkeypatch: pytest.MonkeyPatch) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    run: dict[str, dict[str, object]] = {}

    def noted(self, images: Tensor, labels: Tensor) -> Tensor:
        run.update({type(part).__name__: vars(part) for part in self._autoattack.attacks})
        return images

    monkeypatch.setattr(torchattacks.AutoAttack, "__call__", noted)
    for classes, targets in ((5, 4), (100, 9)):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
        autoattack(net, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), 0.1)
        # fra31/auto-attack, autoattack.py: what "standard" sets, and set_version
        assert list(run) == ["APGD", "APGDT", "FAB", "Square"]
        assert [run[name]["steps"] for name in ("APGD", "APGDT", "FAB")] == [100] * 3
        assert [run[name]["n_target_classes"] for name in ("APGDT", "FAB")] == [targets] * 2
        assert [part["n_restarts"] for part in run.values()] == [1] * 4
        assert [run["Square"][name] for name in ("n_queries", "rescale_schedule", "p_init")] == [5000, False, 0.8]
        assert [(part["norm"], part["eps"]) for part in run.values()] == [("Linf", 0.1)] * 4
    autoattack(net, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), 0.5, norm="l2")
    assert [(part["norm"], part["eps"]) for part in run.values()] == [("L2", 0.5)] * 4


def test_autoattack_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="at least 4 classes, the model has 2: use pgd"):
        autoattack(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), images, labels, 0.1)
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match="pip install --no-deps torchattacks"):
        autoattack(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), images, labels, 0.1)
