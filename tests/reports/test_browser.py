"""The page in a browser: alone, without errors, on a phone, and sorted by a click."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_opens_alone_without_errors_or_overflow(browser, comparison: Path, width: int, scheme: str) -> None:  # type: ignore[no-untyped-def]
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    url = (comparison / "report.html").as_uri()
    page.goto(url)
    assert [request for request in requests if not request.startswith("data:")] == [url]
    assert errors == []
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
