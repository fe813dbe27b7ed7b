"""What a page says about its methods."""

from types import SimpleNamespace
from typing import Any

import pytest

from multimix import methods
from multimix.reports.notes import _methods


@pytest.mark.parametrize("name", ["multimix", "dense-multimix"])
def test_the_page_says_which_alpha_a_name_stands_for(name: str) -> None:
    def said(*names: str) -> str:
        summary: Any = SimpleNamespace(rows=[SimpleNamespace(method=one) for one in names])
        return _methods(summary)

    preset: Any = methods.parse(f"{name}-small-alpha")
    low, high = preset.a.criterion.alpha
    assert low == high
    assert f"α = {low:g}," in said("erm", f"{name}-small-alpha")
    assert "U[0.5, 2]" in said("erm", name)
    assert "small-alpha" not in said("erm", name)
    assert "α" not in said("erm", "cutmix", f"{name}-alone")
