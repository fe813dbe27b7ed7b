"""`multimix report DIR...`: make the report page of finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import naming_another_folder, refuse_file
from ..reports import summarize, write_page
from .console import show_results
from .options import parse, split_paths


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `multimix report DIR...` takes: folders of runs, or of comparisons, and these."""

    out: Path | None = None
    """Folder of report.html, summary.json and results.csv; default: the first DIR."""


def main(argv: list[str]) -> None:
    """Print the table that the page opens with, then write the page."""
    paths, rest = split_paths(argv)
    options = parse(
        rest,
        Options(),
        prog="multimix report DIR...",
        description="Makes report.html, summary.json and results.csv from finished runs: the folder of a comparison, "
        "or any number of run folders. Unfinished runs are named and left out.",
    )
    if not paths:
        raise ValueError("which runs? Give the folder of a comparison, or run folders: multimix report DIR...")
    out = options.out or paths[0]
    if options.out is not None:
        refuse_file(options.out)
    summary = summarize(paths)
    show_results(summary)
    with naming_another_folder():
        write_page(summary, out)
    print(f"\nPage: {out / 'report.html'} (also summary.json and results.csv)")
