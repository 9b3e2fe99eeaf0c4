"""A command's output, as a terminal with 24-bit colours shows it, as a PNG.

    python scripts/make_terminal_figure.py docs/figures/NAME.png --columns 100 -- vlmvid search "..." --model URI

The command is run in a terminal of its own; what is drawn is what it wrote there.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT, MARGIN = 9, 18, 14  # pixels of a character, and around all
PAPER, INK = "#14181f", "#dde3ea"
_FONTS = Path(get_data_path()) / "fonts" / "ttf"
_UPPER_HALF = "\N{UPPER HALF BLOCK}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and draw; returns its exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("picture", type=Path)
    options.add_argument("--columns", type=int, default=100)
    options.add_argument("command", nargs="+")
    asked = options.parse_args(arguments)
    code, shown = run_in_terminal(asked.command, asked.columns)
    draw(shown, asked.columns).save(asked.picture, optimize=True)
    return code


def run_in_terminal(command: Sequence[str], columns: int) -> tuple[int, str]:
    """The exit code of a command, and what it writes to a terminal of so many columns; warnings are left out."""
    shown, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(columns)}
    process = subprocess.Popen(list(command), stdout=end, stderr=subprocess.DEVNULL, env=environment)
    os.close(end)
    parts = []
    while True:
        try:
            part = os.read(shown, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(shown)
    return process.wait(), b"".join(parts).decode(errors="replace").replace("\r\n", "\n")


def draw(shown: str, columns: int) -> Image.Image:
    """Lines of text with ANSI colours as a picture."""
    lines = [Text.from_ansi(line) for line in shown.rstrip("\n").split("\n")]
    size = (columns * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN)
    picture = Image.new("RGB", size, PAPER)
    canvas = ImageDraw.Draw(picture)
    fonts = {
        bold: ImageFont.truetype(str(_FONTS / f"DejaVuSansMono{'-Bold' if bold else ''}.ttf"), 14) for bold in (0, 1)
    }
    console = Console(color_system="truecolor", width=columns)
    for row, line in enumerate(lines):
        column = 0
        for text, style, _ in line.render(console):
            colour = style.color.get_truecolor().hex if style and style.color else INK
            behind = style.bgcolor.get_truecolor().hex if style and style.bgcolor else None
            for character in text.rstrip("\n"):
                left, top = MARGIN + column * WIDTH, MARGIN + row * HEIGHT
                if character == _UPPER_HALF:
                    canvas.rectangle((left, top, left + WIDTH - 1, top + HEIGHT // 2 - 1), fill=colour)
                    canvas.rectangle(
                        (left, top + HEIGHT // 2, left + WIDTH - 1, top + HEIGHT - 1), fill=behind or PAPER
                    )
                elif character != " ":
                    canvas.text((left, top), character, font=fonts[int(bool(style and style.bold))], fill=colour)
                column += 1
    return picture


if __name__ == "__main__":
    sys.exit(main())
