"""The page in one go, for CI: a search, a clip that plays, an upload, nothing hostile, nothing inaccessible."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.chromium import open_page, screenshot, settle, until, weaknesses
from tests.tiny import COLOURS, write_clip
from tests.unit.web_fixtures import HOSTILE, running
from vlmvid.serving.web.app import STATIC

SEARCHED = re.compile(r"\?q=something\+red")


def test_search_play_and_upload(browser: Browser, pictures: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "mine.mp4", COLOURS["red"], num_frames=12)
    with running() as server, open_page(browser) as page:
        page.goto(server.url)
        settle(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("Find the moment")
        expect(page.locator(".title", has_text=HOSTILE[:20]).first).to_be_visible()
        page.get_by_role("searchbox").fill("something red")
        page.keyboard.press("Enter")
        expect(page).to_have_url(SEARCHED)
        hits = server.get("/api/search", text="something red", top_k=24).json()["hits"]
        cards = page.locator("ol.cards > li")
        expect(cards).to_have_count(len(hits))
        expect(cards.locator(".id")).to_have_text([hit["clip"]["video_id"] for hit in hits])
        settle(page)
        screenshot(page, "search", pictures)
        assert not weaknesses(page)

        playable = next(i for i, hit in enumerate(hits) if not hit["clip"]["missing"])
        cards.nth(playable).locator(".card-open").click()
        until(page, "document.querySelector('dialog video')?.currentTime > 0")
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).not_to_be_visible()
        expect(page).to_have_url(re.compile(SEARCHED.pattern + "$"))

        page.set_input_files("#file", clip)
        expect(page.get_by_role("heading", level=1)).to_have_text("mine.mp4")
        expect(page.locator(".upload .talk")).to_have_count(0)  # this model gives no words
        expect(page.locator("ol.cards > li").first).to_be_visible()


def test_its_files_bring_all_they_need() -> None:
    """The policy forbids inline scripts and styles and other sites; text never becomes markup."""
    files = {path.name: path.read_text() for path in STATIC.iterdir()}
    assert {"index.html", "app.js", "style.css"} <= set(files)
    for name, text in files.items():
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"\sstyle=|\son\w+=\"|<style|javascript:", text), name
    assert not re.findall(r"<script(?![^>]*\bsrc=)", files["index.html"])
    assert {match for match in re.findall(r"from \"\./([\w.]+)\"", "".join(files.values()))} <= set(files)
