"""The weights a criterion draws, drawn in the open."""

import torch
from tests.functional.oracles import rng
from torch import Tensor

from multimix.functional import sample_weights
from multimix.random import draw_seed


def drawn(
    n: int,
    b: int,
    seed: int,
    *,
    m: int | None = None,
    alpha: float | tuple[float, float] = (0.5, 2.0),
    positions: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """As documented: one seed is drawn from the generator, here `rng(seed)`, and the weights are made from that."""
    return sample_weights(n, b, m, alpha, positions, rng(int(draw_seed(rng(seed)))), dtype=dtype)
