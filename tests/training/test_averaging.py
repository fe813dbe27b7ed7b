"""The moving average against its recurrence in float64."""

from __future__ import annotations

import torch
from torch import nn

from multimix.models.split_model import SplitModel
from multimix.training.averaging import MovingAverage


def small_net() -> SplitModel:
    return SplitModel(
        [nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))],
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(2, 3),
    )


def test_follows_the_recurrence_and_averages_statistics():
    generator = torch.Generator().manual_seed(0)
    net = small_net()
    average = MovingAverage(net, decay=0.6)
    names = ["stages.0.0.weight", "stages.0.1.running_var", "classifier.bias"]
    expected: dict[str, torch.Tensor] = {}
    for update in range(30):
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(update)
        average.update(net)
        keep = min(0.6, update / (update + 9))
        for name in names:
            now = net.state_dict()[name].double()
            expected[name] = keep * expected.get(name, now) + (1 - keep) * now
    for name in names:
        torch.testing.assert_close(average.model.state_dict()[name].double(), expected[name], atol=1e-6, rtol=1e-5)
    assert average.model.state_dict()["stages.0.1.num_batches_tracked"] == 29


def test_state_round_trip_continues_identically():
    net, other = small_net(), small_net()
    one = MovingAverage(net, decay=0.9)
    one.update(net)
    two = MovingAverage(other, decay=0.9)
    two.load_state_dict(one.state_dict())
    for average in (one, two):
        average.update(other)
    for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
