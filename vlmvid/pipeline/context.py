"""The parts a stage needs, opened once per process and request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from vlmvid.artifacts import ArtifactRef, Facts, Store, hash_json, open_store
from vlmvid.artifacts.files import MissingResult, read_json
from vlmvid.artifacts.ref import Kind
from vlmvid.config import Recipe, load_recipe
from vlmvid.config.schema import StageName
from vlmvid.errors import ArtifactError
from vlmvid.pipeline.index import IndexRow, read_index
from vlmvid.pipeline.keys import StageKeys
from vlmvid.pipeline.progress import StageProgress
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.sources import Sources
from vlmvid.tracking import open_tracker, resolve_tracking_uri
from vlmvid.tracking.base import StageRun, Tracker

RESULT_FILE = "result.json"  # of a finished train_vlm: which stage's model counts, and the keys of all


class RunContext:
    """A recipe, its store, its keys and its tracker."""

    def __init__(self, request: RunRequest) -> None:
        self.request = request
        self.store: Store = open_store(request.home, verify=request.verify)
        self.recipe: Recipe = load_recipe(self.store.local_path(request.recipe))
        self.progress = StageProgress()
        self.is_running = False
        self.joined = ""  # the run of another process that this one helps with
        self.stage_runs: dict[str, StageRun] = {}
        self._sources: Sources | None = None
        self._keys: StageKeys | None = None

    @property
    def sources(self) -> Sources:
        """The dataset's files as they are now."""
        if self._sources is None:
            benchmarks = self.recipe.evaluate.benchmarks if self.recipe.evaluate is not None else ()
            media = [benchmark.media_path for benchmark in benchmarks]
            self._sources = Sources(self.recipe.data, self.store, media)
            self._sources.dataset.check_sampling(self.recipe.decode.sampling)
        return self._sources

    @property
    def keys(self) -> StageKeys:
        """Stage keys and clip keys of this recipe, as the files and the code are now."""
        if self._keys is None:
            self._keys = StageKeys(self.recipe, self.store, self.sources, lambda: self.registry_uri)
        return self._keys

    def refresh(self) -> None:
        """Look at the source files, the code and the store again; a process may run many times."""
        self._sources = None
        self._keys = None
        self.store.refresh()

    @cached_property
    def tracker(self) -> Tracker:
        """The tracker that the recipe configures."""
        return open_tracker(self.recipe.tracking, self.store.home)

    @cached_property
    def device(self) -> str:
        """The torch device to compute on: ``options.device``, where auto takes a GPU if there is one.

        Also applies ``options.num_threads``: whoever computes asks for the device first.
        """
        from vlmvid.models.runtime import limit_threads, resolve_device

        limit_threads(self.recipe.options.num_threads)
        return str(resolve_device(self.recipe.options.device))

    def why_stale(self, stage: StageName) -> str | None:
        """Why a stage has to run; None when its stored result stands."""
        parts = self.keys.parts(stage)
        manifest = self.store.manifest(stage, parts.key)
        if manifest is None:
            return self._why_not_cached(stage)
        if stage in ("ingest", "curate", "decode", "encode", "train_vlm"):
            try:
                folder = self.store.open_artifact(stage, parts.key)
            except MissingResult as error:  # a shared store looks at the files only when it fetches them
                return f"its stored result is damaged: {error}"
            if stage == "train_vlm":
                return self._why_models_gone(folder)
            return self.sources.why_stale(folder) if stage == "ingest" else self._why_index_stale(stage, folder)
        if stage == "evaluate":
            return self.why_failures_retried(manifest.counts)
        if stage == "register" and not manifest.counts["registered"]:
            return "the model registry did not take the model the last time"
        return None

    def why_failures_retried(self, counts: Mapping[str, int]) -> str | None:
        """Why an evaluation with these counts is to be measured again; None when its result stands."""
        transient = counts.get("failed_transient", 0)
        if transient:
            return f"{transient} videos of the evaluation failed for a passing reason and are tried again"
        failed = counts.get("failed_permanent", 0)
        if failed and self.request.retry_failed:
            return f"--retry failed: {failed} videos of the evaluation are tried again"
        return None

    def require(self, stage: StageName) -> ArtifactRef:
        """The finished artifact of a stage; raises ArtifactError with the command that makes it."""
        parts = self.keys.parts(stage)
        ref = self.store.ref(stage, parts.key)
        if ref is None:
            why = self._why_not_cached(stage)
            raise ArtifactError(
                f"the result of stage {stage!r} (key {parts.key}) is not in {self.store.uri}: {why}; "
                f"run `vlmvid {stage.replace('_', '-')}` with the same recipe first, or `vlmvid run` for the whole "
                "pipeline"
            )
        return ref

    def folder(self, stage: StageName) -> Path:
        """The folder of a finished stage."""
        return self.store.open_artifact(stage, self.require(stage).key)

    def publish(
        self,
        stage: StageName,
        kind: Kind,
        write: Callable[[Path], None],
        *,
        counts: dict[str, int],
        failed: Sequence[str] = (),
    ) -> ArtifactRef:
        """Publish the artifact of a stage under its key; later keys are worked out anew.

        `failed` names the clips that are missing from it: they make its revision.
        """
        facts = Facts(
            recipe=self.recipe.name,
            counts=counts,
            adopted_code=self.keys.adopted(stage),
            revision=hash_json(sorted(failed))[:8] if failed else "",
        )
        ref = self.store.publish(self.keys.parts(stage), kind, write, facts)
        self.keys.forget_after(stage)
        return ref

    def log_dataset(self, stage: StageName, num_rows: int, purpose: str) -> None:
        """Record in the stage's run which data it read: the key of its clips is the dataset's digest."""
        run = self.stage_runs.get(stage)
        if run is not None:
            name = f"{self.recipe.name}/{self.recipe.data.name}"
            source: StageName = "ingest" if stage == "ingest" else self.keys.rows_stage
            if purpose == "training" and self.recipe.filter is not None:
                source = "filter"
            key = self.keys.key(source)
            run.log_dataset(name, key, self.store.address(self.store.artifact_folder(source, key)), num_rows, purpose)

    def _why_not_cached(self, stage: StageName) -> str:
        """The first thing that differs from the closest earlier result; for ingest, which file."""
        parts = self.keys.parts(stage)
        reason = self.store.why_not_cached(parts, self.recipe.name)
        old = self.store.previous(parts, self.recipe.name)
        if stage == "ingest" and old is not None and reason.startswith("input sources"):
            return self.sources.first_changed(self.store.open_artifact(stage, old.key)) or reason
        return reason

    @property
    def registry_uri(self) -> str:
        """MLflow's address for this recipe."""
        return resolve_tracking_uri(self.recipe.tracking.uri, self.store.home)

    def _why_index_stale(self, stage: str, folder: Path) -> str | None:
        damaged = self.store.verify_clips(stage)
        if stage == "encode":
            damaged += self.store.verify_clips("text")
            if self.recipe.encode.keep_tokens:
                damaged += self.store.verify_clips("tokens")
        if damaged:
            return f"{len(damaged)} stored shards are damaged"
        index = read_index(folder)
        located = {row.key: row.location for row in index if row.status == "ok"}
        # Only elsewhere is missing too: the index would lead to a shard that is gone.
        missing = len(self.store.clips(stage).missing(located))
        if missing:
            return f"{missing} stored clips are missing or damaged"
        changed = self._why_failures_stale(stage, index) or self._why_tokens_stale(index)
        if changed:
            return changed
        if stage == "encode" and self.recipe.decode.keep_frames:
            # What could not be decoded is the decode stage's to try again.
            index = [row for row in index if row.reason_code == "not_finite"]
        transient = sum(row.status == "failed_transient" for row in index)
        if transient:
            return f"{transient} clips failed for a passing reason and are tried again"
        failed = sum(row.status.startswith("failed") for row in index)
        return f"--retry failed: {failed} clips are tried again" if failed and self.request.retry_failed else None

    def _why_models_gone(self, folder: Path) -> str | None:
        """Which training stages' models are gone that a finished train_vlm names; None when all are stored."""
        keys: dict[str, str] = read_json(folder / RESULT_FILE)["keys"]
        gone = [name for name, key in keys.items() if self.store.ref("vlm", key) is None]
        return f"the model of stage {', '.join(gone)} is missing or damaged" if gone else None

    def _why_failures_stale(self, stage: str, index: Sequence[IndexRow]) -> str | None:
        """What has become of the clips that failed; None when they would fail as they did.

        Results belong to the content: another recipe or dataset may have made one since, e.g. with a higher limit.
        """
        failed = {row.video_id: row for row in index if row.status.startswith("failed")}
        if not failed:
            return None
        # What was decoded, and refused because its features are not finite, is known by its encode key.
        refused = {row.video_id for row in failed.values() if row.reason_code == "not_finite"}
        keys = [
            self.keys.encode_key(row.key) if stage == "encode" and row.video_id not in refused else row.key
            for row in failed.values()
        ]
        stored = self.store.clips(stage).rows(keys)
        made = sum(key in stored for key in keys)
        if made:
            return f"{made} clips that failed have a result now"
        undecoded = {video_id: row for video_id, row in failed.items() if video_id not in refused}
        changed = self._num_outcomes_changed(undecoded) if stage == "encode" else 0
        return f"{changed} clips that failed have another outcome of decoding now" if changed else None

    def _why_tokens_stale(self, index: Sequence[IndexRow]) -> str | None:
        """Whether tokens that the recipe keeps are gone; their features may be there still."""
        keys = {row.tokens_key for row in index if row.tokens_key}
        missing = len(keys) - len(self.store.clips("tokens").rows(keys)) if keys else 0
        return f"the tokens of {missing} clips are missing or damaged" if missing else None

    def _num_outcomes_changed(self, failed: dict[str, IndexRow]) -> int:
        """How many clips that have no features can be encoded by now, or fail for another reason."""
        if not self.recipe.decode.keep_frames:
            return len(self.store.clips("decode").rows(row.key for row in failed.values()))
        ref = self.store.ref("decode", self.keys.key("decode"))
        decoded = read_index(self.store.open_artifact("decode", ref.key)) if ref is not None else []
        return sum(row != failed[row.video_id] for row in decoded if row.video_id in failed)


@lru_cache(maxsize=8)
def open_context(request: RunRequest) -> RunContext:
    """The context of a request, shared by all tasks of this process."""
    return RunContext(request)
