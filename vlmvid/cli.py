"""The command line: the same functions as the flows, and `run`, which is the flow itself.

Results go to stdout, logs and progress bars to stderr. Exit codes: 0 done, 1 the work failed,
2 bad usage or config.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vlmvid.errors import ConfigError, VlmvidError

STAGE_HELP = {
    "ingest": "read the dataset, make generated videos, digest the source files",
    "curate": "measure the clips and keep those that pass the rules",
    "decode": "videos to frames that are kept",
    "encode": "frames, or videos where frames are not kept, and texts to features",
    "filter": "leave out clips and captions that are not to be learnt from, by features, wording and a model",
    "align": "learn a pooling and projection heads on stored features",
    "evaluate": "measure the aligned model",
    "register": "build the model folder and register it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    _configure_logging(arguments.verbose)
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except ConfigError as error:
        return _fail(error, 2)
    except VlmvidError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return 1


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"vlmvid: {type(error).__name__}: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmvid", description="Video-language pipelines: decode, encode, align, evaluate."
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="more log lines on stderr (twice for debug)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _recipe_command(commands, "run", _run, "the whole pipeline, as a Prefect flow")
    run.add_argument("--retry", choices=["failed"], help="try clips again that failed for good")
    run.add_argument("--verify", action="store_true", help="hash every source file and stored shard again")
    run.add_argument(
        "--accept-code-change", metavar="STAGE", help="keep this stage's results although its code changed"
    )
    planned = _recipe_command(commands, "plan", _plan, "what would run, what is cached, and why; what it needs")
    planned.add_argument("--gpu", metavar="NAME", help="for which to estimate: a100 (default), h100, l4, cpu, ...")
    for stage, text in STAGE_HELP.items():
        command = _recipe_command(commands, stage, _stage, f"one stage, no Prefect: {text}")
        command.set_defaults(stage=stage)
        command.add_argument("--retry", choices=["failed"], help="try clips again that failed for good")
        command.add_argument("--verify", action="store_true", help="hash every source file and stored shard again")
    _recipe_command(commands, "probe", _probe, "alignment probing: which encoders a linear map aligns, and why")
    search = commands.add_parser("search", help="find clips by a text", description="Find clips by a text.")
    search.add_argument("text", nargs="+", help="one query per argument")
    search.add_argument("--model", required=True, help="models:/NAME@alias or a model folder")
    search.add_argument("--index", required=True, help="folder of an encode artifact, as `vlmvid encode` prints it")
    search.add_argument("--top-k", type=int, default=5)
    search.add_argument("--json", action="store_true", help="one JSON document on stdout")
    search.set_defaults(command=_search)
    _score_command(commands)
    _ask_command(commands)
    _import_command(commands)
    text = "a Parquet table of the video files below a folder: what they hold and what is wrong with them"
    probe = _media_command(commands, "probe-media", _probe_media, text)
    probe.add_argument("folder")
    probe.add_argument("--out", default="media.parquet", help="the table (default: ./media.parquet)")
    probe.add_argument("--workers", type=int, help="processes (default: one per core; 0 = this process, no limits)")
    inspect = _media_command(commands, "inspect", _inspect, "what one video file holds and what is wrong with it")
    inspect.add_argument("video")
    inspect.set_defaults(workers=1)
    return parser


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
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")
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
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")
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
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")
    command.set_defaults(command=_import_embeddings)


def _media_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--every-frame", action="store_true", help="decode every frame, not ten per file")
    command.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="per file (default: 300)")
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")
    command.set_defaults(command=function)
    return command


def _recipe_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("recipe", help="a YAML file, e.g. configs/pipelines/quickstart.yaml")
    command.add_argument("-o", "--override", action="append", default=[], metavar="a.b=c", help="change one key")
    command.add_argument("--home", help="the store (default: VLMVID_HOME, else ./.vlmvid)")
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")
    command.set_defaults(command=function)
    return command


def _request(arguments: argparse.Namespace) -> Any:
    from vlmvid.pipeline.request import make_request

    return make_request(
        arguments.recipe,
        arguments.override,
        home=arguments.home,
        retry_failed=getattr(arguments, "retry", None) == "failed",
        verify=getattr(arguments, "verify", False),
    )


def _run(arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    if arguments.accept_code_change:
        from vlmvid.pipeline.plan import accept_code_change

        for module in accept_code_change(request, arguments.accept_code_change):
            sys.stderr.write(f"accepted for {arguments.accept_code_change}: {module}\n")
    # A cold first server migrates its database; Prefect's own limit of 20 s is too short for that.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from vlmvid.pipeline import preflight

    preflight(request)  # a mistake in the recipe should not cost the start of a server
    from flows.pipeline import pipeline

    _quiet_known_errors()
    pipeline(recipe=request.recipe, home=request.home, retry_failed=request.retry_failed, verify=request.verify)
    from vlmvid.pipeline.summary import summarise, summary_text

    summary = summarise(request)
    _print(summary if arguments.json else summary_text(summary))
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.estimate import GPUS
    from vlmvid.pipeline.plan import DEFAULT_GPU, needs, plan, plan_json, plan_table

    gpu = arguments.gpu or DEFAULT_GPU
    GPUS.get(gpu)  # a misspelt name should not cost a look at the files
    request = _request(arguments)
    plans, found = plan(request), needs(request, gpu)
    _print(plan_json(plans, found) if arguments.json else plan_table(plans, found))
    return 0


def _stage(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline import STAGES
    from vlmvid.pipeline.align import help_first_process
    from vlmvid.pipeline.session import pipeline_run
    from vlmvid.pipeline.torchrun import is_helper

    request = _request(arguments)
    if is_helper():
        help_first_process(arguments.stage, request)
        return 0
    with pipeline_run(request) as context:
        ref = STAGES[arguments.stage].run(request)
        manifest = context.store.manifest(arguments.stage, ref.key)
        counts = manifest.counts if manifest else {}
        folder = context.store.open_artifact(arguments.stage, ref.key)
    if arguments.stage == "evaluate":
        _print_evaluation(ref, counts, folder, as_json=arguments.json)
    else:
        _print_result(arguments.stage, ref, counts, as_json=arguments.json)
    return 0


def _print_evaluation(ref: Any, counts: dict[str, int], folder: Any, *, as_json: bool) -> None:
    from vlmvid.pipeline.evaluate import evaluation_json, evaluation_text

    if as_json:
        _print({**ref.model_dump(), "counts": counts, **evaluation_json(folder)})
    else:
        _print(evaluation_text(folder))


def _search(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.search import hits_table, search_index

    hits = search_index(arguments.text, model=arguments.model, index=arguments.index, top_k=arguments.top_k)
    _print([hit.model_dump() for hit in hits] if arguments.json else hits_table(hits))
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.score import list_benchmarks, run_score, score_text

    if arguments.list:
        _print(list_benchmarks(arguments.task, as_json=arguments.json))
        return 0
    result, samples = run_score(vars(arguments))
    _print(result.to_json() if arguments.json else score_text(result, samples))
    return 0


def _make_probes(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.score import make_probes, probes_text

    made = make_probes(arguments.manifest, arguments.out, arguments.labels, arguments.option)
    _print(made if arguments.json else probes_text(made))
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.probing import read_probe, run_probe

    ref = run_probe(arguments.recipe, arguments.override, home=arguments.home)
    document, report = read_probe(ref, home=arguments.home)
    _print({**document, "folder": ref.uri} if arguments.json else f"{report}\n{ref.uri}")
    return 1 if document["failures"] else 0


def _probe_media(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.probe import probe_folder, summary_table

    summary = probe_folder(
        arguments.folder, arguments.out, _media_options(arguments), every_frame=arguments.every_frame
    )
    _print(summary if arguments.json else summary_table(summary))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.probe import one_line, probe_file, row_words

    row = probe_file(arguments.video, _media_options(arguments), every_frame=arguments.every_frame)
    _print({name: value for name, value in row.items() if name != "path_bytes"} if arguments.json else row_words(row))
    if row["codec"] is None:
        for code, message in zip(row["defects"], row["defect_messages"], strict=True):
            sys.stderr.write(f"vlmvid: {code}: {one_line(message)}\n")
        return 1
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
    _print_result(STAGE, ref, manifest.counts if manifest else {}, as_json=arguments.json)
    return 0


def _media_options(arguments: argparse.Namespace) -> Any:
    from vlmvid.config.schema import RunOptions

    if arguments.workers is not None and arguments.workers < 0:
        raise ConfigError(f"--workers {arguments.workers} must be at least 0")
    if not arguments.timeout > 0:
        raise ConfigError(f"--timeout {arguments.timeout} must be more than 0 seconds")
    return RunOptions(decode_workers=arguments.workers, decode_timeout_seconds=arguments.timeout)


def _print_result(stage: str, ref: Any, counts: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        _print({**ref.model_dump(), "counts": counts})
    else:
        _print(f"{stage}: {', '.join(f'{n} {name}' for name, n in counts.items())}\n{ref.uri}")


def _print(value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def _quiet_known_errors() -> None:
    """Keep Prefect from printing a traceback at every level for an error that `main` reports in one line."""

    def one_line(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], VlmvidError):
            record.exc_info, record.exc_text = None, None
        return True

    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine", "prefect.flows", "prefect.tasks"):
        logging.getLogger(name).addFilter(one_line)


def _configure_logging(verbose: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("vlmvid").setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
