"""Commands that take a recipe: `run`, `plan`, one stage, `probe`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from vlmvid.cli.output import add_json, write, write_result
from vlmvid.errors import VlmvidError

STAGE_HELP = {
    "ingest": "read the dataset, make generated videos, digest the source files",
    "curate": "measure the clips and keep those that pass the rules",
    "decode": "videos to frames that are kept",
    "encode": "frames, or videos where frames are not kept, and texts to features",
    "filter": "leave out clips and captions that are not to be learnt from, by features, wording and a model",
    "align": "learn a pooling and projection heads on stored features",
    "train-vlm": "train a vision-language model on stored features, stage by stage",
    "evaluate": "measure the aligned model, or the vision-language model",
    "register": "build the model folder and register it",
}


def add_recipe_commands(commands: Any) -> None:
    """Add the commands of this module."""
    run = _recipe_command(commands, "run", _run, "the whole pipeline, as a Prefect flow")
    _retry_options(run)
    run.add_argument(
        "--accept-code-change", metavar="STAGE", help="keep this stage's results although its code changed"
    )
    planned = _recipe_command(commands, "plan", _plan, "what would run, what is cached, and why; what it needs")
    planned.add_argument("--gpu", metavar="NAME", help="for which to estimate: a100 (default), h100, l4, cpu, ...")
    for stage, text in STAGE_HELP.items():
        command = _recipe_command(commands, stage, _stage, f"one stage, no Prefect: {text}")
        command.set_defaults(stage=stage.replace("-", "_"))
        _retry_options(command)
    _recipe_command(commands, "probe", _probe, "alignment probing: which encoders a linear map aligns, and why")


def _recipe_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("recipe", help="a YAML file, e.g. configs/pipelines/quickstart.yaml")
    command.add_argument("-o", "--override", action="append", default=[], metavar="a.b=c", help="change one key")
    command.add_argument("--home", help="the store (default: VLMVID_HOME, else ./.vlmvid)")
    add_json(command)
    command.set_defaults(command=function)
    return command


def _retry_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--retry", choices=["failed"], help="try clips again that failed for good")
    command.add_argument("--verify", action="store_true", help="hash every source file and stored shard again")


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
    # Waits of 2, 4, 8, ... seconds: with Prefect's own limit of 5 a server that is away for a minute ends the run.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from vlmvid.pipeline import check_api_url, preflight

    check_api_url()
    preflight(request)  # a mistake in the recipe should not cost the start of a server
    from flows.pipeline import pipeline

    _quiet_known_errors()
    pipeline(recipe=request.recipe, home=request.home, retry_failed=request.retry_failed, verify=request.verify)
    from vlmvid.pipeline.summary import summarise, summary_text

    summary = summarise(request)
    write(summary if arguments.json else summary_text(summary))
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.estimate import GPUS
    from vlmvid.pipeline.plan import DEFAULT_GPU, needs, plan, plan_json, plan_table

    gpu = arguments.gpu or DEFAULT_GPU
    GPUS.get(gpu)  # a misspelt name should not cost a look at the files
    request = _request(arguments)
    plans, found = plan(request), needs(request, gpu)
    write(plan_json(plans, found) if arguments.json else plan_table(plans, found))
    return 0


def _stage(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline import STAGES, train_vlm
    from vlmvid.pipeline.align import help_first_process
    from vlmvid.pipeline.session import pipeline_run
    from vlmvid.pipeline.torchrun import is_helper

    request = _request(arguments)
    if is_helper():
        if arguments.stage == train_vlm.STAGE:
            train_vlm.help_first(request)
        else:
            help_first_process(arguments.stage, request)
        return 0
    with pipeline_run(request) as context:
        ref = STAGES[arguments.stage].run(request)
        manifest = context.store.manifest(arguments.stage, ref.key)
        counts = manifest.counts if manifest else {}
        folder = context.store.open_artifact(arguments.stage, ref.key)
        trained = train_vlm.trained_stages(context) if arguments.stage == train_vlm.STAGE else []
    if arguments.stage == "evaluate":
        _write_evaluation(ref, counts, folder, as_json=arguments.json)
    elif trained:
        _write_training(ref, counts, trained, as_json=arguments.json)
    else:
        write_result(arguments.stage, ref, counts, as_json=arguments.json)
    return 0


def _write_evaluation(ref: Any, counts: dict[str, int], folder: Any, *, as_json: bool) -> None:
    from vlmvid.pipeline.evaluate import evaluation_json, evaluation_text

    if as_json:
        write({**ref.model_dump(), "counts": counts, **evaluation_json(folder)})
    else:
        write(evaluation_text(folder))


def _write_training(ref: Any, counts: dict[str, int], stages: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        write({**ref.model_dump(), "counts": counts, "training": stages})
        return
    from vlmvid.pipeline.train_vlm import training_line

    for one in stages:
        write(training_line(one))
    write(ref.uri)


def _probe(arguments: argparse.Namespace) -> int:
    from vlmvid.pipeline.probing import read_probe, run_probe

    ref = run_probe(arguments.recipe, arguments.override, home=arguments.home)
    document, report = read_probe(ref, home=arguments.home)
    write({**document, "folder": ref.uri} if arguments.json else f"{report}\n{ref.uri}")
    return 1 if document["failures"] else 0


def _quiet_known_errors() -> None:
    """Keep Prefect from printing a traceback at every level for an error that `main` reports in one line."""

    def one_line(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], VlmvidError):
            record.exc_info, record.exc_text = None, None
        return True

    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine", "prefect.flows", "prefect.tasks"):
        logging.getLogger(name).addFilter(one_line)
