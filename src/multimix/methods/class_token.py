"""Where a dense loss and the prediction of a vision transformer have different tokens."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from ..models import SplitModel
from ..models.attention import takes_first_token

if TYPE_CHECKING:
    from .dense_loss import DenseLoss
    from .multimix import DenseMultiMix


def warn_of_class_token(method: DenseMultiMix | DenseLoss, model: SplitModel) -> None:
    """Warn, once for a method, if a model made by `split` predicts from a token that its loss does not train."""
    if method._looked:
        return
    method._looked = True
    if not torch.compiler.is_compiling() and model.prefix_tokens and takes_first_token(model.pool):
        warnings.warn(
            "the dense loss trains the classifier on patch tokens, but this model predicts from its class token, which "
            "only other mini-batches train (the half with input mixup of dense-multimix). Take a model that averages "
            "the patch tokens: vit-s16-mean, or timm's with global_pool='avg', fc_norm=False",
            stacklevel=2,
        )
