"""Commands that take files alone, neither a recipe nor a model: scores, questions, embeddings, media."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from vlmvid.cli.output import add_json, write, write_result
from vlmvid.errors import ConfigError


def add_file_commands(commands: Any) -> None:
    """Add the commands of this module."""
    _score_command(commands)
    _ask_command(commands)
    _import_command(commands)
    text = "a Parquet table of the video files below a folder: what they hold and what is wrong with them"
    probe = _media_command(commands, "probe-media", _probe_media, text)
    probe.add_argument("folder")
    probe.add_argument("--out", default="media.parquet", help="the table (default: ./media.parquet)")
    probe.add_argument("--workers", type=int, help="processes (default: one per core; 0 = this process, no limits)")
    inspect = _media_command(
        commands,
        "inspect",
        _inspect,
        "what one video file holds: its stream, packet index, some frames, and what is wrong with it",
    )
    inspect.add_argument("video")
    inspect.set_defaults(workers=1)


def _score_command(commands: Any) -> None:
    text = "score files of predictions against a benchmark's own files; no model"
    command = commands.add_parser("score", help=text, description=text)
    command.add_argument("task", nargs="?", help="name of the benchmark; --list shows them")
    command.add_argument("--list", action="store_true", help="the benchmarks, their files and their compat modes")
    command.add_argument("--predictions", metavar="F", help="JSON, JSON Lines, CSV, or the benchmark's own result file")
    command.add_argument("--references", metavar="F", help="the annotation file, or the folder that holds it")
    command.add_argument("--compat", metavar="NAME", help="reproduce a released scorer, its faults included")
    command.add_argument(
        "--missing", choices=["wrong", "skip"], default="wrong", help="items without a prediction (default: wrong)"
    )
    command.add_argument("--blind", metavar="F", help="the model's predictions without the video: a baseline")
    command.add_argument("--against", metavar="F", help="another model's predictions: paired tests")
    command.add_argument(
        "--probe",
        action="append",
        default=[],
        metavar="CONDITION=F",
        help="predictions for middle, random, reversed, shuffled, repeated or black frames; further seeds as random-1",
    )
    command.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="of the benchmark")
    command.add_argument("--id-key", default="", metavar="NAME", help="key of the id in lists of objects")
    command.add_argument("--value-key", default="", metavar="NAME", help="key of the model's answer, e.g. model_answer")
    command.add_argument("--samples", metavar="F", help="the sample log (default: ./TASK.samples.parquet)")
    command.add_argument("--num-bootstrap", type=int, default=1000, help="resamples of each interval (default: 1000)")
    command.add_argument("--seed", type=int, default=0)
    add_json(command)
    command.set_defaults(command=_score)


def _ask_command(commands: Any) -> None:
    text = (
        "a manifest with yes-no, counterfactual and paired questions about the objects that its clips are labelled with"
    )
    command = commands.add_parser("make-probes", help=text, description=text)
    command.add_argument("manifest")
    command.add_argument("--out", required=True, metavar="F", help="the manifest with the questions")
    command.add_argument("--labels", metavar="F", help="objects by video_id, where no attribute of the clips has them")
    command.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="as docs/benchmarks/hallucination.md"
    )
    add_json(command)
    command.set_defaults(command=_make_probes)


def _import_command(commands: Any) -> None:
    text = "embeddings that SAIL or clip-retrieval wrote, into the store under ids"
    command = commands.add_parser("import-embeddings", help=text, description=text)
    command.add_argument("folder")
    command.add_argument("--format", required=True, choices=["clip-retrieval", "sail"], help="who wrote the folder")
    command.add_argument("--ids", metavar="FILE", help="one id per row: a text file, or a Parquet table")
    command.add_argument("--column", metavar="NAME", help="column of --ids, or of the folder's own metadata")
    command.add_argument("--out", required=True, metavar="NAME", help="name of the result, for people")
    command.add_argument("--home", help="the store (default: VLMVID_HOME, else ./.vlmvid)")
    add_json(command)
    command.set_defaults(command=_import_embeddings)


def _media_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--every-frame", action="store_true", help="decode every frame, not ten per file")
    command.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="per file (default: 300)")
    add_json(command)
    command.set_defaults(command=function)
    return command


def _score(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.score import list_benchmarks, run_score, score_text

    if arguments.list:
        write(list_benchmarks(arguments.task, as_json=arguments.json))
        return 0
    result, samples = run_score(vars(arguments))
    write(result.to_json() if arguments.json else score_text(result, samples))
    return 0


def _make_probes(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.score import make_probes, probes_text

    made = make_probes(arguments.manifest, arguments.out, arguments.labels, arguments.option)
    write(made if arguments.json else probes_text(made))
    return 0


def _import_embeddings(arguments: argparse.Namespace) -> int:
    from vlmvid.artifacts import open_store
    from vlmvid.pipeline.import_embeddings import STAGE, import_embeddings
    from vlmvid.pipeline.request import DEFAULT_HOME

    home = arguments.home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME
    ref = import_embeddings(
        arguments.folder,
        format=arguments.format,
        name=arguments.out,
        home=home,
        ids=arguments.ids,
        column=arguments.column,
    )
    manifest = open_store(home).manifest(STAGE, ref.key)
    write_result(STAGE, ref, manifest.counts if manifest else {}, as_json=arguments.json)
    return 0


def _probe_media(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.probe import probe_folder, summary_table

    summary = probe_folder(
        arguments.folder, arguments.out, _media_options(arguments), every_frame=arguments.every_frame
    )
    write(summary if arguments.json else summary_table(summary))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.inspect import inspect_file
    from vlmvid.serving.terminal import one_line, terminal_of

    found = inspect_file(arguments.video, _media_options(arguments), every_frame=arguments.every_frame)
    row = found.row
    write(found.to_json() if arguments.json else found.to_text(terminal_of(sys.stdout)))
    if row["codec"] is None:
        for code, message in zip(row["defects"], row["defect_messages"], strict=True):
            sys.stderr.write(f"vlmvid: {code}: {one_line(message)}\n")
        return 1
    return 0


def _media_options(arguments: argparse.Namespace) -> Any:
    from vlmvid.config.schema import RunOptions

    if arguments.workers is not None and arguments.workers < 0:
        raise ConfigError(f"--workers {arguments.workers} must be at least 0")
    if not arguments.timeout > 0:
        raise ConfigError(f"--timeout {arguments.timeout} must be more than 0 seconds")
    return RunOptions(decode_workers=arguments.workers, decode_timeout_seconds=arguments.timeout)
