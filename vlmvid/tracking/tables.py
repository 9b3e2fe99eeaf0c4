"""Tables as MLflow's evaluation page shows them: a JSON file of columns and rows, named in a tag of the run."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmvid.artifacts.files import scratch_folder
from vlmvid.tracking.outage import Refused

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TABLES_TAG = "mlflow.loggedArtifacts"


def send_table(client: MlflowClient, run_id: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a run's table: not by MLflow's own call, which repeats rows and makes numbers of texts like ``7``.

    Raises Refused when what the run holds under that name, or its list of tables, is none: that does not pass.
    """
    tags = client.get_run(run_id).data.tags
    held: bytes | None = None
    if name in [item.path for item in client.list_artifacts(run_id, posixpath.dirname(name) or None)]:
        with scratch_folder() as folder:
            held = Path(client.download_artifacts(run_id, name, str(folder))).read_bytes()
    try:
        table = merged_table(held.decode() if held is not None else None, rows)
        tag = tables_tag(tags.get(TABLES_TAG), name)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused(f"the run's {name}, or its tag {TABLES_TAG}, is no table to add rows to: {error}") from error
    client.log_text(run_id, table, name)
    client.set_tag(run_id, TABLES_TAG, tag)


def merged_table(held: str | None, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table file `held` (None: none yet) with `rows` behind its own; a row that it holds already is not repeated.

    So a resumed run, which records its last rows again, changes nothing. A cell that a row lacks is null, and so is a
    number that JSON does not have.
    """
    table = json.loads(held) if held else {"columns": [], "data": []}
    known = [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]
    found = {_identity(row): row for row in [*known, *({k: _cell(v) for k, v in row.items()} for row in rows)]}
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    data = [[row.get(name) for name in columns] for row in found.values()]
    return json.dumps({"columns": columns, "data": data}, ensure_ascii=False)


def tables_tag(held: str | None, name: str) -> str:
    """The value of `TABLES_TAG` that names the table `name` beside those of `held`."""
    entries = json.loads(held) if held else []
    entry = {"path": name, "type": "table"}
    return json.dumps(entries if entry in entries else [*entries, entry])


def _identity(row: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in row.items() if value is not None}, sort_keys=True)


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
