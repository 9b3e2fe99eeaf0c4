"""Building a video index: what is new is embedded, shard by shard; then the table of all is written.

The folder of an index is a small store: embeddings by content in ``clips``, failures in ``ledger``, what is known of
source files in ``digests``. A killed build loses the shard in work. `vlmvid.pipeline.indexing_table` writes the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vlmvid.artifacts import Store, open_store
from vlmvid.artifacts.digests import sha256_file
from vlmvid.config.base import Config
from vlmvid.config.schema import RunOptions
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.pipeline.decode import decode_limits, first_of_each, num_workers
from vlmvid.pipeline.indexing_model import (
    ModelFacts,
    accept_code,
    code_digest,
    model_facts,
    require_features,
    require_of_index,
    require_planned,
)
from vlmvid.pipeline.indexing_sources import ClipToEmbed, artifact_values, list_clips, stored_artifact
from vlmvid.pipeline.progress import StageProgress
from vlmvid.pipeline.request import ShardReport
from vlmvid.serving.video_index_faiss import load_faiss
from vlmvid.serving.video_index_files import CELLS_FILE, STAGE, IndexDescription, stored_description
from vlmvid.serving.video_index_folder import check_folder
from vlmvid.types import FrameBatch

if TYPE_CHECKING:
    from vlmvid.serving.model import VideoTextModel

# N clips, S time steps
FRAMES_PER_BATCH = 64
Columns = dict[str, NDArray[Any]]


class IndexRequest(Config):
    """One build of one index; small and JSON, so that any task in any process can work on it.

    `videos` is a folder, a manifest or an encode artifact; `model` an address as `vlmvid.load` takes it; `out` the
    folder of the index. What failed for good is tried again with `retry_failed`; `verify` hashes source files and
    shards again; with `accept_code_change` clips count as embedded that other code has embedded, now and later;
    `replace` lets an index become one of other videos; `faiss` prepares approximate search, too, None where the index
    has it already.
    """

    videos: str
    model: str
    out: str
    retry_failed: bool = False
    verify: bool = False
    accept_code_change: bool = False
    replace: bool = False
    faiss: bool | None = None
    shard_size: int = Field(default=128, gt=0, le=1024)
    decode_workers: int | None = Field(default=None, ge=0)


class IndexJob(Config):
    """Clips that one task embeds, with the model whose `embedding_digest` is `model_digest`."""

    number: int
    model_digest: str
    clips: tuple[ClipToEmbed, ...]

    @property
    def task_name(self) -> str:
        """What tells its task from the others: its number from 1."""
        return str(self.number + 1)


def index_request(videos: str, model: str, out: str, **options: Any) -> IndexRequest:
    """The request with absolute paths.

    Raises ConfigError for options out of range, and for an `out` that is not a folder of this machine or holds
    something else.
    """
    from vlmvid.config.load import validate

    if "://" in out:
        raise ConfigError(
            f"--out {out}: an index is a folder of this machine; name one, and copy it where it is needed"
        )
    folder = Path(out).expanduser().absolute()
    check_folder(folder)
    if "://" not in videos:
        videos = str(Path(videos).expanduser().absolute())
    local = Path(model).expanduser()
    given = {"videos": videos, "model": str(local.absolute()) if local.is_dir() else model, "out": str(folder)}
    return validate(IndexRequest, {**given, **options}, source="index")


def building(request: IndexRequest) -> AbstractContextManager[None]:
    """Held while the index is built: a second build of it waits."""
    return open_index_store(request).lock(STAGE, "build")


def plan_index(request: IndexRequest) -> list[IndexJob]:
    """The shards still to embed: clips that are new, in source order.

    Raises:
        ConfigError: the index was made with another model or of other videos; or the model embeds no videos, or not
            from these stored features of an encode artifact; or faiss is needed and not there.
    """
    before = stored_description(Path(request.out))
    check_source(request, before)
    check_cells(request, before)
    store, facts = open_index_store(request), model_facts(request.model)
    store.refresh()  # a process may build more than once
    require_of_index(request.out, before, request.model, facts)
    artifact = stored_artifact(request.videos)
    if artifact is not None:
        require_features(artifact, request.model, facts)
    if request.accept_code_change:
        accept_code(store, before)
    store.verify_clips(STAGE)
    listed = [one for one in list_clips(request.videos, store, key_salt(request, facts)) if one.error is None]
    known = store.clips(STAGE).rows(one.key for one in listed)
    refused = set() if request.retry_failed else permanent_failures(store)
    keys = {one.clip.video_id: one.key for one in listed if one.key not in known and one.key not in refused}
    by_id = {one.clip.video_id: one for one in listed}
    todo = [by_id[video_id].to_embed for video_id in first_of_each(keys)]
    progress_of(request.out).begin(STAGE, len(todo), "clip")
    size = request.shard_size
    return [
        IndexJob(number=number, model_digest=facts.digest, clips=tuple(todo[start : start + size]))
        for number, start in enumerate(range(0, len(todo), size))
    ]


def run_index_shard(request: IndexRequest, job: IndexJob) -> ShardReport:
    """Embed the clips of one shard and store what is made of them; a video that cannot be read is a ledger row.

    Raises ConfigError when `model` names another one than when the work was planned.
    """
    store, model = open_index_store(request), open_index_model(request)
    require_planned(request.model, model.embedding_digest, job.model_digest)
    artifact = stored_artifact(request.videos)
    shard = _Shard(model)
    if artifact is not None:
        values, seconds = artifact_values(artifact, [clip.place for clip in job.clips], model.reads)
        shard.add(job.clips, values, seconds)
    else:
        for clips, features, times in _decoded(request, model, store, job.clips, shard):
            shard.add(clips, features, times)
    progress_of(request.out).advance(STAGE, len(job.clips))
    if shard.keys:
        store.clips(STAGE).write(shard.keys, shard.columns())
    store.ledger(STAGE).record_failures([(clip.key, clip.video_id, error) for clip, error in shard.failed])
    return ShardReport(ok=len(shard.keys), failed=len(shard.failed))


class _Shard:
    """What becomes of the clips of one task.

    Attributes:
        keys: of the clips that were embedded, in the order of `columns`.
        failed: the others.
    """

    def __init__(self, model: VideoTextModel) -> None:
        from vlmvid.serving.video_index_embedding import embeds_steps

        self.keys: list[str] = []
        self.failed: list[tuple[ClipToEmbed, DecodeError]] = []
        self._model = model
        self._with_steps = embeds_steps(model)
        self._parts: list[Columns] = []

    def add(self, clips: Sequence[ClipToEmbed], values: NDArray[Any], seconds: NDArray[np.float32] | None) -> None:
        """Embed clips, of their features (n, S, ...) and when each of the S was shown, (n, S), where that is known."""
        from vlmvid.artifacts.arrays import finite_rows
        from vlmvid.serving.video_index_embedding import embed_clips, embed_steps, views_per_frame
        from vlmvid.serving.video_index_files import EMBEDDINGS, SECONDS, STEPS

        good = finite_rows(values)
        clean = np.where(good.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)
        embeddings, is_finite = embed_clips(self._model, clean)
        good &= is_finite
        columns: Columns = {EMBEDDINGS: embeddings[good]}
        if self._with_steps and seconds is not None:
            steps = embed_steps(self._model, clean[good])
            columns |= {STEPS: np.nan_to_num(steps), SECONDS: seconds[good][:, :: views_per_frame(self._model)]}
        for clip, is_good in zip(clips, good.tolist(), strict=True):
            if is_good:
                self.keys.append(clip.key)
            else:
                words = (
                    f"the features or the embedding of {clip.path} hold NaN or infinity; look at the model's weights"
                )
                self.failed.append((clip, DecodeError(words, reason_code="not_finite")))
        self._parts.append(columns)

    def columns(self) -> Columns:
        """The arrays of the shard."""
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}


def _decoded(
    request: IndexRequest, model: VideoTextModel, store: Store, clips: Sequence[ClipToEmbed], shard: _Shard
) -> Iterator[tuple[list[ClipToEmbed], NDArray[np.float32], NDArray[np.float32]]]:
    """Clips with their features and times, some together; those that cannot be read become failures of `shard`."""
    from vlmvid.video.isolation.pool import shared_pool

    options = RunOptions(decode_workers=request.decode_workers)
    vision = model.vision
    size = max(1, FRAMES_PER_BATCH // model.decode.sampling.num_frames)
    pool = shared_pool(model.decode, decode_limits(options), num_workers(options))
    jobs = [vision.job(clip.path, clip.start_seconds, clip.end_seconds) for clip in clips]
    with closing(pool.decode(jobs)) as outcomes:
        for start in range(0, len(clips), size):
            good: list[tuple[ClipToEmbed, FrameBatch]] = []
            for clip in clips[start : start + size]:
                outcome = next(outcomes)
                if not _is_unchanged(store, clip):
                    words = f"{clip.path} changed or went away while the index was built; build it again"
                    outcome = DecodeError(words, reason_code="changed_during_run", transient=True)
                if isinstance(outcome, DecodeError):
                    shard.failed.append((clip, outcome))
                else:
                    good.append((clip, outcome))
            if good:
                starts = [clip.start_seconds for clip, _ in good]
                found = vision.of_clips([frames for _, frames in good], starts, model.reads)
                yield (
                    [clip for clip, _ in good],
                    np.stack([one.values for one in found]),
                    np.array([one.seconds for one in found], np.float32),
                )


def _is_unchanged(store: Store, clip: ClipToEmbed) -> bool:
    try:
        return store.digests.digest(Path(clip.path)) == clip.source_sha256
    except OSError:
        return False


def open_index_store(request: IndexRequest) -> Store:
    """The store in the folder of the index; the same one as long as the process and the request last."""
    return _store(request.out, request.verify)


def open_index_model(request: IndexRequest) -> VideoTextModel:
    """The model, loaded once per process."""
    facts = model_facts(request.model)
    return _load(facts.folder, sha256_file(facts.folder / "model.json"))


def check_source(request: IndexRequest, before: IndexDescription | None) -> None:
    """Raise ConfigError where the index that is there is of other videos, and they were not to be replaced."""
    if before is not None and before.source not in ("", request.videos) and not request.replace:
        raise ConfigError(
            f"the video index {request.out} is of {before.source}, and would become one of {request.videos}: what is "
            "not there would go; name another folder with --out, or give --replace"
        )


def keeps_cells(request: IndexRequest, before: IndexDescription | None) -> bool:
    """Whether the index is to have what approximate search needs: as it was asked for, else where it is there."""
    return request.faiss if request.faiss is not None else before is not None and CELLS_FILE in before.files


def check_cells(request: IndexRequest, before: IndexDescription | None) -> None:
    """Raise ConfigError where that is to be, and faiss is not installed."""
    if not keeps_cells(request, before):
        return
    try:
        load_faiss()
    except ConfigError as error:
        if request.faiss:
            raise
        raise ConfigError(
            f"the video index {request.out} was built with --faiss: {error}; --no-faiss leaves it out"
        ) from error


def key_salt(request: IndexRequest, facts: ModelFacts) -> tuple[str, str]:
    """What decides an embedding besides the clip: the model, and the code."""
    return facts.digest, code_digest(open_index_store(request))


def permanent_failures(store: Store) -> set[str]:
    """The keys of the clips that fail the same way again."""
    return {key for key, row in store.ledger(STAGE).rows().items() if row.status == "failed_permanent"}


@lru_cache(maxsize=4)
def progress_of(out: str) -> StageProgress:
    """The progress bars of an index."""
    return StageProgress()


@lru_cache(maxsize=2)
def _store(out: str, verify: bool) -> Store:
    return open_store(out, verify=verify)


@lru_cache(maxsize=1)
def _load(folder: Path, digest: str) -> VideoTextModel:
    from vlmvid.serving.load import load

    return load(os.fspath(folder))
