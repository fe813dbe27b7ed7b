"""Weights of AdaIN's layout and size, untrained, to time StyleMix with: `python benchmarks/untrained_adain.py FOLDER`.

What a step costs does not depend on them, and the trained ones are not ours to distribute.
"""

import argparse
from pathlib import Path

import torch

from multimix.random import make_generator

# Position in the file, channels in and out, side of the kernel.
ENCODER = [(0, 3, 3, 1), (2, 3, 64, 3), (5, 64, 64, 3), (9, 64, 128, 3), (12, 128, 128, 3), (16, 128, 256, 3),
           (19, 256, 256, 3), (22, 256, 256, 3), (25, 256, 256, 3), (29, 256, 512, 3)]  # fmt: skip
DECODER = [(1, 512, 256, 3), (5, 256, 256, 3), (8, 256, 256, 3), (11, 256, 256, 3), (14, 256, 128, 3),
           (18, 128, 128, 3), (21, 128, 64, 3), (25, 64, 64, 3), (28, 64, 3, 3)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where encoder.pth and decoder.pth are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, layers in (("encoder", ENCODER), ("decoder", DECODER)):
        generator, weights = make_generator("untrained", name), {}
        for position, inputs, outputs, side in layers:
            scale = (2 / (inputs * side * side)) ** 0.5
            weights[f"{position}.weight"] = scale * torch.randn(outputs, inputs, side, side, generator=generator)
            weights[f"{position}.bias"] = torch.zeros(outputs)
        torch.save(weights, folder / f"{name}.pth")
    print(f"Written: encoder.pth and decoder.pth in {folder}")


if __name__ == "__main__":
    main()
