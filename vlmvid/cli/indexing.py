"""``vlmvid index``: videos to a folder that can be searched and served."""

from __future__ import annotations

import argparse
from typing import Any

from vlmvid.cli.output import add_json, write


def add_index_command(commands: Any) -> None:
    """Add the command of this module."""
    text = "make a folder of videos searchable, or bring its index up to date"
    command = commands.add_parser("index", help=text, description=text)
    command.add_argument("videos", metavar="VIDEOS", help="a folder of videos, a manifest, or an encode artifact")
    command.add_argument("--model", required=True, help="models:/NAME@alias or a model folder")
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the index")
    command.add_argument("--retry", choices=["failed"], help="try clips again that failed for good")
    command.add_argument("--verify", action="store_true", help="hash every video and stored shard again")
    command.add_argument(
        "--accept-code-change",
        action="store_true",
        help="keep what another version of vlmvid has embedded, now and later",
    )
    command.add_argument("--replace", action="store_true", help="let the index of other videos become one of these")
    command.add_argument(
        "--faiss",
        action=argparse.BooleanOptionalAction,
        help="prepare approximate search too, for millions of clips (default: as the index has it)",
    )
    command.add_argument("--workers", type=int, help="decoding processes (default: one per core; 0 = this process)")
    add_json(command)
    command.set_defaults(command=_index)


def _index(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.indexing import index_request
    from vlmvid.pipeline.indexing_table import build_index

    request = index_request(
        arguments.videos,
        arguments.model,
        arguments.out,
        retry_failed=arguments.retry == "failed",
        verify=arguments.verify,
        accept_code_change=arguments.accept_code_change,
        decode_workers=arguments.workers,
        replace=arguments.replace,
        faiss=arguments.faiss,
    )
    report = build_index(request)
    if arguments.json:
        write(report.model_dump(mode="json"))
    else:
        write(
            f"index: {report.clips} clips, {report.embedded} new, {report.removed} removed, {report.failed} failed\n"
            f"{report.out}"
        )
    return 0
