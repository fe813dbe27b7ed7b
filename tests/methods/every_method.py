"""Every method, made ready for the small model of `conftest`, and its loss on one mini-batch."""

from pathlib import Path

from tests.methods.conftest import seeded
from torch import Tensor

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
    Method,
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


def make(name: str, teacher: SplitModel, style_files: tuple[Path, Path]) -> Method:
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


def loss_of(method: Method, model: SplitModel, images: Tensor, labels: Tensor) -> Tensor:
    """Every gradient is left on the parameters."""
    extras = {"domain": labels % 3} if "domain" in method.needs else {}
    loss = method(model, images, labels, seeded(0), **extras).loss
    loss.backward()
    return loss.detach()
