"""Methods on another device than the CPU: on a pretended one, and where another one is the default."""

from collections.abc import Iterator

import pytest
import torch
from tests.methods.accelerator import DEVICE, Remote, move
from tests.methods.conftest import seeded
from tests.methods.every_method import NAMES, loss_of, make

from multimix.criteria import Contrastive, Metrix, MMix, MultiSimilarity, ProxyAnchor
from multimix.methods import DenseLoss, TransMix
from multimix.models import build

# What the host must know to go on: saliency that is computed there, and how many mixtures are still to be optimised.
WAITS = {"saliency": "saliencymix.py", "puzzle": "puzzlemix.py", "comixup": "comixup.py", "supermix": "masks.py"}


def test_the_pretended_accelerator_finds_mistakes(accelerator) -> None:
    from multimix.functional import interpolate

    x = torch.rand(3, 4).to(DEVICE)
    assert (x.device, (x * 2).device) == (DEVICE, DEVICE)
    with pytest.raises(RuntimeError, match="different devices"):
        interpolate(x, torch.rand(3, 2), torch.eye(3).to(DEVICE))
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device=x.device, generator=seeded(0))
    assert not accelerator
    assert float(x.sum()) == pytest.approx(float(x.cpu().sum()))
    assert len(accelerator) == 2


@pytest.mark.parametrize("name", NAMES)
def test_on_an_accelerator_as_on_the_cpu(name: str, model, images, labels, style_files, accelerator) -> None:
    method = make(name, model, style_files)
    method.setup(model)
    here = loss_of(method, model, images, labels)
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    move(model)
    move(method)
    accelerator.clear()
    there = loss_of(method, model, images.to(DEVICE), labels.to(DEVICE))
    method.after_step(model)
    assert isinstance(there, Remote)
    assert all(WAITS.get(name, "nowhere") in place for place in accelerator), accelerator
    if name not in ("multimix", "dense-multimix"):  # they draw their many weights on the device
        assert torch.allclose(there.held, here)
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            assert torch.allclose(p.grad.held, gradient, atol=1e-6)


@pytest.mark.parametrize("method", [TransMix(), DenseLoss(TransMix())], ids=["transmix", "dense"])
def test_transmix_on_an_accelerator(method, accelerator) -> None:
    vit = move(build("timm:vit_tiny_patch16_224", num_classes=5, image_size=32, generator=seeded(0)))
    accelerator.clear()
    loss = loss_of(method, vit, torch.rand(3, 3, 32, 32).to(DEVICE), torch.arange(3).to(DEVICE))
    assert loss.isfinite().held
    assert not accelerator


@pytest.mark.parametrize("pairs", ["positive-negative", "anchor-negative"])
@pytest.mark.parametrize("loss", [Contrastive(), MultiSimilarity(), ProxyAnchor(3, 8)], ids=lambda m: type(m).__name__)
def test_criteria_on_an_accelerator(loss, pairs: str, accelerator) -> None:
    z, labels = torch.randn(6, 8, generator=seeded(0)).to(DEVICE).requires_grad_(), (torch.arange(6) % 3).to(DEVICE)
    Metrix(move(loss), pairs=pairs)(z, labels, seeded(1)).backward()
    MMix(threshold=0.1)(z, z.flip(0)).backward()
    assert z.grad.isfinite().all().held
    assert not accelerator


@pytest.fixture
def another_default() -> Iterator[None]:
    """As after `torch.set_default_device("cuda")`; tensors on "meta" hold nothing that could be used."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("name", NAMES)
def test_another_default_device(name: str, model, images, labels, style_files, another_default) -> None:
    method = make(name, model, style_files)
    method.setup(model)
    assert loss_of(method, model, images, labels).isfinite()
