"""Methods in double precision throughout, and with networks that autocast rounds in part."""

from collections.abc import Iterator

import pytest
import torch
from tests.methods.conftest import seeded
from torch import Tensor, nn

from multimix.methods import (
    AlignMixup,
    AugMix,
    AutoMix,
    BarycenterAutoMix,
    CoMixup,
    CutMix,
    Daml,
    DenseLoss,
    DenseMultiMix,
    FMix,
    InputMixup,
    ManifoldMixup,
    MultiMix,
    OptTransMix,
    PuzzleMix,
    SaliencyMix,
    StyleCutMix,
    StyleMix,
    SuperMix,
    TokenMix,
    ZetaMixup,
)
from multimix.models import SplitModel

NAMES = [
    "align", "augmix", "automix", "barycenter", "comixup", "cutmix", "daml", "dense", "dense-multimix", "fmix",
    "input-mixup", "manifold", "multimix", "opttrans", "puzzle", "saliency", "style", "style-cut", "supermix",
    "tokenmix", "zeta",
]  # fmt: skip


def make(name: str, teacher: SplitModel, style_files):
    style = {"encoder": style_files[0], "decoder": style_files[1], "resolution": 16}
    return {
        "align": AlignMixup, "augmix": AugMix, "automix": AutoMix, "barycenter": lambda: BarycenterAutoMix(width=8),
        "comixup": CoMixup, "cutmix": CutMix, "daml": Daml, "dense": lambda: DenseLoss(CutMix()),
        "dense-multimix": lambda: DenseMultiMix(20), "fmix": FMix, "input-mixup": InputMixup,
        "manifold": ManifoldMixup, "multimix": lambda: MultiMix(20), "opttrans": lambda: OptTransMix(iterations=3),
        "puzzle": PuzzleMix, "saliency": SaliencyMix, "style": lambda: StyleMix(**style),
        "style-cut": lambda: StyleCutMix(**style), "supermix": lambda: SuperMix(teacher, width=4, max_iter=3),
        "tokenmix": lambda: TokenMix(teacher, grid=4), "zeta": ZetaMixup,
    }[name]()  # fmt: skip


def loss_of(method, model: SplitModel, images: Tensor, labels: Tensor) -> Tensor:
    extras = {"domain": torch.arange(len(images)) % 3} if "domain" in method.needs else {}
    loss: Tensor = method(model, images, labels, seeded(0), **extras).loss
    loss.backward()
    return loss.detach()


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
