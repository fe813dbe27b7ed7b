"""The averages over held-out domains, from runs of which some are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from multimix.reports.domains import rows
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
