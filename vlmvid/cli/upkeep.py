"""Commands that look after a store and the machine: `gc`, `doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from vlmvid.cli.output import add_json, write


def add_upkeep_commands(commands: Any) -> None:
    """Add the commands of this module."""
    _gc_command(commands)
    _doctor_command(commands)


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


def _doctor_command(commands: Any) -> None:
    text = "what of this machine, its services and the store would spoil a run, and how to mend it"
    doctor = commands.add_parser("doctor", help=text, description=f"{text}; exit code 1 when something is an error")
    doctor.add_argument("recipe", nargs="?", help="a YAML file: also check what it needs")
    doctor.add_argument("--home", help="the store (default: VLMVID_HOME, else ./.vlmvid)")
    add_json(doctor)
    doctor.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.doctor import examine, findings_text

    findings = examine(arguments.home, arguments.recipe)
    write([finding.model_dump() for finding in findings] if arguments.json else findings_text(findings))
    return 1 if any(finding.status == "error" for finding in findings) else 0


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
