"""Attention of the class token: against the attention that unfused blocks really use."""

import pytest
import torch
from tests.methods.conftest import seeded
from torch import Tensor, nn

from multimix.models import SplitModel, build, split
from multimix.models.attention import features_and_attention

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

NAMES = [
    "vit-s16",
    "timm:vit_tiny_patch16_224",
    "timm:deit3_small_patch16_224",
    "torchvision:vit_b_16",
]


def images(size: int = 32) -> Tensor:
    return torch.rand(3, 3, size, size, generator=seeded(0))


def scaled_up(model: SplitModel) -> SplitModel:
    """Larger weights, so that the attention of an untrained model is not uniform."""
    generator = seeded(1)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1, generator=generator)
        if isinstance(module, nn.MultiheadAttention):
            nn.init.normal_(module.in_proj_weight, std=0.1, generator=generator)
    return model.eval()


@pytest.fixture
def seen(monkeypatch) -> list[Tensor]:
    """The attention of every block, from softmax itself (timm) or from the weights that PyTorch returns."""
    kept: list[Tensor] = []
    softmax, attend = Tensor.softmax, nn.MultiheadAttention.forward

    def recording(self, *args, **kwargs):
        out = softmax(self, *args, **kwargs)
        if self.ndim == 4:
            kept.append(out)
        return out

    def with_weights(self, q, k, v, need_weights=False):
        out, weights = attend(self, q, k, v, need_weights=True, average_attn_weights=False)
        kept.append(weights)
        return out, None

    monkeypatch.setattr(Tensor, "softmax", recording)
    monkeypatch.setattr(nn.MultiheadAttention, "forward", with_weights)
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_last_block_uses(name: str, seen: list[Tensor]) -> None:
    model = scaled_up(build(name, num_classes=5, image_size=32, generator=seeded(2)))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with torch.no_grad():
        expected_features = model.features(images())
    expected = seen[-1][:, :, 0, model.prefix_tokens :].mean(1)
    features, attention = features_and_attention(model, images())
    assert torch.equal(features, expected_features)
    assert torch.allclose(attention, expected, atol=1e-6)
    assert attention.std(1).min() > 1e-4
    assert not attention.requires_grad


@pytest.mark.parametrize("options", [{"qk_norm": True}, {"qkv_bias": False}, {"reg_tokens": 3, "init_values": 0.5}])
def test_variants_of_the_block_and_fused_kernels(options, seen: list[Tensor]) -> None:
    made = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 5, "num_heads": 3, "num_classes": 4, **options}
    with torch.random.fork_rng(devices=[]):
        model = scaled_up(split(timm.models.VisionTransformer(**made), image_size=32))
    fused = features_and_attention(model, images())
    assert len(seen) == 0
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    model.features(images())
    expected = seen[-1][:, :, 0, model.prefix_tokens :].mean(1)
    assert expected.shape == (3, 16)
    assert torch.allclose(fused[1], expected, atol=1e-6)


def test_a_model_made_by_hand() -> None:
    with torch.random.fork_rng(devices=[]):
        vit = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3)
    model = split(vit, image_size=32).eval()
    by_hand = SplitModel([*model.stages[:-1], nn.Sequential(*list(vit.blocks[3:]), vit.norm)], model.pool,
                         model.classifier, prefix_tokens=1)  # fmt: skip
    results = [features_and_attention(m, images()) for m in (model, by_hand)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["smallnet", "vit-s16-mean"])
def test_models_without_a_class_token_have_no_attention(name: str) -> None:
    model = build(name, num_classes=5, image_size=32)
    with pytest.raises(ValueError, match="no class token as embedding"):
        features_and_attention(model, images())


def test_blocks_of_another_kind_are_refused() -> None:
    with torch.random.fork_rng(devices=[]):
        vit = timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=5,
            block_fn=timm.models.vision_transformer.ParallelThingsBlock,  # as in vit_small_patch16_18x2_224
        )  # fmt: skip
    with pytest.raises(ValueError, match="no block of timm's VisionTransformer or torchvision's"):
        features_and_attention(split(vit, image_size=32), images())
