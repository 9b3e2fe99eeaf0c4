"""A report in a real browser, opened from the disk: nothing runs, nothing is refused, axe finds nothing, all sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import DESKTOP, PHONE, open_page, overflow, screenshot, weaknesses
from tests.unit.report_fixtures import page_of, record, retrieval
from vlmvid.evaluation.report_compare import comparison_page
from vlmvid.evaluation.report_html import html_page


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    runs = [record("first", retrieval(60)), record("second", retrieval(60, seed=3, shift=0.3), shift=0.1)]
    pages = {"report": page_of(record()), "comparison": comparison_page(runs)}
    paths = {name: folder / f"{name}.html" for name in pages}
    for name, page in pages.items():
        paths[name].write_text(html_page(page), encoding="utf-8")
    return paths


@pytest.mark.parametrize(
    ("name", "scheme", "size"), [("report", "light", DESKTOP), ("report", "dark", PHONE), ("comparison", "dark", PHONE)]
)
def test_a_report_opens_for_everybody(
    name: str, scheme: str, size: dict[str, int], reports: dict[str, Path], browser: Browser, pictures: Path
) -> None:
    with open_page(browser, color_scheme=scheme, viewport=size) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(reports[name].as_uri())
        assert weaknesses(page) == []
        assert overflow(page) <= 0
        assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        # The drawings' texts are of the page's own colour.
        colours = page.evaluate(
            "[...document.querySelectorAll('.plot svg text')].map(text => getComputedStyle(text).fill)"
        )
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert colours and set(colours) == {ink}
        screenshot(page, f"{name}-{scheme}", pictures)


def test_on_paper_nothing_stays_folded(reports: dict[str, Path], browser: Browser) -> None:
    with open_page(browser, color_scheme="dark") as page:
        page.goto(reports["report"].as_uri())
        folded = page.locator("details table").first
        assert not folded.is_visible()
        page.emulate_media(media="print")
        assert folded.is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
