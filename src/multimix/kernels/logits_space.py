"""The mixed cross entropy and its gradients in one pass over blocks of mixed examples, in the space of the logits.

For a linear classifier, mixing the clean logits equals classifying mixed embeddings, because the weights of
every mixture sum to 1. With logits L (b, c), targets Y (b, c) and weights w_k of the mixtures lam_k,

    loss = sum_k w_k [(lam_k Y 1) lse(lam_k L) - (lam_k Y).(lam_k L)]
         = sum_k w_k (lam_k Y 1) lse(lam_k L) - <G, L Y'>,        G = Lambda' diag(w) Lambda  (b x b)

so that mixed embeddings (n x d) do not exist, and mixed targets (n x c) need not. The gradient in the logits,
Lambda' diag(w lam Y 1) softmax(Lambda L) - G Y, is accumulated in the same pass: extra memory is one block, whatever n
is. The mixed targets of a block are formed where that is less work than G: with far fewer classes than examples, or,
where they are sums of weights and no product, up to twice as many.

All is linear in logits and lse but for exp, so it is computed in bits: logits over log 2 and powers of 2, which take a
third of the time of exp on some processors. Only what leaves is multiplied by log 2.

Shape suffixes: P positions, N mixed examples, B batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.loss import MASKED
from .targets import Targets

# Mixed logits held at a time: a block stays in the cache, of a GPU too (16 MiB in float32, not measured there). With
# few classes, scaled weights are what takes memory on the CPU, and more mixtures at a time are no faster.
_BLOCK_CPU, _BLOCK_ACCELERATOR, _MIXTURES_CPU = 2**18, 2**22, 1024

_DEEPEST = -86.0  # in bits


class Accumulator:
    """Running sums of the loss and of its gradient in the logits over blocks of mixtures."""

    def __init__(self, logits_PBC: Tensor, targets: Tensor, *, gradient: bool) -> None:
        # No constant added to the logits of an example changes the loss: without it, less is lost to rounding.
        masked_PBC = logits_PBC.clamp(min=MASKED)  # first: of an example of -inf alone the difference would be NaN
        self.logits_PBC = masked_PBC.sub_(masked_PBC.amax(-1, keepdim=True)).div_(math.log(2))
        # Mixed logits lie between the smallest of these and 0: no maximum is needed where no power underflows there.
        # Elsewhere than on the CPU, asking would stall the device.
        self.shallow = logits_PBC.device.type == "cpu" and bool(self.logits_PBC.amin() > _DEEPEST)
        P, B, C = logits_PBC.shape
        self.targets = Targets(targets, C, logits_PBC.dtype)
        self.loss_P = logits_PBC.new_zeros(P)
        self.grad_PBC = logits_PBC.new_zeros(P, B, C) if gradient else None
        few = C <= 2 * B if self.targets.summed else 2 * C < B
        self.gram_PBB = None if few else logits_PBC.new_zeros(P, B, B)
        self.memory: dict[str, Tensor] = {}

    def position_blocks(self, n: int) -> list[slice]:
        """Positions to be added together when each has `n` mixtures."""
        P, _, C = self.logits_PBC.shape
        step = max(1, _mixtures(self.logits_PBC, C) // max(1, n))
        return [slice(p, min(p + step, P)) for p in range(0, P, step)]

    def add(self, where: slice, lam_PNB: Tensor, w_PN: Tensor, *, details: bool = False) -> Details | None:
        """Add the mixtures `lam_PNB`, weighted by `w_PN`, at the positions `where`."""
        N, C = lam_PNB.shape[1], self.logits_PBC.shape[2]
        step = max(1, _mixtures(lam_PNB, C) // lam_PNB.shape[0])
        parts = [
            self._add_block(where, lam_PNB[:, start : start + step], w_PN[:, start : start + step], details)
            for start in range(0, max(1, N), step)
        ]
        return Details.cat(parts, dim=1) if details else None

    def _add_block(self, where: slice, lam_PNB: Tensor, w_PN: Tensor, details: bool) -> Details | None:
        logits_PBC, w_PN1, targets = self.logits_PBC[where], w_PN[..., None], self.targets.at(where)
        z_PNC = self._held("z", (*lam_PNB.shape[:2], logits_PBC.shape[2]))
        torch.bmm(lam_PNB, logits_PBC, out=z_PNC)
        clean_z_PNC = z_PNC.clone() if details else None
        fit_PN: Tensor | float = 0.0
        if self.gram_PBB is None:
            weighted_y_PNC = targets.to_classes(lam_PNB, self._held("y", z_PNC.shape)).mul_(w_PN1)
            fit_PN = torch.mul(weighted_y_PNC, z_PNC, out=self._held("products", z_PNC.shape)).sum(-1)
        top_PN1 = None if self.shallow else z_PNC.amax(-1, keepdim=True)
        exp_PNC = z_PNC.exp2_() if top_PN1 is None else z_PNC.sub_(top_PN1).exp2_()
        total_PN = exp_PNC.sum(-1)
        lse_PN = total_PN.log2() if top_PN1 is None else total_PN.log2().add_(top_PN1.squeeze(-1))
        mass_PN = targets.mass(lam_PNB)
        w_mass_PN = w_PN * mass_PN
        self.loss_P[where] += (w_mass_PN * lse_PN - fit_PN).sum(-1)
        scale_PN1 = (w_mass_PN / total_PN)[..., None]
        if self.gram_PBB is None:
            if self.grad_PBC is not None:
                self.grad_PBC[where].baddbmm_(lam_PNB.mT, exp_PNC.mul_(scale_PN1).sub_(weighted_y_PNC))
        else:
            scaled_PNB = torch.mul(lam_PNB, w_PN1, out=self._held("scaled", lam_PNB.shape))
            self.gram_PBB[where].baddbmm_(scaled_PNB.mT, lam_PNB)
            if self.grad_PBC is not None:
                torch.mul(lam_PNB, scale_PN1, out=scaled_PNB)
                self.grad_PBC[where].baddbmm_(scaled_PNB.mT, exp_PNC)
        if clean_z_PNC is None:
            return None
        softmax_PNC = (clean_z_PNC - lse_PN[..., None]).exp2_()
        y_PNC = targets.to_classes(lam_PNB)
        term_PN = mass_PN * lse_PN - (y_PNC * clean_z_PNC).sum(-1)
        slope_PNB = (mass_PN[..., None] * softmax_PNC - y_PNC) @ logits_PBC.mT - targets.of_classes(clean_z_PNC)
        slope_PNB.addcmul_(lse_PN[..., None], targets.mass_B[..., None, :])
        return Details(term_PN * math.log(2), slope_PNB * (w_PN1 * math.log(2)))

    def _held(self, name: str, shape: Sequence[int]) -> Tensor:
        """Memory kept from block to block: on the CPU, taking fresh memory costs as much time as filling it."""
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory[name] = self.logits_PBC.new_empty(size)
        return self.memory[name][:size].view(shape)

    def finish(self) -> tuple[Tensor, Tensor | None]:
        """Losses (P,) and gradients (P, B, C): what the targets contribute, through the Gram matrices."""
        if self.gram_PBB is not None:
            affinity_PBB = self.targets.of_classes(self.logits_PBC)
            self.loss_P -= (self.gram_PBB * affinity_PBB).sum((1, 2))
            if self.grad_PBC is not None:
                self.targets.subtract_classes(self.grad_PBC, self.gram_PBB)
        return self.loss_P * math.log(2), self.grad_PBC


class Details(NamedTuple):
    """What gradients in the interpolation weights need: the loss terms (P, N) and their slopes (P, N, B)."""

    terms_PN: Tensor
    grad_lam_PNB: Tensor

    @staticmethod
    def cat(parts: list[Details | None], *, dim: int) -> Details:
        present = [part for part in parts if part is not None]
        return Details(*(torch.cat(tensors, dim=dim) for tensors in zip(*present, strict=True)))


def _mixtures(tensor: Tensor, classes: int) -> int:
    """How many mixtures to hold at a time on the device of `tensor`."""
    if tensor.device.type == "cpu":
        return min(_BLOCK_CPU // classes, _MIXTURES_CPU)
    return _BLOCK_ACCELERATOR // classes
