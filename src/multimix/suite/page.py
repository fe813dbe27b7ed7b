"""What an evaluation leaves: `evaluation.html`, `evaluation.json`, `evaluation.csv` and `plots/`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import one_line
from ..files import write_json, write_text
from ..reports.conditions import several
from ..reports.headline import sentence, unsaid
from ..reports.page import fill, now
from ..reports.plan import folder_name
from ..reports.runs import BASELINE
from ..reports.section import Section
from ..reports.style import method_colors, only_baseline, standalone
from ..training.records import environment
from .differences import as_rows, differences_from_erm, differences_section
from .paper_numbers import beside_paper
from .part import Legend, Part
from .results import as_csv, as_json, by_label, headlines, kinds_of, overview
from .running import Outcome, options_of

__all__ = ["label_colors", "write_evaluation"]

LONGEST = 150
"""Bytes of a file name, of which file systems take 255 with whatever a writer puts around them."""


def write_evaluation(outcomes: Sequence[Outcome], parts: Sequence[Part], out: Path, *, command: str) -> list[str]:
    """Write the four of them; what a part cannot show is left out, and named.

    Returns:
        Why things were left out, one line each.

    Raises:
        OSError: a file cannot be written.
        ImportError: matplotlib or Jinja2 is not installed; the JSON and CSV files are there by then.
    """
    out.mkdir(parents=True, exist_ok=True)
    colors = label_colors(outcomes)
    baselines = {o.candidate.label: o.candidate.baseline for o in outcomes if o.candidate.baseline}
    conditions = {**_conditions(outcomes, parts), "Command": command}
    kinds = kinds_of(outcomes)
    of_first_kind = by_label(outcomes, which=kinds[0])
    numbers = {label: headlines(group, parts) for label, group in of_first_kind.items()}
    differences = differences_from_erm(numbers, baselines)
    whole = {"conditions": conditions, "made": now(), "differences": as_rows(differences, baselines)}
    write_json(out / "evaluation.json", whole | {"models": as_json(outcomes, parts)})
    write_text(out / "evaluation.csv", as_csv(outcomes, parts))
    shown: dict[str | None, list[Section]] = {}
    for which in kinds:
        groups = by_label(outcomes, which=which)
        shown[which] = [section for part in parts for section in _sections(part, groups, Legend(colors, baselines))]
    about = outcomes[0].candidate
    networks = several(o.candidate.model for o in outcomes)
    methods = {label: group[0].candidate.method for label, group in of_first_kind.items()}
    paper = beside_paper(numbers, methods, data=about.data, model=networks)
    apart = differences_section(differences, colors)
    first = [*([apart] if apart else []), *paper, *shown[kinds[0]]]
    page = fill(
        title=f"{_count(outcomes)} on {about.data_name}",
        kicker=" · ".join(["multimix evaluate", networks, _weights(kinds)]),
        headline=_sentences(of_first_kind, parts, baselines),
        headline_note="In brackets: the mean difference from ERM with the same settings in percentage points, over "
        "runs paired by seed, with its 95 % t-interval. A method is called better or worse only when the interval "
        "excludes zero; the intervals are not corrected for the number of methods and measures."
        if any(difference.n > 1 for of_label in differences.values() for difference in of_label.values())
        else "",
        missing=[
            *(f"{o.candidate.name}: {o.candidate.still_to_train}" for o in outcomes if o.candidate.still_to_train),
            *(f"{o.candidate.name}, {part}: {why}" for o in outcomes for part, why in o.failures.items()),
        ],
        results_title="Overview",
        results=overview(outcomes, parts, colors),
        results_note="Mean ± standard deviation over seeds. ↑: higher is better, ↓: lower is better; bold is the best "
        "mean of a column, whatever the noise. Click a column to sort.",
        sections=first,
        folded_title="The same with the weights of the best epoch",
        folded_sections=[section for which in kinds[1:] for section in shown[which] if not section.left_out],
        conditions={**conditions, "Page made": now()},
    )
    write_text(out / "evaluation.html", page)
    for kind, sections in shown.items():
        _write_plots(sections, out / "plots" / (kind or ""))
    return [f"{section.title}: {section.left_out}" for section in first if section.left_out]


def label_colors(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """A colour for every label."""
    methods = {outcome.candidate.label: outcome.candidate.method for outcome in outcomes}
    baselines = [label for label, method in methods.items() if method == BASELINE]
    return method_colors(list(methods), only_baseline(baselines))


def _sections(part: Part, groups: Mapping[str, Sequence[Outcome]], legend: Legend) -> list[Section]:
    results = {
        label: [outcome.results[part.name] for outcome in outcomes if part.name in outcome.results]
        for label, outcomes in groups.items()
    }
    results = {label: found for label, found in results.items() if found}
    if not results:
        return []
    try:
        return part.sections(results, replace(legend, colors={label: legend.colors[label] for label in results}))
    except Exception as error:  # the page of the other parts does not suffer from it
        return [Section(part.name, "", left_out=one_line(error))]


def _sentences(
    groups: Mapping[str, Sequence[Outcome]], parts: Sequence[Part], baselines: Mapping[str, str]
) -> list[str]:
    """For the first number of every part, how the methods differ from ERM; and what is compared with no ERM."""
    found = []
    single, multiple = False, False
    for part in parts:
        of_part = {label: headlines(group, [part]) for label, group in groups.items()}
        title = next((title for erm in baselines.values() for title in of_part.get(erm, ())), "")
        differences = {
            label: of_label[title]._replace(
                mean=of_label[title].mean / 100, half_width=of_label[title].half_width / 100
            )
            for label, of_label in differences_from_erm(of_part, baselines).items()
            if title in of_label
        }
        told = {label: d for label, d in differences.items() if d.n > 1}
        single, multiple = single or bool(differences), multiple or bool(told)
        if told and "%" in title and title.endswith(("↑", "↓")):
            name = title.rstrip(" ↑↓").removesuffix(", %")
            text = sentence(name, told, higher_is_better=title.endswith("↑"))
            found.append(text[0].upper() + text[1:] if text.startswith(("no ", "for ")) else text)
    if single and not multiple:
        found = ["There is one pair of runs for each comparison with ERM: differences cannot be told from noise."]
    if alone := _alone(groups, baselines):
        found.append(unsaid(alone))
    return found


def _alone(groups: Mapping[str, Sequence[Outcome]], baselines: Mapping[str, str]) -> list[str]:
    """The labels of runs that no ERM run has settings and seed of, on a page that has ERM."""
    methods = {label: group[0].candidate.method for label, group in groups.items()}
    if BASELINE not in methods.values():
        return []
    seeds = {label: {outcome.candidate.seed for outcome in group} for label, group in groups.items()}
    return [
        label
        for label, method in methods.items()
        if method not in (BASELINE, None) and seeds[label].isdisjoint(seeds.get(baselines.get(label, ""), ()))
    ]


def _conditions(outcomes: Sequence[Outcome], parts: Sequence[Part]) -> dict[str, str]:
    devices = dict.fromkeys(outcome.candidate.device for outcome in outcomes)
    machines = [environment(torch.device(device), 1) for device in devices]
    found = {
        "Network": several(o.candidate.model for o in outcomes),
        "Training": several(o.candidate.training for o in outcomes),
        "Seeds": ", ".join(str(seed) for seed in sorted({o.candidate.seed for o in outcomes})),
    }
    for part in parts:
        options = ", ".join(f"{name}={value}" for name, value in options_of(part).items())
        found[f"Options of {part.name}"] = options or "none"
    found["Versions"] = ", ".join(f"{name} {number}" for name, number in machines[0]["versions"].items())
    hardware = [machine["hardware"] for machine in machines]
    found["Hardware"] = ", ".join(dict.fromkeys([hardware[0]["cpu"], *(each["device"] for each in hardware)]))
    return found


def _write_plots(sections: Sequence[Section], folder: Path) -> None:
    for section in sections:
        for panel in section.panels:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / f"{_slug(f'{section.title} {panel.title}')}.svg", standalone(panel.svg))


def _slug(text: str) -> str:
    """A title as a file name; a long one is cut, with a digest that tells it from others with the same beginning.

    >>> _slug("PGD 4/255, error over steps")
    'pgd-4-255-error-over-steps'
    >>> _slug("Test images against 猫 ROC curves")
    'test-images-against-猫-roc-curves'
    """
    slug = folder_name(text.lower())
    if len(slug.encode()) <= LONGEST:
        return slug
    cut = slug.encode()[:LONGEST].decode(errors="ignore")
    return f"{cut}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _weights(kinds: Sequence[str | None]) -> str:
    return " and ".join(f"{which} epoch" for which in kinds if which) or "weights as given"


def _count(outcomes: Sequence[Outcome]) -> str:
    """How many methods, whatever their settings, or models, where some were trained elsewhere."""
    number = len({outcome.candidate.method or outcome.candidate.label for outcome in outcomes})
    noun = "method" if all(outcome.candidate.method for outcome in outcomes) else "model"
    return f"One {noun}" if number == 1 else f"{number} {noun}s"
