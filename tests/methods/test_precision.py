"""Methods in double precision throughout, with networks that autocast rounds in part, and with bytes."""

import copy
from collections.abc import Iterator

import pytest
import torch
from tests.methods.every_method import NAMES, loss_of, make
from torch import Tensor, nn

from multimix.models import SplitModel


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """As Lightning Fabric runs the forward pass in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", NAMES)
def test_double_precision(name: str, model, images, labels, style_files, double_by_default) -> None:
    method = make(name, model, style_files)  # the teacher is in single precision, as in the file of a run
    model.double()
    method.setup(model)
    method.double()
    loss = loss_of(method, model, images.double(), labels)
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_the_default_type_changes_nothing(name: str, default, model, images, labels, style_files) -> None:
    twin = copy.deepcopy(model)
    expected = make(name, model, style_files)
    expected.setup(model)
    found = copy.deepcopy(expected)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        loss = loss_of(found, twin, images, labels)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(loss, loss_of(expected, model, images, labels))


class ToSingle(nn.Module):
    """As layer normalisation does under autocast on an accelerator."""

    def forward(self, features: Tensor) -> Tensor:
        return features.float()


@pytest.mark.parametrize("name", NAMES)
def test_autocast_of_a_network_with_features_in_single_precision(name: str, model, images, labels, style_files) -> None:
    model = SplitModel([nn.Sequential(stage, ToSingle()) for stage in model.stages], model.pool, model.classifier)
    method = make(name, model, style_files)
    method.setup(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(method, model, images, labels)
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_refused_by_their_type(name: str, model, images, labels, style_files) -> None:
    method = make(name, model, style_files)
    method.setup(model)
    with pytest.raises(TypeError, match=r"images must be floating-point pixels in \[0, 1\], got torch.uint8"):
        loss_of(method, model, (255 * images).byte(), labels)
