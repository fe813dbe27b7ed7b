"""The words of a page: its title, the notes under its tables and figures, and the conditions of the runs."""

from __future__ import annotations

from typing import Literal

from ..functional import SMALL_ALPHA
from ..training.progress import duration
from .conditions import data_name, several, training
from .summary import Summary

_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


def title(summary: Summary) -> str:
    """What is compared on what."""
    count = len({row.method for row in summary.rows})
    word = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    noun = "training method" if count == 1 else "training methods"
    config = summary.runs[0].config
    return f"{word} {noun} on {data_name(config.data, config.data_root)}"


def kicker(summary: Summary) -> str:
    """The conditions in a few words."""
    configs = [run.config for run in summary.runs]
    epochs = several(config.epochs for config in configs)
    seeds = several(len(row.seeds) for row in summary.rows)
    return " · ".join(
        [
            "multimix report",
            f"{several(run.data_info['train_examples'] for run in summary.runs)} training images",
            several(config.model for config in configs),
            f"{epochs} epoch{'' if epochs == '1' else 's'}",
            f"{seeds} seed{'' if seeds == '1' else 's'}",
        ]
    )


def headline(summary: Summary) -> str:
    """How the sentences above it came about."""
    if not any(row.accuracy_difference and row.accuracy_difference.n > 1 for row in summary.rows):
        return ""
    same = "" if summary.one_setting else " with the same settings"
    here = "this training set, this network and this budget" if summary.one_setting else "these settings"
    return (
        f"In brackets: the mean difference from ERM{same} in percentage points after the last epoch, over runs paired "
        "by seed, with its 95 % t-interval. A method is called better or worse only when the interval excludes zero. "
        f"The intervals are not corrected for the number of methods, and they describe {here}: "
        "with others the order may be reversed."
    )


def results(summary: Summary) -> str:
    """What the columns of the results table mean."""
    held_out = summary.runs[0].data_info.get("val_examples")
    best = (
        "“Best epoch” is the test accuracy of the epoch with the highest validation accuracy."
        if held_out
        else "“Best epoch” is chosen by looking at the test set, so it flatters every method; it is given because "
        "published tables often do so."
    )
    measured = [plan.speed_conditions for plan in summary.plans if plan.speed_conditions]
    speed = " ".join(dict.fromkeys(measured))
    if len(measured) > 1:
        speed += " Speeds of different comparisons were not measured side by side."
    return (
        "Mean ± standard deviation over seeds, on test images; bold is the best mean of a column, whatever the noise. "
        f"{best} Calibration error is the expected calibration error in 15 bins; it and the negative log-likelihood "
        f"are of the last epoch; lower is better. {speed} Click a column to sort."
    )


def conditions(summary: Summary, made: str | None = None) -> dict[str, str]:
    """Everything that decides the numbers, by name."""
    runs = summary.runs

    def of(name: str) -> str:
        return several(getattr(run.config, name) for run in runs)

    def known(name: Literal["num_classes", "train_examples", "test_examples"]) -> str:
        return several(run.data_info[name] for run in runs)

    alike = len({(run.config.per_class, run.config.subset_seed) for run in runs}) == 1
    images = "; the same images in every run" if alike else ""
    subset = f" ({of('per_class')} of every class{images})" if any(run.config.per_class for run in runs) else ""
    sizes = several(f"{size} × {size}" for size in (run.data_info["image_size"] for run in runs))
    data = several(data_name(run.config.data, run.config.data_root) for run in runs)
    machines = [run.environment.get("hardware", {}) for run in runs]
    versions = [run.environment.get("versions", {}) for run in runs]
    found = {
        "Data": f"{data}: {known('num_classes')} classes, {known('train_examples')} training images{subset}, "
        f"{known('test_examples')} test images of {sizes} pixels",
        "Network": of("model"),
        "Training": training([run.config for run in runs]),
        "Seeds": ", ".join(str(seed) for seed in sorted({seed for row in summary.rows for seed in row.seeds})),
        "Methods": _methods(summary),
        "Hardware": several(
            f"{m.get('cpu', 'unknown')}, {m.get('device', 'unknown')}, {threads(m.get('threads', '?'))} a run"
            for m in machines
        ),
        "Versions": several(", ".join(f"{name} {number}" for name, number in v.items()) for v in versions),
        "Time": f"{duration(sum(run.seconds for run in runs))} of training and evaluation, all runs together",
    }
    if summary.plans:
        found["Command"] = several(plan.command for plan in summary.plans)
        found["Started"] = several(plan.started for plan in summary.plans)
    if made is not None:
        found["Page made"] = made
    return found


def _methods(summary: Summary) -> str:
    said = "Options in brackets; everything else at its default."
    if any(row.method.startswith(("multimix", "dense-multimix")) and "alone" not in row.method for row in summary.rows):
        said += (
            " “multimix” and “dense-multimix” are the paper's regime: half of the mini-batches with it, "
            "half with input mixup; n = 1000 mixtures of the whole batch, α ~ U[0.5, 2], unless options say otherwise."
        )
    if any("small-alpha" in row.method for row in summary.rows):
        said += f" “small-alpha” is the same regime with α = {SMALL_ALPHA:g}, a preset for short schedules."
    return said


def threads(number: object) -> str:
    """How many, in words.

    >>> threads(1), threads("2")
    ('1 thread', '2 threads')
    """
    return f"{number} thread{'' if str(number) == '1' else 's'}"
