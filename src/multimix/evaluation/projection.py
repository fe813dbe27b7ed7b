"""Embeddings in the plane, as in the paper's Figure 3."""

from __future__ import annotations

import random
import warnings
from types import ModuleType

import torch
from torch import Tensor

from ..extras import require
from ..random import draw_seed


def umap(embeddings: Tensor, *, neighbors: int = 15, generator: torch.Generator | None = None) -> Tensor:
    """The UMAP projection (McInnes et al., 2018) of embeddings (N, d) to the plane: (N, 2), float32, on the CPU.

    Args:
        embeddings: (N, d).
        neighbors: size of the neighbourhoods whose shape is kept; below N.
        generator: the same one gives the same picture; the global RNG is left alone.

    Raises:
        ValueError: not more embeddings than `neighbors`, or `neighbors` below 2.
        ImportError: umap-learn is not installed.
    """
    if embeddings.ndim != 2 or not 2 <= neighbors < len(embeddings):
        raise ValueError(
            f"UMAP needs embeddings (N, d) and 2 <= neighbors < N, got {tuple(embeddings.shape)} and {neighbors}"
        )
    seed = int(draw_seed(generator)) % 2**32
    # One thread: with more its result depends on their order.
    projection = _umap_learn().UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1)
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        # It finds the spectral start of separate clusters unusual, which trained classes are.
        warnings.filterwarnings("ignore", module="umap|sklearn")
        try:
            points = projection.fit_transform(embeddings.detach().cpu().float().numpy())
        finally:
            torch.set_num_threads(threads)  # numba, which it runs on, sets all cores, for PyTorch too
    return torch.from_numpy(points).float()


def _umap_learn() -> ModuleType:
    # Its first import, of pynndescent, draws from Python's global generator.
    state = random.getstate()
    try:
        return require("umap", "evaluate")
    finally:
        random.setstate(state)
