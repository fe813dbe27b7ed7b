"""AdaIN against its formula in loops, and the networks against the known layout of the published files."""

import math

import pytest
import torch
from tests.methods.conftest import seeded
from tests.methods.style_files import DECODER, ENCODER, decoder_weights, encoder_weights
from torch import nn
from torch.nn import functional as F

from multimix.methods.adain import adain, load_networks, statistics
from multimix.methods.style_distance import load_distances, style_distances


def test_adain_is_its_formula() -> None:
    content, style = torch.rand(2, 3, 4, 5, generator=seeded(0)), torch.rand(2, 3, 2, 3, generator=seeded(1))
    result = adain(content, style)
    for i in range(2):
        for d in range(3):
            of_content, of_style = content[i, d].double().flatten().tolist(), style[i, d].double().flatten().tolist()
            moments = []
            for values in (of_content, of_style):
                mean = sum(values) / len(values)
                variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
                moments.append((mean, math.sqrt(variance + 1e-5)))
            (m_c, s_c), (m_s, s_s) = moments
            expected = [(v - m_c) / s_c * s_s + m_s for v in of_content]
            assert result[i, d].flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_style_is_taken_and_constant_channels_stay_finite() -> None:
    content, style = torch.randn(2, 3, 6, 6, generator=seeded(0)), 5 + 3 * torch.randn(2, 3, 6, 6, generator=seeded(1))
    for mine, theirs in zip(statistics(adain(content, style)), statistics(style), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4)
    assert torch.isfinite(adain(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))).all()
    assert torch.allclose(adain(content, content), content, atol=1e-5)


def test_statistics_are_float32_at_least() -> None:
    assert statistics(torch.rand(1, 2, 3, 3).bfloat16())[0].dtype == torch.float32
    assert statistics(torch.rand(1, 2, 3, 3).double())[0].dtype == torch.float64


def _convolve(x, weights, position, relu=True):
    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weights[f"{position}.weight"], weights[f"{position}.bias"])
    return x.relu() if relu else x


def test_networks_are_those_of_the_published_files(style_files) -> None:
    networks = load_networks(*style_files)
    assert [i for i, m in enumerate(networks.encoder) if isinstance(m, nn.Conv2d)] == list(ENCODER)[:10]
    assert [i for i, m in enumerate(networks.decoder) if isinstance(m, nn.Conv2d)] == list(DECODER)
    weights, x = encoder_weights(), torch.rand(2, 3, 19, 32, generator=seeded(0))
    expected = F.conv2d(x, weights["0.weight"], weights["0.bias"])
    for position in list(ENCODER)[1:10]:
        if position in (9, 16, 29):
            expected = F.max_pool2d(expected, 2, ceil_mode=True)
        expected = _convolve(expected, weights, position)
    assert torch.allclose(networks.encoder(x), expected, atol=1e-6)
    weights, x = decoder_weights(), expected
    for position in DECODER:
        if position in (5, 18, 25):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = _convolve(x, weights, position, relu=position != 28)
    assert torch.allclose(networks.decoder(expected), x, atol=1e-6)
    assert not any(p.requires_grad for network in networks for p in network.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 20, 32), (1, 1, 9, 7), (3, 3, 16, 16)])
def test_images_keep_size_channels_type_and_range(style_files, shape) -> None:
    networks = load_networks(*style_files)
    images = torch.rand(shape, generator=seeded(0)).double()
    decoded = networks.decode(3 * networks.encode(images, 24), images)
    assert decoded.shape == shape
    assert decoded.dtype == torch.double
    assert 0 <= decoded.min() <= decoded.max() <= 1


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_bad_files(style_files, tmp_path, capsys) -> None:
    encoder, decoder = style_files
    with pytest.raises(FileNotFoundError, match=r"no encoder weights .*nothing.pth: name the file"):
        load_networks(tmp_path / "nothing.pth", decoder)
    bad = tmp_path / "bad.pth"
    bad.write_bytes(decoder.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"decoder weights .*bad.pth are damaged"):
        load_networks(encoder, bad)
    torch.save({"0.weight": Malicious()}, bad)
    with pytest.raises(ValueError, match="hold more than tensors"):
        load_networks(bad, decoder)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no 1x1 convolution as 0.weight and 0.bias; expected"):
        load_networks(decoder, encoder)
    torch.save([1, 2], bad)
    with pytest.raises(ValueError, match="no 1x1 convolution"):
        load_networks(bad, decoder)
    torch.save(decoder_weights(first=11), bad)
    with pytest.raises(ValueError, match=r"takes 11 channels, but the encoder .* gives 10"):
        load_networks(encoder, bad)
    torch.save({**encoder_weights(), "5.weight": torch.zeros(4, 7, 3, 3)}, bad)
    with pytest.raises(ValueError, match=r"5.weight takes 7 channels, but the layer before gives 4"):
        load_networks(bad, decoder)


def test_style_distances_are_those_of_the_class_means(style_files, tmp_path) -> None:
    networks = load_networks(*style_files)
    images, labels = torch.rand(7, 3, 16, 16, generator=seeded(0)), torch.tensor([0, 1, 2, 1, 0, 2, 2])
    distances = style_distances(networks, [(images[:3], labels[:3]), (images[3:], labels[3:])], 3, resolution=16)
    torch.testing.assert_close(style_distances(networks, [(images, labels.byte())], 3, resolution=16), distances)
    styles = []
    for image in images:
        x, found = image[None], []
        for position, layer in enumerate(networks.encoder):
            x = layer(x)
            if position in (3, 10, 17, 30):  # relu1_1, relu2_1, relu3_1, relu4_1
                flat = x[0].double().flatten(1)
                found += [flat.mean(1), (flat.var(1) + 1e-5).sqrt()]
        styles.append(torch.cat(found))
    means = [torch.stack([s for s, y in zip(styles, labels, strict=True) if y == c]).mean(0) for c in range(3)]
    for i in range(3):
        for j in range(3):
            assert float(distances[i, j]) == pytest.approx(
                float(((means[i] - means[j]) ** 2).mean()), rel=1e-4, abs=1e-9
            )
    torch.save(distances, tmp_path / "styles.pt")
    assert torch.allclose(load_distances(tmp_path / "styles.pt", 3), distances + 2 * torch.eye(3))
    with pytest.raises(ValueError, match=r"must be of shape \(4, 4\), got \(3, 3\)"):
        load_distances(tmp_path / "styles.pt", 4)
    with pytest.raises(FileNotFoundError, match="no style distances"):
        load_distances(tmp_path / "none.pt", 4)
    with pytest.raises(ValueError, match=r"no image of the classes \[3\]"):
        style_distances(networks, [(images, labels)], 4, resolution=16)
    soft = torch.nn.functional.one_hot(labels, 3).float()
    for wrong in (soft, labels.float()):
        with pytest.raises(TypeError, match=r"class indices \(b,\), got torch.float32 of shape \(.*before any mixing"):
            style_distances(networks, [(images, wrong)], 3, resolution=16)
