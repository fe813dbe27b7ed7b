"""From which size on the Triton kernel beats the chunked path on this GPU: `python benchmarks/crossover.py`.

Prints time over the floor at every size, and the line that `multimix/kernels/crossover.py` takes. About two minutes.
"""

import statistics

import torch

from multimix.benchmarking import floor
from multimix.benchmarking.measure import hardware, interleaved, median_ratio
from multimix.kernels.ops import sampled_cross_entropy

SIZES = [(r, n, c) for r in (1, 16, 49, 196) for n in (100, 1000, 10_000) for c in (10, 100, 1000)]
B = 128


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/crossover.py needs an NVIDIA GPU; none is visible to PyTorch")
    print(hardware())
    faster: list[tuple[int, bool]] = []
    for r, n, c in SIZES:
        if r * n * B * c > 2e11:
            continue
        logits = torch.randn(r, B, c, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        labels, attention = torch.randint(c, (B,), device="cuda"), torch.rand(B, r, device="cuda")

        def step(
            how: str,
            logits: torch.Tensor = logits,
            labels: torch.Tensor = labels,
            a: torch.Tensor = attention,
            n: int = n,
        ) -> None:
            options = {"n": n, "m": None, "alpha": (0.5, 2.0), "normalize": "position", "implementation": how}
            torch.autograd.grad(sampled_cross_entropy(logits, labels, a, torch.tensor(1), **options), logits)

        times = interleaved(
            {how: lambda how=how: step(how) for how in ("chunked", "triton")}, rounds=15, device="cuda", turn=0.05
        )
        ratio = median_ratio(times["chunked"], times["triton"])
        rates = floor.gpu_rates(torch.cuda.get_device_name(), "bf16")
        work = floor.sampled_loss(positions=r, n=n, b=B, c=c, itemsize=2)
        least = floor.seconds(work, rates) if rates else float("nan")
        kernel = statistics.median(times["triton"])
        faster.append((r * n * B * c, ratio > 1))
        print(f"r={r} n={n} c={c}: triton {1e3 * kernel:.3f} ms, {ratio:.2f}x chunked, {kernel / least:.1f}x floor")
    slower = max((size for size, won in faster if not won), default=0)
    above = [size for size, _ in faster if size > slower]
    if above:
        print(f"MEASURED: {{{torch.cuda.get_device_capability()}: {min(above):.2e}}}")
    else:
        print("the kernel is slower at the largest size: no entry")


if __name__ == "__main__":
    main()
