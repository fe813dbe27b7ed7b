"""Published weights get their pictures as they want them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image

from multimix.suite.libraries import library_candidate
from multimix.suite.part import Subject


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for k in range(1000):
        (tmp_path / f"n{k:04}").mkdir()
    for k, (width, height) in enumerate([(300, 260), (224, 224), (180, 400)]):
        blocks = generator.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
        picture.save(tmp_path / f"n{k:04}" / "0.png")
    for k in range(3, 1000):
        (tmp_path / f"n{k:04}" / "0.png").symlink_to(tmp_path / "n0000" / "0.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:convnext_tiny", "resized to 236 (bilinear) and cut to 224"),
        ("torchvision:swin_t", "resized to 232 (bicubic) and cut to 224"),
        ("timm:vit_small_patch16_224", "resized to 248 (bicubic) and cut to 224"),
    ],
)
def test_pictures_are_those_of_the_library(
    name: str, told: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multimix.suite.libraries._build", lambda *args, **options: torch.nn.Identity())
    monkeypatch.setattr("multimix.suite.libraries.verified", lambda subject: subject)
    monkeypatch.setattr(Subject, "device", torch.device("cpu"))
    candidate = library_candidate(
        name, data="imagefolder", root=pictures, weights=None, image_size=None, batch_size=3, device="cpu",
        folder=tmp_path,
    )  # fmt: skip
    assert told in candidate.training
    found = next(candidate.load().loader(subset=torch.arange(3)).batches(0)).images
    library, _, rest = name.partition(":")
    if library == "torchvision":
        transform = torchvision.models.get_model_weights(rest).DEFAULT.transforms()
        mean, std = transform.mean, transform.std
    else:
        about = timm.get_pretrained_cfg(rest)
        transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=about.to_dict()))
        mean, std = about.mean, about.std
    shown = [transform(Image.open(pictures / f"n{k:04}" / "0.png").convert("RGB")) for k in range(3)]
    expected = torch.stack(shown) * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
