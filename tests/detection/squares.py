"""A detection set that is learned in seconds: bright rectangles of two colours on dark noise, in COCO's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (230, 40, 40), "blue": (40, 60, 230)}


def write_squares(root: Path, *, train: int = 24, test: int = 8, side: int = 48, crowds: bool = False) -> Path:
    """Each image has one rectangle of each colour, side by side; the last image for testing has none."""
    rng = np.random.default_rng(0)
    for split, count in (("train2017", train), ("val2017", test)):
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        for k in range(count):
            pixels = rng.integers(0, 50, (side, side + 16, 3), dtype=np.uint8)
            images.append({"id": k, "file_name": f"{k}.png", "width": side + 16, "height": side})
            if split == "train2017" or k < count - 1:
                for place, color in enumerate(rng.permutation(list(COLORS))):
                    width, height = rng.integers(14, 24, 2).tolist()
                    left, top = place * 32 + int(rng.integers(0, 8)), int(rng.integers(0, side - height))
                    pixels[top : top + height, left : left + width] = COLORS[color]
                    annotations.append(
                        {"image_id": k, "category_id": list(COLORS).index(color), "bbox": [left, top, width, height]}
                        | ({"iscrowd": int(color == "blue")} if crowds else {})
                    )
            Image.fromarray(pixels).save(root / split / f"{k}.png")
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(COLORS)],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
