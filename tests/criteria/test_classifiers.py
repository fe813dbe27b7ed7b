"""What counts as linear really is an affine map of each position, and nothing else counts."""

import warnings

import pytest
import torch
from tests.functional.oracles import normal
from torch import Tensor, nn

import multimix as mm
from multimix.criteria.classifiers import apply_linear, class_weights, is_linear


class Cosine(nn.Linear):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(nn.functional.normalize(z, dim=-1))


class Normalised(nn.Sequential):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(nn.functional.normalize(z, dim=-1))


class Rectified(nn.Identity):
    def forward(self, z: Tensor) -> Tensor:
        return z.relu()


def patched(module: nn.Module) -> nn.Module:
    """As programs change a single instance."""
    forward = module.forward
    module.forward = lambda z: forward(nn.functional.normalize(z, dim=-1))  # type: ignore[method-assign]
    return module


LINEAR = [
    nn.Linear(3, 4), nn.Linear(3, 4, bias=False), nn.Identity(), nn.Conv1d(3, 4, 1), nn.Conv2d(3, 4, 1),
    nn.Conv3d(3, 4, 1), nn.Conv2d(3, 3, 1, groups=3), nn.Conv2d(3, 4, 1, padding="same"),
    nn.Conv2d(3, 4, 1, dilation=2), nn.Sequential(),
    nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4)), nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1)),
    nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv1d(3, 5, 1)), nn.Identity(), nn.Conv1d(5, 4, 1)),
    nn.LazyLinear(4),
    nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 1)),
]  # fmt: skip
OTHER = [
    nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(3, 4, 1, padding=1), nn.Conv1d(3, 4, (1,), stride=(2,)),
    nn.Conv2d(3, 4, (1, 3)), nn.ReLU(), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.Dropout(0.5), nn.Bilinear(3, 3, 4),
    nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)), nn.Sequential(nn.Dropout(0.1), nn.Linear(3, 4)),
    nn.ConvTranspose2d(3, 4, 1), nn.Linear(3, 4).forward, lambda z: z, Cosine(3, 4), Normalised(nn.Linear(3, 4)),
    Rectified(), nn.ModuleList([nn.Linear(3, 4)]), torch.relu, patched(nn.Linear(3, 4)), patched(nn.Conv2d(3, 4, 1)),
    nn.Sequential(patched(nn.Linear(3, 4))), patched(nn.Sequential(nn.Linear(3, 4))),
    nn.Sequential(nn.Conv2d(3, 5, 1), nn.Linear(5, 4)), nn.Sequential(nn.Conv1d(3, 5, 1), nn.Conv2d(5, 4, 1)),
]  # fmt: skip


@pytest.mark.parametrize("classifier", LINEAR, ids=lambda c: type(c).__name__)
def test_linear_classifiers_are_affine_at_each_position(classifier) -> None:
    assert is_linear(classifier)
    classifier.eval()  # spectral normalisation takes a step of its power iteration at each call in training
    tokens = normal(2, 5, 3, seed=0).float()
    out = apply_linear(classifier, tokens)
    assert out.shape[:2] == (2, 5)
    zero = apply_linear(classifier, torch.zeros(1, 1, 3))
    for i in range(5):  # no position sees another
        assert torch.allclose(out[:, i : i + 1], apply_linear(classifier, tokens[:, i : i + 1]), atol=1e-6)
    total = apply_linear(classifier, 2 * tokens[:, :1] - 3 * tokens[:, 1:2])
    assert torch.allclose(total - zero, 2 * (out[:, :1] - zero) - 3 * (out[:, 1:2] - zero), atol=1e-5)


@pytest.mark.parametrize("classifier", OTHER, ids=lambda c: type(c).__name__)
def test_nothing_else_is_linear(classifier) -> None:
    assert not is_linear(classifier)


def test_timms_linear_layer_is_one() -> None:
    """The classifier of its MobileNetV3 and others, with a forward of its own for TorchScript."""
    layers = pytest.importorskip("timm.layers.linear")
    head, z, labels = layers.Linear(3, 4), torch.randn(6, 3), torch.arange(6) % 4
    assert is_linear(head)
    assert torch.equal(apply_linear(head, z), nn.functional.linear(z, head.weight, head.bias))
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    ours, slow = (mm.MultiMix(50)(z, labels, g, rng) for g, rng in zip((head, lambda z: head(z)), draws, strict=True))
    assert torch.allclose(ours, slow, atol=1e-5)

    class Cast(layers.Linear):
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z.relu())

    assert not is_linear(Cast(3, 4))


@pytest.mark.parametrize("head", [nn.Linear(8, 3), nn.Conv2d(8, 3, 1), nn.Sequential(nn.Linear(8, 3))])
def test_features_that_do_not_fit_are_named(head) -> None:
    targets = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"takes embeddings of 8 numbers, got 6 from .*\(2, 5, 6\): give what"):
        mm.DenseMultiMix(4)(torch.ones(2, 5, 6), targets, head)
    with pytest.raises(ValueError, match=r"takes embeddings of 8 numbers, got 6 from .*: give what"):
        mm.MultiMix(4)(torch.ones(2, 6), targets, head)
    with pytest.raises(ValueError, match=r"got 7 from .*\(2, 7, 5, 8\): .*channels last.* features.flatten\(1, -2\)"):
        mm.DenseMultiMix(4)(torch.ones(2, 7, 5, 8), targets, head)
    with pytest.raises(ValueError, match=r"got 7 from .*\(2, 8, 7\): .*1-D convolution .* features.mT"):
        mm.DenseMultiMix(4)(torch.ones(2, 8, 7), targets, head)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.LazyLinear(3)
    assert apply_linear(lazy, torch.ones(2, 6)).shape == (2, 3)


def test_a_compiled_classifier_is_seen_through() -> None:
    head = nn.Linear(3, 4)
    compiled = torch.compile(head, backend="eager")
    assert is_linear(compiled)
    tokens = torch.ones(2, 5, 3)
    assert torch.equal(apply_linear(compiled, tokens), head(tokens))
    assert not is_linear(torch.compile(nn.ReLU(), backend="eager"))


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 4), lambda: nn.Conv2d(3, 4, 1)])
def test_hooks_of_a_linear_classifier_run(make) -> None:
    # Some libraries put adapters, offloading or quantisation into hooks, of a layer or of the chain that holds it.
    seen = []
    head = nn.Sequential(nn.Sequential(make()), nn.Identity())
    for module in head.modules():
        module.register_forward_hook(lambda module, args, out: seen.append(type(module)))
    head.register_forward_hook(lambda module, args, out: 10 * out)
    plain = make()
    plain.load_state_dict(head[0][0].state_dict())
    tokens = normal(2, 5, 3, seed=0).float()
    torch.testing.assert_close(apply_linear(head, tokens), 10 * apply_linear(plain, tokens))
    assert seen == [type(plain), nn.Sequential, nn.Identity, nn.Sequential]
    z, y = tokens[:, 0], torch.tensor([0, 3])
    if isinstance(plain, nn.Linear):
        seed = torch.Generator().manual_seed
        torch.testing.assert_close(*(mm.MultiMix(9)(z, y, each, seed(0)) for each in (head, lambda z: head(z))))


@pytest.mark.parametrize("classifier", [nn.Linear(3, 4), nn.Conv1d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv3d(3, 4, 1)])
def test_class_weights_have_one_row_for_each_class(classifier) -> None:
    weight = class_weights(classifier)
    assert weight.shape == (4, 3)
    basis = apply_linear(classifier, torch.eye(3)[None])[0] - classifier.bias
    assert torch.allclose(weight.T, basis, atol=1e-6)


def test_class_weights_of_other_classifiers_are_refused() -> None:
    for other, named in (
        (nn.Sequential(nn.Linear(3, 4)), "Sequential"),
        (nn.Conv2d(4, 4, 1, groups=2), "one of 2 groups"),
    ):
        with pytest.raises(ValueError, match=f"one nn.Linear or 1x1 convolution, got {named}: use attention='gap'"):
            class_weights(other)


def test_a_function_that_does_not_take_maps_is_told_what_it_was_given() -> None:
    head = nn.Linear(6, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as failure:
        mm.DenseMultiMix(7)(torch.randn(4, 6, 5, 5), torch.tensor([0, 1, 2, 0]), lambda z: head(z))
    assert "mixed features (n, d, *spatial) of shape (7, 6, 5, 5)" in failure.value.__notes__[0]


def test_a_chain_with_batch_normalisation_is_told_that_it_was_given_rows() -> None:
    head = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as failure:
        mm.DenseMultiMix(7, attention="uniform")(torch.randn(4, 6, 5, 5), torch.tensor([0, 1, 2, 0]), head)
    assert "mixed features (rows, d) of shape (175, 6)" in failure.value.__notes__[0]


def test_a_classifier_that_picks_a_token_is_told_that_it_was_given_embeddings() -> None:
    """As RoBERTa's, `net.classifier`, does."""
    head = nn.Linear(6, 3)
    with pytest.raises(IndexError) as failure:
        mm.MultiMix(7)(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]), lambda tokens: head(tokens[:, 0, :]))
    (note,) = failure.value.__notes__
    assert note.startswith("MultiMix called the classifier with mixed embeddings (n, ...) of shape (7, 6). If it pools")


def test_a_norm_of_maps_is_given_maps() -> None:
    """Torchvision's and timm's LayerNorm2d are subclasses of LayerNorm."""

    class LayerNorm2d(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class LayerNorm2dFp32(LayerNorm2d): ...

    features, labels, seed = torch.randn(4, 6, 2, 3), torch.tensor([0, 1, 2, 0]), torch.Generator().manual_seed
    linear, convolution = nn.Linear(6, 3), nn.Conv2d(6, 3, 1)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[..., None, None])
        convolution.bias.copy_(linear.bias)
    of_tokens = mm.DenseMultiMix(7)(features, labels, nn.Sequential(nn.LayerNorm(6), linear), generator=seed(0))
    for norm in (LayerNorm2d(6), LayerNorm2dFp32(6)):
        of_maps = mm.DenseMultiMix(7)(features, labels, nn.Sequential(norm, convolution), generator=seed(0))
        torch.testing.assert_close(of_maps, of_tokens)
