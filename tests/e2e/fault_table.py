"""Try every fault and write the table: `python -m tests.e2e.fault_table --out benchmarks/faults.json`.

Faults that an earlier call survived, by its file, are not tried again: delete the file to begin anew.
`--only WORD` takes the faults whose name has the word.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def main() -> int:
    """Exit code 1 when a fault was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--prefect-api", help="a server that runs already; else one is started")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="begin no fault after so many seconds")
    arguments = parser.parse_args()
    import tests.conftest  # noqa: F401  quiet services, before anything reads their variables
    from tests.e2e.bench import Bench
    from tests.e2e.servers import PrefectServer

    rows: list[dict[str, Any]] = json.loads(arguments.out.read_text())["faults"] if arguments.out.exists() else []
    started = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vlmvid-faults-")))
        api = arguments.prefect_api or stack.enter_context(PrefectServer(folder / "prefect")).uri
        os.environ["PREFECT_API_URL"] = api
        bench = Bench(folder, api)
        done = {row["name"] for row in rows if row["survived"]}
        for name, kind, fault in faults(bench):
            if name in done or arguments.only not in name or time.monotonic() - started > arguments.max_seconds:
                continue
            rows = [row for row in rows if row["name"] != name]
            rows.append(attempt(bench, name, kind, fault))
            table = {"undisturbed_seconds": round(bench.baseline.seconds, 1), "faults": rows}
            arguments.out.write_text(json.dumps(table, indent=1) + "\n")
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    sys.stdout.write(table_of(rows))
    return 0 if all(row["survived"] for row in rows) else 1


def faults(bench: Any) -> Iterator[tuple[str, str, Callable[[Any], Any]]]:
    """Every fault: its name, the line of the table it counts for, and what tries it."""
    from tests.e2e.cases import CASES
    from tests.e2e.kills import draw, survive

    for case in CASES:
        yield case.name, case.name, case.survive
    for kill in draw(bench.baseline.moments):
        yield kill.name, f"kill -9 of the {kill.victim}", lambda bench, kill=kill: survive(bench, kill)


def attempt(bench: Any, name: str, kind: str, fault: Callable[[Any], Any]) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"name": name, "kind": kind, "survived": True}
    started = time.monotonic()
    try:
        found = fault(bench)
    except Exception as error:
        traceback.print_exc()
        return {**row, "survived": False, "error": f"{type(error).__name__}: {error}"[:2000]}
    return {
        **row,
        "runs": found.runs,
        "seconds_lost": round(found.seconds_lost, 1),
        "undisturbed_seconds": round(bench.baseline.seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "load": round(os.getloadavg()[0], 1),
        "note": found.note,
    }


def table_of(rows: list[dict[str, Any]]) -> str:
    """Markdown: fault, times tried, times survived, runs and seconds lost at most."""
    lines = ["| fault | tried | survived | runs | seconds lost, at most |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        some = [row for row in rows if row["kind"] == kind]
        good = [row for row in some if row["survived"]]
        runs = max((row["runs"] for row in good), default=0)
        lost = max((row["seconds_lost"] for row in good), default=0.0)
        lines.append(f"| {kind} | {len(some)} | {len(good)} | {runs} | {max(lost, 0):.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
