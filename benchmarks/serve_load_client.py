"""Clients of a web service that each ask again as soon as they are answered; prints what they saw as JSON.

    python -m benchmarks.serve_load_client URL --clients 50 --seconds 20 --rows 100000 --mix search

A process of its own, with a client of a few lines, so that asking costs little beside answering.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

WORDS = (
    "a the red green blue small large old young dog cat horse man woman child cook car train bird tree house street "
    "kitchen beach river runs jumps cuts opens closes holds plays falls turns shows speaks slowly quickly twice left "
    "right over under beside before after two three many night morning snow rain sun".split()
)
MIXES = {
    "search": {"search": 1.0},
    "visit": {"search": 0.5, "thumbnail": 0.3, "similar": 0.1, "clip": 0.05, "video": 0.05},
}
"""What is asked, with its share: texts alone, or what visitors of the page cause."""
RANGE_BYTES = 65_536


@dataclass
class Seen:
    """Latencies in seconds by operation, and what was no success."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: float = 0.0


def request(operation: str, draw: random.Random, num_rows: int) -> tuple[str, str]:
    """A path, and a further header line."""
    if operation == "search":
        text = " ".join(draw.choices(WORDS, k=draw.randint(2, 8)))
        return f"/api/search?text={quote(text)}&top_k=12", ""
    clip = f"/api/clips/{draw.randrange(num_rows)}"
    if operation == "similar":
        return f"{clip}/similar?top_k=12", ""
    if operation == "thumbnail":
        return f"{clip}/thumbnail?seconds={draw.randint(0, 3)}", ""
    if operation == "video":
        return f"{clip}/video", f"Range: bytes=0-{RANGE_BYTES - 1}\r\n"
    return clip, ""


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, header: str) -> int:
    """One request on an open connection; returns the status once the whole answer has come."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    await reader.readexactly(length)
    return int(lines[0].split()[1])


async def client(url: str, number: int, mix: str, num_rows: int, until: float) -> Seen:
    """Ask until the time is over, on one connection."""
    seen, draw = Seen(), random.Random(number)
    names, weights = list(MIXES[mix]), list(MIXES[mix].values())
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    while (started := time.perf_counter()) < until:
        operation = draw.choices(names, weights)[0]
        status = await ask(reader, writer, *request(operation, draw, num_rows))
        seen.latencies[operation].append(time.perf_counter() - started)
        if status not in (200, 206):
            seen.errors[f"{operation} {status}"] += 1
    writer.close()
    return seen


async def run(url: str, num_clients: int, mix: str, num_rows: int, seconds: float) -> Seen:
    """All clients at once; what they saw together."""
    started = time.perf_counter()
    seed = time.time_ns() % 1_000_000
    found = await asyncio.gather(
        *(client(url, seed + number, mix, num_rows, started + seconds) for number in range(num_clients))
    )
    total = Seen(seconds=time.perf_counter() - started)
    for seen in found:
        for name, values in seen.latencies.items():
            total.latencies[name] += values
        for name, count in seen.errors.items():
            total.errors[name] += count
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--mix", choices=MIXES, default="search")
    options = parser.parse_args()
    seen = asyncio.run(run(options.url, options.clients, options.mix, options.rows, options.seconds))
    json.dump({"latencies": seen.latencies, "errors": seen.errors, "seconds": seen.seconds}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
