"""Variants of MultiMix that the study tries and the library does not offer, as methods written by a user would be."""

from __future__ import annotations

import math

from torch.nn import functional as F

import multimix as mm
from multimix import methods
from multimix.functional.closed_form import expected_mixed_cross_entropy
from multimix.methods import InputMixup, Method, MethodOutput
from multimix.methods.base import Mixer


class WithClean(Method):
    """A method's loss, plus `weight` times the cross entropy of the clean images."""

    def __init__(self, method: Method, weight: float) -> None:
        super().__init__()
        self.method, self.weight = method, weight

    def forward(self, model, images, targets, generator=None, **extras):
        out = self.method(model, images, targets, generator, **extras)
        logits = model(images) if out.logits is None else out.logits
        return MethodOutput(out.loss + self.weight * F.cross_entropy(logits, targets), logits)


class Scaled(Method):
    """A method's loss, times a constant."""

    def __init__(self, method: Method, scale: float) -> None:
        super().__init__()
        self.method, self.scale = method, scale

    def forward(self, model, images, targets, generator=None, **extras):
        out = self.method(model, images, targets, generator, **extras)
        return MethodOutput(self.scale * out.loss, out.logits)


class Annealed(Method):
    """MultiMix whose alpha goes from `start` to `end`, evenly in log alpha; the loop sets `progress`, from 0 to 1."""

    def __init__(self, start: float, end: float, *, rescale: bool = False) -> None:
        super().__init__()
        self.start, self.end, self.rescale, self.progress = start, end, rescale, 0.0

    def forward(self, model, images, targets, generator=None, **extras):
        alpha = math.exp(math.log(self.start) * (1 - self.progress) + math.log(self.end) * self.progress)
        return methods.MultiMix(alpha=alpha, rescale=self.rescale)(model, images, targets, generator)


class Both(Method):
    """MultiMix and input mixup in every step, their losses averaged, where the paper takes turns."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method, self.other = method, InputMixup()

    def forward(self, model, images, targets, generator=None, **extras):
        out = self.method(model, images, targets, generator)
        other = self.other(model, images, targets, generator)
        return MethodOutput((out.loss + other.loss) / 2, out.logits)


class OnTop(Method):
    """MultiMix of the embeddings of mixed images, with their mixed targets: two mixings in one pass."""

    def __init__(self, mixer: Mixer, *, alpha: float | tuple[float, float]) -> None:
        super().__init__()
        self.mixer, self.criterion = mixer, mm.MultiMix(alpha=alpha)

    def forward(self, model, images, targets, generator=None, **extras):
        mixed, layer, soft = self.mixer.mixed(model, images, targets, generator, **extras)
        logits = model.head(model.features(mixed, start=layer))
        return MethodOutput(self.criterion.from_logits(logits, soft, generator), None)


class Terms(Method):
    """The limit n = inf with a weight for the cross entropy at the batch mean, and one for what the spread of the
    mixtures around it adds; at one alpha, `spread` = m alpha + 1 gives the spread the weight of one-hot mixing."""

    def __init__(self, mean: float, spread: float, alpha: float | tuple[float, float]) -> None:
        super().__init__()
        self.mean, self.spread, self.alpha = mean, spread, alpha

    def forward(self, model, images, targets, generator=None, **extras):
        logits = model(images)
        whole = expected_mixed_cross_entropy(logits, targets, alpha=self.alpha)
        mean = F.one_hot(targets, logits.shape[1]).to(logits.dtype).mean(0, keepdim=True)
        first = F.cross_entropy(logits.mean(0, keepdim=True), mean)
        return MethodOutput(self.mean * first + self.spread * (whole - first), logits)


class AtEveryBatchSize(Method):
    """MultiMix with alpha = `total` / b: the same expected number of examples in a mixture for every batch size."""

    def __init__(self, total: float, *, rescale: bool = False) -> None:
        super().__init__()
        self.total, self.rescale = total, rescale

    def forward(self, model, images, targets, generator=None, **extras):
        return methods.MultiMix(alpha=self.total / len(images), rescale=self.rescale)(model, images, targets, generator)
