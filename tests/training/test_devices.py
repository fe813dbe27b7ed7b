"""Which device is taken where there are several, or one that PyTorch has no code for. Nothing here needs a GPU."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from multimix import recipes
from multimix.machine import usable_cuda
from multimix.training.devices import connect, default_device, use_device
from multimix.training.repeatability import seed_global_state


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two GPUs whose compute capability can be set, of which the second is in use."""
    machine = SimpleNamespace(capability=(9, 0), current=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: machine.current)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: setattr(machine, "current", index))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: machine.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "compute_120"])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return machine


def test_a_gpu_that_pytorch_was_not_built_for_is_left_alone(gpus) -> None:
    for capability, usable in (
        ((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 6), True), ((9, 0), True), ((10, 0), False),
        ((12, 1), True),
    ):  # fmt: skip
        gpus.capability = capability
        assert usable_cuda() is usable
        assert default_device(recipes.get("digits")) == ("cuda" if usable else "cpu")
    gpus.capability = (6, 1)
    assert connect(recipes.get("digits")).device.type == "cpu"
    with pytest.raises(ValueError, match="cuda:1: this build of PyTorch has no code for GeForce GTX 1080: use"):
        use_device("cuda:1")


def test_apples_gpus_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert connect(replace(recipes.get("digits"), accelerator="auto")).device.type in ("cpu", "cuda")


def test_one_process_trains_on_the_device_in_use(gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr(
        "lightning_fabric.Fabric", lambda **options: asked.update(options) or SimpleNamespace(device="")
    )
    config = replace(recipes.get("digits"), accelerator="cuda")
    connect(config)
    assert asked["devices"] == [1]
    use_device("cuda")
    connect(config)
    assert asked["devices"] == [0]
    connect(replace(config, devices=2))
    assert asked["devices"] == 2


def test_the_generator_of_that_device_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = [torch.Generator(), torch.Generator()]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    state = torch.get_rng_state()
    seed_global_state(7, torch.device("cuda:1"))
    assert generators[1].initial_seed() == 7 != generators[0].initial_seed()
    torch.set_rng_state(state)


def test_one_process_does_not_look_for_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise RuntimeError("cannot load MPI library")  # what mpi4py does without one

    monkeypatch.setattr("lightning_fabric.plugins.environments.mpi.MPIEnvironment.detect", broken)
    assert connect(replace(recipes.get("digits"), accelerator="cpu")).world_size == 1
