"""Commands that look after a store and the machine: `gc`, `doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from vlmvid.cli.output import add_json, write


def add_upkeep_commands(commands: Any) -> None:
    """Add the commands of this module."""
    _gc_command(commands)


def _gc_command(commands: Any) -> None:
    text = "what interrupted runs left in a store, and with --superseded what no recipe needs any more"
    gc = commands.add_parser("gc", help=text, description=f"{text}; shows it, and removes it with --delete")
    gc.add_argument("--home", help="the store (default: VLMVID_HOME, else ./.vlmvid)")
    gc.add_argument("--delete", action="store_true", help="remove what is shown")
    gc.add_argument(
        "--older-than", type=float, default=24.0, metavar="HOURS", help="what is younger stays (default: 24)"
    )
    gc.add_argument(
        "--superseded",
        action="store_true",
        help="also results that no recipe of the store needs and that have newer ones",
    )
    gc.add_argument(
        "--keep-recipes",
        type=int,
        metavar="N",
        help="with --superseded: forget all variants of a recipe but the N last asked for",
    )
    add_json(gc)
    gc.set_defaults(command=_gc)


def _gc(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.gc import collect_garbage, report_text

    report = collect_garbage(
        arguments.home,
        dry_run=not arguments.delete,
        older_than_hours=arguments.older_than,
        superseded=arguments.superseded,
        keep_recipes=arguments.keep_recipes,
    )
    write({**report.model_dump(mode="json"), "num_bytes": report.num_bytes} if arguments.json else report_text(report))
    return 1 if report.failed else 0
