"""Images of a detection set with their boxes and what a detector finds: kept as plain JSON values, and drawn."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data import pictures
from ..data.boxes import BoxedImage
from ..detection.precision import Detections
from ..reports.overlays import data_uri

__all__ = ["MOST", "SURE", "grid", "some_pictures"]

SURE, MOST = 0.5, 20
"""The score from which a detection is drawn, and how many are in a picture."""
SHOWN, THUMBNAIL = 4, 320
"""Pictures of a set, and their longer side in pixels."""
WIDTH, GAP = 320, 10
"""Of a picture as drawn, in units that are about pixels."""


def some_pictures(
    images: Sequence[BoxedImage], found: Sequence[Detections], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """A few images of the set with their boxes and with what was found, in shares of the image's sides."""
    chosen = torch.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().long().tolist()
    made = []
    for number in chosen:
        image, one = images[number], found[number]
        picture = pictures.read(image.path, upright=False)
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        sides = torch.tensor([image.width, image.height, image.width, image.height])
        # Scores fall; a detector that has learnt little is sure of boxes everywhere.
        sure = (one["scores"] >= SURE).nonzero().flatten()[:MOST]
        rows = zip(one["labels"][sure].tolist(), one["scores"][sure].tolist(), one["boxes"][sure] / sides, strict=True)
        true = torch.tensor([box.edges for box in image.boxes]).reshape(-1, 4) / sides
        made.append(
            {
                "image": data_uri(pictures.pixels(picture).float() / 255, lossless=False),
                "aspect": image.width / image.height,
                "true": [
                    {"name": box.name, "edges": _rounded(edges)} for box, edges in zip(image.boxes, true, strict=True)
                ],
                "found": [
                    {"name": classes[label - 1], "score": round(score, 3), "edges": _rounded(edges)}
                    for label, score, edges in rows
                ],
            }
        )
    return made


def grid(shown: Sequence[Mapping[str, Any]], colors: Mapping[str, str], *, label: str) -> str:
    """An SVG with the pictures in rows of two."""
    drawn, top = [], 0
    for start in range(0, len(shown), 2):
        row = shown[start : start + 2]
        # A picture a hundred times as high as wide would push all else off the page.
        heights = [round(WIDTH / max(picture["aspect"], 1 / 3)) for picture in row]
        for k, (picture, height) in enumerate(zip(row, heights, strict=True)):
            drawn.append(_picture(picture, colors, k * (WIDTH + GAP), top, height))
        top += max(heights) + GAP
    width = min(2, len(shown)) * (WIDTH + GAP) - GAP
    return (
        f'<svg viewBox="0 0 {width} {top - GAP}" role="img" aria-label="detections of {html.escape(label)}" '
        f'font-size="15">{"".join(drawn)}</svg>'
    )


def _picture(picture: Mapping[str, Any], colors: Mapping[str, str], x: int, y: int, height: int) -> str:
    def box(edges: Sequence[float], style: str, title: str) -> str:
        left, top, right, bottom = edges
        return (
            f'<rect x="{x + WIDTH * left:.1f}" y="{y + height * top:.1f}" width="{WIDTH * (right - left):.1f}" '
            f'height="{height * (bottom - top):.1f}" fill="none" {style}><title>{html.escape(title)}</title></rect>'
        )

    # Where its height is cut short the image is squeezed, as its boxes are.
    place = f'x="{x}" y="{y}" width="{WIDTH}" height="{height}" preserveAspectRatio="none"'
    drawn = [f'<image {place} href="{picture["image"]}"/>']
    for one in picture["found"]:
        style = f'stroke="{colors.get(one["name"], "#8a8a8a")}" stroke-width="3"'
        drawn.append(box(one["edges"], style, f"{one['name']}, score {one['score']:.2f}"))
    for one in picture["true"]:
        drawn.append(box(one["edges"], 'stroke="#ffffff" stroke-width="1.5" stroke-dasharray="4 3"', one["name"]))
    return "".join(drawn)


def _rounded(edges: torch.Tensor) -> list[float]:
    return [round(edge, 4) for edge in edges.tolist()]
