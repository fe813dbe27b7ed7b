"""Draw the pictures of the README again: `python docs/images/make.py`."""

from pathlib import Path

from multimix.reports.hull import hull_panels

# Inside a page an SVG needs neither a namespace nor a size; as a file it needs both.
FILE = '<svg xmlns="http://www.w3.org/2000/svg" width="280" '

for panel, name in zip(hull_panels(), ("mixup", "multimix", "multimix-small-alpha"), strict=True):
    (Path(__file__).parent / f"{name}.svg").write_text(panel.svg.replace("<svg ", FILE, 1))
