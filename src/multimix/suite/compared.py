"""What the page of a comparison shows of the parts: the accuracy of every run, and the attention of one."""

from __future__ import annotations

from collections.abc import Sequence

from .. import methods
from ..reports.runs import Group
from ..reports.section import Panel, Section
from . import attention_page
from .accuracy import Accuracy
from .attention import Attention
from .part import Results
from .running import measure
from .subjects import run_candidate


def accuracies(groups: Sequence[Group]) -> Results:
    """Of every run on its test set, with the weights of the last epoch."""
    return {
        group.label: [measure(run_candidate(run, group), Accuracy()) for run in group.runs.values()] for group in groups
    }


def attention(groups: Sequence[Group]) -> Section | None:
    """Of a run that trains with it, if there is one.

    Raises:
        ValueError: all of these attend to earlier features than the last.
    """
    runs = [
        (group, run, dense)
        for group in groups
        for run in group.runs.values()
        if (dense := _dense_method(run.config.method)) is not None
    ]
    if not runs:
        return None
    group, run, dense = next((each for each in runs if each[2].layer is None), runs[0])
    if dense.layer is not None:
        raise ValueError(
            f"attention maps are of the features of the last stage, but {run.config.method} attends to those of "
            f"stage {dense.layer}"
        )
    criterion = dense.criterion
    kind = "uniform" if criterion.attention == "uniform" else f"{criterion.attention}-{criterion.nonlinearity}"
    shown = measure(run_candidate(run, group), Attention(kinds=(kind,)))["pictures"]
    return Section(
        "Where Dense MultiMix attends",
        f"Test images and, beside each, the attention map by which its loss weights positions ({run.config.method}, "
        f"seed {run.config.seed}; upsampled from the features; the brightest position is the most trusted one). Look "
        "at whether the light falls on the object and not on the background. An arrow shows a wrong prediction.",
        [Panel("", attention_page.single(picture, kind)) for picture in shown],
        layout="small",
    )


def _dense_method(method: str) -> methods.DenseMultiMix | None:
    """The Dense MultiMix inside a method, if there is one."""
    parsed = methods.parse(method).modules()
    return next((module for module in parsed if isinstance(module, methods.DenseMultiMix)), None)
