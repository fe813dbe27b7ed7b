"""The page: everything put together into one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..extras import require
from ..files import write_json, write_text
from . import notes, sections
from .headline import headline
from .style import method_colors, only_baseline, stroke
from .summary import Summary
from .tables import results_csv, results_table


def write_page(summary: Summary, out: Path) -> None:
    """Write `report.html`, `summary.json` and `results.csv` into the folder `out`.

    What cannot be made, because the data or some of the runs are not there, is left out and named on the page.

    Raises:
        OSError: a file cannot be written.
        ImportError: matplotlib or Jinja2 is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "summary.json", as_json(summary))
    write_text(out / "results.csv", results_csv(summary))
    write_text(out / "report.html", render(summary))


def render(summary: Summary) -> str:
    """The page as a string."""
    colors = method_colors([row.label for row in summary.rows], only_baseline(summary.baselines))
    return fill(
        title=notes.title(summary),
        kicker=notes.kicker(summary),
        headline=headline(summary),
        headline_note=notes.headline(summary),
        missing=summary.missing,
        results=results_table(summary, colors),
        results_note=notes.results(summary),
        sections=sections.make(summary, colors),
        conditions=notes.conditions(summary, made=now()),
    )


def fill(*, headline: Sequence[str], **values: Any) -> str:
    """The template with these values, and with the style and the script that make it one file."""
    # Intervals stay on one line.
    values["headline"] = [sentence.replace(" ± ", "\u00a0±\u00a0") for sentence in headline]
    jinja2 = require("jinja2", "evaluate")
    markup = require("markupsafe", "evaluate").Markup
    here = files(__package__)

    def read(name: str) -> str:
        return here.joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(read("page.html.j2"))
    text: str = template.render(
        css=markup(read("page.css")), script=markup(read("page.js")), svg=markup, stroke=stroke, **values
    )
    return text


def now() -> str:
    """The time of making a page."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as plain values for `summary.json`; fractions, NaN as null."""
    rows = []
    for row in summary.rows:
        value = asdict(row)
        for key in ("last_accuracy", "best_accuracy", "ece", "nll"):
            value[key] = getattr(row, key).as_json()
        for key in ("accuracy_difference", "ece_difference", "nll_difference"):
            difference = getattr(row, key)
            if difference is not None:
                value[key] = difference.as_json()
        rows.append(value)
    return {
        "headline": headline(summary),
        "baselines": list(summary.baselines),
        "methods": rows,
        "missing": list(summary.missing),
        "conditions": notes.conditions(summary),
    }
