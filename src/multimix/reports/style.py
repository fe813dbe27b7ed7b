"""The look of every figure: colours, matplotlib settings, and SVG that takes its ink from the page."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

from ..extras import require

INK = "#0a0b0c"
"""Stands for the page's text colour, which differs between light and dark; `to_svg` replaces it."""

# Okabe and Ito's colours, which stay apart in the common forms of colour blindness; grey is kept for the baseline.
# Beyond them no colours stay apart for everybody: the second and the third seven also have dashes and markers.
BASELINE_COLOR = "#8a8a8a"
COLORS = (
    "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#0072b2", "#b5a614",
    "#7b3fa0", "#8c510a", "#5aae61", "#e7298a", "#01a3a4", "#a50026", "#7f8fd9",
    "#ff8c7a", "#2d6a4f", "#b98ae0", "#c9a876", "#3a3ad6", "#86b300", "#a33b6e",
)  # fmt: skip
STROKES = (("solid", "-", "o"), ("dashed", (0, (4, 1.6)), "s"), ("dotted", (0, (1.2, 1.3)), "^"))
"""For every seven colours: the name on the page, the line style and the marker of matplotlib."""

# Ten classes in one plot need ten hues; they are told apart by labels and a legend too.
CLASS_COLORS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#b07aa1",
    "#9c755f",
    "#ff9da7",
    "#76b7b2",
    "#c9a227",
    "#8a8a8a",
)


def only_baseline(baselines: Sequence[str]) -> str | None:
    """The one that is drawn in grey: several would not be told apart."""
    return baselines[0] if len(baselines) == 1 else None


def method_colors(labels: Sequence[str], baseline: str | None) -> dict[str, str]:
    """A colour for every method, the same in all figures of a page.

    >>> method_colors(["erm", "cutmix"], "erm")
    {'erm': '#8a8a8a', 'cutmix': '#56b4e9'}
    """
    others = [label for label in labels if label != baseline]
    colors = {label: COLORS[k % len(COLORS)] for k, label in enumerate(others)}
    return {label: colors.get(label, BASELINE_COLOR) for label in labels}


def stroke(color: str) -> str:
    """How a line of this colour is drawn: "solid", "dashed" or "dotted".

    >>> stroke(COLORS[0]), stroke(COLORS[7]), stroke(BASELINE_COLOR)
    ('solid', 'dashed', 'solid')
    """
    return STROKES[_seven(color)][0]


def line(color: str) -> dict[str, Any]:
    """Colour, dashes and marker of a method's line, as keyword arguments of `axes.plot`."""
    _, dashes, marker = STROKES[_seven(color)]
    return {"color": color, "linestyle": dashes, "marker": marker}


def _seven(color: str) -> int:
    return COLORS.index(color) // 7 if color in COLORS else 0


@contextmanager
def figure(width: float, height: float, **subplots: Any) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure of `width` x `height` inches with this page's style, and its axes; closed afterwards.

    It is made without pyplot, so that no global state and no window system is touched.
    """
    settings = {
        "font.size": 9,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "grid.color": INK,
        "grid.alpha": 0.12,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "svg.hashsalt": "multimix",
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    matplotlib = require("matplotlib", "evaluate")
    # Text stays text, which the reader's own fonts show.
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
    with matplotlib.rc_context(settings):
        drawn = require("matplotlib.figure", "evaluate").Figure(figsize=(width, height), layout="constrained")
        yield drawn, drawn.subplots(**subplots)


def standalone(svg: str) -> str:
    """An inline SVG of `to_svg` as a file of its own: black ink and a font, which the page would have given it."""
    return svg.replace(
        "<svg ",
        '<svg xmlns="http://www.w3.org/2000/svg" style="color: #111; background: #fff; font-family: sans-serif" ',
        1,
    )


def _short(coordinates: str) -> str:
    """In one line, with numbers of more than two decimals to two.

    >>> _short('d="M 1.23456 -7 \\nL 2.9999 0.004"')
    'd="M 1.23 -7 L 3 0"'
    """
    coordinates = re.sub(r"\s*\n", " ", coordinates)
    return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), coordinates)


def to_svg(drawn: Any, description: str) -> str:
    """The figure as an inline `<svg>` that scales with its box, inherits the page's font and ink, and says
    `description` to a screen reader."""
    buffer = StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(' id="halo"', ' class="halo"')  # which the page's style sheet knows
    # Ids that nothing refers to would only repeat from one figure of the page to the next.
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    # A hundredth of a point is finer than any screen, and curves of hundreds of epochs are a quarter shorter.
    svg = re.sub(r' (?:d|x|y|points)="[^"]*"', lambda match: _short(match[0]), svg)
    svg = svg.replace(INK, "currentColor")
    about = f'role="img" aria-label="{html.escape(description)}" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', lambda found: f'<svg viewBox="{found[1]}" {about}>', svg, count=1
    )
