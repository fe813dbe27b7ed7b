"""Out-of-distribution detectors on a `SplitModel` behind one signature: pytorch-ood's, but for one distance.

pytorch-ood's scores are higher for outliers; here they are negated, so that higher is more in-distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..criteria.classifiers import apply_linear, is_linear
from ..extras import require
from ..models import SplitModel
from .attacks import attacking
from .inference import Loader, evaluating, images_of

FITTED_DETECTORS = ("mahalanobis", "knn", "vim", "react")
"""The names that `fit_detector` knows."""

KNN_K = 50
"""Neighbours of the authors' choice for CIFAR-10; the distance is that to the k-th."""

RIDGE = 1e-6
"""Least variance of the Mahalanobis distance, in units of the largest."""


def fit_detector(name: str, model: SplitModel, embeddings: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from embeddings (N, d) to scores (N,), higher = more in-distribution, fitted on training images.

    - `mahalanobis`: half the squared distance to the nearest class mean under the shared covariance (Lee et al.,
      NeurIPS 2018), in float64; directions in which the embeddings of a class hardly differ count as if their variance
      were a millionth of the largest, since there may be fewer images than dimensions;
    - `knn`: distance of normalised embeddings to the 50th nearest training embedding (Sun et al., ICML 2022);
    - `vim`: energy less the norm outside the principal subspace (Wang et al., CVPR 2022); the subspace has 1000,
      512 or d / 2 dimensions for d of at least 1500, at least 768 or less, as its authors do;
    - `react`: energy of the logits of embeddings clipped at their 90th percentile (Sun et al., NeurIPS 2021).

    Args:
        name: one of `FITTED_DETECTORS`.
        model: gives the classifier to `vim` and `react`.
        embeddings: (N, d) of training images, as `multimix.evaluation.embeddings` returns them.
        labels: (N,) class indices.

    Raises:
        ValueError: another name; shapes that do not fit; fewer than 50 embeddings for `knn`, for `vim` no more than the
            dimensions of its subspace, for `mahalanobis` no two different ones of a class; a classifier that is not
            linear, for `vim`.
        ImportError: pytorch-ood is not installed, for all but `mahalanobis`.

    >>> from torch import nn
    >>> from multimix.models import SplitModel
    >>> net = SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(4, 3))
    >>> score = fit_detector("mahalanobis", net, torch.randn(60, 4), torch.arange(60) % 3)
    >>> bool(score(torch.zeros(1, 4)) > score(torch.full((1, 4), 100.0)))
    True
    """
    if name not in FITTED_DETECTORS:
        raise ValueError(f"unknown detector {name!r}: expected one of {', '.join(FITTED_DETECTORS)}")
    if embeddings.ndim != 2 or not len(embeddings) or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"a detector is fitted to embeddings (N, d) and labels (N,), got {tuple(embeddings.shape)} "
            f"and {tuple(labels.shape)}"
        )
    if name == "mahalanobis":
        return _mahalanobis(embeddings.detach(), labels)
    detectors = require("pytorch_ood.detector", "evaluate")
    z, detector = embeddings.detach(), _make(name, detectors, model, embeddings)
    if name == "react":
        detector.fit_feature_maps(z, labels)
        return lambda x: -detector.predict_feature_maps(x.detach())
    if name == "knn":
        # Its search is scikit-learn's, on the CPU.
        detector.fit_features(z.cpu(), labels.cpu())
        return lambda x: -detector.predict_features(x.detach().cpu())
    detector.fit_features(z, labels)
    return lambda x: -detector.predict_features(x.detach())


def _mahalanobis(z: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Not pytorch-ood's, which inverts the covariance in float32 with 1e-6 added: where that is singular or nearly so,
    its squared distances are of any sign."""
    # On the CPU, since not every device has float64; a class without training images has no mean.
    z, number = z.cpu().double(), labels.cpu().unique(return_inverse=True)[1]
    means = torch.stack([z[number == k].mean(0) for k in range(int(number.max()) + 1)])
    centred = z - means[number]
    # What centring leaves of equal rows is rounding error.
    if not centred.norm() > 1e-12 * z.norm():
        raise ValueError(
            f"mahalanobis needs a class with several different embeddings, got {len(z)} of {len(means)} classes, equal "
            "within each: take more training images"
        )
    variances, directions = torch.linalg.eigh(centred.mT @ centred / len(z))
    least = max(RIDGE * float(variances[-1]), torch.finfo(z.dtype).tiny)
    whitening = directions / variances.clamp_min(least).sqrt()

    def score(x: Tensor) -> Tensor:
        return -0.5 * torch.cdist(x.detach().cpu().double() @ whitening, means @ whitening).square().amin(1)

    return score


def odin(model: SplitModel, loader: Loader, *, eps: float = 0.0014, temperature: float = 1000.0) -> Tensor:
    """ODIN (Liang et al., ICLR 2018): the largest softmax probability at a high temperature after a small step of
    the image towards it; (N,), higher = more in-distribution.

    Args:
        loader: a loader of `multimix.data`, or any iterable of (images, ...), pixels in [0, 1].
        eps: the step, in units of pixels in [0, 1]; the default is the authors' for CIFAR.
        temperature: of the softmax.

    Raises:
        TypeError: the loader is a tensor.
        ValueError: `eps` negative, `temperature` not positive, or the loader yields nothing.
        ImportError: pytorch-ood is not installed.
    """
    if eps < 0 or not temperature > 0:
        raise ValueError(f"eps must be at least 0 and temperature positive, got eps={eps}, temperature={temperature}")
    # In float32 the probabilities at T = 1000 would all but tie.
    detector = require("pytorch_ood.detector", "evaluate").ODIN(
        lambda images: model(images).double(), eps=eps, temperature=temperature
    )
    parts = []
    for images, _ in images_of(loader, model):
        # It enables gradients itself where it needs them.
        with attacking(model, images.device):
            parts.append(-detector.predict(images))
    return torch.cat(parts)


def _make(name: str, detectors: Any, model: SplitModel, embeddings: Tensor) -> Any:
    if name == "react":

        def head(z: Tensor) -> Tensor:
            with evaluating(model.classifier):
                logits: Tensor = model.classifier(z)
                return logits

        return detectors.ReAct(None, head)
    if name == "knn":
        if len(embeddings) < KNN_K:
            raise ValueError(f"knn needs at least {KNN_K} training images, got {len(embeddings)}")
        return detectors.KNN(None, k=KNN_K)
    if not is_linear(model.classifier):
        raise ValueError(f"vim needs a linear classifier, got {type(model.classifier).__name__}: leave vim out")
    d = embeddings.shape[1]
    # Any affine classifier, a chain of layers too, is known by what it makes of 0 and of the unit vectors.
    with torch.no_grad():
        bias = apply_linear(model.classifier, embeddings.new_zeros(1, d))[0]
        weight = (
            apply_linear(model.classifier, torch.eye(d, dtype=embeddings.dtype, device=embeddings.device)) - bias
        ).mT
    kept = 1000 if d >= 1500 else 512 if d >= 768 else max(1, d // 2)
    if len(embeddings) <= kept:
        # All of them lie in the subspace: the scale of the norm outside would be a quotient by rounding errors.
        raise ValueError(f"vim needs more training images than the {kept} dimensions it keeps, got {len(embeddings)}")
    return detectors.ViM(None, kept, weight, bias)
