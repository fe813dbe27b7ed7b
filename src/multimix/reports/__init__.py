"""Reports: runs read from disk, summarised in tables, and drawn on one self-contained page.

`write_page(summarize([Path("runs/demo")]), Path("runs/demo"))` writes `report.html`, `summary.json` and `results.csv`.
"""

from .comparison import write_page
from .summary import Summary, summarize

__all__ = ["Summary", "summarize", "write_page"]
