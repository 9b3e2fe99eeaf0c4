"""Videos and pictures that are no part of the recipe's dataset: those of benchmarks, found by the names they give."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from vlmvid.artifacts import hash_json
from vlmvid.config.benchmarks import BenchmarkConfig
from vlmvid.errors import ConfigError, DecodeError, MissingDataError
from vlmvid.evaluation.benchmarks import Benchmark, declaration, get_benchmark, module_of
from vlmvid.evaluation.scoring.base import Item, Media, ScoreSettings
from vlmvid.pipeline.sources import SourceRow
from vlmvid.types import Clip
from vlmvid.video.paths import check_file

HashFile = Callable[[Path], str]
ANSWERED = ("retrieval", "choice", "matrix", "classification", "segmentation")


class MediaFolder:
    """A folder of videos and pictures, looked up by file name, by path below it, or by name without suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str) -> Path | None:
        """The file that a benchmark calls `name`; None when there is none."""
        exact = self.root / name
        if exact.is_file():
            return exact
        last = name.rpartition("/")[2]  # benchmarks over several sources put the source before it
        return self._below.get(name) or self._by_name.get(last) or self._by_stem.get(last)

    @cached_property
    def _files(self) -> list[Path]:
        found = [Path(folder, name) for folder, _, names in os.walk(self.root) for name in names]
        return sorted(found)

    @cached_property
    def _below(self) -> dict[str, Path]:
        return {path.relative_to(self.root).with_suffix("").as_posix(): path for path in reversed(self._files)}

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        return {path.name: path for path in reversed(self._files)}

    @cached_property
    def _by_stem(self) -> dict[str, Path]:
        return {path.stem: path for path in reversed(self._files)}


def open_benchmark(config: BenchmarkConfig) -> tuple[Benchmark, list[Item]]:
    """The benchmark and its items.

    Raises:
        ConfigError: an unknown benchmark, compat mode or option, or one whose answers are words, which a dual encoder
            does not give.
        MissingDataError, DatasetError: its annotation files are not there, or not in their authors' format.
    """
    benchmark = get_benchmark(config.name)
    if benchmark.kind not in ANSWERED:
        raise ConfigError(
            f"evaluate.benchmarks: {config.name} wants answers of kind {benchmark.kind!r}, and an aligned model gives "
            f"similarities only, which answer {', '.join(ANSWERED)}; write another model's answers to a file and use "
            f"`vlmvid score {config.name}`"
        )
    for compat in (None, *config.compat):
        benchmark.check(ScoreSettings(compat=compat, options=config.options))
    items = benchmark.read(config.annotations_path, config.options)
    boxed = sum("box" in item.extra for item in items)
    if boxed:
        raise ConfigError(
            f"evaluate.benchmarks: {boxed} items of {config.name} show a part of a picture, and pictures are embedded "
            f"whole here; write the scores of the parts to a file and use `vlmvid score {config.name}`"
        )
    return benchmark, items


def media_of(items: Sequence[Item]) -> list[Media]:
    """What is shown by some item, each once, in the order of the items."""
    return list(dict.fromkeys(media for item in items for media in item.media))


def media_rows(
    config: BenchmarkConfig, media: Sequence[Media], hash_file: HashFile
) -> tuple[dict[Media, SourceRow], dict[Media, DecodeError]]:
    """The file behind each of `media`, or why there is none.

    Raises MissingDataError when the folder holds none of them, which is a wrong folder and not a gap.
    """
    folder = MediaFolder(config.media_path)
    rows: dict[Media, SourceRow] = {}
    failed: dict[Media, DecodeError] = {}
    for some in media:
        path = folder.find(some.name)
        try:
            if path is None:
                raise DecodeError(f"{config.media_path} holds no {some.name}", reason_code="missing_file")
            check_file(path)
            digest = hash_file(path)
        except DecodeError as error:
            failed[some] = error
            continue
        end = "end" if some.end_seconds is None else f"{some.end_seconds:g}"
        clip = Clip(
            video_id=f"{some.name} {some.start_seconds:g}..{end}",
            path=str(path),
            split="test",
            start_seconds=some.start_seconds,
            end_seconds=some.end_seconds,
        )
        rows[some] = SourceRow(clip=clip, path=str(path), source_sha256=digest)
    if media and not rows:
        raise MissingDataError(
            f"evaluate.benchmarks: {config.media_path} holds none of the {len(media)} videos or pictures of "
            f"{config.name}, e.g. {media[0].name}; give the folder that holds them as `media`"
        )
    return rows, failed


def inputs_digest(config: BenchmarkConfig, hash_file: HashFile) -> str:
    """One digest of what a benchmark's files hold: its items, and the videos and pictures that they show."""
    benchmark, items = open_benchmark(config)
    rows, failed = media_rows(config, media_of(items), hash_file)
    shown = {repr(media): row.source_sha256 for media, row in rows.items()}
    shown |= {repr(media): error.reason_code for media, error in failed.items()}
    if benchmark.kind == "segmentation":  # annotated masks are files too
        items = [replace(item, answer=hash_file(Path(item.answer))) for item in items]
    return hash_json([declaration(config.name), [repr(item) for item in items], sorted(shown.items())])


def benchmark_modules(configs: Sequence[BenchmarkConfig]) -> tuple[str, ...]:
    """The modules whose code decides what an aligned model scores on these benchmarks."""
    if not configs:
        return ()
    return ("vlmvid.evaluation.dual_encoder", "vlmvid.models.segmentation", *(module_of(c.name) for c in configs))
