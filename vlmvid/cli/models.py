"""Commands that take a model: `search`, `caption`, `answer`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vlmvid.cli.output import add_json, write
from vlmvid.errors import ConfigError


def add_model_commands(commands: Any) -> None:
    """Add the commands of this module."""
    _search_command(commands)
    text = "say what videos show: of the files named, or of every clip of a manifest"
    caption = _words_command(commands, "caption", text)
    caption.add_argument("video", nargs="*", help="video or picture files")
    caption.set_defaults(command=_caption)
    text = "answer a question about a video, or every question of a manifest"
    answer = _words_command(commands, "answer", text)
    answer.add_argument("video", nargs="?")
    answer.add_argument("question", nargs="?")
    answer.add_argument("--choices", metavar="A,B,...", help="rank these answers instead of generating one")
    answer.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="write the answer while it is generated (default: on a terminal)",
    )
    answer.set_defaults(command=_answer)


def _search_command(commands: Any) -> None:
    search = commands.add_parser("search", help="find clips by a text", description="Find clips by a text.")
    search.add_argument("text", nargs="+", help="one query per argument")
    search.add_argument("--model", required=True, help="models:/NAME@alias or a model folder")
    search.add_argument("--index", required=True, metavar="DIR", help="folder that `vlmvid index` made")
    search.add_argument("--top-k", type=int, default=5)
    search.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only clips with this attribute; of one name any of the values",
    )
    search.add_argument(
        "--approximate", action="store_true", help="look into a part of an index that was built with --faiss"
    )
    add_json(search)
    search.set_defaults(command=_search)


def _words_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--model", required=True, help="models:/NAME@alias or a model folder")
    command.add_argument("--manifest", metavar="F", help="clips as JSON Lines or Parquet, instead of files")
    command.add_argument("--out", metavar="F", help="with --manifest: predictions as JSON Lines, for `vlmvid score`")
    command.add_argument("--max-new-tokens", type=int, metavar="N", help="of one text at most")
    command.add_argument("--beams", type=int, metavar="N", help="beam search (default: 1, the most probable token)")
    command.add_argument("--temperature", type=float, metavar="T", help="draw tokens by chance instead")
    command.add_argument("--seed", type=int, metavar="N", help="of the draws (default: 0)")
    command.add_argument("--workers", type=int, help="decoding processes (default: one per core; 0 = this process)")
    add_json(command)
    return command


def _search(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.search import search_index
    from vlmvid.serving.terminal import terminal_of

    where: dict[str, list[str]] = {}
    for given in arguments.where:
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(f"--where {given!r} names no value; write NAME=VALUE, e.g. --where language=en")
        where.setdefault(name, []).append(value)
    found = search_index(
        arguments.text,
        model=arguments.model,
        index=arguments.index,
        top_k=arguments.top_k,
        where=where,
        approximate=arguments.approximate,
    )
    write([hit.model_dump() for hit in found] if arguments.json else found.to_text(terminal_of(sys.stdout)))
    return 0


def _caption(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.captioning import caption_files

    if _is_batch(arguments, bool(arguments.video), "VIDEO"):
        return _manifest("caption", arguments)
    rows = caption_files(arguments.model, arguments.video, _settings(arguments), _run_options(arguments))
    if arguments.json:
        write(rows)
    else:
        named = len(arguments.video) > 1
        lines = [f"{row['id']}: {row['prediction']}" if named else row["prediction"] for row in rows if _is_ok(row)]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        for row in rows:
            if not _is_ok(row):
                sys.stderr.write(f"vlmvid: {row['id']}: {row['reason_code']}: {row['reason']}\n")
    return 0 if all(map(_is_ok, rows)) else 1


def _answer(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.captioning import answer_file, rank_choices

    if _is_batch(arguments, arguments.video is not None, "VIDEO and QUESTION"):
        if arguments.choices is not None or arguments.stream:
            raise ConfigError("--choices and --stream are for one VIDEO; the choices of a manifest stand in it")
        return _manifest("answer", arguments)
    if arguments.question is None:
        raise ConfigError("answer needs a QUESTION behind the VIDEO; for a description use `vlmvid caption`")
    if arguments.stream and (arguments.json or arguments.choices is not None or (arguments.beams or 1) > 1):
        raise ConfigError("--stream writes one answer as it is generated; leave out --json, --choices and --beams")
    document = {"video": arguments.video, "question": arguments.question}
    if arguments.choices is not None:
        ranked = rank_choices(arguments.model, arguments.video, arguments.question, arguments.choices.split(","))
        lines = "\n".join(f"{row['log_prob']:10.3f}  {row['choice']}" for row in ranked)
        write({**document, "answer": ranked[0]["choice"], "choices": ranked} if arguments.json else lines)
        return 0
    pieces = answer_file(arguments.model, arguments.video, arguments.question, _settings(arguments))
    if arguments.json:
        write({**document, "answer": "".join(pieces)})
        return 0
    streamed = sys.stdout.isatty() if arguments.stream is None else arguments.stream
    for piece in pieces if streamed else ["".join(pieces)]:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _manifest(task: Any, arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.captioning import answer_manifest

    found = answer_manifest(
        task, arguments.model, arguments.manifest, arguments.out, _settings(arguments), _run_options(arguments)
    )
    write(found if arguments.json else f"{task}: {found['ok']} ok, {found['failed']} failed\n{found['out']}")
    return 0 if found["ok"] else 1


def _is_batch(arguments: argparse.Namespace, has_video: bool, what: str) -> bool:
    """Whether a manifest is asked for; raises ConfigError for options that do not go together."""
    if has_video == (arguments.manifest is not None):
        raise ConfigError(f"give either {what}, or --manifest F with --out F")
    if (arguments.manifest is None) != (arguments.out is None):
        raise ConfigError("--manifest and --out belong together; give both, or neither of them")
    return arguments.manifest is not None


def _is_ok(row: dict[str, Any]) -> bool:
    return row["prediction"] is not None


def _settings(arguments: argparse.Namespace) -> Any:
    from vlmvid.pipeline.captioning import generation_settings

    return generation_settings(
        max_new_tokens=arguments.max_new_tokens,
        num_beams=arguments.beams,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )


def _run_options(arguments: argparse.Namespace) -> Any:
    from vlmvid.config.load import validate
    from vlmvid.config.schema import RunOptions

    return validate(RunOptions, {"decode_workers": arguments.workers}, source="--workers")
