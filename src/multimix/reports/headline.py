"""The sentences that open a report: what the numbers justify saying, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .cells import difference_cell
from .runs import BASELINE
from .statistics import Difference
from .summary import Summary


def headline(summary: Summary) -> list[str]:
    """One sentence about accuracy and one about calibration, and one about what cannot be compared.

    A method is called better or worse only when the 95 % interval of its paired difference from ERM excludes 0. It
    is compared with the ERM runs of its own settings alone.
    """
    accuracy = {row.label: row.accuracy_difference for row in summary.rows if row.accuracy_difference}
    calibration = {row.label: row.ece_difference for row in summary.rows if row.ece_difference}
    alone = [row.label for row in summary.rows if row.method != BASELINE and not row.accuracy_difference]
    if not summary.baselines:
        return ["There are no finished ERM runs here, so the page cannot say which method helps."]
    if not accuracy and alone:
        return ["No finished ERM run shares settings and seed with another method, so the page cannot say which helps."]
    if not accuracy:
        return ["Only ERM is finished, so there is nothing to compare it with yet."]
    left = [unsaid(alone)] if alone else []
    highest = max(summary.rows, key=lambda row: row.last_accuracy.mean)
    best = f"that of {highest.label}, {100 * highest.last_accuracy.mean:.2f} %"
    if all(difference.n == 1 for difference in accuracy.values()):
        return [
            "One seed cannot tell a difference from noise. The highest test accuracy here is "
            f"{best}; run at least three seeds before you choose.",
            *left,
        ]
    where = (
        f"The highest test accuracy is {best}. On this data and budget, "
        if summary.one_setting
        else "On this data, each against ERM of its settings: "
    )
    return [
        where + sentence("test accuracy", accuracy, higher_is_better=True),
        "Calibration: " + sentence("calibration error", calibration, higher_is_better=False),
        *left,
    ]


def sentence(metric: str, differences: Mapping[str, Difference], *, higher_is_better: bool) -> str:
    """Which methods are better, worse, or not to be told apart, with their differences in percentage points.

    >>> differences = {"a": Difference(0.012, 0.004, 5), "b": Difference(-0.02, 0.03, 5)}
    >>> sentence("test accuracy", differences, higher_is_better=True)
    'a (+1.20 ± 0.40) is better than ERM in test accuracy; for b (−2.00 ± 3.00) the difference is within the noise.'

    Of many methods with the same verdict those that differ most are named.
    """
    better, worse = ("higher", "lower") if higher_is_better else ("lower", "higher")
    unknown = {label: difference for label, difference in differences.items() if difference.verdict == "unknown"}
    by_verdict: dict[str, dict[str, Difference]] = {better: {}, worse: {}, "noise": {}}
    for label, difference in differences.items():
        if label not in unknown:
            by_verdict[difference.verdict][label] = difference
    if len(by_verdict["noise"]) == len(differences) > 1:
        return f"for no method do these runs show a difference from ERM in {metric}: {_named(by_verdict['noise'])}."
    clauses: list[str] = []
    for verdict, word in ((better, "better"), (worse, "worse")):
        if names := by_verdict[verdict]:
            than = "" if clauses else f" than ERM in {metric}"
            clauses.append(f"{_named(names)} {'is' if len(names) == 1 else 'are'} {word}{than}")
    if names := by_verdict["noise"]:
        than = "" if clauses else f" from ERM in {metric}"
        clauses.append(f"for {_named(names)} the difference{than} is within the noise")
    for single, pairs in ((True, "only one pair of runs"), (False, "no spread between pairs of runs")):
        if names := {label: d for label, d in unknown.items() if (d.n == 1) is single}:
            what = "" if clauses else f" a difference from ERM in {metric} from noise"
            clauses.append(f"for {_named(names)} there is {pairs}, which cannot tell{what}")
    return f"{'; '.join(clauses)}."


def unsaid(labels: Sequence[str]) -> str:
    """Which methods are compared with nothing, and why."""
    return f"Nothing is said of {_enumerate(labels)}: no ERM run with the same settings and seed is here."


def points(difference: Difference, *, digits: int = 2, scale: float = 100) -> str:
    """A difference in `scale` units, of fractions in percentage points by default, with the half-width of its interval.

    >>> points(Difference(-0.012, 0.0041, 5))
    '−1.20 ± 0.41'
    >>> points(Difference(-0.00001, 0.0041, 5))
    '+0.00 ± 0.41'
    """
    cell = difference_cell(difference, digits=digits, scale=scale)
    return f"{cell.text} {cell.spread}".rstrip()


MOST = 5
"""Methods that a sentence names; of more it names `FEW`."""
FEW = 3


def _named(differences: Mapping[str, Difference]) -> str:
    """The methods with their differences; of many, those that differ most.

    >>> _named({name: Difference(mean / 100, 0.01, 3) for name, mean in zip("abcdef", range(6))})
    'f (+5.00 ± 1.00), e (+4.00 ± 1.00), d (+3.00 ± 1.00) and 3 others'
    """
    labels = list(differences)
    if len(labels) > MOST:
        labels = sorted(labels, key=lambda label: -abs(differences[label].mean))[:FEW]
    named = [f"{label} ({points(differences[label])})" for label in labels]
    left = len(differences) - len(named)
    return _enumerate([*named, f"{left} others"] if left else named)


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
