"""The averages over held-out domains, from runs of which some are missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from multimix.reports.domains import as_csv, headline, rows
from multimix.reports.runs import find_runs


def test_the_average_is_of_the_seeds_that_are_finished_on_every_domain(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    for domain, seed, accuracy, finished in (
        ("art", 0, 0.5, True),
        ("art", 1, 0.9, True),
        ("photo", 0, 0.7, True),
        ("photo", 1, 0.1, False),
    ):
        options = {"data": "domains", "held_out": domain, "seed": seed, "finished": finished}
        make_run(f"runs/{domain}{seed}", accuracies=[accuracy], **options)
    (row,) = rows(["erm"], ["art", "photo"], find_runs([tmp_path / "runs"]))
    assert row.domains["art"] is not None
    assert row.average is not None
    assert (row.domains["art"].mean, row.domains["art"].n) == (pytest.approx(0.7), 2)
    assert (row.average.mean, row.average.n) == (pytest.approx(0.6), 1)


def test_differences_are_a_methods_average_minus_erms(make_run: Callable[..., Path], tmp_path: Path) -> None:
    accuracies = {"erm": [(0.5, 0.7), (0.6, 0.6)], "cutmix": [(0.6, 0.8), (0.7, 0.9)]}
    for method, by_seed in accuracies.items():
        for seed, found in enumerate(by_seed):
            for domain, accuracy in zip(("art", "photo"), found, strict=True):
                options = {"method": method, "data": "domains", "held_out": domain, "seed": seed}
                make_run(f"runs/{method}{domain}{seed}", accuracies=[accuracy], **options)
    erm, cutmix = rows(["erm", "cutmix"], ["art", "photo"], find_runs([tmp_path / "runs"]))
    assert erm.difference is None
    assert cutmix.difference is not None
    assert (cutmix.difference.mean, cutmix.difference.n) == (pytest.approx(0.15), 2)
    assert headline([erm, cutmix])[0] == "Highest average over the held-out domains: 75.00 % with cutmix."


def test_the_file_has_the_last_epoch_and_that_of_the_best_validation(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    options = {"data": "domains", "held_out": "art", "accuracies": [0.5, 0.9, 0.7]}
    for seed in (0, 1):
        make_run(f"runs/{seed}", seed=seed, **options)
    validated, plain = find_runs([tmp_path / "runs"])
    metrics = [{**line, "val_accuracy": val} for line, val in zip(validated.metrics, (0.8, 0.6, 0.7), strict=True)]
    found = list(csv.DictReader(io.StringIO(as_csv([replace(validated, metrics=metrics), plain]))))
    # Without a validation split, the best epoch would be chosen by the domain that is held out.
    assert [row["test_accuracy_of_best_val"] for row in found] == ["0.5", ""]
    assert [row["test_accuracy"] for row in found] == ["0.7", "0.7"]
