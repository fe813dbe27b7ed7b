"""Random weights in the layout of the published AdaIN files, narrower."""

import torch

# Position of every convolution in vgg_normalised.pth and decoder.pth, and how many channels it gives here.
ENCODER = {0: 3, 2: 4, 5: 4, 9: 6, 12: 6, 16: 8, 19: 8, 22: 8, 25: 8, 29: 10, 32: 10}
DECODER = {1: 8, 5: 8, 8: 8, 11: 8, 14: 6, 18: 6, 21: 4, 25: 4, 28: 3}


def _weights(layout: dict[int, int], inputs: int, seed: int) -> dict[str, torch.Tensor]:
    generator, weights = torch.Generator().manual_seed(seed), {}
    for position, outputs in layout.items():
        size = 1 if layout is ENCODER and position == 0 else 3
        scale = (2 / (inputs * size * size)) ** 0.5
        weights[f"{position}.weight"] = scale * torch.randn(outputs, inputs, size, size, generator=generator)
        weights[f"{position}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
        inputs = outputs
    return weights


def encoder_weights() -> dict[str, torch.Tensor]:
    """With one convolution after relu4_1, which is not used."""
    return _weights(ENCODER, 3, 0)


def decoder_weights(first: int = 10) -> dict[str, torch.Tensor]:
    """For an encoder that gives `first` channels."""
    return _weights(DECODER, first, 1)
