"""The page of an evaluation: its sentences, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from multimix.reports.section import Panel, Section
from multimix.suite import page
from multimix.suite.page import write_evaluation
from multimix.suite.paper_numbers import measured_cell
from multimix.suite.part import Legend, Part, Results
from multimix.suite.results import by_label, overview
from multimix.suite.running import Outcome
from multimix.suite.subjects import Candidate


@dataclass(frozen=True)
class Told(Part):
    """A part with one number, which its results are."""

    name: str  # type: ignore[misc]

    def evaluate(self, *_: object) -> dict[str, Any]:
        raise NotImplementedError

    def headline(self, result: Mapping[str, Any]) -> dict[str, float]:
        return {f"{self.name}, % ↑": result["value"]}

    def sections(self, results: Results, legend: Legend) -> list[Section]:
        return [Section(self.name, "", [Panel(label, "<svg ></svg>") for label in results])]


def outcome(label: str, seed: int, **values: float) -> Outcome:
    method, *lr = label.split(", lr=")
    candidate = Candidate(
        label, seed, "last", method, "digits", "digits", "smallnet", "", Path(), lambda: [""], load=lambda: None,  # type: ignore[arg-type,return-value]
        baseline=None if method == "erm" else ", lr=".join(["erm", *lr]),
    )  # fmt: skip
    return Outcome(candidate, {part: {"value": value} for part, value in values.items()})


def sentences(outcomes: Sequence[Outcome]) -> list[str]:
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.candidate.label, []).append(one)
    parts = [Told(name) for name in dict.fromkeys(name for one in outcomes for name in one.results)]
    baselines = {one.candidate.label: one.candidate.baseline for one in outcomes if one.candidate.baseline in groups}
    return [text.replace("\u00a0", " ") for text in page._sentences(groups, parts, baselines)]  # type: ignore[arg-type]


ONE_PAIR = ["There is one pair of runs for each comparison with ERM: differences cannot be told from noise."]


def test_a_part_with_one_pair_leaves_the_sentences_of_the_others() -> None:
    erm = [outcome("erm", 0, a=50.0, b=60.0), outcome("erm", 1, b=70.0), outcome("erm", 2, b=65.0)]
    cutmix = [outcome("cutmix", 0, a=70.0, b=70.0), outcome("cutmix", 1, b=80.5), outcome("cutmix", 2, b=75.2)]
    (told,) = sentences([*erm, *cutmix])
    assert told.startswith("cutmix (+10.23 ± ")
    assert told.endswith("is better than ERM in b.")
    assert sentences([erm[0], cutmix[0]]) == ONE_PAIR
    assert sentences(erm) == []


def test_runs_that_no_erm_run_can_be_paired_with_are_named() -> None:
    erm, same, other = (
        outcome("erm, lr=1", 0, a=5.0),
        outcome("cutmix, lr=1", 0, a=6.0),
        outcome("cutmix, lr=2", 0, a=7.0),
    )
    unsaid = "Nothing is said of cutmix, lr=2: no ERM run with the same settings and seed is here."
    assert sentences([erm, same, other]) == [*ONE_PAIR, unsaid]
    assert sentences([erm, other]) == [unsaid]
    assert sentences([other]) == []
    late = "Nothing is said of cutmix: no ERM run with the same settings and seed is here."
    assert sentences([outcome("erm", 0, a=5.0), outcome("cutmix", 1, a=5.0)]) == [late]


def test_the_page_explains_brackets_only_where_it_has_some(tmp_path: Path) -> None:
    def written(*outcomes: Outcome) -> str:
        write_evaluation(outcomes, [Told("a")], tmp_path, command="")
        return (tmp_path / "evaluation.html").read_text()

    erm, cutmix = ([outcome(label, seed, a=50.0 + seed * seed) for seed in range(3)] for label in ("erm", "cutmix"))
    assert "In brackets" in written(*erm, *cutmix[1:])
    assert "In brackets" not in written(*erm[:1], *cutmix[1:])


def test_the_page_names_the_devices_that_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"a GPU, {device}")
    here, there = outcome("erm", 0), outcome("erm", 1)
    cpu = page._conditions([here], [])["Hardware"]
    assert cpu.endswith(", cpu")
    there.candidate = replace(there.candidate, device="cuda:1")
    assert page._conditions([here, here, there], [])["Hardware"] == f"{cpu}, a GPU, cuda:1"


def test_models_trained_elsewhere_stand_beside_the_weights_of_either_epoch() -> None:
    run, elsewhere = outcome("erm", 0), outcome("resnet18", 0)
    elsewhere.candidate = replace(elsewhere.candidate, which=None)
    assert list(by_label([run, elsewhere], which="last")) == ["erm", "resnet18"]
    assert list(by_label([run, elsewhere], which="best")) == ["resnet18"]


def test_one_measured_value_has_no_spread() -> None:
    assert (measured_cell([70.25]).text, measured_cell([70.25]).spread) == ("70.25", "")
    assert measured_cell([70.0, 71.0]).spread == "± 0.71"


def test_columns_are_in_the_order_of_the_parts() -> None:
    outcomes = [outcome("erm", 0, b=50.0), outcome("cutmix", 0, a=50.0, b=50.0)]
    table = overview(outcomes, [Told("a"), Told("b")], {})
    assert table.columns == ["method", "a, % ↑", "b, % ↑"]
    assert [cell.text for cell in table.rows[0]] == ["erm", "–", "50.00"]


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
    outcomes = [outcome(label, 0, a=50.0) for label in ("erm", long, other, 80 * "猫", 80 * "犬")]
    write_evaluation(outcomes, [Told("a")], tmp_path / "out", command="")
    plots = sorted(path.name for path in (tmp_path / "out" / "plots" / "last").iterdir())
    assert len(plots) == 5
    assert plots[0] == "a-erm.svg"
    assert all(len(name.encode()) < 200 for name in plots)

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(page, "_write_plots", full)
    with pytest.raises(OSError, match="the disk is full"):
        write_evaluation(outcomes, [Told("a")], tmp_path / "again", command="")
    assert (tmp_path / "again" / "evaluation.html").is_file()
