"""The global generators that a network draws from."""

import torch
from torch import nn

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
