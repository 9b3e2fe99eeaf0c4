"""docs/figures/report.png from a report: its top in light, results and examples in dark. Needs Chromium.

python scripts/report_picture.py .vlmvid/reports/quickstart-*/report.html docs/figures/report.png
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HALF = 1200, 620
COLUMN = 640  # pixels of each half of the picture
DARK = "--blink-settings=preferredColorScheme=0"


def only(html: str, section: str) -> str:
    """The page with one of its sections."""
    style = f"<style>header, main > section:not([aria-labelledby={section}]) {{ display: none }}</style>"
    return html.replace("</head>", f"{style}</head>", 1)


def shot(chromium: str, html: str, height: int, scratch: Path, *options: str) -> Image.Image:
    """What a browser window of that height shows of the page."""
    path, page = scratch / "page.png", scratch / "page.html"
    page.write_text(html, encoding="utf-8")
    flags = ["--headless", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{height}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # it does not start for root otherwise
    profile = f"--user-data-dir={scratch / 'profile'}"
    command = [chromium, *flags, profile, *options, f"--screenshot={path}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return Image.open(path).convert("RGB")


def main() -> int:
    """Take the shots and put them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("there is no Chromium; Debian: apt install chromium")
    html = arguments.report.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        parts = [
            (shot(chromium, html, 2 * HALF, scratch), (0, 0)),
            (shot(chromium, only(html, "results"), HALF, scratch, DARK), (WIDTH, 0)),
            (shot(chromium, only(html, "examples"), HALF, scratch, DARK), (WIDTH, HALF)),
        ]
    picture = Image.new("RGB", (2 * WIDTH, 2 * HALF))
    for part, place in parts:
        picture.paste(part, place)
    size = (2 * COLUMN, round(2 * HALF * COLUMN / WIDTH))
    picture.resize(size, Image.Resampling.LANCZOS).quantize(160).save(arguments.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
