"""A frozen classifier beside the one in training, from Python or from a finished run."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from torch import nn


class Teacher:
    """A classifier that is neither trained nor saved with the method that asks it.

    It is no module itself, so that a method can hold it as an attribute without making its weights the method's.

    Args:
        source: a module that maps pixels in [0, 1] to logits, of which a copy is kept, in evaluation mode; or the
            folder of a run (`multimix train --out`), which is read when the teacher is first asked for.

    Raises:
        TypeError: `source` is neither.

    >>> teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    >>> teacher.on("cpu")(torch.rand(2, 3, 2, 2)).requires_grad
    False
    """

    def __init__(self, source: nn.Module | str | os.PathLike[str]) -> None:
        if not isinstance(source, (nn.Module, str, os.PathLike)):
            raise TypeError(
                f"a teacher is a model or the folder of a run, got {type(source).__name__}: "
                'give teacher=model, or on the command line teacher="runs/erm/seed0"'
            )
        self._module = _frozen(copy.deepcopy(source)) if isinstance(source, nn.Module) else None
        self._folder = None if isinstance(source, nn.Module) else Path(source).expanduser()

    def on(self, device: torch.device | str, dtype: torch.dtype | None = None) -> nn.Module:
        """The classifier, on this device, and from now on in the precision of the images that it is to see, `dtype`.

        Raises:
            FileNotFoundError: the folder is no run, or has no weights yet.
            ValueError: its weights are damaged or do not fit.
            ImportError: reading a run needs packages that are not installed.
        """
        if self._module is None:
            from ..training import load_run  # far above the methods: only those who name a run need it

            assert self._folder is not None
            self._module = _frozen(load_run(self._folder)[1])
        self._module = self._module.to(device=device, dtype=dtype)
        return self._module


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)
