"""How far the gradient of n = infinity is from what sampling converges to.

`python benchmarks/closed_form.py [--json FILE] [--figure FILE]`

Random logits with a class signal (b = 128, c = 10) over alpha, m, their scale and the coefficient of variation of the
attention, and logits of a small network trained on the digits; float64. For each: the relative error of the gradient in
the logits, and of its part that differs between examples ("centred"), beside the noise of one draw of n = 1000, that of
the reference, and what is left of a draw's noise when the second-order Taylor polynomial is its control variate.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from multimix.benchmarking.record import Record
from multimix.functional import attend, expected_mixed_cross_entropy, rescaling_factor, sample_weights
from multimix.reports.style import COLORS, figure, line, standalone, to_svg

ALPHAS, SUBSETS, SCALES, VARIATIONS = (0.02, 0.1, 0.5, 1.0, (0.5, 2.0)), (16, 64, 128), (2, 5, 10), (0.0, 0.5, 1.2)
B, C = 128, 10


def sampled(
    logits: Tensor, y: Tensor, a: Tensor, m: int, alpha: float | tuple[float, float], n: int, seed: int
) -> dict[str, Tensor]:
    """The gradient of the sampled loss, and the same with the control variate."""
    b, generator = len(a), torch.Generator().manual_seed(seed)
    lam = sample_weights(n, b, m, alpha, positions=1, generator=generator, dtype=torch.float64)
    hat, s = (each[0] for each in attend(lam, a[:, None]))
    plain = (hat * s[:, None]).T @ ((hat @ logits).softmax(1) - hat @ y) / s.sum()
    # Known moments of the weights: the diagonal exceeds the rest by 1 / (b factor), and every row sums to 1 / b.
    excess = 1 / (b * rescaling_factor(b, m, alpha))
    covariance = torch.eye(b, dtype=torch.float64) * excess + (1 / b - excess) / b - 1 / b**2
    deviation = lam[0] - 1 / b
    shift, gram = deviation.mean(0), deviation.T @ deviation / n - covariance

    def taylor(logits: Tensor) -> Tensor:
        """The sample mean of the expansion in a_i lambda_i, less its expectation."""
        total, pi = a.sum(), a / a.sum()
        mu, ybar = pi @ logits, pi @ y
        p, d = mu.softmax(0), logits - mu
        slope = mu.logsumexp(0) + d @ p - y @ mu - logits @ ybar + ybar @ mu
        weighted = (gram * a[:, None] * a) @ d
        curvature = (weighted * (p * (d - (d @ p)[:, None]))).sum() - 2 * (weighted * (y - ybar)).sum()
        return b / total * ((shift * a) @ slope + 0.5 * b / total * curvature)

    return {"plain": plain, "control": plain * s.sum() * b / (n * a.sum()) - gradient(taylor, logits)}


def gradient(function, logits: Tensor) -> Tensor:
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]


def centred(gradient: Tensor) -> Tensor:
    return gradient - gradient.mean(0)


def measure(logits: Tensor, labels: Tensor, a: Tensor, m: int, alpha, n: int) -> dict[str, float]:
    y = nn.functional.one_hot(labels, logits.shape[1]).double()
    halves = [sampled(logits, y, a, m, alpha, n, seed) for seed in (1, 2)]
    noise = {key: float((centred(halves[0][key]) - centred(halves[1][key])).norm()) for key in halves[0]}
    best = min(noise, key=noise.__getitem__)
    reference = (halves[0][best] + halves[1][best]) / 2
    limit = gradient(lambda x: expected_mixed_cross_entropy(x[None], labels, a[:, None], alpha, m=m), logits)
    size, size_centred = float(reference.norm()), float(centred(reference).norm())
    plain = float((halves[0]["plain"] - halves[1]["plain"]).norm())
    return {
        "error": float((limit - reference).norm()) / size,
        "error_centred": float(centred(limit - reference).norm()) / size_centred,
        "draw_1000": plain / math.sqrt(2) * math.sqrt(n / 1000) / size,
        "draw_1000_centred": noise["plain"] / math.sqrt(2) * math.sqrt(n / 1000) / size_centred,
        "reference_noise_centred": noise[best] / 2 / size_centred,
        "control_variate_ratio": noise["control"] / noise["plain"],
    }


def attention(b: int, variation: float) -> Tensor:
    """Log-normal, with this coefficient of variation."""
    draw = torch.randn(b, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return (math.sqrt(math.log(1 + variation**2)) * draw).exp()


def trained_on_digits() -> tuple[Tensor, Tensor]:
    """Logits of 128 digits after 15 epochs of a small network on the others."""
    from sklearn.datasets import load_digits

    images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order].float() / 16, labels[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for _ in range(15):
            for rows in torch.randperm(len(images) - B).split(B):
                loss = nn.functional.cross_entropy(network(images[rows + B]), labels[rows + B])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network(images[:B]).detach().double(), labels[:B]


def effective(row: dict) -> float:
    """b times the effective concentration: how many examples' worth of gammas make a mixture."""
    low, high = row["alpha"] if isinstance(row["alpha"], (tuple, list)) else (row["alpha"], row["alpha"])
    alpha = (low + high) / 2
    return B * alpha * (row["m"] - 1) / (B - 1 + alpha * (B - row["m"]))


def draw(rows: list[dict]) -> str:
    """Error over the effective number of examples, a panel for each attention."""
    with figure(9, 3.6, ncols=len(VARIATIONS), sharey=True) as (drawn, panels):
        for axes, variation in zip(panels, VARIATIONS, strict=True):
            for color, logits in zip(COLORS, [*map(str, SCALES), "digits"], strict=False):
                chosen = sorted(
                    (effective(row), row["error_centred"], row["draw_1000_centred"])
                    for row in rows
                    if row["logits"] == logits and row["variation"] == variation
                )
                x, error, noise = zip(*chosen, strict=True)
                label = logits if logits == "digits" else f"scale {logits}"
                axes.plot(x, error, **line(color), label=label, markersize=3)
                axes.plot(x, noise, color=color, linestyle=":", linewidth=1)
            axes.set(
                xscale="log", yscale="log", xlabel="effective examples", title=f"attention varies by {variation:g}"
            )
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
        panels[0].set_ylabel("relative error, centred")
        panels[0].plot([], [], color="#6b6b6b", linestyle=":", linewidth=1, label="a draw of 1000")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        described = "error of the closed form over the effective number of examples, beside a draw of 1000 (dotted)"
        return standalone(to_svg(drawn, described))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=8000, help="draws of each half of the reference")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="SVG")
    options = parser.parse_args()
    with Record(options.json, {"n": options.n, "b": B, "c": C}) as record:
        generator = torch.Generator().manual_seed(3)
        labels = torch.randint(C, (B,), generator=generator)
        noise = torch.randn(B, C, generator=generator, dtype=torch.float64)
        signal = noise / 2 + nn.functional.one_hot(labels, C)
        batches = {str(scale): (scale * signal, labels) for scale in SCALES} | {"digits": trained_on_digits()}
        record.note("logits", {"digits, standard deviation": float(batches["digits"][0].std())})
        rows = []
        for alpha, m, (name, batch), variation in itertools.product(ALPHAS, SUBSETS, batches.items(), VARIATIONS):
            found = measure(*batch, attention(B, variation), m, alpha, options.n)
            rows.append({"alpha": alpha, "m": m, "logits": name, "variation": variation, **found})
            print(*(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1].values()), flush=True)
            record.add("rows", rows[-1])
        if options.figure:
            options.figure.write_text(draw(rows))


if __name__ == "__main__":
    main()
