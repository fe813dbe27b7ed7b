"""`Config`: valid values only, and a JSON form that loses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimix.training import Config

BASE = Config(data="digits", model="smallnet")


@given(
    seed=st.integers(0, 2**31),
    lr=st.floats(1e-9, 1e3),
    milestones=st.lists(st.integers(1, 10**4), unique=True, max_size=5).map(lambda m: tuple(sorted(m))),
    root=st.none() | st.just(Path("some") / "where"),
    clip=st.none() | st.floats(0.1, 10),
)
def test_json_round_trip_is_exact(seed, lr, milestones, root, clip):
    config = replace(BASE, seed=seed, lr=lr, milestones=milestones, data_root=root, clip_norm=clip)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0 and finite, got nan"),
        ({"data": "cifar"}, "data must be digits, .* got 'cifar': did you mean cifar10"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"schedule": "multistep"}, "needs milestones"),
        ({"milestones": (5, 5)}, "increasing"),
        ({"milestones": (0, 5)}, "from 1 on"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"batch_size": 10, "accumulate": 4}, "multiple of accumulate=4"),
        ({"cuda_graphs": True}, "cuda_graphs needs compile=True and accumulate=1, got compile=False"),
        ({"cuda_graphs": True, "compile": True, "accumulate": 2}, "and accumulate=2"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"accelerator": "gpu"}, "accelerator must be auto, cpu, cuda or mps"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BASE, **change)


def test_a_list_of_milestones_is_the_same_configuration():
    config = replace(BASE, schedule="multistep", milestones=[50, 75])
    assert config == replace(BASE, schedule="multistep", milestones=(50, 75))
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match="unknown configuration field 'epoch': did you mean epochs"):
        Config.from_json({"data": "digits", "epoch": 3})
