"""The last step of building a video index: the table of all clips; then what no clip needs any more goes."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ClipStore, Row, Store
from vlmvid.config.base import Config
from vlmvid.errors import ArtifactError, StageError
from vlmvid.pipeline.indexing import (
    IndexRequest,
    building,
    keeps_cells,
    key_salt,
    open_index_model,
    open_index_store,
    plan_index,
    progress_of,
    run_index_shard,
)
from vlmvid.pipeline.indexing_kept import is_passing, with_kept_rows
from vlmvid.pipeline.indexing_model import model_facts, require_planned
from vlmvid.pipeline.indexing_sources import Listed, list_clips
from vlmvid.serving.video_index import encoders_of
from vlmvid.serving.video_index_files import (
    EMBEDDINGS,
    STAGE,
    STEPS,
    FailedRow,
    IndexDescription,
    TableRow,
    check_files,
    read_ids,
    read_tags,
    stored_description,
)
from vlmvid.serving.video_index_folder import remove_old_shards, remove_old_tables
from vlmvid.serving.video_index_table import Maker, TableContent, publish_table
from vlmvid.types import AttributeValue

# N clips, D values of an embedding
logger = logging.getLogger(__name__)
ROWS_TOGETHER = 8192
NUM_EXAMPLES = 3


class IndexReport(Config):
    """What a build did.

    `embedded` clips are new, `removed` ones were in the index before; `reasons` counts the failures by reason code.
    """

    out: str
    clips: int
    failed: int
    embedded: int
    removed: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class _Listing:
    """The clips of the source, as the index will have them: `places` says where the embeddings of `good` lie."""

    good: Sequence[Listed]
    failed: Sequence[FailedRow]
    places: Mapping[str, Row]

    @property
    def rows(self) -> Iterator[TableRow]:
        """The rows of the table."""
        for one in self.good:
            clip, place = one.clip, self.places[one.key]
            yield TableRow(
                video_id=clip.video_id,
                path=clip.path,
                start_seconds=clip.start_seconds,
                end_seconds=clip.end_seconds,
                captions=clip.captions,
                attributes={name: attribute_text(value) for name, value in clip.attributes.items()},
                source_sha256=one.source_sha256,
                shard=place.shard,
                shard_row=place.row,
            )

    @property
    def digest(self) -> str:
        """Tells whether the table would be the same."""
        found = hashlib.sha256()
        for row in chain(self.rows, self.failed):
            found.update(row.model_dump_json().encode() + b"\n")
        return found.hexdigest()


def build_index(request: IndexRequest) -> IndexReport:
    """Build the index in this process, or bring it up to date.

    Raises as `vlmvid.pipeline.indexing.plan_index`, `vlmvid.pipeline.indexing_sources.list_clips` and `finish_index`.
    """
    with building(request):
        model_digest = model_facts(request.model).digest
        embedded = sum(run_index_shard(request, job).ok for job in plan_index(request))
        return finish_index(request, embedded, model_digest)


def finish_index(request: IndexRequest, embedded: int, model_digest: str) -> IndexReport:
    """Write the table of the clips that are embedded and remove what no clip needs; `embedded` goes into the report.

    Nothing is written where nothing changed; a clip whose file cannot be read for a passing reason stays as it was.

    Raises:
        ConfigError: `model` names another one than that of `model_digest`, of which the build was planned.
        StageError: not one clip could be embedded; an index that was there then stays as it was.
    """
    store, facts, folder = open_index_store(request), model_facts(request.model), Path(request.out)
    progress_of(request.out).end(STAGE)
    require_planned(request.model, facts.digest, model_digest)
    salt, before = key_salt(request, facts), stored_description(folder)
    listed = list_clips(request.videos, store, salt)
    listing = _listing(store, with_kept_rows(store, before, listed, salt))
    for row in listing.failed:
        logger.warning("%s: %s: %s (%s)", STAGE, row.video_id, row.message, row.reason_code)
    if not listing.good:
        raise StageError(_nothing_embedded(request, listing.failed))
    removed, with_cells = 0, keeps_cells(request, before)
    digest = f"{listing.digest}{'+cells' if with_cells else ''}"
    is_whole = before is not None and _is_whole(request, before)
    if not is_whole or before is None or (before.content, before.source) != (digest, request.videos):
        removed = len(_ids(folder, before) - {one.clip.video_id for one in listing.good})
        model = open_index_model(request)
        require_planned(request.model, model.embedding_digest, model_digest)
        maker = Maker(facts.digest, model.name, encoders_of(model), salt[1], request.videos)
        tags = _Tags(_known_tags(folder, before, salt[1]), model.encode_text)
        publish_table(
            folder, maker, replace(_content(store.clips(STAGE), listing, digest, tags), with_cells=with_cells)
        )
    else:
        remove_old_tables(folder)
    is_away = any(row.status == "failed_transient" for row in listing.failed)
    if not is_away and (is_whole or not any(is_passing(one) for one in listed)):
        # What could not be read may lie in any shard. Those of the table before stay for whoever has it open.
        kept = {row.shard for row in listing.places.values()}
        remove_old_shards(folder, kept.union(before.shards if before is not None else ()))
    return IndexReport(
        out=request.out,
        clips=len(listing.good),
        failed=len(listing.failed),
        embedded=embedded,
        removed=removed,
        reasons=dict(sorted(Counter(row.reason_code for row in listing.failed).items())),
    )


def index_markdown(report: IndexReport) -> str:
    """What a build did, for people."""
    lines = [
        f"# Index `{report.out}`",
        "",
        "| clips | new | removed | failed |",
        "| --- | --- | --- | --- |",
        f"| {report.clips} | {report.embedded} | {report.removed} | {report.failed} |",
        *(f"\n{count} x `{code}`" for code, count in report.reasons.items()),
    ]
    return "\n".join(lines) + "\n"


def attribute_text(value: AttributeValue) -> str:
    """An attribute's value as the index keeps it, and as filters name it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listing(store: Store, listed: Sequence[Listed]) -> _Listing:
    shards = store.clips(STAGE)
    known = shards.rows(one.key for one in listed if one.error is None)
    good = [one for one in listed if one.error is None and one.key in known]
    places = _without_dead_rows(shards, {one.key: known[one.key] for one in good})
    ledger = store.ledger(STAGE).rows() if len(good) < len(listed) else {}
    failed = []
    for one in listed:
        if one.error is None and one.key in known:
            continue
        row = ledger.get(one.key)
        if one.error is not None:
            permanent, code, words = not one.error.transient, one.error.reason_code, str(one.error)
        elif row is not None:
            permanent, code, words = row.status == "failed_permanent", row.reason_code, row.message
        else:
            permanent, code, words = False, "changed_during_run", f"{one.clip.path} came or changed during the build"
        failed.append(
            FailedRow(
                video_id=one.clip.video_id,
                path=one.clip.path,
                start_seconds=one.clip.start_seconds,
                end_seconds=one.clip.end_seconds,
                status="failed_permanent" if permanent else "failed_transient",
                reason_code=code,
                message=words,
            )
        )
    return _Listing(good, failed, places)


def _without_dead_rows(shards: ClipStore, places: dict[str, Row]) -> dict[str, Row]:
    """The places of the keys after the shards that hold other clips too were written anew without these."""
    living: dict[str, dict[str, Row]] = {}
    for key, row in places.items():
        living.setdefault(row.shard, {})[key] = row
    manifests = shards.manifests()
    for name, rows in living.items():
        if len(rows) == len(manifests[name].keys):
            continue
        keys = sorted(rows, key=lambda key: rows[key].row)  # noqa: B023 - used at once
        arrays = {column: shards.gather(column, [rows[key] for key in keys]) for column in manifests[name].columns}
        new = shards.write(keys, arrays)
        places |= {key: Row(new, number) for number, key in enumerate(keys)}
    return places


def _content(shards: ClipStore, listing: _Listing, digest: str, tags: _Tags) -> TableContent:
    rows = [listing.places[one.key] for one in listing.good]
    names = {row.shard for row in rows}
    column = shards.column(EMBEDDINGS, rows)
    steps = shards.columns(names).get(STEPS)
    return TableContent(
        rows=listing.rows,
        num_rows=len(rows),
        embeddings=(
            column.take(np.arange(start, min(start + ROWS_TOGETHER, len(rows))))
            for start in range(0, len(rows), ROWS_TOGETHER)
        ),
        embed_dim=column.shape[1],
        num_steps=0 if steps is None else steps.shape[0],
        failed=listing.failed,
        shards=sorted(names),
        digest=digest,
        embed_tags=tags,
    )


class _Tags:
    """Texts to embeddings; those of the table before are not computed again."""

    def __init__(
        self, known: Mapping[str, NDArray[np.float16]], encode: Callable[[Sequence[str]], NDArray[np.float32]]
    ) -> None:
        self._known = known
        self._encode = encode

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float16]:
        new = [text for text in texts if text not in self._known]
        found = {**self._known, **dict(zip(new, self._encode(new).astype(np.float16), strict=True))}
        return np.stack([found[text] for text in texts])


def _known_tags(folder: Path, before: IndexDescription | None, code: str) -> dict[str, NDArray[np.float16]]:
    """Tags with their embeddings as that code has computed them."""
    if before is None or before.code != code:
        return {}
    try:
        texts, embeddings = read_tags(folder, before)
    except ArtifactError:
        return {}
    return dict(zip(texts, embeddings, strict=True))


def _ids(folder: Path, before: IndexDescription | None) -> set[str]:
    if before is None:
        return set()
    try:
        return set(read_ids(folder, before))
    except ArtifactError:
        return set()


def _is_whole(request: IndexRequest, before: IndexDescription) -> bool:
    try:
        check_files(Path(request.out), before, hashes=request.verify)
    except ArtifactError as error:
        logger.warning("%s: %s", STAGE, error)
        return False
    return True


def _nothing_embedded(request: IndexRequest, failed: Sequence[FailedRow]) -> str:
    reasons = ", ".join(f"{n} x {code}" for code, n in Counter(row.reason_code for row in failed).most_common())
    examples = "; ".join(f"{row.video_id}: {row.message}" for row in failed[:NUM_EXAMPLES])
    return (
        f"not one of the {len(failed)} clips of {request.videos} could be embedded ({reasons}). Examples: {examples}. "
        "Mend the files and run again; with --retry failed what failed for good is tried again"
    )
