"""What pages are made of: sections with headings, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .cells import Table


@dataclass(frozen=True)
class Panel:
    """One figure of a section."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, figures or a table, and a caption."""

    title: str
    caption: str
    panels: Sequence[Panel] = ()
    layout: str = "pair"
    """How the panels are arranged: "pair" (large), "wide" (three in a row) or "small"."""
    legend: Mapping[str, str] = field(default_factory=dict)
    """Names and colours."""
    table: Table | None = None
    folded: bool = False
    """Whether the table is long and hides behind a click."""
    left_out: str = ""
    """Why the section could not be made; then it has nothing else."""
