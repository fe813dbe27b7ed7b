"""Inference: every example once, in order, in evaluation mode, with the model left as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from multimix.evaluation import embeddings, predict
from multimix.models import SplitModel


def build() -> SplitModel:
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))]
    return SplitModel(stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 3))


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(23, 1, 6, 6, generator=g), torch.randint(3, (23,), generator=g)


def test_predict_equals_one_pass_in_evaluation_mode(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (images, labels) = build(), data
    logits, found = predict(model, DataLoader(TensorDataset(images, labels), batch_size=5))
    assert torch.equal(found, labels)
    with torch.no_grad():
        expected = model.eval()(images)
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad


def test_embeddings_are_what_the_classifier_sees(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (images, labels) = build(), data
    z, found = embeddings(model, [(images[:9], labels[:9], {}), (images[9:], labels[9:], {})])
    logits, _ = predict(model, [(images, labels)])
    torch.testing.assert_close(model.classifier(z.clone()), logits)
    assert torch.equal(found, labels)


def test_what_is_returned_is_float32_whatever_the_model_computes_in(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        batch = data[0].to(dtype), data[1]
        assert predict(build().to(dtype), [batch])[0].dtype == torch.float32
        assert embeddings(build().to(dtype), [batch])[0].dtype == torch.float32


def test_a_loader_with_batches_is_read_from_its_start(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    class Loader:
        calls: list[tuple[int, int]] = []  # noqa: RUF012

        def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            self.calls.append((epoch, start))
            yield data

    assert torch.equal(predict(build(), Loader())[1], data[1])
    assert Loader.calls == [(0, 0)]


def test_modes_and_statistics_are_left_as_they_were(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = build().train()
    model.stages[0][1].eval()  # a frozen batch normalisation inside a training model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong_channels = torch.rand(2, 5, 6, 6)
    rng = torch.get_rng_state()
    predict(model, [data])
    with pytest.raises(RuntimeError):
        predict(model, [(wrong_channels, data[1][:2])])
    assert model.training
    assert model.stages[0][0].training
    assert not model.stages[0][1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(ValueError, match="yields no batch"):
        predict(build(), [])
    with pytest.raises(TypeError, match=r"got a tensor of shape \(2, 3, 8, 8\): pass \[\(images, labels\)\]"):
        predict(build(), torch.rand(2, 3, 8, 8))  # type: ignore[arg-type]
