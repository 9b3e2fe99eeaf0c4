"""Probing a folder of media files: one row per file, broken ones too, as a Parquet table and in words."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlmvid.artifacts.files import write_bytes
from vlmvid.config.schema import RunOptions
from vlmvid.data.files import VIDEO_SUFFIXES, list_videos
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.pipeline.decode import decode_limits, num_workers
from vlmvid.pipeline.progress import StageProgress
from vlmvid.serving.terminal import one_line
from vlmvid.video.paths import local_path, printable


def probe_folder(folder: str | Path, table: str | Path, options: RunOptions, *, every_frame: bool) -> dict[str, Any]:
    """Examine every video file below `folder` and write `table`; returns the summary.

    Each file is examined in a worker process under the decoding limits of `options`: one that hangs,
    crashes or eats memory is a row with that defect. Rows are sorted by the bytes of their names, and
    the same files give the same bytes. Raises ConfigError when `folder` is none or holds no video file, or
    when `table` cannot be written; nothing is examined then.
    """
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder; give the folder that holds the videos")
    names, unlisted = list_videos(root)
    if not names and not unlisted:
        raise ConfigError(f"{root} holds no video file (looked for {', '.join(VIDEO_SUFFIXES)})")
    path = Path(table).expanduser().absolute()
    _check_target(path)
    rows = {name: _row(name, {"defects": [{"code": "unreadable", "message": why}]}) for name, why in unlisted.items()}
    rows |= zip(names, _examined(root, names, options, every_frame=every_frame), strict=True)
    ordered = [rows[name] for name in sorted(rows)]
    write_bytes(path, _parquet(ordered))
    return {"folder": printable(str(root)), "table": printable(str(path)), **summarise_rows(ordered)}


def probe_file(path: str | Path, options: RunOptions, *, every_frame: bool) -> dict[str, Any]:
    """The row of one file, in whatever state it is; its codec is None when it cannot be read.

    Raises DecodeError (``protocol_not_allowed``) for an address that names no file of this machine.
    """
    file = Path(local_path(os.fspath(path))).expanduser().absolute()
    return next(iter(_examined(file.parent, [os.fsencode(file.name)], options, every_frame=every_frame)))


def summarise_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the rows of a table: files, codecs, defects, and one example of each defect."""
    codecs = Counter(row["codec"] for row in rows if row["codec"] is not None)
    defects: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row in rows:
        for code, message in zip(row["defects"], row["defect_messages"], strict=True):
            defects[code] += 1
            examples.setdefault(code, message)
    return {
        "num_files": len(rows),
        "num_with_defects": sum(bool(row["defects"]) for row in rows),
        "file_size": sum(row["file_size"] or 0 for row in rows),
        "duration_seconds": round(sum(row["duration_seconds"] or 0.0 for row in rows), 6),
        "codecs": _by_count(codecs),
        "no_video": len(rows) - sum(codecs.values()),
        "num_vfr": sum(bool(row["is_vfr"]) for row in rows),
        "num_with_audio": sum(bool(row["has_audio"]) for row in rows),
        "defects": _by_count(defects),
        "examples": {code: examples[code] for code in _by_count(defects)},
    }


def summary_table(summary: dict[str, Any]) -> str:
    """The summary for a terminal."""
    lines = [
        f"{summary['num_files']} files, {summary['file_size'] / 1e6:.1f} MB, {summary['duration_seconds']:.1f} s of "
        f"video; {summary['num_vfr']} with a variable frame rate, {summary['num_with_audio']} with audio",
        "",
        f"{'codec':<20}  files",
    ]
    lines += [f"{codec:<20}  {count:>5}" for codec, count in summary["codecs"].items()]
    if summary["no_video"]:
        lines.append(f"{'(unknown)':<20}  {summary['no_video']:>5}")
    lines += ["", f"{'defect':<20}  files  e.g."]
    for code, count in summary["defects"].items():
        lines.append(f"{code:<20}  {count:>5}  {one_line(summary['examples'][code])}")
    if not summary["defects"]:
        lines.append(f"{'(none)':<20}  {summary['num_files']:>5}")
    return "\n".join([*lines, "", f"table: {one_line(summary['table'])}"])


def row_words(row: dict[str, Any]) -> str:
    """One row for a terminal: a line per column, a line per defect."""
    return "\n".join([*column_lines(row), *defect_lines(row)])


def column_lines(row: dict[str, Any]) -> list[str]:
    """What a row holds beside its defects: a line per column."""
    listed = ("defects", "defect_messages", "path_bytes")
    return [f"{name:<24}  {one_line(str(value))}" for name, value in row.items() if name not in listed]


def defect_lines(row: dict[str, Any]) -> list[str]:
    """What is wrong with a file: a line per defect."""
    pairs = zip(row["defects"], row["defect_messages"], strict=True)
    return [f"{'defect':<24}  {code}: {one_line(message)}" for code, message in pairs]


def _examined(
    root: Path, names: Sequence[bytes], options: RunOptions, *, every_frame: bool
) -> Iterable[dict[str, Any]]:
    from vlmvid.video.isolation.pool import DecodePool
    from vlmvid.video.probing import ExamineJob

    paths = [os.path.join(str(root), os.fsdecode(name)) for name in names]
    jobs = [ExamineJob(path=path, every_frame=every_frame) for path in paths]
    progress = StageProgress()
    if len(jobs) > 1:
        progress.begin("probe", len(jobs), "file")
    with DecodePool(None, decode_limits(options), num_workers=num_workers(options)) as pool:
        for name, path, outcome in zip(names, paths, pool.run(jobs), strict=True):
            if isinstance(outcome, DecodeError):
                defect = {"code": outcome.reason_code, "message": str(outcome)}
                outcome = {"file_size": _size_of(path), "defects": [defect]}
            # Where the folder stands says nothing about its files.
            for defect in outcome["defects"]:
                defect["message"] = printable(defect["message"]).replace(printable(path), printable(os.fsdecode(name)))
            progress.advance("probe")
            yield _row(name, outcome)
    progress.end("probe")


def _check_target(path: Path) -> None:
    """Raise ConfigError when no table can be written to `path`; its folder is made."""
    try:
        if path.is_dir():
            raise ConfigError(f"the table cannot be written: {path} is a folder; name a file, e.g. media.parquet in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"the table cannot be written to {path}: {error.strerror}; give a file in a folder that may be written"
        ) from error


def _size_of(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _row(name: bytes, report: dict[str, Any]) -> dict[str, Any]:
    """A row of the table from the fields of a `MediaReport`."""
    info = report.get("info") or {}
    row = {
        "path": printable(os.fsdecode(name)),
        "path_bytes": name,
        **{column: report.get(column) for column in ("file_size", "sha256")},
        **{column: info.get(column) for column in _INFO_COLUMNS},
        "has_audio": info["audio_codec"] is not None if info else None,
        "perceptual_hash": report.get("perceptual_hash"),
        "defects": [defect["code"] for defect in report["defects"]],
        "defect_messages": [defect["message"] for defect in report["defects"]],
    }
    return row


_INFO_COLUMNS = {
    "container": "string",
    "bit_rate": "int64",
    "codec": "string",
    "profile": "string",
    "pixel_format": "string",
    "width": "int32",
    "height": "int32",
    "rotation": "int16",
    "is_mirrored": "bool",
    "num_frames": "int64",
    "average_fps": "float64",
    "duration_seconds": "float64",
    "start_seconds": "float64",
    "keyframe_interval_median": "float64",
    "keyframe_interval_max": "int64",
    "is_vfr": "bool",
    "audio_codec": "string",
}


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("path", pa.string()),
            ("path_bytes", pa.binary()),
            ("file_size", pa.int64()),
            ("sha256", pa.string()),
            *((name, pa.type_for_alias(kind)) for name, kind in _INFO_COLUMNS.items()),
            ("has_audio", pa.bool_()),
            ("perceptual_hash", pa.string()),
            ("defects", pa.list_(pa.string())),
            ("defect_messages", pa.list_(pa.string())),
        ]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
