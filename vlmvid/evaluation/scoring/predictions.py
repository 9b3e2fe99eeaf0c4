"""Predictions as people write them: JSON, JSON Lines or CSV, joined by id."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmvid.errors import EvaluationError

ID_KEYS = ("id", "item_id", "question_id", "qid", "q_uid", "video_id", "image_id", "key", "index", "doc_id")
VALUE_KEYS = ("prediction", "pred", "response", "filtered_resps", "output", "answer", "caption", "scores")
# Beside one of these an `answer` is the right answer in most result files, or may be.
_OTHER_ANSWERS = (
    *("prediction", "pred", "response", "filtered_resps", "output", "text", "predicted_answer", "pred_answer"),
    *("model_answer", "model_response", "model_output", "generated_answer"),
)
_SHOWN = 5


@dataclass(frozen=True)
class Predictions:
    """What a model answered.

    Attributes:
        values: item_id -> the value as JSON gives it: a text, a number, an index, or lists of scores.
        source: where they were read, for messages.
    """

    values: dict[str, Any]
    source: str = "predictions"

    def missing(self, item_ids: Iterable[str]) -> list[str]:
        """The ids that have no prediction, in the order given."""
        return [item_id for item_id in item_ids if item_id not in self.values]

    def extra(self, item_ids: Iterable[str]) -> list[str]:
        """The ids of predictions for nothing that was asked, in file order."""
        known = set(item_ids)
        return [item_id for item_id in self.values if item_id not in known]


def read_predictions(
    path: Path, id_keys: Sequence[str] = ID_KEYS, value_keys: Sequence[str] = VALUE_KEYS
) -> Predictions:
    """The predictions in `path`.

    An object ``{id: value}``, a list of objects or JSON Lines with an id and a value, or a CSV file with a header; of
    several known key names the first that is there counts. A list that holds one text is that text.

    Raises:
        EvaluationError: no such file, no prediction, JSON that does not parse (with line and column), a row without id
            or value, or an id that occurs twice.
    """
    document = read_document(path)
    if isinstance(document, dict):
        if not document:
            raise EvaluationError(f"{path} holds no prediction: the JSON object is empty")
        if any(key in document for key in id_keys) and any(key in document for key in value_keys):
            document = [document]  # JSON Lines of one line
    if isinstance(document, dict):
        return Predictions({str(key): _only(value) for key, value in document.items()}, str(path))
    return from_rows(path, document, id_keys, value_keys)


def from_rows(path: Path, rows: Sequence[Any], id_keys: Sequence[str], value_keys: Sequence[str]) -> Predictions:
    """Predictions from a list of objects; raises EvaluationError as `read_predictions` does."""
    if not rows:
        raise EvaluationError(f"{path} holds no prediction: the list is empty")
    pairs = [_pair(path, number, row, id_keys, value_keys) for number, row in enumerate(rows, start=1)]
    return from_pairs(pairs, str(path))


def from_pairs(pairs: Sequence[tuple[str, Any]], source: str) -> Predictions:
    """Predictions from (id, value); raises EvaluationError for an id that occurs twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise EvaluationError(
            f"{source} holds {len(repeated)} ids more than once, e.g. {', '.join(repeated[:_SHOWN])}; "
            "keep one prediction for each"
        )
    return Predictions(values, source)


def read_document(path: Path) -> Any:
    """The JSON document, JSON Lines or CSV rows in `path`: a dict, or a list with one entry per row.

    Raises EvaluationError as `read_predictions` does, with the line and column of what does not parse.
    """
    text = _read_text(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_rows(path, text)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_lines(path, text)
    try:
        document = load_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # JSON Lines under the name .json, as POPE's
            return _json_lines(path, text)
        raise EvaluationError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{path}: {error}") from error
    except RecursionError:
        raise EvaluationError(f"{path} nests too deeply to be a file of predictions") from None
    if not isinstance(document, dict | list):
        raise EvaluationError(f"{path} holds a JSON {type(document).__name__}; expected an object or a list")
    return document


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise EvaluationError(f"{path} does not exist; give the file of predictions") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not text.strip():
        raise EvaluationError(f"{path} is empty; expected predictions as JSON, JSON Lines or CSV")
    return text


def _json_lines(path: Path, text: str) -> list[Any]:
    rows = []
    # Not splitlines: JSON may hold U+2028 and other line ends of Unicode as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(load_json(line))
        except json.JSONDecodeError as error:
            raise EvaluationError(f"{path}, line {number}, column {error.colno}: not JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{path}, line {number}: {error}") from error
    return rows


def _csv_rows(path: Path, text: str) -> list[dict[str, str]]:
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise EvaluationError(
                    f"{path}, line {reader.line_num}: another number of columns than the header, which has "
                    f"{len(reader.fieldnames or ())}; quote values that hold the separator"
                )
            rows.append(row)
    except csv.Error as error:
        raise EvaluationError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def load_json(text: str) -> Any:
    """The JSON value of `text`; raises ValueError for an object with a name twice, of which one value would be lost."""
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"an object holds {', '.join(repeated[:_SHOWN])} more than once; keep one value for each")
    return found


def _pair(path: Path, number: int, row: Any, id_keys: Sequence[str], value_keys: Sequence[str]) -> tuple[str, Any]:
    if not isinstance(row, dict):
        raise EvaluationError(f"{path}, entry {number}: expected an object, got {type(row).__name__} {row!r:.60}")
    found = []
    for what, keys in (("id", id_keys), ("value", value_keys)):
        key = next((key for key in keys if row.get(key) is not None), None)
        if key is None and what == "value":
            key = next((key for key in keys if key in row), None)  # null is no answer, but it is there
        if key is None:
            raise EvaluationError(
                f"{path}, entry {number}: no {what}; expected one of the keys {', '.join(keys)}, it has "
                f"{', '.join(map(str, row)) or 'none'}"
            )
        found.append(row[key])
        if what == "value" and key == "answer":
            _require_one_answer(path, number, row)
    value = _only(found[1])
    if row.get("confidence") is not None and not isinstance(value, dict):
        value = {"answer": value, "confidence": row["confidence"]}  # as the metrics of selective prediction read it
    return id_text(found[0]), value


def _require_one_answer(path: Path, number: int, row: dict[str, Any]) -> None:
    others = [key for key in _OTHER_ANSWERS if key in row]
    if others:
        raise EvaluationError(
            f"{path}, entry {number}: `answer` stands beside `{others[0]}`, and one of them is probably the right "
            "answer; say which is the model's with --value-key"
        )


def _only(value: Any) -> Any:
    """The text in a list of one text, as several tools write an answer; any other value as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) else value


def id_text(value: Any) -> str:
    """An id as text: 1.0 of a table of floats is the id 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
