"""Differences from ERM in every headline number, paired by seed."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from multimix.reports.statistics import Difference
from multimix.suite.differences import as_rows, differences_from_erm, differences_section

BASELINES = {"cutmix": "erm", "late": "erm"}
NUMBERS = {
    "erm": {"top-1, % ↑": {0: 50.0, 1: 60.0, 2: 55.0}, "NLL ↓": {0: 1.0, 1: 1.2, 2: 1.1}},
    "cutmix": {"top-1, % ↑": {0: 52.0, 1: 62.5, 2: 57.1}, "NLL ↓": {0: 1.1, 1: 1.1}, "intrusion ↑": {0: 3.0}},
    "late": {"top-1, % ↑": {7: 99.0}},
}


def test_intervals_are_those_of_a_paired_t_test() -> None:
    found = differences_from_erm(NUMBERS, BASELINES)
    assert list(found) == ["cutmix"]
    assert list(found["cutmix"]) == ["top-1, % ↑", "NLL ↓"]
    seeds = NUMBERS["erm"]["top-1, % ↑"]
    ours = [NUMBERS["cutmix"]["top-1, % ↑"][k] for k in seeds]
    interval = stats.ttest_rel(ours, list(seeds.values())).confidence_interval(0.95)
    top1 = found["cutmix"]["top-1, % ↑"]
    assert (top1.mean - top1.half_width, top1.mean + top1.half_width) == pytest.approx(tuple(interval))
    assert (top1.n, found["cutmix"]["NLL ↓"].n) == (3, 2)


def test_what_is_beyond_the_noise_is_marked() -> None:
    section = differences_section(differences_from_erm(NUMBERS, BASELINES), {"cutmix": "#123456"})
    assert section is not None
    assert section.table is not None
    assert section.table.columns == ["method", "top-1, % ↑", "NLL ↓"]
    ((name, top1, nll),) = section.table.rows
    assert (name.text, name.color) == ("cutmix", "#123456")
    assert (top1.text, top1.spread, top1.top) == ("+2.20", "± 0.66", True)
    assert (nll.text, nll.top) == ("+0.00", False)


def test_lower_is_as_much_beyond_the_noise_as_higher() -> None:
    shown = {"a": Difference(-0.5, 0.1, 3), "b": Difference(0.5, 0.1, 3), "c": Difference(-0.5, 0.6, 3)}
    section = differences_section({label: {"NLL ↓": difference} for label, difference in shown.items()}, {})
    assert section is not None
    assert section.table is not None
    assert [row[1].top for row in section.table.rows] == [True, True, False]


def test_one_pair_has_no_interval_and_no_section() -> None:
    numbers = {"erm": {"NLL ↓": {0: 1.0}}, "cutmix": {"NLL ↓": {0: 1.5}}}
    found = differences_from_erm(numbers, {"cutmix": "erm"})
    assert math.isnan(found["cutmix"]["NLL ↓"].half_width)
    assert differences_section(found, {}) is None
    assert as_rows(found, {"cutmix": "erm"}) == [
        {
            "label": "cutmix", "baseline": "erm", "number": "NLL ↓", "mean": 0.5, "half_width_95": None, "pairs": 1,
            "verdict": "unknown",
        }
    ]  # fmt: skip
    assert differences_from_erm({"cutmix": {"NLL ↓": {0: 1.5}}}, {}) == {}


def test_a_method_whose_erm_is_not_there_has_no_difference() -> None:
    assert differences_from_erm({"cutmix": {"NLL ↓": {0: 1.5}}}, {"cutmix": "erm"}) == {}


def test_pairs_that_differ_by_the_same_show_no_spread() -> None:
    shown = {"a": Difference(0.5, 0.0, 2), "b": Difference(0.5, 0.1, 3)}
    section = differences_section({label: {"NLL ↓": difference} for label, difference in shown.items()}, {})
    assert section is not None
    assert section.table is not None
    assert [row[1].spread for row in section.table.rows] == ["", "± 0.100"]
