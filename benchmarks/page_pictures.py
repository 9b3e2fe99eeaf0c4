"""The pictures of the search page in README.md and docs/serve.md: slideshows of stamps, indexed, served, photographed.

python -m benchmarks.page_pictures --stamps FOLDER --model models:/vlmvid-stamps@candidate

FOLDER is what `make stamps` fetches and the model what `make demo-real` registers (the pictures in the repository: with
decode.sampling.num_frames=8, so that a slideshow has eight time steps). Only pictures of the test split are shown,
whose captions the model has not seen. Chromium takes the photographs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from vlmvid.config import load_recipe
from vlmvid.data.image_text import ImageTextDataset, ImageTextOptions
from vlmvid.types import Clip
from vlmvid.video.writer import write_mp4

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
RECIPE = ROOT / "configs" / "pipelines" / "stamps.yaml"
SIDES = (640, 400)
FPS, SECONDS_A_PICTURE, PICTURES = 12, 2, 3
GROUNDS = {"sky": (206, 226, 240), "sand": (240, 231, 210), "mint": (212, 236, 222), "rose": (243, 220, 220)}
QUERY, THEME = "a bird with colourful feathers", "animals"
NUM_COLOURS, ROUNDS = 256, 8


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = write_slideshows(folder / "stamps", stamps_of(arguments.stamps))
        index = folder / "stamps-index"
        command = [sys.executable, "-m", "vlmvid.cli", "index", str(manifest), "--model", arguments.model]
        subprocess.run([*command, "--out", str(index)], check=True)
        with served(index, arguments.model) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=arguments.chromium)
            arguments.out.mkdir(parents=True, exist_ok=True)
            photograph(browser, url, arguments.query, arguments.out)
            browser.close()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pictures of the search page.")
    parser.add_argument("--stamps", type=Path, required=True, help="what `make stamps` fetched")
    parser.add_argument("--model", required=True, help="what `make demo-real` registered")
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path, default=FIGURES)
    return parser.parse_args()


def stamps_of(root: Path) -> list[tuple[Path, Clip]]:
    """Pictures of the test split that training lacked, with their clips."""
    options = {**load_recipe(RECIPE).data.options, "root": str(root)}
    dataset = ImageTextDataset(ImageTextOptions.model_validate(options))
    clips, _ = dataset.clips(root)
    return [(root / dataset.source_of(clip.path), clip) for clip in clips if clip.split == "test"]


def write_slideshows(folder: Path, stamps: list[tuple[Path, Clip]]) -> Path:
    """Three pictures of one category after another, as many times as there are; the manifest of all."""
    by_category: dict[str, list[tuple[Path, Clip]]] = defaultdict(list)
    for path, clip in stamps:
        by_category[str(clip.attributes["category"])].append((path, clip))
    rows = []
    for category, members in sorted(by_category.items()):
        # Neighbours in the alphabet are alike; each show takes some from all over it.
        number = len(members) // PICTURES
        for i in range(number):
            chosen = members[i::number][:PICTURES]
            name, ground = list(GROUNDS.items())[len(rows) % len(GROUNDS)]
            video_id = f"{category}-{i + 1:02d}"
            frames = np.concatenate([show(path, GROUNDS[ground_name]) for path, _ in chosen for ground_name in [name]])
            write_mp4(folder / f"{video_id}.mp4", frames, fps=FPS)
            words = [clip.captions[0].strip().rstrip(".").lower() for _, clip in chosen]
            attributes = {"theme": category, "background": name}
            rows.append(
                {
                    "video_id": video_id,
                    "path": f"{video_id}.mp4",
                    "captions": [", ".join(words)],
                    "attributes": attributes,
                }
            )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def show(path: Path, ground: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One picture that grows a little; (T, 3, H, W)."""
    width, height = SIDES
    with Image.open(path) as opened:
        stamp = opened.convert("RGBA")
    frames = []
    total = FPS * SECONDS_A_PICTURE
    for i in range(total):
        scale = min(0.9 * width / stamp.width, 0.9 * height / stamp.height) * (0.86 + 0.1 * i / total)
        sized = stamp.resize((max(1, round(stamp.width * scale)), max(1, round(stamp.height * scale))))
        canvas = Image.new("RGB", SIDES, ground)
        canvas.paste(sized, ((width - sized.width) // 2, (height - sized.height) // 2), sized)
        frames.append(np.asarray(canvas).transpose(2, 0, 1))
    return np.stack(frames)


@contextmanager
def served(index: Path, model: str) -> Iterator[str]:
    """`vlmvid serve` on a free port, within the block."""
    command = [sys.executable, "-m", "vlmvid.cli", "serve", "--model", model, "--index", str(index)]
    with subprocess.Popen([*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = ""
            while True:
                line = server.stdout.readline()
                if not line:
                    raise SystemExit("the server ended before it answered; its words are above")
                told += line
                try:
                    found = json.loads(told)
                    break
                except json.JSONDecodeError:
                    continue
            yield found["url"]
        finally:
            server.terminate()


def photograph(browser: Browser, url: str, query: str, out: Path) -> None:
    """A search in the light, and its first clip in the dark."""
    for scheme, name in (("light", "page_search"), ("dark", "page_clip")):
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
        page.goto(url)
        page.get_by_role("searchbox").fill(query)
        page.keyboard.press("Enter")
        page.locator("ol.cards .score").first.wait_for()
        page.get_by_role("checkbox", name=THEME).check()
        page.get_by_role("button", name=f"Remove the filter theme:{THEME}").wait_for()
        page.locator("h1").first.click()
        if scheme == "dark":
            page.locator(".card-open").first.click()
            while not page.evaluate("document.querySelector('dialog video')?.currentTime > 0"):
                page.wait_for_timeout(100)
            moment = float(parse_qs(urlsplit(page.url).query)["at"][0])
            page.evaluate(
                "at => Object.assign(document.querySelector('dialog video'), { currentTime: at }).pause()", moment
            )
        page.wait_for_load_state("networkidle")
        save(page.screenshot(), out / f"{name}.png")
        page.close()


def save(data: bytes, path: Path) -> None:
    """A PNG of few colours: a third of the size."""
    path.write_bytes(data)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(NUM_COLOURS, kmeans=ROUNDS).save(path, optimize=True)


if __name__ == "__main__":
    main()
