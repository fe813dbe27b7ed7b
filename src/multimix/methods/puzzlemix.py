"""PuzzleMix (Kim, Choo and Song, ICML 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..extras import require
from ..functional._checks import check_count, check_counts, check_not_negative, check_positive, check_share
from .base import Mixed
from .graph_cut import labelling
from .pairs import Pairing, host
from .saliency import SaliencyMixer
from .transport import block_transport, move_blocks


class PuzzleMix(SaliencyMixer):
    """Keep of two images what is salient, in smooth regions, and move salient blocks to where they are kept.

    A mask with values 0, 1 / (n_labels - 1), .., 1 on a grid of blocks minimises the saliency that is lost, plus a
    smoothness term that is dearer where the images differ across the seam, minus eta log p(mask | lambda) per block,
    lambda ~ Beta(alpha, alpha); exactly, by a maximum flow. Then the blocks of each image are permuted by an optimal
    assignment. One lambda, one grid and one permutation of the images per mini-batch. Targets are mixed by the mean of
    the mask. Needs `multimix[methods]`.

    Args:
        alpha, beta, gamma, eta: of lambda, of smoothness, of its dependence on the pixels (0 to 1), of the prior.
        n_labels: number of mask values.
        neigh_size: side in pixels of the cells that are compared across a seam.
        transport, t_eps: whether blocks move, and the price of a move across the image.
        t_size: side in pixels of the blocks that move, where the mask's are larger; None: the mask's.
        blocks: grids to draw from, blocks per side; those finer than the image are left out. A number stands for one.
        clean_lam: weight of the clean images' cross entropy. At 0 (the default) the saliency is computed in evaluation
            mode and batch statistics stay as they are; above it the saliency pass is the clean training pass.
            `DenseLoss` ignores the clean term.

    Defaults are those of the authors' code.

    >>> from multimix.models import SplitModel
    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(192, 3))
    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> PuzzleMix().mixed(net, images, labels, torch.Generator().manual_seed(0)).features.shape
    torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        beta: float = 1.2,
        gamma: float = 0.5,
        eta: float = 0.2,
        neigh_size: int = 4,
        n_labels: int = 3,
        transport: bool = True,
        t_eps: float = 0.8,
        t_size: int | None = None,
        blocks: int | Sequence[int] = (2, 4, 8, 16),
        clean_lam: float = 0.0,
    ) -> None:
        super().__init__(clean_lam)
        self.alpha = check_positive("alpha", alpha)
        self.beta, self.eta = check_not_negative("beta", beta), check_not_negative("eta", eta)
        self.gamma = check_share("gamma", gamma)  # beyond, the energy is not convex
        self.t_eps = check_not_negative("t_eps", t_eps)
        self.neigh_size = check_count("neigh_size", neigh_size)
        self.n_labels = check_count("n_labels", n_labels, least=2)
        self.transport = transport
        self.t_size = None if t_size is None else check_count("t_size", t_size)
        self.blocks = check_counts("blocks", blocks)

    @torch.no_grad()
    def mix_salient(self, images: Tensor, soft: Tensor, saliency: Tensor, generator: torch.Generator | None) -> Mixed:
        b, _, height, width = images.shape
        fitting = [blocks for blocks in self.blocks if blocks <= min(height, width)]
        if not fitting:
            raise ValueError(f"images of {height} x {width} are smaller than every grid: blocks is {self.blocks}")
        generator = host(generator)
        pairing = Pairing.draw(b, self.alpha, generator, images.device)
        blocks = fitting[int(torch.randint(len(fitting), (), generator=generator))]

        side_h, side_w = math.ceil(height / blocks), math.ceil(width / blocks)
        padding = (0, side_w * blocks - width, 0, side_h * blocks - height)
        padded = nn.functional.pad(images, padding, mode="replicate") if any(padding) else images
        salient = nn.functional.pad(saliency[:, None], padding)
        cells = (math.gcd(side_h, self.neigh_size), math.gcd(side_w, self.neigh_size))
        partner = pairing.partner.cpu()
        # The optimisation sees block averages only, which go to the host in one transfer each.
        mask = self._mask(
            _normalized(nn.functional.avg_pool2d(salient, (side_h, side_w))[:, 0].double().cpu()),
            nn.functional.avg_pool2d(padded.float(), cells).double().cpu(), partner, pairing.lam, blocks,
        )  # fmt: skip

        first, second = padded, padded[pairing.partner]
        if self.transport:
            tile_h, tile_w = (side_h, side_w) if self.t_size is None else (
                math.gcd(side_h, self.t_size), math.gcd(side_w, self.t_size))  # fmt: skip
            rows, columns = side_h * blocks // tile_h, side_w * blocks // tile_w
            moved = _normalized(nn.functional.avg_pool2d(salient, (tile_h, tile_w))[:, 0].cpu())
            fine = _enlarge(mask, side_h // tile_h, side_w // tile_w)
            seen = torch.zeros(rows, columns, dtype=torch.bool)  # what is all padding will be cut off
            seen[: math.ceil(height / tile_h), : math.ceil(width / tile_w)] = True
            to_first = block_transport(moved, (fine > 0) & seen, self.t_eps).to(images.device)
            to_second = block_transport(moved[partner], (fine < 1) & seen, self.t_eps).to(images.device)
            first = move_blocks(first, to_first, rows, columns)
            second = move_blocks(second, to_second, rows, columns)

        weight = _enlarge(mask, side_h, side_w)[:, :height, :width].to(images.device, images.dtype)
        mixed = torch.lerp(second[..., :height, :width], first[..., :height, :width], weight[:, None])
        share = weight.to(soft.dtype).mean((1, 2))[:, None]
        return Mixed(mixed, 0, torch.lerp(soft[pairing.partner], soft, share))

    def _mask(self, saliency: Tensor, cells: Tensor, partner: Tensor, lam: float, blocks: int) -> Tensor:
        """The optimal mask (b, blocks, blocks), from each image's saliency per block and its cells' mean pixels."""
        require("numpy", "methods")
        unary, down, right = self._energy(saliency, cells, partner, lam, blocks)
        labels = labelling(unary.numpy(), down.numpy(), right.numpy())
        return 1 - torch.from_numpy(labels).float() / (self.n_labels - 1)

    def _energy(
        self, saliency: Tensor, cells: Tensor, partner: Tensor, lam: float, blocks: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of `labelling`; label i stands for the mask value 1 - i / (n_labels - 1)."""
        levels, beta = self.n_labels - 1, self.beta / blocks / 16
        other = cells[partner]
        lost_first, lost_second = saliency.clone(), saliency[partner]
        weights = []
        for axis in (1, 2):
            # psi_xy: difference across a seam whose two sides show x and y (1: the image, 0: its partner). As a
            # function of the mask it is half of it linear in each side and the rest quadratic in their difference.
            psi_11, psi_10 = _seam(cells, cells, blocks, axis), _seam(cells, other, blocks, axis)
            psi_01, psi_00 = _seam(other, cells, blocks, axis), _seam(other, other, blocks, axis)
            half = beta * self.gamma / 2
            lost_second.narrow(axis, 0, blocks - 1).add_(half * (psi_10 + psi_11))
            lost_second.narrow(axis, 1, blocks - 1).add_(half * (psi_01 + psi_11))
            lost_first.narrow(axis, 0, blocks - 1).add_(half * (psi_01 + psi_00))
            lost_first.narrow(axis, 1, blocks - 1).add_(half * (psi_10 + psi_00))
            weights.append((beta + half * (psi_10 + psi_01 - psi_11 - psi_00)).clamp_min(0) / levels**2)
        mask = torch.linspace(1, 0, levels + 1, dtype=torch.float64)
        likelihood = [math.comb(levels, i) * lam ** (levels - i) * (1 - lam) ** i for i in range(levels + 1)]
        prior = -self.eta / blocks**2 * torch.tensor(likelihood, dtype=torch.float64).add(1e-8).log()
        unary = lost_second[..., None] * mask + lost_first[..., None] * (1 - mask) + prior
        return unary, weights[0], weights[1]


def _seam(first: Tensor, second: Tensor, blocks: int, axis: int) -> Tensor:
    """Mean difference between the last cells of each block of `first` and the first cells of the next block of
    `second`, below (axis 1) or to the right (axis 2): (b, blocks - 1, blocks) or (b, blocks, blocks - 1)."""
    if axis == 2:
        return _seam(first.mT, second.mT, blocks, 1).mT
    step, run = first.shape[2] // blocks, first.shape[3] // blocks
    gap = (first[:, :, step - 1 : -1 : step] - second[:, :, step::step]).abs().mean(1)
    return gap.unflatten(2, (blocks, run)).mean(3)


def _normalized(saliency: Tensor) -> Tensor:
    """Sums to 1 for each image; uniform where there is none."""
    total = saliency.sum((1, 2), keepdim=True)
    return torch.where(total > 0, saliency / total.clamp_min(1e-30), 1 / saliency[0].numel())


def _enlarge(mask: Tensor, height: int, width: int) -> Tensor:
    return mask.repeat_interleave(height, 1).repeat_interleave(width, 2)
