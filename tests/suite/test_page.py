"""The page of an evaluation: its sentences, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from multimix.reports.sections import Panel, Section
from multimix.suite import page
from multimix.suite.page import write_evaluation
from multimix.suite.running import Outcome
from multimix.suite.subjects import Candidate


@dataclass(frozen=True)
class Told:
    """A part with one number, which its results are."""

    name: str

    def evaluate(self, *_: object) -> Mapping[str, Any]:
        raise NotImplementedError

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        return {f"{self.name}, % ↑": result["value"]}

    def section(self, results: Mapping[str, Sequence[Mapping[str, Any]]], colors: Mapping[str, str]) -> list[Section]:
        return [Section(self.name, "", [Panel(label, "<svg ></svg>") for label in results])]


def outcome(label: str, seed: int, **values: float) -> Outcome:
    candidate = Candidate(label, seed, "last", label, "digits", "smallnet", "", Path(), "", load=lambda: None)  # type: ignore[arg-type,return-value]
    return Outcome(candidate, {part: {"value": value} for part, value in values.items()})


def sentences(outcomes: Sequence[Outcome]) -> list[str]:
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.candidate.label, []).append(one)
    parts = [Told(name) for name in dict.fromkeys(name for one in outcomes for name in one.results)]
    return [text.replace("\u00a0", " ") for text in page._sentences(groups, parts)]


ONE_PAIR = ["There is one pair of runs to compare with ERM: differences cannot be told from noise."]


def test_a_part_with_one_pair_leaves_the_sentences_of_the_others() -> None:
    erm = [outcome("erm", 0, a=50.0, b=60.0), outcome("erm", 1, b=70.0), outcome("erm", 2, b=65.0)]
    cutmix = [outcome("cutmix", 0, a=70.0, b=70.0), outcome("cutmix", 1, b=80.5), outcome("cutmix", 2, b=75.2)]
    (told,) = sentences([*erm, *cutmix])
    assert told.startswith("cutmix (+10.23 ± ")
    assert told.endswith("is better than ERM in b.")
    assert sentences([erm[0], cutmix[0]]) == ONE_PAIR
    assert sentences(erm) == []


def test_pairs_that_differ_by_the_same_are_not_called_one_pair() -> None:
    equal = [outcome(label, seed, a=value + seed) for label, value in (("erm", 50), ("cutmix", 52)) for seed in (0, 1)]
    assert sentences(equal) == [
        "For cutmix (+2.00) there is no spread between pairs of runs, which cannot tell a difference from ERM in a "
        "from noise."
    ]


def test_the_page_is_written_before_its_figures_whose_names_every_file_system_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "multimix(" + ", ".join(f"option{k}=0.123456" for k in range(30)) + ")"
    other = long.replace("option29=0.123456", "option29=0.654321")
    outcomes = [outcome(label, 0, a=50.0) for label in ("erm", long, other)]
    write_evaluation(outcomes, [Told("a")], tmp_path / "out", command="")
    plots = sorted(path.name for path in (tmp_path / "out" / "plots" / "last").iterdir())
    assert len(plots) == 3
    assert plots[0] == "a-erm.svg"
    assert all(len(name) < 200 for name in plots)

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(page, "_write_plots", full)
    with pytest.raises(OSError, match="the disk is full"):
        write_evaluation(outcomes, [Told("a")], tmp_path / "again", command="")
    assert (tmp_path / "again" / "evaluation.html").is_file()
