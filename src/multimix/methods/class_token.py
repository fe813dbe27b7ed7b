"""Where a dense loss and the prediction of a vision transformer have different tokens."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.modes import keeping_modes

if TYPE_CHECKING:
    from ..models import SplitModel


def warn_of_class_token(model: SplitModel, features: Tensor) -> None:
    """Warn if the model classifies by tokens that a loss at the patch tokens does not train.

    Args:
        features: (b, t, d), the output of its last stage.
    """
    if not model.prefix_tokens or torch.compiler.is_compiling():
        return
    others = features.detach().clone()
    others[:, : model.prefix_tokens] = 0
    with keeping_modes(model.pool), torch.no_grad():
        model.pool.eval()
        same = torch.equal(model.pool(features), model.pool(others))
    if not same:
        warnings.warn(
            "the dense loss trains the classifier on patch tokens, but this model predicts from its class token, which "
            "only other mini-batches train (the half with input mixup of dense-multimix). Take a model that averages "
            "the patch tokens: vit-s16-mean, or timm's with global_pool='avg', fc_norm=False",
            stacklevel=2,
        )
