"""Each check passes on a sound model and fails on one that is broken in just the way it looks for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from multimix.evaluation import attack_checks, attack_findings
from multimix.evaluation.attack_checks import Finding, check_attack
from multimix.evaluation.surrogate import distil


def data(n: int = 100) -> tuple[Tensor, Tensor]:
    """Two classes of 4x4 images: the left or the right half is brighter."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    images = 0.4 + 0.1 * torch.rand(n, 1, 4, 4, generator=g)
    images[labels == 0, :, :, :2] += 0.1
    images[labels == 1, :, :, 2:] += 0.1
    return images, labels


def net(gain: float = 30.0) -> nn.Module:
    """Logits are the gain times the mean of either half."""
    linear = nn.Linear(16, 2, bias=False)
    left = torch.zeros(4, 4)
    left[:, :2] = gain / 8
    linear.weight.data = torch.stack([left.flatten(), (gain / 8 * torch.ones(4, 4) - left).flatten()])
    return nn.Sequential(nn.Flatten(), linear).eval()


def check(model: Callable[[Tensor], Tensor], **options: object) -> dict[str, Finding]:
    images, labels = data()
    g = torch.Generator().manual_seed(1)
    found = check_attack(model, images, labels, generator=g, **{"eps": 0.1, "step_size": 0.03, "steps": 10, **options})  # type: ignore[arg-type]
    return {finding.name: finding for finding in found}


def failed(model: Callable[[Tensor], Tensor], **options: object) -> set[str]:
    return {name for name, finding in check(model, **options).items() if not finding.passed}


def test_a_sound_model_passes_every_check() -> None:
    found = check(net(), surrogate=net(10.0))
    assert list(found) == [
        "evaluation mode", "logits", "deterministic", "gradients", "eps = 0", "more eps", "unbounded", "more steps",
        "random noise", "transfer",
    ]  # fmt: skip
    assert [name for name, finding in found.items() if not finding.passed] == []
    # The halves differ by 0.1 on average and the attack may bring them 0.2 nearer to each other.
    assert "the attack 100.0 %" in found["random noise"].sentence
    assert "agrees with the model on 100.0 %" in found["transfer"].sentence


def test_batches_of_any_size_find_the_same() -> None:
    whole, parts = check(net(), surrogate=net(10.0)), check(net(), surrogate=net(10.0), batch_size=7)
    assert list(parts) == list(whole)
    assert all(finding.passed for finding in parts.values())
    for name in ("gradients", "eps = 0", "transfer"):
        assert parts[name] == whole[name]
    images, labels = data()
    with pytest.raises(ValueError, match=r"labels must have shape \(100,\)"):
        check_attack(net(), images, labels[:50], batch_size=7)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        check_attack(net(), images, labels, batch_size=0)


def test_a_larger_ball_is_crossed_in_longer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    pgd, seen = attack_checks.pgd, set()

    def noted(model: object, x: Tensor, y: Tensor, eps: float, step_size: float, *rest: object, **options: object):  # type: ignore[no-untyped-def]
        seen.add((round(eps, 9), round(step_size, 9)))
        return pgd(model, x, y, eps, step_size, *rest, **options)

    monkeypatch.setattr(attack_checks, "pgd", noted)
    check(net(), eps=0.04, step_size=0.01, steps=3)
    assert {(0.01, 0.0025), (0.02, 0.005), (0.08, 0.02), (0.16, 0.04)} <= seen


def test_without_a_bound_a_short_attack_goes_all_the_way_too() -> None:
    found = check(net(), eps=0.01, step_size=0.001, steps=2)
    assert "random noise" in found
    assert "the attack 0.0 %" in found["random noise"].sentence
    assert "on 100.0 %" in found["unbounded"].sentence


def test_pixels_without_influence_are_no_vanished_gradients() -> None:
    model = net()
    model[1].weight.data[:, ::5] = 0
    assert "zero for 0.0 % of the images" in check(model)["gradients"].sentence


def test_of_few_images_one_may_be_an_exception() -> None:
    images, labels = (tensor[:10] for tensor in data())

    def still(count: int) -> set[str]:
        """The checks that fail where so many images have no gradient."""
        model, first = net(), torch.arange(10)[:, None] < count
        found = check_attack(lambda x: torch.where(first, model(x).detach() + 0 * x.sum(), model(x)), images, labels)
        return {finding.name for finding in found if not finding.passed}

    assert "gradients" not in still(1)
    assert "gradients" in still(2)


def test_chance_moves_errors_by_the_slack_and_no_further() -> None:
    assert attack_findings.more_steps([0.5, 0.49, 0.485], 0.02).passed
    assert attack_findings.more_eps({0.5: 0.5, 1.0: 0.485, 2.0: 0.6}, 4 / 255, 0.02).passed
    # Small drops add up.
    assert not attack_findings.more_eps({0.5: 0.5, 1.0: 0.49, 2.0: 0.48, 4.0: 0.47}, 4 / 255, 0.02).passed
    assert not attack_findings.more_steps([0.5, 0.5, 0.485, 0.475, 0.47], 0.02).passed
    assert attack_findings.noise(0.51, 0.5, 0.02).passed
    assert not attack_findings.noise(0.53, 0.5, 0.02).passed
    assert attack_findings.transfer(0.51, 0.5, 1.0, 0.02).passed
    assert not attack_findings.transfer(0.53, 0.5, 1.0, 0.02).passed
    assert [attack_findings.unbounded(error).passed for error in (0.949, 0.95, 1.0)] == [False, True, True]


def test_training_mode_is_seen_and_left() -> None:
    model = net()
    model[1].train()
    finding = check(model)["evaluation mode"]
    assert not finding.passed
    assert finding.sentence.startswith("1 modules")
    assert model[1].training
    assert "evaluation mode" not in check(lambda x: model(x))


def test_probabilities_are_seen() -> None:
    model = net()
    assert "logits" in failed(lambda x: model(x).softmax(dim=1))


def test_randomness_is_seen() -> None:
    model, noise = net(), torch.Generator().manual_seed(0)
    assert "deterministic" in failed(lambda x: model(x) + torch.randn(len(x), 2, generator=noise))


def test_vanished_gradients_are_seen_by_every_control() -> None:
    model = net()

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return 0 * gradient

    seen = failed(lambda x: model(Rounded.apply(x)), surrogate=net(10.0))
    assert {"gradients", "unbounded", "transfer"} <= seen


def test_gradients_that_point_away_are_seen() -> None:
    model = net()

    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return -gradient

    found = check(lambda x: model(Reversed.apply(x) + 0.3 * (x - x.detach())), surrogate=model, eps=0.2)
    assert not found["unbounded"].passed
    assert not found["transfer"].passed


def test_a_model_that_larger_balls_protect_is_seen() -> None:
    model = net()

    def masked(x: Tensor) -> Tensor:
        """Right by a wide margin where pixels are far from the images' range, in a way that gradients do not see."""
        far = ((x.amin(dim=(1, 2, 3)) < 0.3) | (x.amax(dim=(1, 2, 3)) > 0.75))[:, None]
        reference = model(data()[0])
        return torch.where(far, reference + 0 * model(x), model(x))

    assert "more eps" in failed(masked)


def test_noise_that_beats_the_attack_is_seen() -> None:
    model = net()

    def masked(x: Tensor) -> Tensor:
        """Wrong inside the ball but not on its surface, where the attack ends."""
        offset = (x - data()[0]).abs().amax(dim=(1, 2, 3))[:, None]
        inside = (offset > 0.01) & (offset < 0.0999)
        return torch.where(inside, -model(x), model(x).detach() * 2 + 0 * x.sum() + 1e-3 * model(x))

    assert {"random noise", "more steps"} <= failed(masked)


def test_a_surrogate_of_images_of_any_precision_and_within_inference_mode() -> None:
    model, images = net(), data(20)[0]

    def learnt(dtype: torch.dtype) -> Tensor:
        student = distil(model.to(dtype), images.to(dtype), steps=3, generator=torch.Generator().manual_seed(0))
        return student(images.to(dtype)).detach()

    expected = learnt(torch.float32)
    torch.testing.assert_close(learnt(torch.float64).float(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(learnt(torch.bfloat16), expected, rtol=0.1, atol=0.1)
    model.float()
    with torch.inference_mode():
        inside = learnt(torch.float32)
    assert torch.equal(inside, expected)


def test_a_surrogate_is_as_unsure_as_the_model() -> None:
    """Of a model that always gives the same probabilities it learns these."""
    images, probabilities = data(60)[0], torch.tensor([0.6, 0.3, 0.1])
    draws = torch.Generator().manual_seed(0)
    student = distil(lambda x: (7 + probabilities.log()).expand(len(x), 3), images, steps=100, generator=draws)
    torch.testing.assert_close(student(images).softmax(1).mean(0), probabilities, rtol=0, atol=0.03)


def test_a_surrogate_learns_what_the_model_answers_without_the_global_rng() -> None:
    model = net()
    images, labels = data(200)
    state = torch.get_rng_state()
    student = distil(model, images[100:], steps=60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    assert (student(images[:100]).argmax(1) == labels[:100]).float().mean() > 0.95
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {60}, "statistics too are those of its training"
    again = distil(model, images[100:], steps=60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(student(images), again(images))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        distil(model, 255 * images)
