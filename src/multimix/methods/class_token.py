"""Where a dense loss and the prediction of a vision transformer have different tokens."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from ..models.attention import takes_first_token

if TYPE_CHECKING:
    from ..models import SplitModel


def warn_of_class_token(model: SplitModel) -> None:
    """Warn if a model made by `split` predicts from a token that a loss at the patch tokens does not train."""
    if not torch.compiler.is_compiling() and model.prefix_tokens and takes_first_token(model.pool):
        warnings.warn(
            "the dense loss trains the classifier on patch tokens, but this model predicts from its class token, which "
            "only other mini-batches train (the half with input mixup of dense-multimix). Take a model that averages "
            "the patch tokens: vit-s16-mean, or timm's with global_pool='avg', fc_norm=False",
            stacklevel=2,
        )
