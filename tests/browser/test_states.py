"""Every state of the page, on a desktop and on a phone, in the light and in the dark: axe finds nothing wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.chromium import DESKTOP, PHONE, open_page, overflow, screenshot, settle, weaknesses
from tests.browser.site import MISSING, Site, write_film
from vlmvid.serving.video_index import VideoIndex

pytestmark = pytest.mark.long
Reach = Callable[[Page, Site], None]
REFUSED = ("Failed to load resource",)


def start(page: Page, site: Site) -> None:
    page.goto(site.url)
    settle(page)


def search(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?q=a+red+box&where=colour:red&where=colour:blue")
    settle(page)


def filters(page: Page, site: Site) -> None:
    start(page, site)
    if page.locator(".filter-toggle").is_visible():
        page.locator(".filter-toggle").click()
    page.get_by_role("button", name="All 8 values of number").click()


def too_long(page: Page, site: Site) -> None:
    start(page, site)
    page.get_by_role("searchbox").fill("long " * 300)
    page.get_by_role("searchbox").press("Enter")
    page.get_by_text("at most 1,000").wait_for()


def nothing(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?q=red&where=colour:red&where=number:1")
    page.get_by_text("No clip passes").wait_for()


def unknown_filter(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?q=red&where=colour:mauve")
    page.locator(".error").wait_for()


def clip(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?q=a+red+box&where=kind:film")
    page.locator(".card-open").first.click()
    page.locator("dialog .peaks").wait_for()
    page.locator("dialog").get_by_label("Ask about this video").fill("what colour?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".answer:not(.waiting)").wait_for()
    page.locator("dialog video").evaluate("video => video.pause()")


def missing_clip(page: Page, site: Site) -> None:
    row = VideoIndex.open(site.folder / "films").row_of(MISSING)
    page.goto(f"{site.url}/?clip={row}")
    page.locator("dialog .notice").wait_for()


def unknown_clip(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?clip=99999")
    page.locator("dialog .notice").wait_for()


def similar(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?like=0")
    settle(page)


def upload(page: Page, site: Site) -> None:
    start(page, site)
    page.set_input_files("#file", write_film(site.folder / "my holiday.mp4", 2))
    page.locator(".upload").wait_for()
    settle(page)


def no_video(page: Page, site: Site) -> None:
    start(page, site)
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "video/mp4", "buffer": b"no video " * 99})
    page.get_by_role("heading", name="This is no video").wait_for()


def gone_upload(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/?upload={'0f' * 16}")
    page.get_by_text("Choose the file again").wait_for()


STATES: dict[str, Reach] = {
    reach.__name__: reach
    for reach in (
        start, search, filters, too_long, nothing, unknown_filter, clip, missing_clip, unknown_clip, similar, upload,
        no_video, gone_upload,
    )
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_state(browser: Browser, site: Site, pictures: Path, state: str, scheme: str, size: str) -> None:
    viewport = DESKTOP if size == "desktop" else PHONE
    options = {"viewport": viewport, "color_scheme": scheme, "has_touch": size == "phone"}
    with open_page(browser, failures=REFUSED, **options) as page:
        STATES[state](page, site)
        page.wait_for_load_state("networkidle")
        screenshot(page, f"{state}-{size}-{scheme}", pictures)
        assert overflow(page) == 0
        assert not weaknesses(page)
