"""Steps of which only shapes are computed, as tools that plan memory or count operations take them."""

import contextlib
import math

import pytest
import torch
from tests.functional.oracles import make_targets, normal
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import multimix as mm

B, D, C = 32, 16, 5


@pytest.mark.parametrize("where", ["meta", "FakeTensorMode"])
@pytest.mark.parametrize("criterion", [mm.MultiMix, mm.DenseMultiMix])
@pytest.mark.parametrize(
    ("options", "linear"),
    [
        ({}, True),
        ({}, False),
        ({"m": 3}, True),
        ({"m": 3}, False),
        ({"n": math.inf, "alpha": 4.0}, True),
        ({"implementation": "reference"}, True),
    ],
    ids=["linear", "not linear", "m", "m, not linear", "closed form", "reference"],
)
@pytest.mark.parametrize("soft", [False, True])
def test_a_step_of_shapes_alone(where, criterion, options, linear, soft) -> None:
    device = "meta" if where == "meta" else "cpu"
    with FakeTensorMode() if where == "FakeTensorMode" else contextlib.nullcontext():
        shape = (B, D) if criterion is mm.MultiMix else (B, D, 2, 3)
        embeddings = torch.empty(shape, device=device, requires_grad=True)
        targets = torch.empty(B, C, device=device) if soft else torch.empty(B, dtype=torch.int64, device=device)
        head = nn.Linear(D, C, device=device)
        if not linear:
            head = nn.Sequential(nn.Linear(D, D, device=device), nn.ReLU(), head)
        loss = criterion(**options)(embeddings, targets, head)
        loss.backward()
        assert loss.shape == ()
        assert embeddings.grad is not None
        assert embeddings.grad.shape == embeddings.shape
        assert embeddings.grad.dtype == embeddings.dtype


def test_the_limit_with_a_gradient_in_the_attention() -> None:
    """Its quadrature is of numbers, which stay numbers, and serve others afterwards."""
    criterion = mm.DenseMultiMix(math.inf, alpha=3.21, detach_attention=False)  # an alpha that no other test takes
    with FakeTensorMode():
        features, targets = torch.empty(B, D, 2, 3, requires_grad=True), torch.empty(B, dtype=torch.int64)
        criterion(features, targets, nn.Linear(D, C)).backward()
        assert features.grad.shape == features.shape
    features, targets, head = normal(B, D, 2, 3, seed=0), make_targets("index", B, C), nn.Linear(D, C).double()
    detached = mm.DenseMultiMix(math.inf, alpha=3.21)
    assert torch.allclose(criterion(features.requires_grad_(), targets, head), detached(features, targets, head))


def test_counted_operations_are_those_of_the_classifier() -> None:
    """Through the logits the classifier sees b embeddings, otherwise the n mixed ones, which are made before."""
    n = 100
    embeddings, targets = torch.empty(B, D, device="meta"), torch.empty(B, dtype=torch.int64, device="meta")
    head = nn.Linear(D, C, device="meta")
    deeper = nn.Sequential(nn.ReLU(), head)
    for classifier, expected in ((head, 2 * B * D * C), (deeper, 2 * n * D * C + 2 * n * B * (D + C))):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            mm.MultiMix(n=n)(embeddings, targets, classifier)
        assert counter.get_total_flops() == expected
