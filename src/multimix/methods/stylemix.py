"""StyleMix (Hong et al., CVPR 2021): content and style mixed by ratios of their own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .. import random
from ..functional._checks import check_count, check_file, check_positive, check_share
from ..models import SplitModel
from .adain import StyleNetworks, adain, load_networks
from .pairs import InputMethod, Pairing, draw_beta, host, probabilities


class StyleMethod(InputMethod):
    """What StyleMix and StyleCutMix share: frozen AdaIN networks, read from files when first used."""

    def __init__(
        self, encoder: Path | str | None, decoder: Path | str | None, content_weight: float, resolution: int
    ) -> None:
        super().__init__()
        if encoder is None or decoder is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs the files of AdaIN encoder and decoder weights, which multimix does not bring: "
                f'{name}(encoder="vgg_normalised.pth", decoder="decoder.pth")'
            )
        self.files = (check_file("encoder", encoder), check_file("decoder", decoder))
        self.content_weight = check_share("content_weight", content_weight)
        # Below 16 pixels the encoder leaves one position, which has no style.
        self.resolution = check_count("resolution", resolution, least=16)
        self._networks: tuple[StyleNetworks] | None = None

    def setup(self, model: SplitModel) -> None:
        self.networks(next(model.parameters()).device)

    def networks(self, device: torch.device) -> StyleNetworks:
        """The encoder and the decoder on `device`.

        Raises:
            FileNotFoundError, ValueError: see `load_networks`.
        """
        if self._networks is None:
            # In a tuple, so that they are neither trained nor saved with the method.
            self._networks = (load_networks(*self.files),)
        return self._networks[0].to(device)


class StyleMix(StyleMethod):
    """Mix the content of two images by one ratio and their style by another.

    With F_ij the features of content i in the style of j (AdaIN), F_ii those of image i itself, r_c, r_s ~ Beta(alpha,
    alpha) and t ~ U(max(0, r_c + r_s - 1), min(r_c, r_s)), the mixed image is the decoded
    t F_11 + (1 - r_c - r_s + t) F_22 + (r_c - t) F_12 + (r_s - t) F_21, whose target has weight
    w r_c + (1 - w) r_s on the first image. Published use: one mini-batch in five,
    `Either(StyleMix(...), Erm(), p=0.2)`.

    Args:
        alpha: of both Beta distributions.
        encoder, decoder: files of AdaIN weights, in the layout of vgg_normalised.pth and decoder.pth.
        content_weight: w, the weight of content in the targets (r in the paper).
        resolution: images are styled with a shorter side of so many pixels.

    Raises:
        ValueError: no files are named, a file cannot be used, or an option is out of its range.
        FileNotFoundError: a file does not exist (raised by `setup` or the first mini-batch).

    >>> method = StyleMix(encoder="vgg_normalised.pth", decoder="decoder.pth")
    """

    def __init__(
        self,
        alpha: float = 0.5,
        *,
        encoder: Path | str | None = None,
        decoder: Path | str | None = None,
        content_weight: float = 0.7,
        resolution: int = 224,
    ) -> None:
        super().__init__(encoder, decoder, content_weight, resolution)
        self.alpha = check_positive("alpha", alpha)

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        soft = probabilities(images, targets, num_classes)
        generator = host(generator)
        pairing = Pairing.draw(images.shape[0], self.alpha, generator, images.device)
        content, style = pairing.lam, draw_beta(self.alpha, generator)
        least, most = max(0.0, content + style - 1), min(content, style)
        both = least + (most - least) * random.uniform(generator)
        networks = self.networks(images.device)
        first = networks.encode(images, self.resolution)
        second = first[pairing.partner]
        features = both * first + (1 - content - style + both) * second
        features = features + (content - both) * adain(first, second) + (style - both) * adain(second, first)
        share = self.content_weight * content + (1 - self.content_weight) * style
        return networks.decode(features, images), pairing._replace(lam=share).mix(soft)
