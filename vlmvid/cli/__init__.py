"""The command line: the same functions as the flows, and `run`, which is the flow itself.

Results go to stdout, logs and progress bars to stderr. Exit codes: 0 done, 1 the work failed,
2 bad usage or config. `recipes` has the commands that take a recipe, `models` those that take a model,
`indexing` the one that makes videos searchable, `report` the one that draws runs, `files` those that take files alone,
`upkeep` those that look after a store.
"""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from vlmvid.cli.files import add_file_commands
from vlmvid.cli.indexing import add_index_command
from vlmvid.cli.models import add_model_commands
from vlmvid.cli.promote import add_promote_command
from vlmvid.cli.recipes import add_recipe_commands
from vlmvid.cli.report import add_report_command
from vlmvid.cli.serve import add_serve_command
from vlmvid.cli.upkeep import add_upkeep_commands
from vlmvid.errors import ArtifactError, ConfigError, VlmvidError

__all__ = ["main", "parser"]
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = parser().parse_args(argv)
    _configure_logging(arguments.verbose)
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        with _terminated_as_interrupted():
            return command(arguments)
    except ConfigError as error:
        return _fail(error, 2)
    except VlmvidError as error:
        return _fail(error, 1)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        return _fail(_no_space(error), 1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return 1


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within the block SIGTERM is what Ctrl-C is, so that runs are ended and files are closed."""
    is_ours = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _no_space(error: OSError) -> ArtifactError:
    where = f" ({error.filename})" if error.filename else ""
    return ArtifactError(
        f"there is no space left on the disk{where}: {error.strerror}; free some (vlmvid gc says what can go) and run "
        "the same command again: what is stored already is kept"
    )


def _fail(error: Exception, code: int) -> int:
    from vlmvid.serving.terminal import alarming, terminal_of

    name = alarming(f"vlmvid: {type(error).__name__}:", terminal_of(sys.stderr))
    sys.stderr.write(f"{name} {error}\n")
    return code


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    made = argparse.ArgumentParser(
        prog="vlmvid", description="Video-language pipelines: decode, encode, align, train, evaluate."
    )
    made.add_argument("-v", "--verbose", action="count", default=0, help="more log lines on stderr (twice for debug)")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    add_recipe_commands(commands)
    add_model_commands(commands)
    add_index_command(commands)
    add_report_command(commands)
    add_serve_command(commands)
    add_promote_command(commands)
    add_file_commands(commands)
    add_upkeep_commands(commands)
    return made


def _configure_logging(verbose: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = BesideBars(sys.stderr)
    handler.setFormatter(_NamedRuns("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("vlmvid").setLevel(level)


class BesideBars(logging.StreamHandler[TextIO]):
    """Writes its lines above the progress bars, which would be torn apart by them.

    Prefect puts its own handler in the place of one whose name begins with an underscore.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" not in sys.modules:  # nothing has a bar yet
            super().emit(record)
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _NamedRuns(logging.Formatter):
    """Says which task or flow run of Prefect a line is of: it leaves that to its own handler, which ours replaces."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        name = record.__dict__.get("task_run_name") or record.__dict__.get("flow_name")
        if name:
            record.message = f"{name}: {record.message}"  # which every handler writes anew
        return super().formatMessage(record)
