"""What people do with the page, on a real server: search, play, look for similar ones, filter, upload, ask."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import av
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.chromium import open_page, settle, until
from tests.browser.site import FILM_SECONDS, HOSTILE, HOSTILE_FILE, MISSING, NUM_CLIPS, PART, Site, write_film
from tests.unit.web_fixtures import running
from vlmvid.serving.video_index import VideoIndex

pytestmark = pytest.mark.long
REFUSED = ("Failed to load resource",)
VIDEO = "document.querySelector('dialog video')"


def goto(page: Page, site: Site, address: str = "") -> None:
    page.goto(f"{site.url}/{address}")
    settle(page)


def hits_of(site: Site, text: str, *where: str, top_k: int = 24) -> list[dict]:
    found = site.client.get("/api/search", params={"text": text, "top_k": top_k, "where": where})
    return list(found.json()["hits"])


def row_of(site: Site, video_id: str) -> int:
    return VideoIndex.open(site.folder / "films").row_of(video_id)


def test_a_search_shows_what_the_api_ranks_with_the_moment_of_each(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site)
        page.get_by_role("searchbox").fill("a red box")
        page.get_by_role("button", name="Search", exact=True).click()
        hits = hits_of(site, "a red box")
        cards = page.locator("ol.cards > li")
        expect(cards).to_have_count(24)
        expect(cards.locator(".score")).to_have_text([shown(hit["score"]) for hit in hits], use_inner_text=True)
        with_moments = [hit for hit in hits if hit["moment"] and not hit["clip"]["missing"]]
        assert with_moments
        times = [f"0:{hit['moment']['seconds']:04.1f}" for hit in with_moments]
        expect(cards.locator(".time")).to_have_text([re.compile(f"{time}$") for time in times])
        bars = cards.nth(0).locator(".bar")
        expect(bars).to_have_count(len(hits[0]["moment"]["steps"]))
        expect(cards.nth(0).locator(".bar.best")).to_have_count(1)
        place, hit = next((i, hit) for i, hit in enumerate(hits) if not hit["clip"]["missing"])
        source = cards.nth(place).locator("img").get_attribute("src") or ""
        address, _, seconds = source.partition("?seconds=")
        assert (address, float(seconds)) == (hit["clip"]["thumbnail"], hit["moment"]["seconds"])
        expect(page.locator("#status")).to_have_text(re.compile("^24 clips"))
        expect(page).to_have_title("a red box – vlmvid")


def shown(score: float) -> re.Pattern[str]:
    return re.compile(re.escape(f"{score:.3f}".replace("-", "−")) + "$")


def test_back_and_forward_lead_through_searches_and_clips(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site)
        page.locator(".examples a").first.click()
        settle(page)
        first = page.url
        page.locator(".card-open").nth(3).click()
        expect(page.locator("dialog")).to_be_visible()
        opened = page.url
        page.locator("dialog").get_by_role("link", name="Similar clips").click()
        expect(page).to_have_url(re.compile(r"\?like=\d+$"))
        expect(page.locator("dialog")).not_to_be_visible()
        expect(page.locator("main h1")).to_be_focused()
        page.go_back()
        expect(page.locator("dialog")).to_be_visible()
        assert page.url == opened
        page.go_back()
        expect(page.locator("dialog")).not_to_be_visible()
        assert page.url == first
        page.go_back()
        expect(page.get_by_role("heading", name="Find the moment")).to_be_visible()
        page.go_forward()
        expect(page.locator(".score").first).to_be_visible()
        assert page.url == first


def test_a_clip_plays_from_its_moment(browser: Browser, site: Site) -> None:
    hits = hits_of(site, "a red box", "kind:film")
    place, hit = next((i, hit) for i, hit in enumerate(hits) if hit["moment"]["seconds"] > 1 and not is_part(hit))
    start = hit["moment"]["seconds"]
    with open_page(browser) as page:
        goto(page, site, "?q=a+red+box&where=kind:film")
        with page.expect_response(re.compile("/video$")) as answer:
            page.locator(".card-open").nth(place).click()
        assert answer.value.status == 206
        at = float(parse_qs(urlsplit(page.url).query)["at"][0])
        assert 0 <= at - start < 0.0011
        until(page, f"{VIDEO}?.played.length > 0")
        assert abs(page.evaluate(f"{VIDEO}.played.start(0)") - start) < 0.2
        page.evaluate(f"{VIDEO}.addEventListener('seeking', event => {{ window.sought = event.target.currentTime; }})")
        peak = page.locator("dialog .peaks button").first
        peak.click()
        seconds = float(re.search(r"0:(\d\d\.\d)", peak.inner_text()).group(1))  # type: ignore[union-attr]
        until(page, "window.sought !== undefined")
        assert abs(page.evaluate("window.sought") - seconds) < 0.06
        page.keyboard.press("Escape")
        expect(page.locator("dialog video")).to_have_count(0)
        expect(page.locator(".card-open").nth(place)).to_be_focused()
        page.goto(f"{site.url}/?clip={hit['clip']['row']}&at=2.5")
        until(page, f"{VIDEO}?.currentTime >= 2.49")


def is_part(hit: dict) -> bool:
    return bool(hit["clip"]["video_id"] == PART)


def test_a_part_of_a_file_pauses_at_its_end(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site)
        row = row_of(site, PART)
        page.goto(f"{site.url}/?q=one+second&k=48")
        page.locator(f'.card-open[href*="clip={row}&"]').click()
        until(page, f"{VIDEO}?.currentTime >= 1")
        until(page, f"{VIDEO}.paused && {VIDEO}.currentTime >= 2")
        assert page.evaluate(f"{VIDEO}.currentTime") < 3 < FILM_SECONDS
        expect(page.locator("dialog dd").nth(1)).to_have_text("0:01.0 to 0:02.0")


def test_similar_clips_are_those_of_the_api_and_not_the_clip_itself(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site, "?q=green")
        row = re.search(r"clip=(\d+)", page.locator(".card-open").first.get_attribute("href") or "").group(1)  # type: ignore[union-attr]
        page.locator(".similar").first.click()
        expect(page).to_have_url(re.compile(rf"\?like={row}$"))
        settle(page)
        hits = site.client.get(f"/api/clips/{row}/similar", params={"top_k": 24}).json()["hits"]
        expect(page.locator("ol.cards .score")).to_have_text([shown(hit["score"]) for hit in hits], use_inner_text=True)
        addresses = [card.get_attribute("href") or "" for card in page.locator("ol.cards .card-open").all()]
        assert not [address for address in addresses if re.search(rf"clip={row}\b", address)]


def test_filters_narrow_and_are_cleared(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site, "?q=box")
        page.get_by_role("checkbox", name=re.compile("^red")).check()
        settle(page)
        page.get_by_role("checkbox", name=re.compile("^blue")).check()
        expect(page).to_have_url(re.compile("where=colour%3Ared.*where=colour%3Ablue"))
        hits = hits_of(site, "box", "colour:red", "colour:blue")
        expect(page.locator("ol.cards > li")).to_have_count(len(hits))
        assert {hit["clip"]["attributes"]["colour"] for hit in hits} == {"red", "blue"}
        page.get_by_role("button", name="Remove the filter colour:blue").click()
        expect(page.get_by_role("checkbox", name=re.compile("^blue"))).not_to_be_checked()
        page.get_by_role("button", name="All 8 values of number").click()
        page.get_by_role("checkbox", name=re.compile("^1")).check()
        expect(page.get_by_text("No clip passes")).to_be_visible()
        page.get_by_role("button", name="Clear the filters").click()
        expect(page.locator("ol.cards > li")).to_have_count(24)
        assert "where" not in page.url


def test_more_clips_are_shown_until_there_are_no_more(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site, "?q=box")
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("ol.cards > li")).to_have_count(NUM_CLIPS + 2)
        expect(page.locator(".card-open").nth(24)).to_be_focused()
        expect(page.get_by_role("button", name="Show more")).to_have_count(0)


def test_an_upload_has_a_caption_tags_similar_clips_and_answers(browser: Browser, site: Site, tmp_path: Path) -> None:
    film = write_film(tmp_path / HOSTILE_FILE, 3)
    told = site.client.post("/api/uploads", files={"file": ("a.mp4", film.read_bytes())}).json()
    with open_page(browser, failures=REFUSED) as page:
        goto(page, site)
        page.set_input_files("#file", film)
        expect(page).to_have_url(re.compile(r"\?upload=[0-9a-f]{32}$"))
        expect(page.locator("main h1")).to_have_text(told["caption"])
        expect(page.locator(".upload .sub")).to_contain_text(HOSTILE_FILE)
        expect(page.locator(".upload .chip")).to_have_count(len(told["tags"]))
        expect(page.locator("ol.cards > li")).to_have_count(len(told["similar"]))
        page.get_by_label("Ask about this video").fill("what colour?")
        page.keyboard.press("Enter")
        answer = site.client.post(f"/api/uploads/{told['upload']}/ask", json={"question": "what colour?"}).json()
        expect(page.locator(".answer:not(.waiting)")).to_have_text(answer["answer"])
        page.reload()
        expect(page.locator("main h1")).to_have_text(told["caption"])
        until(page, "document.querySelector('.upload video').readyState > 1")
        name = page.url[-32:]
        page.get_by_role("button", name="Remove my video").click()
        expect(page.get_by_role("heading", name="Find the moment")).to_be_visible()
        assert site.client.get(f"/api/uploads/{name}/video").status_code == 404
        page.go_back()
        expect(page.get_by_role("heading", name="This upload is gone")).to_be_visible()


def test_an_upload_may_be_dropped_on_the_page(browser: Browser, site: Site, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 1)
    with open_page(browser) as page:
        goto(page, site)
        numbers = list(film.read_bytes())
        files = page.evaluate_handle(
            "numbers => { const held = new DataTransfer();"
            " held.items.add(new File([new Uint8Array(numbers)], 'film.mp4')); return held; }",
            numbers,
        )
        page.dispatch_event("body", "dragover", {"dataTransfer": files})
        expect(page.locator("#drop")).to_be_visible()
        page.dispatch_event("body", "drop", {"dataTransfer": files})
        expect(page.locator(".upload")).to_be_visible()


def test_an_upload_is_given_up_by_hand_or_by_a_search(browser: Browser, site: Site, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 1)
    held: list[Route] = []
    with open_page(browser, failures=REFUSED) as page:
        goto(page, site)
        page.route("**/api/uploads", lambda route: held.append(route))
        page.set_input_files("#file", film)
        expect(page.get_by_role("heading", name="film.mp4")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("heading", name="Find the moment")).to_be_visible()
        page.set_input_files("#file", film)
        expect(page.get_by_role("heading", name="film.mp4")).to_be_visible()
        page.get_by_role("searchbox").fill("red")
        page.keyboard.press("Enter")
        expect(page.locator("ol.cards .score").first).to_be_visible()
        assert len(held) == 2
        page.wait_for_timeout(300)
        expect(page.locator("ol.cards .score").first).to_be_visible()


def test_a_video_that_the_browser_cannot_play_is_told(browser: Browser, site: Site, tmp_path: Path) -> None:
    with av.open(tmp_path / "old.avi", "w") as container:
        stream = container.add_stream("mpeg4", rate=6, width=64, height=48)
        for shade in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * shade, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_page(browser, failures=REFUSED) as page:
        goto(page, site)
        page.set_input_files("#file", tmp_path / "old.avi")
        expect(page.locator("ol.cards > li").first).to_be_visible()
        expect(page.get_by_role("alert").filter(has_text="cannot play the video")).to_be_visible()


def test_what_cannot_be_uploaded_is_told(browser: Browser, site: Site) -> None:
    with open_page(browser, failures=REFUSED) as page:
        goto(page, site)
        page.set_input_files("#file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video " * 99})
        expect(page.get_by_role("alert").filter(has_text="This is no video")).to_be_visible()
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.method))
        page.set_input_files("#file", {"name": "b.mp4", "mimeType": "video/mp4", "buffer": b"0" * (2 << 20)})
        expect(page.get_by_role("alert").filter(has_text="This video is too large")).to_contain_text("2.0 MB")
        assert "POST" not in sent
        page.get_by_role("link", name="vlmvid, start page").click()
        expect(page.get_by_role("heading", name="Find the moment")).to_be_visible()


def test_a_question_about_a_clip_and_its_caption(browser: Browser, site: Site) -> None:
    row = row_of(site, "v4")  # one of those that are shown at the start
    caption = site.client.post(f"/api/clips/{row}/caption").json()["caption"]
    answer = site.client.post(f"/api/clips/{row}/ask", json={"question": "what colour?"}).json()["answer"]
    assert caption and answer
    with open_page(browser) as page:
        goto(page, site, f"?clip={row}")
        page.get_by_label("Ask about this video").fill("what colour?")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".answer").nth(0)).to_have_text(answer)
        page.get_by_role("button", name="Describe it").click()
        expect(page.locator(".answer").nth(1)).to_have_text(caption)
        page.keyboard.press("Escape")
        page.locator(f'.card-open[href*="clip={row}"]').first.click()
        expect(page.locator(".answer")).to_have_count(2)


def test_a_missing_video_is_shown_as_missing(browser: Browser, site: Site) -> None:
    row = row_of(site, MISSING)
    with open_page(browser) as page:
        goto(page, site, "?q=it+is+gone&k=48")
        card = page.locator("li.card.missing")
        expect(card).to_have_count(1)
        expect(card).to_contain_text("Video missing")
        card.locator(".card-open").click()
        expect(page.locator("dialog")).to_contain_text("no longer where it was indexed")
        expect(page.locator("dialog video, dialog .talk")).to_have_count(0)
        page.get_by_role("link", name="Similar clips").click()
        expect(page).to_have_url(re.compile(rf"like={row}$"))


def test_hostile_texts_stay_texts(browser: Browser, site: Site) -> None:
    row = row_of(site, HOSTILE_FILE)
    with open_page(browser) as page:
        goto(page, site, f"?q={HOSTILE.replace(' ', '+').replace('=', '%3D')}&k=48&clip={row}")
        expect(page.locator("dialog h2")).to_have_text(HOSTILE)
        expect(page.locator("dialog dd", has_text=HOSTILE_FILE).first).to_be_visible()
        expect(page.locator("main h1")).to_contain_text(HOSTILE)
        expect(page.locator(".choice .value", has_text=HOSTILE)).to_be_visible()
        expect(page.locator("img[src=x], main script, dialog script")).to_have_count(0)


def test_bad_queries_are_told_and_not_sent(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site)
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        box = page.get_by_role("searchbox")
        box.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="Type what you look for")).to_be_visible()
        box.fill("x" * 10_000)
        box.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="10,000 characters; at most 1,000")).to_be_visible()
        expect(box).to_have_attribute("aria-invalid", "true")
        assert not [url for url in sent if "/api/search" in url]
        box.fill("red")
        expect(page.locator("#query-hint")).to_be_empty()


def test_a_server_that_is_gone_and_one_that_is_busy(browser: Browser) -> None:
    with open_page(browser, failures=REFUSED) as page:
        with running() as server:
            page.goto(server.url)
            settle(page)
            # Only a crowd makes a real one busy.
            page.route("**/api/search*", busy_once())
            page.get_by_role("searchbox").fill("red")
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", name="The server is busy")).to_be_visible()
            expect(page.locator("ol.cards .score").first).to_be_visible()
        page.get_by_role("searchbox").fill("blue")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="No answer")).to_be_visible()
        expect(page.get_by_role("button", name="Try again")).to_be_visible()


def busy_once() -> Callable[[Route], None]:
    answers = iter([True])
    body = '{"error": {"code": "busy", "message": "too many wait"}}'

    def answer(route: Route) -> None:
        if next(answers, False):
            route.fulfill(status=503, headers={"Retry-After": "1"}, body=body)
        else:
            route.continue_()

    return answer


def test_the_theme_is_chosen_and_kept(browser: Browser, site: Site) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with open_page(browser, color_scheme="light") as page:
        goto(page, site)
        light = page.evaluate(ground)
        page.get_by_role("button", name="Theme: as the system").click()
        page.get_by_role("button", name="Theme: light").click()
        dark = page.evaluate(ground)
        assert dark != light
        page.reload()
        settle(page)
        assert page.evaluate(ground) == dark
        page.get_by_role("button", name="Theme: dark").click()
        assert page.evaluate(ground) == light


FOCUSED = "(() => { const style = getComputedStyle(document.activeElement); return [style.outlineStyle, parseFloat(style.outlineWidth)]; })()"  # noqa: E501


def test_everything_is_reached_with_the_keys_alone(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        goto(page, site)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the clips")).to_be_focused()
        page.keyboard.press("/")
        expect(page.get_by_role("searchbox")).to_be_focused()
        page.keyboard.type("a red box/kite")
        page.keyboard.press("Enter")
        settle(page)
        expect(page.get_by_role("searchbox")).to_have_value("a red box/kite")
        cards = page.locator(".card-open")
        page.keyboard.press("ArrowDown")
        expect(cards.nth(0)).to_be_focused()
        outline, width = page.evaluate(FOCUSED)
        assert outline != "none" and width >= 2
        page.keyboard.press("ArrowRight")
        expect(cards.nth(1)).to_be_focused()
        page.keyboard.press("ArrowDown")
        columns = page.evaluate(
            "getComputedStyle(document.querySelector('.cards')).gridTemplateColumns.split(' ').length"
        )
        expect(cards.nth(1 + columns)).to_be_focused()
        page.keyboard.press("End")
        expect(cards.nth(23)).to_be_focused()
        page.keyboard.press("Home")
        page.keyboard.press("Tab")
        expect(page.locator(".similar").first).to_be_focused()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("dialog")).to_be_visible()
        assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).not_to_be_visible()
        expect(cards.nth(0)).to_be_focused()
        page.keyboard.press("ArrowUp")
        expect(page.get_by_role("searchbox")).to_be_focused()
