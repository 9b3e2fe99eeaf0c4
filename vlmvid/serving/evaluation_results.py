"""The results of an evaluation for people: tables in a notebook or a terminal, data frames for work."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import TYPE_CHECKING, Any, overload

from vlmvid.config.addresses import check_address
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.report import CHANCE, interval_text, is_chance, number_text, title_of
from vlmvid.evaluation.runner import METRICS_FILE, read_results
from vlmvid.registry import nearest
from vlmvid.serving.showing import Showable, html_table
from vlmvid.serving.terminal import Column, Terminal, bold, escaped, table_lines
from vlmvid.tracking.registry import open_registry, registry_address
from vlmvid.types import MetricResult

if TYPE_CHECKING:
    import pandas as pd

_REGISTERED = "models:/"
_USUAL_WIDTH = 100
_COLUMNS = (
    Column("metric", may_shrink=True),
    Column("value", is_number=True),
    Column("95 % interval"),
    Column("n", is_number=True),
    Column("chance"),
)


class EvaluationResults(Showable, Sequence[TaskResult]):
    """What an evaluation measured, one `TaskResult` for each task or benchmark; shows itself as tables."""

    def __init__(self, results: Iterable[TaskResult]) -> None:
        self.results = tuple(results)

    @overload
    def __getitem__(self, place: int | str) -> TaskResult: ...

    @overload
    def __getitem__(self, place: slice) -> EvaluationResults: ...

    def __getitem__(self, place: int | str | slice) -> TaskResult | EvaluationResults:
        """By number, or by name as the report has it; raises ConfigError with the known names for another one."""
        if isinstance(place, slice):
            return EvaluationResults(self.results[place])
        if isinstance(place, int):
            return self.results[place]
        named = {title_of(result): result for result in self.results}
        if place not in named:
            known = list(named)
            raise ConfigError(f"nothing called {place!r} was evaluated{nearest(place, known)}; there is {known}")
        return named[place]

    def __len__(self) -> int:
        return len(self.results)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each metric: task, metric, value, interval, number of samples, chance.

        Rates are in [0, 1]. `chance` is what guessing reaches, where the task says so.
        """
        import pandas as pd

        columns = ["task", *MetricResult.__dataclass_fields__, "chance"]
        columns[columns.index("name")] = "metric"
        return pd.DataFrame([row for result in self.results for row in _numbers(result)], columns=columns)

    def samples(self, task: str) -> pd.DataFrame:
        """The samples behind a task's numbers, one row each; raises as looking a task up by name does."""
        import pandas as pd

        return pd.DataFrame(self[task].samples)

    def to_text(self, terminal: Terminal) -> str:
        """A table for each task, below the line that says what was measured."""
        blocks = []
        for result in self.results:
            rows = [list(cells) for cells in _cells(result)]
            table = table_lines(_COLUMNS, rows, terminal)
            protocol = wrap(escaped(result.protocol), terminal.width or _USUAL_WIDTH)
            blocks.append("\n".join([bold(title_of(result), terminal), *protocol, *table]))
        return "\n\n".join(blocks) or "nothing was evaluated"

    def _repr_html_(self) -> str:
        if not self.results:
            return "<p>nothing was evaluated</p>"
        names = [column.name for column in _COLUMNS]
        return "".join(
            html_table(names, [[escape(cell) for cell in cells] for cells in _cells(result)], title_of(result))
            + f"<p>{escape(result.protocol)}</p>"
            for result in self.results
        )


def load_results(place: str | Path, *, tracking_uri: str | None = None) -> EvaluationResults:
    """The results of an evaluation, with their samples.

    Args:
        place: the folder of an evaluation, as ``vlmvid evaluate`` prints it, or ``models:/NAME@ALIAS`` or
            ``models:/NAME/VERSION`` for the evaluation that a model was registered with.
        tracking_uri: of the registry; None means MLFLOW_TRACKING_URI, else SQLite in VLMVID_HOME.

    Raises:
        ArtifactError: no evaluation lies there, or it is damaged.
        ConfigError: an address of another scheme, a model that is not there or was registered without an evaluation.
        TrackingError: the registry does not answer.
    """
    address = str(place)
    check_address(address, "model", "the evaluation")
    if not address.startswith(_REGISTERED):
        return _read(Path(place).expanduser())
    name, separator, which = address.removeprefix(_REGISTERED).partition("@")
    if not separator:
        name, _, which = name.rpartition("/")
    if not name or not which:
        raise ConfigError(f"{address} names no version; write {_REGISTERED}NAME@ALIAS or {_REGISTERED}NAME/VERSION")
    registry = open_registry(registry_address(tracking_uri))
    with TemporaryDirectory(prefix="vlmvid-results-") as folder:
        return _read(registry.evaluation(registry.version(name, which), Path(folder)))


def _read(folder: Path) -> EvaluationResults:
    if not (folder / METRICS_FILE).is_file():
        raise ArtifactError(
            f"{folder} is no evaluation: it has no {METRICS_FILE}; give the folder that `vlmvid evaluate` prints"
        )
    try:
        return EvaluationResults(read_results(folder))
    except (OSError, KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise ArtifactError(f"the evaluation in {folder} cannot be read: {error!r}; evaluate again") from error


def _measured(result: TaskResult) -> Iterator[tuple[MetricResult, MetricResult | None]]:
    """Every metric, and what guessing reaches."""
    chances = {metric.name.replace(CHANCE, "", 1): metric for metric in result.metrics if is_chance(metric.name)}
    return ((metric, chances.get(metric.name)) for metric in result.metrics if not is_chance(metric.name))


def _numbers(result: TaskResult) -> Iterator[dict[str, Any]]:
    for metric, chance in _measured(result):
        values = asdict(metric)
        yield {
            "task": title_of(result),
            "metric": values.pop("name"),
            **values,
            "chance": math.nan if chance is None else chance.value,
        }


def _cells(result: TaskResult) -> Iterator[tuple[str, ...]]:
    for metric, chance in _measured(result):
        guessed = "" if chance is None else number_text(chance.value, metric.name)
        yield (
            metric.name,
            number_text(metric.value, metric.name),
            interval_text(metric),
            str(metric.num_samples),
            guessed,
        )
