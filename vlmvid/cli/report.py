"""The command `report`: the page of one run, or a comparison of several."""

from __future__ import annotations

import argparse
from typing import Any

from vlmvid.cli.output import add_json, write


def add_report_command(commands: Any) -> None:
    """Add `report`."""
    text = "the report of one run as HTML and Markdown, or a comparison of several with the first"
    command = commands.add_parser("report", help=text, description=text)
    command.add_argument(
        "runs", nargs="+", metavar="RUN", help="a recipe, the folder of an evaluation, or the id of a run in MLflow"
    )
    command.add_argument("-o", "--override", action="append", default=[], metavar="a.b=c", help="change a recipe's key")
    command.add_argument("--out", metavar="DIR", help="where to write (default: below the store's folder reports)")
    command.add_argument("--home", help="the store (default: VLMVID_HOME, else ./.vlmvid)")
    add_json(command)
    command.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.report import report_text, write_report

    document = write_report(arguments.runs, arguments.override, out=arguments.out, home=arguments.home)
    write(document if arguments.json else report_text(document))
    return 0
