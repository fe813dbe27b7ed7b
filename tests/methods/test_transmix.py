"""TransMix: area and attention written out pixel by pixel, and the targets that follow from them."""

import pytest
import torch
from tests.methods.conftest import numbered, seeded
from torch import Tensor, nn

from multimix.methods import CutMix, DenseLoss, TransMix
from multimix.methods.transmix import attention_share
from multimix.models import SplitModel, split
from multimix.models.attention import features_and_attention

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def vit() -> SplitModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3,
                                            num_classes=5)  # fmt: skip
        for module in net.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.2)
        return split(net, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), image_size=32)


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(7, 3, 32, 32, generator=seeded(1))


@pytest.mark.parametrize(("h", "w", "rows", "columns"), [(32, 32, 4, 4), (16, 32, 2, 4), (48, 16, 6, 2), (8, 8, 1, 1)])
def test_attention_share_pixel_by_pixel(h: int, w: int, rows: int, columns: int) -> None:
    attention = torch.rand(3, rows * columns, generator=seeded(h))
    pasted = torch.zeros(h, w)
    pasted[h // 8 : h // 2 + 1, 1 : w // 2 + 3] = 1
    inside, total = torch.zeros(3), torch.zeros(3)
    for y in range(h):
        for x in range(w):
            a = attention[:, (y * rows // h) * columns + x * columns // w]
            inside, total = inside + a * pasted[y, x], total + a
    assert torch.allclose(attention_share(attention, pasted), inside / total, atol=1e-6)


def test_uniform_attention_is_the_area_and_no_attention_is_finite() -> None:
    pasted = torch.zeros(16, 16)
    pasted[2:9, 5:16] = 1
    assert torch.allclose(attention_share(torch.full((2, 16), 0.02), pasted), pasted.mean())
    assert attention_share(torch.zeros(1, 16), pasted).isfinite().all()


def test_targets_are_the_mean_of_area_and_attention(vit, pictures, labels) -> None:
    for seed in range(5):
        mixed, by_area = CutMix().mix(pictures, labels, 5, seeded(seed))
        numbers, _ = CutMix().mix(numbered(7, 32), torch.arange(7), 7, seeded(seed))
        features, layer, soft = TransMix().mixed(vit, pictures, labels, seeded(seed))
        assert layer == vit.depth
        assert torch.equal(features, vit.features(mixed))
        attention = features_and_attention(vit, mixed)[1]
        for i in range(7):
            own, total = 0.0, 0.0
            for k in range(16):
                patch = numbers[i, 0, 8 * (k // 4) : 8 * (k // 4) + 8, 8 * (k % 4) : 8 * (k % 4) + 8]
                own += float(attention[i, k]) * float((patch == i + 1).float().mean())
                total += float(attention[i, k])
            others = numbers[i, 0][numbers[i, 0] != i + 1].unique()
            partner = int(others[0]) - 1 if len(others) else i
            kept = (float((numbers[i, 0] == i + 1).float().mean()) + own / total) / 2
            expected = kept * torch.eye(5)[labels[i]] + (1 - kept) * torch.eye(5)[labels[partner]]
            assert torch.allclose(soft[i], expected, atol=1e-5)
        if not torch.equal(pictures, mixed) and len(by_area.unique()) > 2:
            assert not torch.allclose(soft, by_area, atol=1e-4)


@pytest.mark.parametrize("b", [1, 7])
def test_protocol(vit, pictures, labels, b: int) -> None:
    images, labels, state = pictures[:b], labels[:b], torch.get_rng_state()
    vit.zero_grad()
    out = TransMix()(vit, images, labels, seeded(2))
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vit.parameters())
    assert torch.equal(TransMix()(vit, images, labels, seeded(2)).loss, out.loss)
    one_hot = nn.functional.one_hot(labels, 5).float()
    assert torch.allclose(TransMix()(vit, images, one_hot, seeded(2)).loss, out.loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, torch.rand(7, 3, 32, 32, generator=seeded(1))[:b])
    assert DenseLoss(TransMix())(vit, images, labels, seeded(2)).loss.isfinite()


def test_no_second_forward_pass(vit, pictures, labels, monkeypatch) -> None:
    calls = []
    embed = vit.stages[0].forward
    monkeypatch.setattr(vit.stages[0], "forward", lambda x: calls.append(len(x)) or embed(x))
    TransMix()(vit, pictures, labels, seeded(0))
    assert calls == [7]


def test_patches_that_do_not_tile_the_image() -> None:
    with pytest.raises(ValueError, match="7 patch tokens do not tile images of 32x32"):
        attention_share(torch.rand(1, 7), torch.ones(32, 32))


def test_attention_that_is_not_one_softmax(images) -> None:
    from timm.models import VisionTransformer
    from timm.models.vision_transformer import Attention

    class DiffAttention(Attention):
        """As newer versions of timm have it, with queries and keys in one layer too."""

    vit = VisionTransformer(8, 4, num_classes=3, embed_dim=16, depth=4, num_heads=2)
    vit.blocks[-1].attn = DiffAttention(16, num_heads=2)
    with pytest.raises(ValueError, match="DiffAttention cannot be computed"):
        features_and_attention(split(vit, image_size=8), images)


def test_a_model_without_class_token(model, images, labels) -> None:
    with pytest.raises(ValueError, match="no class token"):
        TransMix()(model, images, labels)


def test_under_autocast(vit, pictures, labels) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = TransMix().mixed(vit, pictures, labels, seeded(0))
    full = TransMix().mixed(vit, pictures, labels, seeded(0))
    assert mixed.targets.dtype == torch.float32
    assert torch.allclose(mixed.targets, full.targets, atol=0.02)
    assert torch.allclose(mixed.targets.sum(1), torch.ones(7), atol=1e-5)
