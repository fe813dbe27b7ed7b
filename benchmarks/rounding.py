"""What tensor cores round in the sampled loss, with and without centring: `python benchmarks/rounding.py`; no GPU.

The kernel's products with operands rounded as tensor cores take them and every sum in float64, against float64
throughout, for the same weights: b = 128, c = 100, n = 1000, alpha in [0.5, 2], no attention. Logits have standard
deviation 5, the true class 5 more, and a mean over the batch that is about 0 or differs between classes as much as the
logits do. Errors are norms relative to float64, the median over five seeds. Half a minute.
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from torch import Tensor

from multimix.benchmarking.record import Record
from multimix.functional import sample_weights

B, C, N, SEEDS = 128, 100, 1000, 5


def tf32(x: Tensor) -> Tensor:
    """To 10 bits, ties away from zero, as the kernel does before tensor cores truncate."""
    return ((x.float().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32).double()


ROUNDING = {
    "bf16": lambda x: x.to(torch.bfloat16).double(),
    "tf32": tf32,
    "float64": lambda x: x,
}


def loss_and_gradient(logits: Tensor, labels: Tensor, lam: Tensor, centre: str, how: str) -> tuple[Tensor, Tensor]:
    """As `kernels/triton_loss.py` computes them with `centre` "restored"."""
    rounded = ROUNDING[how]
    mean = logits.new_zeros(C) if centre == "none" else logits.mean(0)
    deviations, lam_r, y = rounded(logits - mean), rounded(lam), torch.nn.functional.one_hot(labels, C).double()
    if centre == "restored":
        mean = (logits - deviations).mean(0)
    z = lam_r @ deviations + mean
    gram = lam_r.T @ lam_r / N
    loss = z.logsumexp(1).mean() - (lam @ mean[labels]).mean() - (gram * deviations[:, labels]).sum()
    return loss, lam_r.T @ rounded(z.softmax(1)) / N - gram @ y


def drawn(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits and labels."""
    labels = torch.randint(C, (B,), generator=rng)
    logits = 5 * torch.randn(B, C, generator=rng, dtype=torch.float64)
    logits[torch.arange(B), labels] += 5
    return logits, labels


def errors(seed: int, dtype: torch.dtype, shift: float, how: str, centre: str) -> tuple[float, float, float]:
    rng = torch.Generator().manual_seed(seed)
    logits, labels = drawn(rng)
    logits = (logits + shift * torch.randn(C, generator=rng, dtype=torch.float64)).to(dtype).double()
    lam = sample_weights(N, B, generator=rng, dtype=torch.float64)
    exact, exact_grad = loss_and_gradient(logits, labels, lam, "none", "float64")
    loss, grad = loss_and_gradient(logits, labels, lam, centre, how)
    off, apart = grad - exact_grad, exact_grad - exact_grad.mean(0)
    return (
        float((loss - exact).abs() / exact.abs()),
        float(off.norm() / exact_grad.norm()),
        float((off - off.mean(0)).norm() / apart.norm()),
    )


def redrawn(seed: int) -> tuple[float, float]:
    """How much another draw of as many mixtures changes the gradient, and its part that differs between examples."""
    rng = torch.Generator().manual_seed(seed)
    logits, labels = drawn(rng)
    draws = [sample_weights(N, B, generator=rng, dtype=torch.float64) for _ in range(2)]
    one, other = (loss_and_gradient(logits, labels, lam, "none", "float64")[1] for lam in draws)
    off, apart = one - other, one - one.mean(0)
    return float(off.norm() / one.norm()), float((off - off.mean(0)).norm() / apart.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    with Record(parser.parse_args().json, {"b": B, "c": C, "n": N, "seeds": SEEDS}) as record:
        whole, apart = (statistics.median(column) for column in zip(*map(redrawn, range(SEEDS)), strict=True))
        record.note("another_draw", {"gradient": whole, "part_that_differs": apart})
        part = "its part that differs between examples"
        print(f"Another draw changes the gradient by {whole:.0%}, {part} by {apart:.0%}.\n")
        print(f"| products | logits | their mean | centring | loss | gradient | {part} |")
        print("|---|---|---|---|---|---|---|")
        for how, dtype, shift in itertools.product(("bf16", "tf32"), (torch.bfloat16, torch.float32), (0.0, 5.0)):
            for centre in ("none", "mean", "restored"):
                found = [errors(seed, dtype, shift, how, centre) for seed in range(SEEDS)]
                medians = [statistics.median(column) for column in zip(*found, strict=True)]
                cells, kind = " | ".join(f"{value:.0e}" for value in medians), str(dtype).removeprefix("torch.")
                row = {"products": how, "logits": kind, "mean_by_class": bool(shift), "centring": centre}
                record.add("errors", row | dict(zip(("loss", "gradient", "part_that_differs"), medians, strict=True)))
                print(f"| {how} | {kind} | {'by class' if shift else '0'} | {centre} | {cells} |")


if __name__ == "__main__":
    main()
