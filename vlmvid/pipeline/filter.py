"""The filter stage: which encoded clips and captions of the split `train` are learnt from.

It runs after encode, because its rules look at features, and before align. Its artifact holds the clips that are
kept, with the captions that are kept, and a table of all that was dropped and why.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, LedgerRow, hash_json
from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import read_json, scratch_folder, write_bytes
from vlmvid.config.filtering import AlignmentScoreConfig, CaptionMixingConfig
from vlmvid.data.filtering import Dropped, Outcome, keep_best, without_captions
from vlmvid.data.filtering_captions import mix_captions, read_synthetic, sort_by_wording, unknown_ids
from vlmvid.data.filtering_features import balance_clusters, drop_near_duplicates
from vlmvid.errors import ConfigError, DatasetError, StageError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import read_features, read_patches, vision_backbone
from vlmvid.pipeline.index import IndexRow, read_index
from vlmvid.pipeline.ingest import read_clips, read_rows
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.sources import CLIPS_FILE
from vlmvid.pipeline.texts import text_encoder, text_features
from vlmvid.types import Clip

if TYPE_CHECKING:
    from vlmvid.models.alignment import AlignmentModel

logger = logging.getLogger(__name__)
STAGE = "filter"
TABLE_FILE = "filtered.parquet"
SCORES_FILE = "scores.parquet"
NUM_EXAMPLES = 3


def compute(request: RunRequest) -> ArtifactRef:
    """Apply the recipe's rules, in their order, to the encoded clips of the split `train`.

    Raises StageError when the rules leave no clip, or too few for one batch of training where there were enough
    before, ConfigError for a model of other backbones, DatasetError for a file of synthetic captions that fits
    nothing. What is published is `CLIPS_FILE`, `TABLE_FILE` and, with an alignment score, `SCORES_FILE`.
    """
    context = open_context(request)
    index = {row.video_id: row for row in read_index(context.folder("encode")) if row.status == "ok"}
    rows = {row.clip.video_id: row for row in read_rows(context)}
    before = [row.clip for row in rows.values() if row.clip.split == "train" and row.clip.video_id in index]
    if not before:
        raise DatasetError(
            f"filter: dataset {context.recipe.data.name!r} has no encoded clip in split 'train'; check its splits"
        )
    found = _apply(context, before, index)
    _require_enough(context, found, len(before))
    _record(context, before, found, index)
    lines = "".join(rows[c.video_id].model_copy(update={"clip": c}).model_dump_json() + "\n" for c in found.clips)

    def write(folder: Path) -> None:
        write_bytes(folder / CLIPS_FILE, lines.encode())
        _write_table(found.dropped, folder / TABLE_FILE)
        if found.scores:
            _write_scores(found.scores, folder / SCORES_FILE)

    return context.publish("filter", "clips", write, counts=found.counts())


def training_clips(context: RunContext) -> list[Clip]:
    """The clips of the recipe in manifest order; those of the split `train` as the filter stage left them, if any."""
    clips = read_clips(context)
    if context.recipe.filter is None:
        return clips
    kept = {row.clip.video_id: row.clip for row in read_rows(context, "filter")}
    return [kept.get(clip.video_id, clip) for clip in clips if clip.split != "train" or clip.video_id in kept]


def check_model(context: RunContext) -> None:
    """Raise ConfigError when the model that scores alignment was made for other features than this recipe's."""
    config = context.recipe.filter
    if config is not None and config.alignment_score is not None:
        _model_folder(context, config.alignment_score)


@dataclass
class _Found:
    """What the rules have left so far, and all they have dropped."""

    clips: list[Clip]
    dropped: list[Dropped] = field(default_factory=list)
    scores: list[tuple[str, str, float]] = field(default_factory=list)
    num_unknown: int = 0

    def take(self, outcome: Outcome) -> None:
        self.clips = outcome.kept
        self.dropped += outcome.dropped

    def counts(self) -> dict[str, int]:
        """Clips kept and filtered, captions that kept or filtered clips lost, each also by rule."""
        clips = Counter(f"filtered/{row.rule}" for row in self.dropped if row.caption is None)
        captions = Counter(f"dropped_captions/{row.rule}" for row in self.dropped if row.caption is not None)
        totals = {"filtered": clips.total(), "dropped_captions": captions.total(), "unknown_ids": self.num_unknown}
        found = {"ok": len(self.clips), **totals, **dict(sorted((clips + captions).items()))}
        return {name: count for name, count in found.items() if count or name == "ok"}


def _apply(context: RunContext, clips: list[Clip], index: dict[str, IndexRow]) -> _Found:
    config = context.recipe.filter
    assert config is not None  # the stage exists only with its section
    found = _Found(clips)

    def features() -> NDArray[np.float32]:
        return read_features(context, [index[clip.video_id] for clip in found.clips])

    if config.caption_mixing is not None:
        _mix(context, found, config.caption_mixing)
    found.take(without_captions(found.clips, {}))
    if config.captions is not None:
        found.take(sort_by_wording(found.clips, config.captions))
    if config.near_duplicates is not None and found.clips:
        found.take(drop_near_duplicates(found.clips, features(), config.near_duplicates))
    if config.alignment_score is not None and found.clips:
        scores = _scores(context, found.clips, index, config.alignment_score)
        for clip, row in zip(found.clips, scores, strict=True):
            found.scores += [(clip.video_id, text, score) for text, score in zip(clip.captions, row, strict=True)]
        found.take(keep_best(found.clips, scores, config.alignment_score))
    if config.cluster_balance is not None and found.clips:
        found.take(balance_clusters(found.clips, features(), config.cluster_balance))
    return found


def _mix(context: RunContext, found: _Found, config: CaptionMixingConfig) -> None:
    synthetic = read_synthetic(config.path)
    unknown = unknown_ids(synthetic, [clip.video_id for clip in read_clips(context)])
    if unknown:
        found.num_unknown = len(unknown)
        names = ", ".join(map(repr, unknown[:NUM_EXAMPLES]))
        logger.warning(
            "filter: %d of %d video_ids in %s are not in the dataset, e.g. %s",
            len(unknown),
            len(synthetic),
            config.synthetic,
            names,
        )
    found.take(mix_captions(found.clips, synthetic, config))


def _scores(
    context: RunContext, clips: Sequence[Clip], index: dict[str, IndexRow], config: AlignmentScoreConfig
) -> list[list[float]]:
    """The cosine of each clip with each of its captions, in the model's space."""
    from vlmvid.models.alignment import load_alignment
    from vlmvid.models.embedding import embed_texts, embed_videos

    model = load_alignment(_model_folder(context, config) / "alignment", context.device)
    rows = [index[clip.video_id] for clip in clips]
    videos = embed_videos(model, _video_features(context, rows, model))
    texts = list(dict.fromkeys(caption for clip in clips for caption in clip.captions))
    text_embeds = embed_texts(model, text_features(context, texts))
    number = {text: i for i, text in enumerate(texts)}
    pairs = [(row, number[caption]) for row, clip in enumerate(clips) for caption in clip.captions]
    i, j = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    flat = np.einsum("kp,kp->k", videos[i], text_embeds[j], dtype=np.float64)
    ends = np.cumsum([len(clip.captions) for clip in clips])
    return [part.tolist() for part in np.split(flat, ends[:-1])]


def _video_features(context: RunContext, rows: Sequence[IndexRow], model: AlignmentModel) -> NDArray[np.float32]:
    over_patches = model.config.pooling.reads == "tokens"
    return np.asarray(read_patches(context, rows), np.float32) if over_patches else read_features(context, rows)


def _model_folder(context: RunContext, config: AlignmentScoreConfig) -> Path:
    """The model's folder, its files checked.

    Raises ConfigError when it reads other features than those that the recipe stores: its decoding, or the bytes of
    its frozen models, are not the recipe's.
    """
    from vlmvid.models.saving import save_text, save_vision
    from vlmvid.serving.load import fetch_model_folder
    from vlmvid.serving.model_folder import read_decode, read_stored, verify_model_folder

    folder = fetch_model_folder(config.model, context.registry_uri)
    verify_model_folder(folder)
    wanted, stated = context.recipe.decode, read_decode(folder)
    problems = [
        f"decode.{name}: {getattr(stated, name)!r} there, {getattr(wanted, name)!r} here"
        for name in ("sampling", "image_size")
        if getattr(stated, name) != getattr(wanted, name)
    ]
    tiling = read_stored(folder).tiling
    if tiling != context.recipe.encode.tiling:
        problems.append(f"encode.tiling: {tiling!r} there, {context.recipe.encode.tiling!r} here")
    with scratch_folder(context.store.home) as scratch:
        save_vision(vision_backbone(context), scratch / "vision")
        save_text(text_encoder(context), scratch / "text")
        for part in ("vision", "text"):
            there, here = _contents(folder, part), _contents(scratch, part)
            differ = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
            if differ:
                problems.append(_difference(part, differ, folder, scratch))
    if problems:
        raise ConfigError(
            f"filter.alignment_score.model={config.model!r} was aligned on other features than this recipe's, so its "
            f"scores would mean nothing: {'; '.join(problems)}. Take a model that was trained with the same decode and "
            "encode sections"
        )
    return folder


def _contents(model: Path, part: str) -> dict[str, str]:
    """What tells the files of one part of a saved model from others, by name."""
    found: dict[str, str] = {}
    for path in (model / part).rglob("*"):
        if path.name == "tokenizer.json":
            # A tokenizer keeps what the last call asked of it: the file differs by whether it was used before.
            found[path.relative_to(model).as_posix()] = hash_json(
                {**read_json(path), "truncation": None, "padding": None}
            )
        elif path.is_file():
            found[path.relative_to(model).as_posix()] = sha256_file(path)
    return found


def _difference(part: str, differ: Sequence[str], theirs: Path, ours: Path) -> str:
    """What tells two saved models apart: values of their descriptions, else the files."""
    name = f"{part}/{part}.json"
    if name in differ:
        there, here = read_json(theirs / name), read_json(ours / name)
        keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
        return f"{part}: {', '.join(f'{key} {there.get(key)!r} there, {here.get(key)!r} here' for key in keys)}"
    return f"{part}: other bytes in {', '.join(differ[:NUM_EXAMPLES])}"


def _require_enough(context: RunContext, found: _Found, num_before: int) -> None:
    rules = Counter(row.rule for row in found.dropped if row.caption is None)
    counts = ", ".join(f"{number} x {rule}" for rule, number in rules.most_common())
    align = context.recipe.align
    batch = align.optim.global_batch_size if align is not None else 1
    if found.clips and (len(found.clips) >= batch or num_before < batch):
        return
    first = next(row for row in found.dropped if row.caption is None)
    what = "no clip" if not found.clips else f"{len(found.clips)} clips, fewer than the batch of {batch}"
    mend = "" if not found.clips else ", or lower align.optim.global_batch_size"
    raise StageError(
        f"filter: of {num_before} clips the rules leave {what} ({counts}), e.g. {first.video_id}: {first.message}. "
        f"Loosen them under `filter:`{mend}; nothing is encoded again for that"
    )


def _record(context: RunContext, before: Sequence[Clip], found: _Found, index: dict[str, IndexRow]) -> None:
    """A ledger row for every clip that is decided otherwise than before."""
    why = {row.video_id: row for row in found.dropped if row.caption is None}
    context.store.ledger(STAGE).record_changes(
        LedgerRow(
            key=hash_json([clip.video_id, index[clip.video_id].key]),
            video_id=clip.video_id,
            stage=STAGE,
            status="filtered" if clip.video_id in why else "ok",
            reason_code=why[clip.video_id].rule if clip.video_id in why else "",
            message=why[clip.video_id].message if clip.video_id in why else "",
            shard=index[clip.video_id].shard,
        )
        for clip in before
    )


def _write_table(dropped: Sequence[Dropped], path: Path) -> None:
    """`filtered.parquet`: one row per dropped clip (`caption` is null) or caption, rule by rule."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("video_id", "caption", "rule", "message", "related")
    schema = pa.schema([(n, pa.string()) for n in texts] + [(n, pa.float64()) for n in ("value", "threshold")])
    rows = [{name: getattr(row, name) for name in schema.names} for row in dropped]
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")


def _write_scores(scores: Sequence[tuple[str, str, float]], path: Path) -> None:
    """`scores.parquet`: the alignment score of every caption that was scored, kept or not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    video_ids, captions, values = (list(column) for column in zip(*scores, strict=True))
    table = pa.table({"video_id": video_ids, "caption": captions, "score": pa.array(values, pa.float64())})
    pq.write_table(table, path, compression="zstd")
