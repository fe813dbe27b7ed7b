"""All five factors of the study at once: alpha, m, n, the share of input mixup, and rescaling."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

from multimix.functional import rescaling_factor
from multimix.reports.headline import points
from multimix.reports.statistics import estimate, paired_difference

Runs = Mapping[str, Mapping[int, Mapping[str, float]]]
"""What was measured, by setting and seed."""
MIXINGS = ((0.5, False), (1.0, False), (0.5, True), (1.0, True))
"""Shares of MultiMix among the mini-batches, and whether its loss is rescaled."""
LARGEST_FACTOR = 8
"""Beyond it some settings fail altogether, and means over settings are of that."""


class Mixing(NamedTuple):
    """What a setting of MultiMix says, with the defaults of the study's command."""

    alpha: float | tuple[float, float]
    m: int | None
    n: float
    share: float
    rescaled: bool

    @classmethod
    def of(cls, setting: str) -> Mixing | None:
        """None for another method, or what says nothing of alpha or the share."""
        found = re.fullmatch(r"multimix\((.*)\)", setting)
        if found is None:
            return None
        # A range has a comma of its own.
        given = dict(part.split("=") for part in re.split(r", (?=[a-z])", found[1]))
        if not {"alpha", "share"} <= set(given):
            return None
        return cls(
            ast.literal_eval(given["alpha"]), ast.literal_eval(given.get("m", "None")), float(given.get("n", 1000)),
            float(given["share"]), given.get("rescale") == "True",
        )  # fmt: skip


CHANGES = {
    "1000 mixtures instead of 100": ({"n": 1000}, {"n": 100}),
    "half and half with input mixup instead of alone": ({"share": 0.5}, {"share": 1}),
    "rescaled, alone": ({"rescaled": True, "share": 1}, {"rescaled": False, "share": 1}),
    "rescaled, half and half": ({"rescaled": True, "share": 0.5}, {"rescaled": False, "share": 0.5}),
    "alpha = 0.1 instead of 0.02": ({"alpha": 0.1}, {"alpha": 0.02}),
    "m = 16 instead of 4": ({"m": 16}, {"m": 4}),
    "m = b instead of 4": ({"m": None}, {"m": 4}),
}


def by_mixing(runs: Runs) -> dict[Mixing, Mapping[int, Mapping[str, float]]]:
    """The settings that every seed has."""
    seeds = set.union(*(set(found) for found in runs.values()))
    return {mixing: found for name, found in runs.items() if (mixing := Mixing.of(name)) and set(found) == seeds}


def cells(runs: Runs, b: int) -> str:
    """Mean accuracies, with n = 100 / 1000, a row for each alpha and m."""
    found = by_mixing(runs)
    titles = [
        f"{'half and half' if share < 1 else 'alone'}{', rescaled' if rescaled else ''}" for share, rescaled in MIXINGS
    ]
    lines = [f"| alpha | m | factor | {' | '.join(titles)} |", "|---" * (3 + len(titles)) + "|"]
    places = {(mixing.alpha, mixing.m) for mixing in found}
    for alpha, m in sorted(places, key=lambda place: rescaling_factor(b, place[1], place[0])):
        row = [str(alpha), str(m or "b"), f"{rescaling_factor(b, m, alpha):.1f}"]
        for share, rescaled in MIXINGS:
            seen = (found.get(Mixing(alpha, m, n, share, rescaled)) for n in (100, 1000))
            row.append(" / ".join("–" if s is None else f"{100 * mean(s, 'accuracy'):.1f}" for s in seen))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def effects(runs: Runs, b: int) -> str:
    """What a change of one factor does on average over all settings of the others, with an interval over seeds."""
    found = {
        mixing: seeds
        for mixing, seeds in by_mixing(runs).items()
        if rescaling_factor(b, mixing.m, mixing.alpha) < LARGEST_FACTOR
    }
    lines = [
        "| change | settings | accuracy, points | neg. log-likelihood | calibration error, points |",
        "|---" * 5 + "|",
    ]
    for name, (new, old) in CHANGES.items():
        pairs = [
            (found[after], found[before])
            for after, before in product(found, found)
            if after == after._replace(**new) and before == after._replace(**old)
        ]
        if not pairs:
            continue
        row = [name, str(len(pairs))]
        for key, scale, digits in (("accuracy", 100, 2), ("nll", 1, 3), ("ece", 100, 1)):
            seeds = list(pairs[0][0])
            means = [{seed: estimate([side[k][seed][key] for side in pairs]).mean for seed in seeds} for k in (0, 1)]
            change = paired_difference(*means)
            row.append("" if change is None else points(change, digits=digits, scale=scale))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def mean(seeds: Mapping[int, Mapping[str, float]], key: str) -> float:
    return estimate([row[key] for row in seeds.values()]).mean
