"""Debian's Chromium without a screen, driven by playwright, and the places where its pictures go."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
SLOW_SECONDS = 30
# WCAG 2.2 up to AA, and what axe holds to be good besides.
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def chromium_path() -> str:
    """Where Chromium is; without it the test is skipped, in CI it fails."""
    path = os.environ.get("VLMVID_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        why = "no Chromium here (Debian: apt install chromium; elsewhere name it in VLMVID_CHROMIUM)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the time of the block. Playwright holds the thread's event loop meanwhile."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, *, failures: tuple[str, ...] = (), **options: Any) -> Iterator[Page]:
    """A page that fails the test for every error on its console, broken policies included.

    `failures` are patterns of those that the test brings about, e.g. requests that are refused.
    """
    told: list[str] = []
    with browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options}) as context:
        context.set_default_timeout(SLOW_SECONDS * 1000)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: told.append(str(error)))
        yield page
        hostile = page.evaluate("window.hacked")
    assert hostile is None, "text of a clip ran as a script"
    assert not [text for text in told if not any(re.search(pattern, text) for pattern in failures)]


def settle(page: Page) -> None:
    """Wait until nothing is loaded any more."""
    page.locator("main[aria-busy=false]").wait_for()
    page.wait_for_load_state("networkidle")


def until(page: Page, expression: str) -> None:
    """Wait until an expression holds. Playwright's own way evaluates a text in the page, which the policy forbids."""
    give_up = time.monotonic() + SLOW_SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < give_up, f"{expression} does not come true"
        page.wait_for_timeout(50)


def screenshot(page: Page, name: str, otherwise: Path) -> None:
    """Keep a picture in $VLMVID_SCREENSHOTS, else in the folder `otherwise`."""
    folder = Path(os.environ.get("VLMVID_SCREENSHOTS") or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def weaknesses(page: Page) -> list[str]:
    """What axe finds wrong, a line each."""
    results = Axe().run(page, options={"runOnly": {"type": "tag", "values": AXE_TAGS}}).response
    return [
        f"{found['id']}: {found['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for found in results["violations"]
        for node in found["nodes"]
    ]


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
