"""The command `serve`: the page and the REST API."""

from __future__ import annotations

import argparse
import atexit
import sys
from typing import Any

from vlmvid.cli.output import add_json, write
from vlmvid.errors import ConfigError


def add_serve_command(commands: Any) -> None:
    """Add the command."""
    text = "a page, and a REST API, to search videos by text, find similar ones, upload one's own and ask questions"
    serve = commands.add_parser("serve", help=text, description=f"Serve {text}. Ctrl-C ends it.")
    serve.add_argument("--model", required=True, help="models:/NAME@alias or a model folder")
    serve.add_argument("--index", required=True, metavar="DIR", help="what `vlmvid index` made with this model")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8080, help="0 = a free one (default: 8080)")
    serve.add_argument("--max-upload-mb", type=float, default=64.0, metavar="N", help="of one video (default: 64)")
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name by which browsers address the server, e.g. behind a proxy; may be repeated",
    )
    serve.add_argument(
        "--approximate", action="store_true", help="look into a part of an index that was built with --faiss"
    )
    add_json(serve)
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.max_upload_mb <= 1 << 20:
        raise ConfigError(f"--max-upload-mb {arguments.max_upload_mb:g} must be more than 0 and at most {1 << 20}")
    from vlmvid.serving.load import load
    from vlmvid.serving.video_index import VideoIndex
    from vlmvid.serving.web.app import make_app
    from vlmvid.serving.web.options import ServeOptions
    from vlmvid.serving.web.server import bind, hosts_for, serve, url_of
    from vlmvid.serving.web.threads import end_without_busy_threads

    atexit.register(end_without_busy_threads)  # before others do, so that they come first
    # Before the model, which takes longer to fail.
    with bind(arguments.host, arguments.port) as listening:
        index = VideoIndex.open(arguments.index, approximate=arguments.approximate)
        model = load(arguments.model)
        options = ServeOptions(
            max_upload_bytes=max(1, int(arguments.max_upload_mb * 2**20)),
            hosts=hosts_for(listening, arguments.allow_host),
        )

        def tell() -> None:
            url = url_of(listening)
            found = {"url": url, "model": model.name, "clips": index.num_clips}
            write(found if arguments.json else f"{url}  ({model.name}, {index.num_clips:,} clips; Ctrl-C ends it)")
            sys.stdout.flush()

        serve(make_app(model, index, options), listening, tell)
    return 0
