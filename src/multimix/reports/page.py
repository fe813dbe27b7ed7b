"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from ..extras import require
from .style import stroke


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
