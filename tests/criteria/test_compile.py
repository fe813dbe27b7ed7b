"""A training step with a criterion compiles, and computes what it computes without."""

import math

import pytest
import torch
from tests.functional.oracles import make_targets, normal, rng
from torch import nn
from torch._dynamo.testing import CompileCounter

import multimix as mm


@pytest.mark.parametrize(
    "criterion",
    [mm.MultiMix(20), mm.MultiMix(math.inf), mm.DenseMultiMix(20), mm.DenseMultiMix(20, detach_attention=False)],
    ids=str,
)
def test_compiled_equals_eager(criterion) -> None:
    # The graphs and their gradients are those of any backend; that the C++ one takes them is tested with the operators.
    dense = isinstance(criterion, mm.DenseMultiMix)
    labels = make_targets("index", 6, 4)
    encoder, head = nn.Linear(5, 3), nn.Linear(3, 4)
    for i, parameter in enumerate([*encoder.parameters(), *head.parameters()]):
        parameter.data = normal(*parameter.shape, seed=i).float()
    x = normal(*((6, 2, 5) if dense else (6, 5)), seed=9).float()

    def step(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return 2 * criterion(encoder(x).sigmoid(), labels, head, generator=generator)

    results = []
    for function in (step, torch.compile(step, backend="aot_eager")):
        generator = rng(3)
        for _ in range(2):  # fresh weights at every step, also in the compiled one
            loss = function(x, generator)
            results.append((loss, *torch.autograd.grad(loss, [*encoder.parameters(), *head.parameters()])))
    torch._dynamo.reset()
    for eager, compiled in zip(results[:2], results[2:], strict=True):
        for ours, theirs in zip(compiled, eager, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    if criterion.n != math.inf:
        assert not torch.equal(results[2][0], results[3][0])


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("kind", [mm.MultiMix, mm.DenseMultiMix])
def test_a_new_alpha_does_not_compile_anew(kind, rescale) -> None:
    criterion, head, labels = kind(20, rescale=rescale), nn.Linear(5, 4), make_targets("index", 6, 4)
    x = normal(*((6, 2, 5) if kind is mm.DenseMultiMix else (6, 5)), seed=9).float()

    def step(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return criterion(x.sigmoid(), labels, head, generator=generator)

    counter = CompileCounter()
    compiled, compilations = torch.compile(step, backend=counter), []
    for alpha in (0.5, (0.5, 2.0), 0.02, 0.03, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8):
        criterion.alpha = alpha
        assert torch.allclose(compiled(x, rng(0)), step(x, rng(0)), rtol=1e-5)
        compilations.append(counter.frame_count)
    torch._dynamo.reset()
    assert compilations[1:] == compilations[1:2] * 10
