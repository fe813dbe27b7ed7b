"""What the page shows of attention."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist, fmean, stdev
from typing import Any

import torch

from ..reports.cells import NOTHING, Cell, Table, best_of, number_cell
from ..reports.overlays import data_uri, from_data_uri, overlay
from ..reports.section import Panel, Section
from .part import Results, first_result

CELL, GAP, HEAD, NAME = 100, 6, 48, 26
"""Of the grid of pictures, in units that are about pixels."""
Z = NormalDist().inv_cdf(0.975)


def sections(results: Results, colors: Mapping[str, str]) -> list[Section]:
    """Pictures for every label, and the table of the pointing game if it was played."""
    seeds = "" if max(map(len, results.values())) == 1 else " The first seed of each."
    left_out = {label: runs[0]["left_out"] for label, runs in results.items() if runs[0]["left_out"]}
    without = "".join(f" {label} has no attention by class: {why}." for label, why in left_out.items())
    made = [
        Section(
            "Where the models attend",
            "Images and, over each, its attention maps (9), upsampled from the features: the brightest position is the "
            "most trusted one, whatever its weight. GAP compares each position with the mean feature of the image, CAM "
            "with the classifier's weights of its class (of the predicted one, where the class is not known); uniform "
            "is no attention. Look at whether the light falls on the object and not on the background, and whether it "
            "is one spot or everywhere. An arrow shows a wrong prediction."
            f"{seeds}{without}",
            [Panel(label, grid(runs[0]["pictures"], runs[0]["kinds"], label=label)) for label, runs in results.items()],
        )
    ]
    played = {label: [run for run in runs if run["pointing"]] for label, runs in results.items()}
    played = {label: runs for label, runs in played.items() if runs}
    return made + [_pointing(played, colors)] if played else made


def grid(pictures: Sequence[Mapping[str, Any]], kinds: Sequence[str], *, label: str) -> str:
    """An SVG: a row for each image, with the image and its maps, one beside the other."""
    drawn = []
    for k, title in enumerate(["image", *kinds]):
        for line, word in enumerate(_title(title)):
            x, y = k * (CELL + GAP) + CELL // 2, 17 + 19 * line
            drawn.append(f'<text x="{x}" y="{y}" text-anchor="middle">{word}</text>')
    for row, picture in enumerate(pictures):
        drawn += _row(picture, kinds, HEAD + row * (CELL + NAME))
    return _svg(drawn, kinds, HEAD + len(pictures) * (CELL + NAME), f"attention maps of {label}")


def single(picture: Mapping[str, Any], kind: str) -> str:
    """An SVG of one image and its map beside it."""
    return _svg(_row(picture, [kind], 0), [kind], CELL + NAME, f"test image of class {picture['name']}, attention map")


def _row(picture: Mapping[str, Any], kinds: Sequence[str], y: int) -> list[str]:
    drawn = []
    image = from_data_uri(picture["image"])
    heats = [data_uri(overlay(image, torch.tensor(picture["maps"][kind])), lossless=False) for kind in kinds]
    for k, uri in enumerate([picture["image"], *heats]):
        # Small images show their pixels.
        rendering = "pixelated" if k == 0 and image.shape[-1] < CELL else "auto"
        drawn.append(
            f'<image x="{k * (CELL + GAP)}" y="{y}" width="{CELL}" height="{CELL}" preserveAspectRatio="none" '
            f'style="image-rendering: {rendering}" href="{uri}"/>'
        )
    name, predicted = picture["name"], picture["predicted"]
    told = name if predicted == name else f"{name} → {predicted}"
    return [*drawn, f'<text x="0" y="{y + CELL + 17}">{html.escape(told)}</text>']


def _svg(drawn: Sequence[str], kinds: Sequence[str], height: int, label: str) -> str:
    width = (len(kinds) + 1) * (CELL + GAP) - GAP
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}" '
        f'font-size="16" fill="currentColor">{"".join(drawn)}</svg>'
    )


def _title(kind: str) -> list[str]:
    """In at most two lines.

    >>> _title("gap-relu"), _title("uniform")
    (['GAP', 'ReLU'], ['uniform'])
    """
    words = {"gap": "GAP", "cam": "CAM", "relu": "ReLU"}
    return [words.get(word, word) for word in kind.split("-")]


def _pointing_table(played: Results, colors: Mapping[str, str]) -> Table:
    first = first_result(played)["pointing"]
    chance, area, center = (first[key] for key in ("chance", "area", "center"))
    rows = []
    for label, runs in played.items():
        games = [run["pointing"] for run in runs]
        # Uniform attention is the random pixel, whatever the model.
        for kind in (kind for kind in runs[0]["kinds"] if kind != "uniform"):
            hit, energy = (
                [fmean(seeds) for seeds in zip(*(game[key][kind] for game in games), strict=True)]
                for key in ("hit", "energy")
            )
            name = f"{label}: {' '.join(_title(kind))}"
            rows.append(
                [
                    Cell(name, name, color=colors.get(label, "")),
                    _share(hit),
                    _above(hit, chance),
                    _above(hit, center),
                    _mean_share(energy),
                ]
            )
    for column in (1, 4):
        values = [float(row[column].value) for row in rows]
        best = best_of(values, digits=1)
        for row, value in zip(rows, values, strict=True):
            row[column] = replace(row[column], top=round(value, 1) == best)
    baselines = [
        [
            Cell("random pixel", ""),
            number_cell(100 * fmean(chance), digits=1),
            NOTHING,
            _above(chance, center),
            _mean_share(area),
        ],
        [Cell("centre of the image", ""), _share(center), _above(center, chance), NOTHING, NOTHING],
    ]
    titles = [
        "method and attention",
        "pointing\ngame, % ↑",
        "above random\npixel, points",
        "above centre,\npoints",
        "energy in\nboxes, % ↑",
    ]
    return Table(titles, [*baselines, *rows])


def _pointing(played: Results, colors: Mapping[str, str]) -> Section:
    first = first_result(played)["pointing"]
    asked = (
        f"Each of the {len(first['classes'])} classes that set and model share by name "
        f"({_some(first['classes'])}) is asked for in the images that show it, against its own boxes"
        if first["classes"]
        else "No class of the set is one of the model, so that CAM asks for the predicted class, against all boxes"
    )
    tolerance = f" A miss by at most {first['tolerance']:g} pixels is a hit." if first["tolerance"] else ""
    notes = [
        f"images without boxes ({first['without_boxes']})" if first["without_boxes"] else "",
        f"images without a shared class ({first['unknown_classes']})" if first["unknown_classes"] else "",
        f"what is damaged ({_some(first['skipped'])})" if first["skipped"] else "",
    ]
    notes = [note for note in notes if note]
    return Section(
        "Does attention fall on the objects?",
        f"Pointing game on {first['images']:,} images of {first['set']}: how often the maximum of the attention map, "
        "upsampled to the image, lies in a box, and the share of the map's mass (energy) in the boxes, with 95 % "
        f"intervals over images (Wilson's for hits), seeds averaged. {asked}.{tolerance} Objects stand in the middle "
        "and fill much of an image, so look at what is above a random pixel and above the centre of the image. ReLU "
        "and softmax differ in their energy; their maxima are in the same position, unless ReLU leaves none. Uniform "
        "attention is the random pixel." + (f" Left out: {'; '.join(notes)}." if notes else ""),
        table=_pointing_table(played, colors),
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n images; conservative for a mean of values within [0, 1].

    >>> [round(edge, 3) for edge in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _share(values: Sequence[float]) -> Cell:
    share = fmean(values)
    low, high = wilson(share, len(values))
    return Cell(f"{100 * share:.1f}", 100 * share, spread=f"({100 * low:.1f} to {100 * high:.1f})")


def _mean_share(values: Sequence[float]) -> Cell:
    return number_cell(100 * fmean(values), 100 * _half(values), digits=1)


def _above(values: Sequence[float], others: Sequence[float]) -> Cell:
    """The mean difference, in points, paired by image."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    return number_cell(100 * fmean(differences), 100 * _half(differences), digits=1, signed=True)


def _half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean."""
    return Z * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
