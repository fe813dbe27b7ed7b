"""The paper's published numbers beside the measured ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .. import published
from ..methods import canonical
from ..reports.cells import NOTHING, Cell, Table, number_cell
from ..reports.section import Section
from ..reports.statistics import estimate
from .results import Numbers

__all__ = ["beside_paper", "measured_cell", "published_cell", "row_order"]

MEASURED = {
    "top-1, %": "accuracy",
    "FGSM 8/255 error, %": "fgsm_error",
    "PGD 4/255 error, %": "pgd_error",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "intrusion distance": "intrusion",
}
"""The headline number, without its arrow, that measures each published quantity."""

TOPICS = {
    "accuracy": ("accuracy",),
    "adversarial robustness": ("fgsm_error", "pgd_error"),
    "embedding space": ("alignment", "uniformity", "intrusion"),
}
"""The quantities of one table each, few enough for a page of paper."""


def beside_paper(
    numbers: Mapping[str, Numbers], methods: Mapping[str, str | None], *, data: str, model: str
) -> list[Section]:
    """Tables of published and measured numbers for a data set, one for each topic that the paper has numbers of.

    Args:
        numbers: headline numbers by label.
        methods: the training method of each label.
        data: data set of all labels.
        model: their network, for the words; the paper's networks stand in the column titles.
    """
    measured = {
        (label, quantity): list(seeds.values())
        for label, found in numbers.items()
        for title, seeds in found.items()
        if methods[label] and (quantity := MEASURED.get(title.rstrip(" ↑↓"))) is not None
    }
    made = []
    for topic, quantities in TOPICS.items():
        paper = [n for n in published.numbers() if n.data == data and n.quantity in quantities]
        if paper:
            here = {label: canonical(methods[label] or "") for label, quantity in measured if quantity in quantities}
            conditions = "; ".join(
                f"{published.QUANTITIES[q].title}: {published.QUANTITIES[q].condition}"
                for q in dict.fromkeys(n.quantity for n in paper)
            )
            made.append(
                Section(
                    f"Beside the paper's numbers: {topic}",
                    f"“Measured here” is {model} on {data}, trained as the conditions below say; the other columns are "
                    "published, with the paper's own networks and schedules, so compare the order of methods within a "
                    "column rather than numbers across columns. “Not measured” means that no run here has it. How the "
                    f"paper measured: {conditions}.",
                    table=_table(paper, measured, row_order([n.method for n in paper], here)),
                )
            )
    return made


def row_order(paper: Iterable[str], here: Mapping[str, str]) -> list[tuple[str, str]]:
    """(label, method) of every row: the paper's methods in its order, each with all labels measured of it, then others.

    Args:
        paper: methods.
        here: the method of each label.

    >>> row_order(["erm", "multimix"], {"cutmix": "cutmix", "multimix, lr=1": "multimix", "multimix, lr=2": "multimix"})
    [('erm', 'erm'), ('multimix, lr=1', 'multimix'), ('multimix, lr=2', 'multimix'), ('cutmix', 'cutmix')]
    """
    return [
        (label, method)
        for method in dict.fromkeys([*paper, *here.values()])
        for label in [label for label, own in here.items() if own == method] or [method]
    ]


def _table(
    paper: Sequence[published.Number],
    measured: Mapping[tuple[str, str], list[float]],
    labels: Sequence[tuple[str, str]],
) -> Table:
    """A row for each (label, method)."""
    columns: list[tuple[str, str | None]] = []
    for quantity in dict.fromkeys(n.quantity for n in paper):
        columns.append((quantity, None))
        columns += [(quantity, name) for name in dict.fromkeys(n.model for n in paper if n.quantity == quantity)]
    rows = []
    for label, method in labels:
        cells = [Cell(label, label)]
        for quantity, name in columns:
            if name is None:
                cells.append(measured_cell(measured.get((label, quantity))))
            else:
                number = next((n for n in paper if (n.quantity, n.model, n.method) == (quantity, name, method)), None)
                cells.append(published_cell(number))
        rows.append(cells)
    titles = [
        f"{published.QUANTITIES[quantity].title}\n" + ("measured here" if name is None else f"paper, {name}")
        for quantity, name in columns
    ]
    return Table(["method", *titles], rows)


def measured_cell(values: Sequence[float] | None) -> Cell:
    """What was measured here: mean ± standard deviation."""
    if not values:
        return Cell("not measured", "")
    mean, std, _ = estimate(values)
    return number_cell(mean, std, digits=2)


def published_cell(number: published.Number | None) -> Cell:
    """What the paper states, as it is printed there."""
    if number is None:
        return NOTHING
    return Cell(number.text, number.value, spread="" if number.std is None else f"± {number.std:g}")
