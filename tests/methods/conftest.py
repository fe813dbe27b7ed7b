"""A small model whose stages can be told apart, and a batch of images that carry their own number."""

from pathlib import Path

import pytest
import torch
from tests.methods.style_files import decoder_weights, encoder_weights
from torch import Tensor, nn

from multimix.models import SplitModel


@pytest.fixture
def model() -> SplitModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stages = [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), nn.Conv2d(4, 6, 3, stride=2, padding=1)]
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return SplitModel(stages, pool, nn.Linear(6, 5), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0, 1])


@pytest.fixture(scope="session")
def style_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Encoder and decoder of style transfer, small and random."""
    directory = tmp_path_factory.mktemp("adain")
    torch.save(encoder_weights(), directory / "vgg_normalised.pth")
    torch.save(decoder_weights(), directory / "decoder.pth")
    return directory / "vgg_normalised.pth", directory / "decoder.pth"


def numbered(b: int, size: int = 16) -> Tensor:
    """Image i is i + 1 everywhere, so that mixing weights can be read off the pixels."""
    return torch.arange(1.0, b + 1).view(b, 1, 1, 1).expand(b, 3, size, size).clone()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
