"""The embedding space: alignment and uniformity (section 4.4), spread and rank, and its picture (Figure 3)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from .. import evaluation
from ..errors import one_line
from ..evaluation.projection import umap
from ..random import make_generator
from ..reports.charts import scatter_panel
from ..reports.sampling import sample_classes
from ..reports.section import Panel, Section
from ..reports.style import CLASS_COLORS
from ..reports.tables import estimates_table
from .part import Legend, Part, Results, Subject, first_result, said
from .store import Store

T = TypeVar("T")

SPACES = {"normalized": "embeddings on the unit sphere", "raw": "embeddings as they are"}

_FEWEST = 3
"""Up to so many images there is nothing to lay out in the plane."""


@dataclass(frozen=True, kw_only=True)
class Embedding(Part):
    """Geometry of the embeddings of the test images, which are the features just before the classifier."""

    name: ClassVar[str] = "embedding"

    t: tuple[float, ...] = (2.0,)
    """Values of t in the uniformity, the log of the mean of exp(-t · squared distance); one column each."""
    alpha: float = 2.0
    """Exponent of the distances in the alignment."""
    umap: bool = True
    """Draw the embeddings in the plane by UMAP; takes about half a minute for the first classifier."""
    classes: int = 10
    """Number of random classes in the UMAP pictures, the same for every method."""
    per_class: int = 100
    """Number of test images of each class in the UMAP pictures."""
    neighbors: int = 15
    """UMAP's n_neighbors; fewer where there are not as many images."""
    seed: int = 0
    """Seed of the choice of classes and images, and of UMAP."""

    def __post_init__(self) -> None:
        if not self.t or min(self.t) <= 0 or not self.alpha > 0:
            raise ValueError(f"t and alpha must be positive, got t={self.t}, alpha={self.alpha}")
        if self.neighbors < 2:
            raise ValueError(f"neighbors must be at least 2, got {self.neighbors}")
        if not 1 <= self.classes <= len(CLASS_COLORS) or self.per_class < 1:
            raise ValueError(
                f"classes must be 1 to {len(CLASS_COLORS)}, which colours can tell apart, and per_class at least 1, "
                f"got {self.classes} and {self.per_class}"
            )

    def evaluate(self, subject: Subject, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
        """The measures of all test embeddings, normalised and raw, and the points of the picture."""
        say(f"embedding {len(subject.test)} test images")
        z, labels = evaluation.embeddings(subject.model, subject.loader())
        measured = {}
        for space in SPACES:
            say(f"measuring {SPACES[space]}")
            measured[space] = store.compute(space, functools.partial(self._measure, z, labels, space == "normalized"))
        found: dict[str, Any] = {"examples": len(z), "dimension": z.shape[1], "t": list(self.t), "spaces": measured}
        pick = make_generator(self.seed, "embedding", "sample")
        chosen, groups = sample_classes(labels.cpu(), self.classes, self.per_class, pick)
        if self.umap and len(chosen) > _FEWEST:
            neighbors = min(self.neighbors, len(chosen) - 1)
            say(f"projecting {len(chosen)} embeddings by UMAP")
            generator = make_generator(self.seed, "umap")
            found["umap"] = {
                "points": store.compute(
                    "umap",
                    lambda: umap(z[chosen.to(z.device)], neighbors=neighbors, generator=generator).tolist(),
                ),
                "groups": groups.tolist(),
                "names": [subject.class_names[int(k)] for k in labels.cpu()[chosen].unique()],
            }
        return found

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        space = result["spaces"]["normalized"]
        numbers = {
            "alignment ↓": space["alignment"],
            "uniformity ↓": space["uniformity"][0],
            "effective rank": space["effective_rank"],
        }
        return {title: value for title, value in numbers.items() if value is not None}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        made = [_table_section(space, results, legend.colors) for space in SPACES]
        return made + _picture_section(results)

    def _measure(self, z: Tensor, labels: Tensor, normalize: bool) -> dict[str, Any]:
        """What can be measured; the rest is None, and "lacking" says why.

        Raises:
            ValueError: nothing can.
        """
        lacking: list[str] = []

        def tried(measure: Callable[[], T]) -> T | None:
            try:
                return measure()
            except ValueError as error:
                lacking.append(one_line(error))
                return None

        alignment = tried(lambda: evaluation.alignment(z, labels, normalize, self.alpha))
        uniformity = tried(lambda: [evaluation.uniformity(z, normalize, t) for t in self.t])
        spread = tried(lambda: evaluation.class_spread(z, labels, normalize))
        rank = tried(lambda: evaluation.effective_rank(z, normalize))
        if uniformity is None:  # a single image, or embeddings that are not finite
            raise ValueError(lacking[0])
        within = between = ratio = None
        if spread is not None:
            within, between, ratio = spread.within, spread.between, spread.ratio
            if alignment is None:
                within = ratio = None  # of single images it is 0, however loose the classes are
                lacking.append("the distance within classes needs two as well")
            if not between:
                ratio = None
                lacking.append("the means of all classes are equal, so nothing can be divided by their distances")
        return {
            "alignment": alignment,
            "uniformity": uniformity,
            "within": within,
            "between": between,
            "ratio": ratio,
            "effective_rank": rank,
            "lacking": lacking,
        }


def _table_section(space: str, results: Results, colors: Mapping[str, str]) -> Section:
    first = first_result(results)

    def row(run: Mapping[str, Any]) -> dict[str, float | None]:
        found = run["spaces"][space]
        uniformity = zip(run["t"], found["uniformity"], strict=True)
        return {
            "alignment ↓": found["alignment"],
            **{f"uniformity\nt = {t:g} ↓": value for t, value in uniformity},
            "within\nclasses": found["within"],
            "between\nclasses": found["between"],
            "within ÷\nbetween ↓": found["ratio"],
            "effective\nrank": found["effective_rank"],
        }

    rows = {label: [row(run) for run in runs] for label, runs in results.items()}
    values = {
        label: {key: [value for run in runs if (value := run[key]) is not None] for key in runs[0]}
        for label, runs in rows.items()
    }
    reasons = dict.fromkeys(
        why for runs in results.values() for run in runs for why in run["spaces"][space].get("lacking", ())
    )
    lacking = f" Not measured where there is a dash: {'; '.join(reasons)}." if reasons else ""
    dimensions = said(results, itemgetter("dimension"))
    scale = (
        "All methods have the same scale here, so that their numbers compare."
        if space == "normalized"
        else "The scale of raw embeddings differs from model to model: only the ratio and the rank compare freely."
    )
    return Section(
        f"Embedding space: {SPACES[space]}",
        f"Of all {first['examples']:,} test images, in {dimensions} dimensions. Alignment is the mean distance "
        "between images of a class, to the power alpha; uniformity the log of the mean Gaussian potential of all "
        "pairs; within and between classes are mean squared distances to and of the class means; the effective rank is "
        f"the number of dimensions that the embeddings fill. {scale}{lacking}",
        table=estimates_table(values, colors),
    )


def _picture_section(results: Results) -> list[Section]:
    drawn = {label: runs[0]["umap"] for label, runs in results.items() if "umap" in runs[0]}
    if not drawn:
        return []
    names = next(iter(drawn.values()))["names"]
    panels = [
        Panel(label, scatter_panel(one["points"], one["groups"], one["names"], label=label))
        for label, one in drawn.items()
    ]
    count = len(next(iter(drawn.values()))["groups"])
    return [
        Section(
            "Embedding space: UMAP",
            f"The same {count:,} test images of {len(names)} random classes for every method, one seed each, projected "
            "to the plane by UMAP, as in the paper's Figure 3. Look for classes that are tight and apart. Directions, "
            "sizes of clusters and distances between far ones mean nothing; trust the tables above.",
            panels,
            layout="small",
            legend=dict(zip(names, CLASS_COLORS, strict=False)),
        )
    ]
