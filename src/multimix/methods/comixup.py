"""Co-Mixup (Kim, Choo, Jeong and Song, ICLR 2021).

Shape suffixes: P parts of the mini-batch, O outputs and N inputs of a part (both part_size), H and W blocks, K labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..functional import sample_weights
from ..functional._checks import check_count, check_not_negative, check_positive, check_share
from .base import Mixed
from .expansion import expand, grid_energy
from .pairs import host
from .saliency import SaliencyMixer


class CoMixup(SaliencyMixer):
    """Mix all images of a part of the mini-batch jointly: each output takes from the inputs what is salient, in smooth
    regions, and the outputs differ from each other.

    Every block of every output shows one input, or half and half two of them. The masks minimise the saliency that is
    not shown, a smoothness term, a prior that draws some inputs more often, and a penalty for inputs that other
    outputs show already; one output after the other is optimised with the rest fixed, `iterations` times. The parts are
    optimised side by side. Targets are mixed by the shares of the inputs in the output's pixels.

    Args:
        alpha: Dirichlet concentration of the prior over inputs.
        m_beta, gamma, eta: weights of smoothness, of the penalty for inputs shown elsewhere, of the prior.
        thres: an input is penalised once other outputs show more than this many whole images of it.
        omega: share of the distance between most salient positions in the penalty, so that inputs that go together
            are those whose salient parts do not overlap.
        part_size: images mixed jointly.
        blocks: blocks per side of the image, at most 5.
        iterations: rounds over the outputs.
        clean_lam: weight of the clean cross entropy, which also gives the saliency; at 0 that is computed in
            evaluation mode.

    Defaults are those of the authors' code.

    >>> from multimix.models import SplitModel
    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(192, 3))
    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> CoMixup().mixed(net, images, labels, torch.Generator().manual_seed(0)).features.shape
    torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        alpha: float = 2.0,
        *,
        m_beta: float = 0.32,
        gamma: float = 1.0,
        thres: float = 0.83,
        eta: float = 0.05,
        omega: float = 0.001,
        part_size: int = 20,
        blocks: int = 4,
        iterations: int = 4,
        clean_lam: float = 1.0,
    ) -> None:
        super().__init__(clean_lam)
        if check_count("blocks", blocks) > 5:
            raise ValueError(f"blocks must be at most 5, for the time grows as 4 ** blocks, got {blocks}")
        self.alpha = check_positive("alpha", alpha)
        self.m_beta, self.gamma = check_not_negative("m_beta", m_beta), check_not_negative("gamma", gamma)
        self.thres, self.eta = check_not_negative("thres", thres), check_not_negative("eta", eta)
        self.omega = check_share("omega", omega)
        self.part_size, self.blocks = check_count("part_size", part_size), blocks
        self.iterations = check_count("iterations", iterations)

    @torch.no_grad()
    def mix_salient(self, images: Tensor, soft: Tensor, saliency: Tensor, generator: torch.Generator | None) -> Mixed:
        b, _, height, width = images.shape
        grid = (min(self.blocks, height), min(self.blocks, width))
        pooled = nn.functional.adaptive_avg_pool2d(saliency[:, None], grid)[:, 0].double().cpu()
        peaks = _peaks(saliency).cpu()
        parts = torch.arange(b).split(self.part_size)
        size = len(parts[0])
        cost_PNHW = pooled.new_full((len(parts), size, *grid), 1e3)  # places of a last, smaller part that stay empty
        compatible_PNN = pooled.new_zeros(len(parts), size, size)
        generator = host(generator)
        for p, part in enumerate(parts):
            n = len(part)
            total = pooled[part].sum((1, 2), keepdim=True)
            shown = torch.where(total > 0, pooled[part] / total.clamp_min(1e-30), 1 / math.prod(grid))
            prior = sample_weights(1, n, alpha=self.alpha, generator=generator, dtype=torch.float64)[0]
            cost_PNHW[p, :n] = -shown - self.eta / math.prod(grid) * (prior + 1e-8).log()[:, None, None]
            apart = (peaks[part, None] - peaks[part]).abs().sum(-1).double()
            apart = apart / apart.sum().clamp_min(1) * n
            compatible_PNN[p, :n, :n] = (1 - self.omega) * torch.eye(n).double() + self.omega * apart
        sizes = torch.tensor([len(part) for part in parts])
        masks = self.masks(cost_PNHW, compatible_PNN, sizes, generator).to(images.device, images.dtype)
        mixed, targets = [], []
        for mask, part in zip(masks, parts, strict=True):
            n, first = len(part), int(part[0])
            mask_ON = nn.functional.interpolate(mask[:n, :n], (height, width))
            mixed.append(torch.einsum("onhw,nchw->ochw", mask_ON, images[first : first + n]))
            targets.append(mask_ON.to(soft.dtype).mean((2, 3)) @ soft[first : first + n])
        return Mixed(torch.cat(mixed), 0, torch.cat(targets))

    def masks(self, cost_PNHW: Tensor, compatible_PNN: Tensor, sizes: Tensor, generator: torch.Generator) -> Tensor:
        """Optimised masks (P, O, N, H, W), which sum to 1 over N, from cost, compatibility and the parts' sizes (P,).

        Each step lowers, or leaves, an output's part of the energy, the penalty being linear in it; without the
        threshold (and before the last round tells equal outputs apart) the energy of the whole part is lowered too.
        """
        parts, size, rows, columns = cost_PNHW.shape
        positions = rows * columns
        real = (torch.arange(size) < sizes[:, None]).to(cost_PNHW.dtype)
        uniform = torch.rand(parts, size, rows, columns, generator=generator, dtype=torch.float32)
        drawn = uniform * sizes.view(-1, 1, 1, 1)
        first = nn.functional.one_hot(drawn.long(), size)
        masks = first.movedim(-1, 2).to(cost_PNHW.dtype) * real[:, :, None, None, None]
        counts = masks.sum((3, 4))
        extra = torch.zeros_like(counts)
        for iteration in range(self.iterations):
            for o in range(size):
                elsewhere = (compatible_PNN @ (counts.sum(1) - counts[:, o])[..., None])[..., 0]
                over = torch.where(elsewhere > self.thres * positions, elsewhere, 0)
                penalty = (2 * over + extra[:, o]) * self.gamma / positions
                cost = cost_PNHW + penalty[..., None, None]
                masks[:, o] = self._best(cost, masks[:, o], soft=iteration > 0) * real[:, o, None, None, None]
                counts[:, o] = masks[:, o].sum((2, 3))
            if iteration == self.iterations - 2:
                extra = _tell_apart(counts > 0)
        return masks

    def _best(self, cost_PNHW: Tensor, mask_PNHW: Tensor, *, soft: bool) -> Tensor:
        """The mask of one output of every part, of no more energy than `mask_PNHW`."""
        parts, size, rows, columns = cost_PNHW.shape
        label_PKN = torch.eye(size, dtype=cost_PNHW.dtype).repeat(parts, 1, 1)
        if soft and size > 1:
            # Half and half of any two of the three inputs that the output shows most of.
            count, top = mask_PNHW.sum((2, 3)).topk(min(3, size))
            pair = torch.combinations(torch.arange(top.shape[1]), 2)
            halves = (label_PKN[0][top[:, pair[:, 0]]] + label_PKN[0][top[:, pair[:, 1]]]) / 2
            usable = (count[:, pair] > 0).all(2)
            # In place of a half that the output does not show: a label it has already.
            halves = torch.where(usable[..., None], halves, label_PKN[:, :1])
            label_PKN = torch.cat([label_PKN, halves], 1)
        inner = label_PKN @ label_PKN.mT
        norm = inner.diagonal(dim1=1, dim2=2)
        smoothness = self.m_beta / (rows * columns)
        distance = smoothness * ((norm[:, :, None] + norm[:, None]) / 2 - inner)
        unary = (label_PKN @ cost_PNHW.flatten(2)).unflatten(2, (rows, columns)).movedim(1, -1).contiguous()
        # Two starts: the mask as it is (nearest label), and every position by itself.
        matching = (label_PKN @ mask_PNHW.flatten(2) - norm[..., None] / 2).argmax(1).view(parts, rows, columns)
        alone = unary.argmin(-1)
        closer = grid_energy(matching, unary, distance) <= grid_energy(alone, unary, distance)
        labels = expand(torch.where(closer[:, None, None], matching, alone), unary, distance)
        chosen_PNHW = label_PKN[torch.arange(parts)[:, None, None], labels].movedim(-1, 1)
        # The present mask can hold a half and half that is no longer a label: keep it if nothing better was found.
        before, after = (_output_energy(mask, cost_PNHW, smoothness) for mask in (mask_PNHW, chosen_PNHW))
        complete = mask_PNHW.sum((1, 2, 3)) > 0
        keep = complete & (before < after)
        return torch.where(keep[:, None, None, None], mask_PNHW, chosen_PNHW)


def _output_energy(mask_PNHW: Tensor, cost_PNHW: Tensor, smoothness: float) -> Tensor:
    squared = mask_PNHW.diff(dim=2).square().sum((1, 2, 3)) + mask_PNHW.diff(dim=3).square().sum((1, 2, 3))
    return (mask_PNHW * cost_PNHW).sum((1, 2, 3)) + smoothness / 2 * squared


def _tell_apart(shown_PON: Tensor) -> Tensor:
    """One input of each of two outputs that show the same two or more inputs, (P, O, N), to be penalised."""
    shown = shown_PON.to(torch.float64)
    several = shown.sum(2) > 1
    same = (shown[:, :, None] == shown[:, None]).all(-1) & several[:, :, None]
    later, earlier = same.triu(1).any(2), same.tril(-1).any(2)
    first = nn.functional.one_hot(shown.argmax(2), shown.shape[2])
    second = nn.functional.one_hot((shown - first).argmax(2), shown.shape[2])
    return (later[..., None] * first + earlier[..., None] * second).clamp_max(1).to(torch.float64)


def _peaks(saliency: Tensor) -> Tensor:
    """Row and column (b, 2) where the saliency, averaged over 8 x 8 pixels, is greatest."""
    side = (min(8, saliency.shape[1]), min(8, saliency.shape[2]))
    smooth = nn.functional.avg_pool2d(saliency[:, None], side, stride=1)[:, 0]
    index = smooth.flatten(1).argmax(1)
    return torch.stack([index // smooth.shape[2], index % smooth.shape[2]], 1)
