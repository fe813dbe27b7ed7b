"""What training, checkpoints and deployment do with a model, for each kind of model."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from multimix.models import build

pytest.importorskip("timm")
pytest.importorskip("torchvision")

NAMES = (
    "preactresnet10-w4",
    "wrn10-1",
    "smallnet-w8",
    "torchvision:shufflenet_v2_x0_5",
    "timm:test_convnext",
    "vit-s16",
)


@functools.cache
def made(name):
    generator = torch.Generator().manual_seed(0)
    return build(name, num_classes=5, image_size=32, mean=[0.5] * 3, std=[0.25] * 3, generator=generator)


def make(name):
    return copy.deepcopy(made(name))  # drawing the weights takes longer


@pytest.fixture(params=NAMES)
def model(request):
    return make(request.param)


def images(b=4):
    return torch.rand(b, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_gradients_reach_every_parameter_and_the_images(model):
    x = images().requires_grad_()
    nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    assert x.grad.abs().sum() > 0


def test_a_model_and_its_copies_are_the_same_function(model, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model.train()
    model(images())  # moves batch statistics away from their initial values
    model.eval()
    expected = model(images())

    safetensors.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    loaded = copy.deepcopy(model)
    with torch.no_grad():
        for p in loaded.parameters():
            p.zero_()
    loaded.load_state_dict(safetensors.load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(loaded(images()), expected)

    pickled = pickle.loads(pickle.dumps(model))
    assert torch.equal(pickled(images()), expected)
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for p in duplicate.parameters():
            p.zero_()
    assert torch.equal(model(images()), expected), "a copy shares nothing"


def test_normalisation_travels_with_the_weights():
    other = build(
        NAMES[2],
        num_classes=5,
        image_size=32,
        mean=[0.1] * 3,
        std=[0.9] * 3,
        generator=torch.Generator().manual_seed(9),
    )
    reference = make(NAMES[2]).eval()
    other.load_state_dict(reference.state_dict())
    assert torch.equal(other.eval()(images()), reference(images()))


def test_channels_last_and_float64(model):
    model.eval()
    expected = model(images())
    torch.testing.assert_close(
        model.to(memory_format=torch.channels_last)(images().to(memory_format=torch.channels_last)),
        expected, rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    double = model.double()(images().double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-3, atol=1e-4)


def test_bf16_autocast(model):
    expected = model.eval()(images())
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images())
        features = model.features(images())
    assert logits.dtype == torch.bfloat16
    assert model.dense(features).shape[0] == 4
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("name", ["smallnet-w8", "timm:test_convnext"])
def test_the_whole_model_is_one_graph(name):
    """fullgraph=True fails on any graph break; aot_eager needs no compiler and keeps the arithmetic."""
    model = make(name).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), model(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_inductor():
    model = make("smallnet-w8")
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True)
    for m in (model, compiled):
        nn.functional.cross_entropy(m(images()), torch.arange(4)).backward()
    torch.testing.assert_close(
        [p.grad for p in compiled.parameters()], [p.grad for p in model.parameters()], rtol=1e-3, atol=1e-5
    )
