"""The global generators that a network draws from."""

from pathlib import Path

import pytest
import torch
from torch import nn

from multimix.training import Config, train
from multimix.training.repeatability import borrowed_global_state, seed_global_state


def test_dropout_draws_as_after_torchs_own_seeding() -> None:
    x = torch.ones(1000)
    with borrowed_global_state(deterministic=False):
        torch.manual_seed(5)
        expected = nn.functional.dropout(x)
        seed_global_state(5, torch.device("cpu"))
        assert torch.equal(nn.functional.dropout(x), expected)
        assert not torch.equal(nn.functional.dropout(x), expected)


def test_the_state_is_given_back() -> None:
    before = torch.get_rng_state()
    with borrowed_global_state(deterministic=False):
        seed_global_state(5, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_determinism_that_comes_too_late_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Config(data="digits", model="smallnet", epochs=1, deterministic=True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")  # which conftest.py sets in time
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match=r"has used the GPU before: set CUBLAS_WORKSPACE_CONFIG=:4096:8 in"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
