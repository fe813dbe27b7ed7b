"""The optimiser and the learning rate of every step."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn

from .config import Config

__all__ = ["learning_rate", "make_optimizer", "parameter_groups", "warn_of_unreached"]

# Position embeddings and special tokens are added to activations like biases, whatever their number of dimensions.
_NOT_DECAYED = ("pos_embed", "cls_token", "reg_token", "dist_token")


def parameter_groups(module: nn.Module, *, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """The trainable parameters of `module`, in groups with and without weight decay.

    Unless `decay_all`, vectors and scalars (biases, normalisation) and a transformer's position embeddings and
    special tokens are not decayed.

    Raises:
        ValueError: nothing is trainable.

    >>> [group["weight_decay"] for group in parameter_groups(nn.Linear(2, 2), weight_decay=0.1, decay_all=False)]
    [0.1, 0.0]
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spare = not decay_all and (parameter.ndim < 2 or name.endswith(_NOT_DECAYED))
            (spared if spare else decayed).append(parameter)
    if not decayed and not spared:
        raise ValueError("the model and the method have no trainable parameter: set requires_grad on some")
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(module: nn.Module, config: Config, *, device: torch.device) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters of `module`, fused where PyTorch has a fused kernel for `device`."""
    groups = parameter_groups(module, weight_decay=config.weight_decay, decay_all=config.decay_all)
    # Fabric cannot clip the gradients of a fused optimiser that un-scales them itself.
    unscales = config.precision == "16-mixed" and config.clip_norm is not None
    fused = True if device.type in ("cpu", "cuda") and not unscales else None
    if config.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused
        )
    # Not now: parameters may be given another type before the first step, and a state may be loaded.
    fitted = False

    def fit(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal fitted
        if not fitted:
            _fit_state(optimizer)
        fitted = True

    def loaded(optimizer: torch.optim.Optimizer) -> None:
        nonlocal fitted
        fitted = False

    optimizer.register_step_pre_hook(fit)
    optimizer.register_load_state_dict_post_hook(loaded)
    return optimizer


def _fit_state(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter a momentum, and lay what is kept of parameters out in memory as they are.

    PyTorch's fused SGD makes momenta from uninitialised memory in its first step, in which it writes nothing when
    gradients overflow, and fails where only some parameters have one yet. And all fused kernels walk through memory: in
    another layout, as in a checkpoint from before `channels_last`, they pair a weight with the momentum of another.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if group.get("momentum"):  # a first step from 0 gives what PyTorch's first step writes
                state.setdefault("momentum_buffer", torch.zeros_like(parameter, requires_grad=False))
            for name, value in state.items():
                fits = isinstance(value, torch.Tensor) and name != "step" and value.shape == parameter.shape
                if fits and (value.stride() != parameter.stride() or value.dtype != parameter.dtype):
                    state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def warn_of_unreached(config: Config) -> None:
    """Warn where the run ends before its warm-up or its first milestone, as a recipe's does with fewer `epochs`, and
    where the schedule has no milestones but some are set.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warn_of_unreached(Config(data="digits", epochs=20, schedule="multistep", milestones=(50, 75)))
    >>> print(caught[0].message)
    the learning rate never falls: the first of the milestones (50, 75) is not within 20 epochs; set milestones too
    """
    if config.warmup_epochs > config.epochs:
        reached = config.lr * config.epochs / config.warmup_epochs
        warnings.warn(
            f"the learning rate only rises, to {reached:.3g} of {config.lr:.3g}: "
            f"warmup_epochs={config.warmup_epochs:g} is more than epochs={config.epochs}; set warmup_epochs too",
            stacklevel=3,
        )
    if config.schedule in ("step", "multistep") and config.milestones[0] >= config.epochs:
        warnings.warn(
            f"the learning rate never falls: the first of the milestones {config.milestones} is not within "
            f"{config.epochs} epochs; set milestones too",
            stacklevel=3,
        )
    if config.schedule in ("constant", "cosine") and config.milestones:
        warnings.warn(
            f"milestones {config.milestones} do nothing under schedule={config.schedule!r}: "
            "set schedule='multistep', or leave milestones out",
            stacklevel=3,
        )


def learning_rate(config: Config, step: int, batches: int) -> float:
    """The learning rate of optimiser step `step` (from 0), when an epoch has `batches` steps.

    A linear warm-up over `warmup_epochs` reaches `config.lr` at its last step. Milestones are epochs of the whole
    run, warm-up included; the cosine falls from the end of the warm-up to 0 at the end of the run.

    >>> config = Config(data="digits", lr=1.0, epochs=10, schedule="multistep", milestones=(5, 8), warmup_epochs=1)
    >>> [learning_rate(config, step, batches=2) for step in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 1.0]
    >>> round(learning_rate(config, 19, batches=2), 6)
    0.01
    """
    warmup = round(config.warmup_epochs * batches)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, config.epochs * batches - warmup)
        return config.lr * (1 + math.cos(math.pi * done)) / 2
    epoch = step // batches
    if config.schedule == "multistep":
        return config.lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if config.schedule == "step":
        return config.lr * config.gamma ** (epoch // config.milestones[0])
    return config.lr
