"""DAML (Shu et al., CVPR 2021): Dirichlet mixing of several source domains, and distillation between their heads.

Legend: B examples, D domains (and their heads), C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ..functional._checks import check_count, check_not_negative, check_positive
from ..functional.interpolation import mix
from ..models import SplitModel
from .base import MethodOutput, Mixed, Mixer
from .multimix import check_layer
from .pairs import host, probabilities


class Daml(Mixer):
    """Every source domain has a head, trained on examples of its own domain, on mixtures of one example from each
    domain that lean to its own, and on what the other heads say of its examples.

    For the head of domain i, a mixture is sum_j lambda_j z_j with z_j a random example of domain j and
    lambda ~ Dir(alpha), alpha_i = `own` and alpha_j = `other`; targets are mixed alike. The teacher of an example of
    domain i is sum_j w_j softmax(logits_j / T) over the other heads, w ~ Dir(1).

    L = CE + `mixing` CE(mixtures) + `distillation` T^2 KL(teacher || softmax(logits_i / T)), each a mean over the
    mini-batch. A head is the model's classifier plus a linear map, and these maps sum to zero over the heads: so the
    classifier itself is the ensemble of all heads, and what is evaluated and exported.

    Args:
        own, other: Dirichlet concentrations.
        layer: None: the features of the last stage, as published. k: the output of stage k, 0 being the input.
        domains: the number of source domains; the extra `domain` of every example is one of 0 .. domains - 1. More than
            the data have does no harm: a head without a domain learns from mixtures alone.
        mixing, distillation: weights of the terms.
        temperature: T.

    >>> method = Daml(domains=3)  # Office-Home and PACS have four domains, one of which is held out
    >>> method.needs
    ('domain',)
    """

    needs = ("domain",)

    def __init__(
        self,
        own: float = 0.6,
        other: float = 0.2,
        *,
        layer: int | None = None,
        domains: int = 3,
        mixing: float = 3.0,
        distillation: float = 1.0,
        temperature: float = 2.0,
    ) -> None:
        super().__init__()
        self.own, self.other = check_positive("own", own), check_positive("other", other)
        self.layer = check_layer(layer, 1)
        self.domains = check_count("domains", domains, least=2)
        self.mixing = check_not_negative("mixing", mixing)
        self.distillation = check_not_negative("distillation", distillation)
        self.temperature = check_positive("temperature", temperature)
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def setup(self, model: SplitModel) -> None:
        if not isinstance(model.classifier, nn.Linear):
            kind = type(model.classifier).__name__
            raise ValueError(f"daml needs a classifier that is one nn.Linear, to give each domain its own, got {kind}")
        weight = model.classifier.weight
        self.weight = nn.Parameter(weight.new_zeros(self.domains, *weight.shape))
        self.bias = nn.Parameter(weight.new_zeros(self.domains, len(weight)))

    def check_extras(self, extras: Mapping[str, Tensor]) -> None:
        if "domain" in extras:
            self._check_range(extras["domain"])

    def forward(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> MethodOutput:
        generator = host(generator)
        soft = probabilities(images, targets, model.num_classes)
        domain = self._check(extras.get("domain"), images)
        layer = model.depth if self.layer is None else self.layer
        features = model.features(images, stop=layer)
        embeddings = model.pool(model.features(features, start=layer))
        logits = model.classifier(embeddings)
        heads_BDC = self._heads(embeddings, logits)
        own = _choose(heads_BDC, domain)
        loss = nnf.cross_entropy(own, soft)
        if self.mixing:
            lam, head = self.draw(domain, generator)
            mixed = model.pool(model.features(mix(features, lam), start=layer))
            mixed_logits = _choose(self._heads(mixed, model.classifier(mixed)), head)
            loss = loss + self.mixing * nnf.cross_entropy(mixed_logits, mix(soft, lam))
        if self.distillation:
            loss = loss + self.distillation * self._distill(heads_BDC, own, domain, generator)
        return MethodOutput(loss, logits)

    def mixed(
        self,
        model: SplitModel,
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        **extras: Tensor,
    ) -> Mixed:
        soft = probabilities(images, targets, model.num_classes)
        layer = model.depth if self.layer is None else self.layer
        lam, _ = self.draw(self._check(extras.get("domain"), images), host(generator))
        return Mixed(mix(model.features(images, stop=layer), lam), layer, mix(soft, lam))

    def draw(self, domain: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Weights (b, b) of b mixtures, and the head (b,) that each is for, from the domains (b,) of the mini-batch.

        A row has one nonzero for each domain that is present; the heads take turns. Drawn on the host, so that the same
        generator mixes alike on every device.
        """
        b, device = len(domain), domain.device
        head = torch.arange(b, device="cpu") % self.domains
        own = head[:, None] == torch.arange(self.domains, device="cpu")
        alpha_BD = torch.full(own.shape, self.other, device="cpu", dtype=torch.float64).masked_fill(own, self.own)
        # Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha), in log space, where small alpha cannot underflow.
        uniform = 1 - torch.rand(alpha_BD.shape, generator=generator, device="cpu", dtype=torch.float64)
        log_gamma_BD = torch._standard_gamma(alpha_BD + 1, generator=generator).log() + uniform.log() / alpha_BD
        # Draws name their type: those of another default are others.
        keys_BB = torch.rand(b, b, generator=generator, device="cpu", dtype=torch.float32)
        keys_BB = keys_BB.to(device, non_blocking=True)
        member_BD = domain[:, None] == torch.arange(self.domains, device=device)
        # The largest of independent uniform keys is at a uniformly random member of the domain.
        choice_BD = keys_BB[:, :, None].masked_fill(~member_BD, -1).argmax(dim=1)
        log_gamma_BD = log_gamma_BD.float().to(device, non_blocking=True)
        lam_BD = log_gamma_BD.masked_fill(~member_BD.any(dim=0), -torch.inf).softmax(dim=1)
        lam = lam_BD.new_zeros(b, b).scatter_add_(1, choice_BD, lam_BD)
        return lam, head.to(device, non_blocking=True)

    def _heads(self, embeddings: Tensor, logits: Tensor) -> Tensor:
        """Logits of every head (n, domains, c), whose mean over the heads is `logits`."""
        if self.weight is None or self.bias is None:
            raise ValueError("the heads of the domains do not exist yet: call setup(model) once, before training")
        weight, bias = (p - p.mean(dim=0, keepdim=True) for p in (self.weight, self.bias))
        return logits[:, None] + torch.einsum("nd,kcd->nkc", embeddings.flatten(1), weight) + bias

    def _distill(self, heads_BDC: Tensor, own: Tensor, domain: Tensor, generator: torch.Generator) -> Tensor:
        b = len(domain)
        uniform = torch.rand(b, self.domains, generator=generator, device="cpu", dtype=torch.float32)
        exponential = -uniform.neg().log1p()
        others = domain[:, None] != torch.arange(self.domains, device=domain.device)
        w_BD = exponential.to(domain.device, non_blocking=True) * others
        w_BD = w_BD / w_BD.sum(dim=1, keepdim=True).clamp(min=1e-30)
        p_BDC = (heads_BDC.detach().float() / self.temperature).softmax(dim=2)
        teacher = (w_BD[:, :, None] * p_BDC).sum(dim=1)
        log_student = (own.float() / self.temperature).log_softmax(dim=1)
        return nnf.kl_div(log_student, teacher, reduction="batchmean") * self.temperature**2

    def _check(self, domain: Tensor | None, images: Tensor) -> Tensor:
        b = len(images)
        if domain is None or domain.shape != (b,) or domain.is_floating_point():
            got = "none" if domain is None else f"{domain.dtype} of shape {tuple(domain.shape)}"
            raise ValueError(f"domain must hold one whole number for each of the {b} images, got {got}")
        if domain.device.type == "cpu":
            self._check_range(domain)
        return domain.long()

    def _check_range(self, domain: Tensor) -> None:
        low, high = int(domain.min()), int(domain.max())
        if low < 0 or high >= self.domains:
            raise ValueError(
                f"domains must be numbered from 0 to {self.domains - 1} for domains={self.domains}, got {low} to "
                f"{high}: set domains to the number of source domains"
            )


def _choose(heads_BDC: Tensor, domain: Tensor) -> Tensor:
    """The logits (n, c) of one head for each example."""
    return heads_BDC[torch.arange(len(domain), device=domain.device), domain]
