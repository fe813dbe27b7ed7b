"""The page in a browser: alone, without errors, on a phone, and sorted by a click."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from multimix import cli
from multimix.reports.style import COLORS, line, method_colors, stroke

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(comparison: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a comparison, and that of an evaluation of the same runs."""
    out = tmp_path_factory.mktemp("evaluation")
    cli.main(["evaluate", str(comparison), "--parts", "accuracy", "--which", "both", "--out", str(out)])
    return {"comparison": comparison / "report.html", "evaluation": out / "evaluation.html"}


@pytest.mark.parametrize("which", ["comparison", "evaluation"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_opens_alone_without_errors_or_overflow(  # type: ignore[no-untyped-def]
    browser, pages: dict[str, Path], which: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    url = pages[which].as_uri()
    page.goto(url)
    assert [request for request in requests if not request.startswith("data:")] == [url]
    assert errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(details => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    ink, axis = page.evaluate(
        "[document.body, document.querySelector('figure svg text')].map(e => getComputedStyle(e))"
        ".map((s, k) => k ? s.fill : s.color)"
    )
    assert axis == ink
    page.close()


def test_tables_sort_by_a_click_and_back(browser, comparison: Path) -> None:  # type: ignore[no-untyped-def]
    page = browser.new_page()
    page.goto((comparison / "report.html").as_uri())
    table = page.locator("table").first

    def column(number: int) -> list[float]:
        cells = table.locator(f"tbody td:nth-child({number})")
        return [float(value) for value in cells.evaluate_all("cells => cells.map(c => c.dataset.value)")]

    names = table.locator("tbody td:first-child")
    before = names.all_inner_texts()
    head = table.locator("thead th:nth-child(2)")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(2) == sorted(column(2), reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(2) == sorted(column(2))
    assert sorted(names.all_inner_texts()) == sorted(before)
    table.locator("thead th:first-child button").click()
    assert names.all_inner_texts() == sorted(before)
    assert head.get_attribute("aria-sort") is None
    page.close()


def test_paper_gets_what_is_folded_on_the_screen(browser, pages: dict[str, Path]) -> None:  # type: ignore[no-untyped-def]
    page = browser.new_page(viewport={"width": 700, "height": 1000})
    page.goto(pages["evaluation"].as_uri())
    folded = page.locator("details:not([open])")
    count = folded.count()
    assert count >= 1
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.count() == 0
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.pdf().startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert folded.count() == count
    page.close()


def test_twenty_methods_stay_apart() -> None:
    colors = method_colors(["erm", *(f"method {k}" for k in range(len(COLORS)))], "erm")
    assert len(set(colors.values())) == len(COLORS) + 1 >= 21
    looks = {color: (stroke(color), str(line(color)["linestyle"]), line(color)["marker"]) for color in COLORS}
    assert len(set(looks.values())) == 3

    def lab(color: str) -> tuple[float, float, float]:
        """CIELAB under D65, from its definition."""
        rgb = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        r, g, b = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
        fx, fy, fz = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
        return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)

    for position, a in enumerate(COLORS):
        for b in COLORS[:position]:
            # A difference of 10 is seen at a glance; colours with the same dashes must differ by twice that.
            assert math.dist(lab(a), lab(b)) > (20 if looks[a] == looks[b] else 10), (a, b)
