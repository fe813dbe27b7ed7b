"""StyleMix and StyleCutMix: content and style weights read off the mixed pixels, through networks that change nothing.

With identities for encoder and decoder, AdaIN acts on the pixels: the content of an image is its pattern, its style the
mean and the deviation of its pixels. Patterns that are orthogonal, and means that differ, then tell how much of whose
content and style is in a mixed image.
"""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.methods.conftest import seeded
from torch import nn

from multimix.methods import CutMix, StyleCutMix, StyleMix, parse
from multimix.methods.adain import StyleNetworks

FILES = {"encoder": "vgg_normalised.pth", "decoder": "decoder.pth"}
SIDE = 16


def through_identities(method):
    method.resolution = SIDE
    method._networks = (StyleNetworks(nn.Identity(), nn.Identity()),)
    return method


def patterns(b: int) -> torch.Tensor:
    """(b, 1, SIDE, SIDE), orthonormal to each other and to constants, up to a factor: deviation 1, mean 0."""
    basis = torch.linalg.qr(torch.cat([torch.ones(SIDE**2, 1), torch.randn(SIDE**2, b, generator=seeded(0))], 1))[0]
    found = basis[:, 1:].T.reshape(b, 1, SIDE, SIDE)
    return found / found.std((1, 2, 3), keepdim=True)


def pictures(b: int, means: torch.Tensor, deviation: float = 0.02) -> torch.Tensor:
    return (means.view(b, 1, 1, 1) + deviation * patterns(b)).expand(b, 3, SIDE, SIDE).clone()


def weights_in(mixed: torch.Tensor, b: int) -> torch.Tensor:
    """(b, b): how much of the content of every picture is in every mixed one."""
    flat, basis = mixed[:, 0].flatten(1), patterns(b).flatten(1)
    return flat @ basis.T / ((SIDE**2 - 1) * 0.02)


@given(b=st.integers(1, 6), seed=st.integers(0, 10_000), weight=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_stylemix_targets_are_what_was_mixed(b: int, seed: int, weight: float) -> None:
    means = torch.linspace(0.3, 0.7, b)
    images, labels = pictures(b, means), torch.arange(b)
    method = through_identities(StyleMix(**FILES, content_weight=weight))
    mixed, soft = method.mix(images, labels, b, seeded(seed))
    content = weights_in(mixed, b)
    assert torch.allclose(content.sum(1), torch.ones(b), atol=0.02)
    # The mean pixel is that of the mixed styles.
    found = weight * (content @ means) + (1 - weight) * mixed.mean((1, 2, 3))
    assert torch.allclose(found, soft @ means, atol=2e-3)
    assert torch.allclose(soft.sum(1), torch.ones(b))
    if weight == 1:
        assert torch.allclose(content, soft, atol=0.02)


def test_stylemix_ratios_are_independent_beta() -> None:
    means = torch.tensor([0.3, 0.7])
    method, contents, styles = through_identities(StyleMix(alpha=0.7, **FILES)), [], []
    for seed in range(600):
        mixed, _ = method.mix(pictures(2, means), torch.arange(2), 2, seeded(seed))
        content = weights_in(mixed, 2)[0, 0]
        if content > 0.999 and abs(mixed[0].mean() - 0.3) < 1e-4:  # its own partner
            continue
        contents.append(float(content))
        styles.append(float((0.7 - mixed[0].mean()) / 0.4))
    assert 200 < len(contents) < 400
    for found in (contents, styles):
        assert stats.kstest(found, stats.beta(0.7, 0.7).cdf).pvalue > 1e-3
    assert stats.spearmanr(contents, styles).pvalue > 1e-3


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_stylemix_gives_no_content_in_any_style_a_negative_weight(seed: int) -> None:
    # Channels name content and style: 0 and 1 an image in its own style, 2 and 3 in that of the other. Pixels would not
    # show the weights, since the decoded ones are cut off at 0 and 1.
    method = StyleMix(alpha=1.0, **FILES)
    features = torch.eye(2, 4)[..., None, None]
    networks = SimpleNamespace(encode=lambda images, side: features, decode=lambda mixed, like: mixed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multimix.methods.stylemix.adain", lambda content, style: content.roll(2, 1))
        patch.setattr(method, "networks", lambda device: networks)
        weights, _ = method.mix(torch.rand(2, 3, SIDE, SIDE), torch.arange(2), 2, seeded(seed))
    assert weights.min() > -1e-6
    assert torch.allclose(weights.sum(1), torch.ones(2, 1, 1), atol=1e-5)


@given(b=st.integers(1, 6), seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_stylecutmix_is_cutmix_where_styles_are_equal(b: int, seed: int) -> None:
    images, labels = pictures(b, torch.full((b,), 0.5)), torch.arange(b)
    method = through_identities(StyleCutMix(**FILES, content_weight=1.0))
    mixed, soft = method.mix(images, labels, b, seeded(seed))
    # Every pixel is that of one of two images; counted, they are the target.
    difference, nearest = (mixed[:, None] - images[None]).abs().amax(2).flatten(2).min(1)
    assert difference.max() < 1e-5
    assert torch.allclose(nn.functional.one_hot(nearest, b).float().mean(1), soft, atol=1e-5)
    expected, expected_soft = CutMix().mix(images, labels, b, seeded(seed))
    assert torch.allclose(mixed, expected, atol=1e-4)
    assert torch.allclose(soft, expected_soft)


@given(b=st.integers(1, 6), seed=st.integers(0, 10_000), automatic=st.booleans())
@settings(max_examples=30, deadline=None)
def test_stylecutmix_style_targets_are_the_mean_pixel(b: int, seed: int, automatic: bool) -> None:
    means = torch.linspace(0.3, 0.7, b)
    images, labels = pictures(b, means, deviation=1e-5), torch.arange(b)
    method = through_identities(StyleCutMix(**FILES, content_weight=0.0))
    if automatic:
        method.distances = "in memory"
        method._distance = 4 * torch.rand(b, b, generator=seeded(seed))
    # Nearly without content (but for the eps in AdaIN, which makes content fade), pixels are means of styles.
    mixed, soft = method.mix(images, labels, b, seeded(seed))
    assert torch.allclose(mixed.mean((1, 2, 3)), soft @ means, atol=1e-4)


def test_automatic_gamma_is_that_of_the_two_classes(style_files, tmp_path) -> None:
    distances = 5 * torch.rand(3, 3, generator=seeded(0))
    torch.save(distances, tmp_path / "styles.pt")
    files = dict(zip(("encoder", "decoder"), style_files, strict=True))
    method = StyleCutMix(**files, distances=tmp_path / "styles.pt", delta=2.0)
    labels, partners = torch.tensor([0, 1, 2, 2]), torch.tensor([2, 1, 0, 1])
    one_hot = torch.eye(3)
    gamma = method._gamma(one_hot[labels], one_hot[partners], seeded(0))
    plus = [distances[i, j] + 2 * (i == j) for i, j in zip(labels.tolist(), partners.tolist(), strict=True)]
    assert torch.allclose(gamma, torch.tanh(torch.stack(plus) / 2))
    images = torch.rand(4, 3, 16, 16)
    method.resolution = 16
    mixed, soft = method.mix(images, labels, 3, seeded(0))
    assert torch.allclose(soft.sum(1), torch.ones(4))
    assert torch.isfinite(mixed).all()


@pytest.mark.parametrize("kind", [StyleMix, StyleCutMix])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 1, 9, 20)])
def test_protocol(kind, shape, style_files) -> None:
    method = kind(encoder=style_files[0], decoder=style_files[1], resolution=16)
    images, labels = torch.rand(shape, generator=seeded(0)), torch.arange(shape[0]) % 4
    kept, state = images.clone(), torch.get_rng_state()
    mixed, soft = method.mix(images, labels, 4, seeded(1))
    assert mixed.shape == shape
    assert 0 <= mixed.min() <= mixed.max() <= 1
    again, again_soft = method.mix(images, nn.functional.one_hot(labels, 4).double(), 4, seeded(1))
    assert torch.equal(mixed, again)
    assert torch.allclose(soft.double(), again_soft, atol=1e-6)
    assert shape[0] == 1 or not torch.equal(mixed, method.mix(images, labels, 4, seeded(2))[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)


def test_networks_are_neither_trained_nor_saved(style_files, model, images, labels) -> None:
    method = StyleMix(encoder=style_files[0], decoder=style_files[1], resolution=16)
    method.setup(model)
    assert not list(method.parameters())
    assert not method.state_dict()
    method(model, images, labels, seeded(0)).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("kind", "name"), [(StyleMix, "stylemix"), (StyleCutMix, "stylecutmix")])
def test_errors(kind, name: str, model) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs the files of AdaIN .*encoder=\"vgg_normalised.pth\""):
        parse(name)
    with pytest.raises(ValueError, match="needs the files"):
        kind(encoder="vgg.pth")
    method = parse(f"{name}(encoder='/no/vgg.pth', decoder='/no/decoder.pth')")
    with pytest.raises(FileNotFoundError, match=r"no encoder weights /no/vgg.pth"):
        method.setup(model)
    with pytest.raises(ValueError, match=r"content_weight must lie in \[0, 1\]"):
        kind(**FILES, content_weight=1.5)
    with pytest.raises(ValueError, match="resolution must be at least 16"):
        kind(**FILES, resolution=8)
    with pytest.raises(TypeError, match="decoder must be the name of a file, got Sequential"):
        kind(encoder="vgg.pth", decoder=torch.nn.Sequential())


def test_distances_come_from_a_file() -> None:
    message = r"distances must be the name of a file, got Tensor: torch.save\(...\) makes one"
    with pytest.raises(TypeError, match=message):
        StyleCutMix(**FILES, distances=torch.zeros(5, 5))


def test_image_channels_are_checked(style_files) -> None:
    method = StyleMix(encoder=style_files[0], decoder=style_files[1], resolution=16)
    with pytest.raises(ValueError, match=r"images must be \(b, 3, height, width\) or .*got \(2, 2, 8, 8\)"):
        method.mix(torch.rand(2, 2, 8, 8), torch.arange(2), 2)
