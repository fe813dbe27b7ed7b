"""Forward-mode derivatives and transforms of torch.func, against backward passes and differences."""

import functools

import pytest
import torch
from tests.functional.oracles import make_targets, normal, rng, simplex
from torch import Tensor
from torch.autograd import forward_ad
from torch.torch_version import TorchVersion

import multimix as mm
from multimix.functional import expected_mixed_cross_entropy, mixed_cross_entropy

TARGETS, LAM = make_targets("index", 6, 4), simplex(1, 5, 6, seed=1)[0]


def sampled(logits: Tensor, implementation: str = "auto") -> Tensor:
    return mm.MultiMix(n=20, implementation=implementation).from_logits(logits, TARGETS, rng(3))


def given(logits: Tensor, implementation: str = "auto") -> Tensor:
    return mixed_cross_entropy(logits, TARGETS, LAM, implementation=implementation)


def limit(logits: Tensor, implementation: str = "auto") -> Tensor:
    return expected_mixed_cross_entropy(logits, TARGETS, implementation=implementation)


@pytest.mark.parametrize("loss", [sampled, given, limit])
def test_derivatives_of_every_mode_agree(loss) -> None:
    x, v = normal(6, 4, seed=2).requires_grad_(), normal(6, 4, seed=3)
    (gradient,) = torch.autograd.grad(loss(x), x)
    x = x.detach()
    assert torch.allclose(torch.func.grad(loss)(x), gradient)
    value, slope = torch.func.jvp(loss, (x,), (v,))
    assert torch.allclose(value, loss(x))
    assert torch.allclose(slope, (gradient * v).sum())
    with forward_ad.dual_level():
        slope = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, v))).tangent
        assert torch.allclose(slope, (gradient * v).sum())
    step = 1e-4
    by_differences = (torch.func.grad(loss)(x + step * v) - torch.func.grad(loss)(x - step * v)) / (2 * step)
    _, through = torch.func.jvp(torch.func.grad(loss), (x,), (v,))
    assert torch.allclose(through, by_differences, atol=1e-7)


@pytest.mark.parametrize("loss", [given, limit])
def test_compiled_derivatives_of_every_mode_agree(loss) -> None:
    x, v = normal(6, 4, seed=2).requires_grad_(), normal(6, 4, seed=3)
    (gradient,) = torch.autograd.grad(loss(x), x)
    x = x.detach()

    def slope(x: Tensor) -> Tensor:
        return torch.func.jvp(loss, (x,), (v,))[1]

    through = torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1]
    compiled = functools.partial(torch.compile, backend="aot_eager")
    torch.testing.assert_close(compiled(slope, fullgraph=True)(x), (gradient * v).sum())
    torch.testing.assert_close(compiled(torch.func.grad(slope), fullgraph=True)(x), through)
    if TorchVersion(torch.__version__) >= "2.14":  # 2.11 refuses a custom operator there, with an error
        torch.testing.assert_close(compiled(torch.func.grad(loss))(x), gradient)
    torch._dynamo.reset()


@pytest.mark.parametrize("which", [0, 1, 2], ids=["logits", "lam", "weight"])
def test_a_tangent_of_any_input_is_kept(which) -> None:
    inputs = [normal(6, 4, seed=2), simplex(5, 6, seed=1), simplex(5, seed=3)]
    x, v = inputs[which], normal(*inputs[which].shape, seed=4)

    def loss(x: Tensor) -> Tensor:
        logits, lam, weight = (x if k == which else given for k, given in enumerate(inputs))
        return mixed_cross_entropy(logits, TARGETS, lam, weight)

    with forward_ad.dual_level():
        slope = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, v))).tangent
    step = 1e-6
    torch.testing.assert_close(slope, (loss(x + step * v) - loss(x - step * v)) / (2 * step), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("loss", "name"), [(given, "fused"), (limit, "fused"), (limit, "triton"), (sampled, "triton")])
def test_what_was_asked_for_by_name_is_refused(loss, name) -> None:
    x = normal(6, 4, seed=2)
    with pytest.raises(ValueError, match=f"implementation='{name}' has no forward-mode derivative"):
        torch.func.jvp(functools.partial(loss, implementation=name), (x,), (x,))
