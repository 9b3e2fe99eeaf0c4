"""`promote` and `rollback`: which version of a registered model is the champion.

All that is needed is the registry: gates are checked on the evaluation that was registered with each version. What is
written, and in which order, so that a process that is killed anywhere leaves a champion that stands:

1. the verdict, as files of the promotion's run and as tags of the candidate, with the version that it follows;
2. the alias ``champion``: one write, before which the old champion stands and after which the new one does;
3. the alias ``previous``. The tag of step 1 is what `rollback` goes by, so that it may lag behind.

A second call finishes what the first one left.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from pydantic import Field

from vlmvid.artifacts.digests import sha256_text
from vlmvid.artifacts.files import scratch_folder
from vlmvid.config.addresses import TrackingAddress
from vlmvid.config.base import Config
from vlmvid.config.gates import GatesConfig, load_gates
from vlmvid.config.model_alias import CHAMPION, PREVIOUS, PromotedAlias
from vlmvid.errors import ConfigError, PromotionError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import BENCHMARKS
from vlmvid.evaluation.gates import GateVerdict, check_gates
from vlmvid.evaluation.runner import read_results
from vlmvid.evaluation.tasks import TASKS
from vlmvid.tracking.registry import KIND, ModelVersion, Registry, open_registry, registry_address

logger = logging.getLogger(__name__)
DEFAULT_GATES = "configs/gates/default.yaml"
VERDICT_FILE, SUMMARY_FILE = "verdict.json", "promotion.md"
_GATES, _VERDICT, _RUN = "vlmvid.gates", "vlmvid.verdict_digest", "vlmvid.promotion_run"


class PromotionRequest(Config):
    """Which version is to become the champion of which model."""

    model_name: str = Field(min_length=1, description="as the recipe registers it")
    candidate: str = Field(default="candidate", min_length=1, description="alias or number of the version")
    alias: PromotedAlias = Field(default=CHAMPION, description="what it becomes")
    gates: str = Field(default=DEFAULT_GATES, description="file of gates")
    tracking_uri: TrackingAddress | None = Field(
        default=None, description="MLflow's address; None = MLFLOW_TRACKING_URI"
    )
    home: str | None = Field(default=None, description="where MLflow's own file lies when there is no address")


class PromotionResult(Config):
    """What became of it.

    Attributes:
        model_name: the registered model.
        version: the candidate, whether promoted or not; after a rollback the champion.
        previous: the version before the champion, to which a rollback goes.
        promoted: whether `version` is the champion as was asked; False where a rollback has no version to go to.
        verdicts: of the gates; empty where none had to be checked.
        reason: in words.
        alias: what `version` was to become.
        run_id: MLflow's run that records it; None where nothing had to be done.
    """

    model_name: str
    version: str
    previous: str | None
    promoted: bool
    verdicts: tuple[GateVerdict, ...] = ()
    reason: str
    alias: str = CHAMPION
    run_id: str | None = None


def promote(request: PromotionRequest) -> PromotionResult:
    """Make the candidate the champion if it passes all gates; a gate that fails is a result, not an error.

    Raises:
        ConfigError: a model, version, alias or gates file that does not exist, a gate on an unknown metric, a model of
            another kind than the gates are for. Nothing was changed.
        PromotionError: another promotion is under way, or moved the champion while gates were checked.
        ArtifactError: an evaluation was changed after it was registered.
        TrackingError: MLflow does not answer or refuses.
    """
    gates = load_gates(request.gates)
    registry = open_registry(registry_address(request.tracking_uri, request.home))
    candidate = registry.version(request.model_name, request.candidate)
    names = _Names(request.alias)
    _check_kind(candidate, gates, request.gates)
    if candidate.alias(request.alias) == candidate.version:
        return _settled(registry, candidate, names)
    if names.rolled_back in candidate.tags and not request.candidate.isdecimal():
        return _result(
            request,
            candidate,
            f"version {candidate.version} was rolled back by run {candidate.tags[names.rolled_back]}; to promote it "
            f"again, name it by its number",
        )
    champion = _champion(registry, candidate, request, gates)
    verdicts = _verdicts(registry, candidate, champion, gates)
    document = json.dumps(
        {
            "model_name": candidate.name,
            "candidate": candidate.version,
            "champion": None if champion is None else champion.version,
            "gates": gates.model_dump(mode="json"),
            "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts],
        },
        indent=2,
        sort_keys=True,
        allow_nan=False,
    )
    failed = [verdict.metric for verdict in verdicts if not verdict.passed]
    if failed:
        reason = f"{len(failed)} of {len(verdicts)} gates failed: {', '.join(failed)}"
        return _refused(registry, _result(request, candidate, reason, verdicts), candidate, document)
    return _take_over(registry, request, candidate, champion, verdicts, document)


def rollback(request: PromotionRequest) -> PromotionResult:
    """Make the version before the champion the champion again; gates are not asked. `candidate` and `gates` are unused.

    The version that is left carries a tag, and is promoted again only by its number.

    Raises as `promote`.
    """
    registry = open_registry(registry_address(request.tracking_uri, request.home))
    names = _Names(request.alias)
    champion = registry.version(request.model_name, request.alias)
    if champion.alias(names.previous) == champion.version:  # an earlier rollback was interrupted behind its main step
        return _settled(registry, champion, names)
    before = champion.tags.get(names.previous_tag)
    if before is None:
        reason = f"version {champion.version} is the first {request.alias}; there is none before it"
        return _result(request, champion, reason)
    target = registry.version(request.model_name, before)
    if names.rolled_back in target.tags:  # as when 1, 2 and 1 again were promoted, and 1 was rolled back
        reason = (
            f"version {before}, which was {request.alias} before it, was rolled back too; promote one by its number"
        )
        return _result(request, champion, reason)
    title = f"rollback {champion.name} {champion.version} to {target.version}"
    with registry.promotion(champion, title, _run_tags(champion, "rollback")) as run_id:
        now = registry.version(request.model_name, request.alias)
        if now.version != champion.version:
            raise _moved(champion, champion.version, now.version, request.alias)
        result = _result(
            request,
            target,
            f"rolled back from version {champion.version} to {target.version}",
            previous=target.tags.get(names.previous_tag),
            promoted=True,
            run_id=run_id,
        )
        registry.log(run_id, {SUMMARY_FILE: promotion_markdown(result)})
        registry.set_tags(champion, {names.rolled_back: run_id})
        registry.set_alias(run_id, champion.name, request.alias, target.version)
        _require_alias(registry, target, request.alias)
        registry.set_alias(run_id, champion.name, names.previous, _if_there(registry, target, names))
    return result


def promotion_markdown(result: PromotionResult) -> str:
    """The result as a page for people."""
    before = "" if result.previous is None else f" Before it: version {result.previous}."
    lines = [f"# {_headline(result)}", "", f"{result.reason}.{before}", ""]
    if result.verdicts:
        lines += [
            "| | metric | asked | value | 95 % interval | n | why |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_row(verdict) for verdict in result.verdicts]
        lines.append("")
    return "\n".join(lines)


def promotion_text(result: PromotionResult) -> str:
    """The same for a terminal."""
    rows = [
        ("passed" if verdict.passed else "FAILED", verdict.metric, verdict.gate, verdict.reason)
        for verdict in result.verdicts
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ["  ".join([*(cell.ljust(n) for cell, n in zip(row, widths, strict=False)), row[3]]) for row in rows]
    before = "" if result.previous is None else f" (before it: version {result.previous})"
    return "\n".join([*lines, f"{_headline(result)}{before}: {result.reason}"])


def _headline(result: PromotionResult) -> str:
    if not result.promoted and not result.verdicts:  # it may well be the champion: there was none to go back to
        return f"{result.model_name}: {result.alias} has not moved"
    return f"{result.model_name} version {result.version} is {'' if result.promoted else 'not '}{result.alias}"


class _Names:
    """The alias and tags that go with an alias that is promoted to."""

    def __init__(self, alias: str) -> None:
        suffix = "" if alias == CHAMPION else f".{alias}"
        self.alias = alias
        self.previous = PREVIOUS if alias == CHAMPION else f"{alias}-{PREVIOUS}"
        self.previous_tag = f"vlmvid.previous{suffix}"
        self.rolled_back = f"vlmvid.rolled_back{suffix}"


def _result(
    request: PromotionRequest,
    version: ModelVersion,
    reason: str,
    verdicts: list[GateVerdict] | None = None,
    *,
    previous: str | None = None,
    promoted: bool = False,
    run_id: str | None = None,
) -> PromotionResult:
    return PromotionResult(
        model_name=version.name,
        version=version.version,
        previous=previous,
        promoted=promoted,
        verdicts=tuple(verdicts or ()),
        reason=reason,
        alias=request.alias,
        run_id=run_id,
    )


def _run_tags(version: ModelVersion, action: str) -> dict[str, str]:
    return {
        "vlmvid.stage": "promote",
        "vlmvid.action": action,
        "vlmvid.model": version.name,
        "vlmvid.model_version": version.version,
    }


def _check_kind(version: ModelVersion, gates: GatesConfig, source: str) -> None:
    kind = version.tags.get(KIND)
    if kind is None:
        tags = ", ".join(sorted(version.tags)) or "none"
        raise ConfigError(
            f"version {version.version} of {version.name!r} does not say what kind of model it is (tags: {tags}), so "
            "this version of vlmvid did not register it: run its recipe again, or promote another one"
        )
    if not gates.are_for(kind):
        raise ConfigError(
            f"version {version.version} of {version.name!r} is a model of the kind {kind!r}, and the gates in {source} "
            f"are for {gates.kind!r}; give gates of its kind, e.g. --gates configs/gates/"
            f"{'default' if kind == 'dual_encoder' else 'vlm'}.yaml"
        )


def _champion(
    registry: Registry, candidate: ModelVersion, request: PromotionRequest, gates: GatesConfig
) -> ModelVersion | None:
    number = candidate.alias(request.alias)
    if number is None:
        return None
    champion = registry.version(candidate.name, number)
    _check_kind(champion, gates, request.gates)
    return champion


def _verdicts(
    registry: Registry, candidate: ModelVersion, champion: ModelVersion | None, gates: GatesConfig
) -> list[GateVerdict]:
    with scratch_folder() as scratch:
        ours = read_results(registry.evaluation(candidate, scratch / "candidate"))
        theirs: list[TaskResult] | None = None
        if champion is not None and gates.no_regression:
            theirs = []
            if "vlmvid.evaluation" in champion.tags:
                theirs = read_results(registry.evaluation(champion, scratch / "champion"))
    return check_gates(gates, ours, theirs, (*TASKS, *BENCHMARKS))


def _refused(registry: Registry, result: PromotionResult, candidate: ModelVersion, document: str) -> PromotionResult:
    """Record that gates failed; the same verdict is recorded once."""
    digest = sha256_text(document)
    run_id = registry.note(
        candidate,
        f"promote {candidate.name} {candidate.version}: gates failed",
        {**_run_tags(candidate, "refused"), _VERDICT: digest},
        {VERDICT_FILE: document, SUMMARY_FILE: promotion_markdown(result)},
    )
    registry.set_tags(candidate, {_GATES: "failed", _VERDICT: digest, _RUN: run_id})
    return result.model_copy(update={"run_id": run_id, "previous": None})


def _take_over(
    registry: Registry,
    request: PromotionRequest,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    verdicts: list[GateVerdict],
    document: str,
) -> PromotionResult:
    names = _Names(request.alias)
    before = None if champion is None else champion.version
    digest = sha256_text(document)
    tags = {**_run_tags(candidate, "promote"), _VERDICT: digest}
    with registry.promotion(candidate, f"promote {candidate.name} {candidate.version}", tags) as run_id:
        now = registry.version(candidate.name, candidate.version)
        # The gates were checked against this champion; against another one they say nothing.
        if now.alias(request.alias) != before:
            raise _moved(candidate, before, now.alias(request.alias), request.alias)
        result = _result(
            request,
            candidate,
            f"all {len(verdicts)} gates passed",
            verdicts,
            previous=before,
            promoted=True,
            run_id=run_id,
        )
        registry.log(run_id, {VERDICT_FILE: document, SUMMARY_FILE: promotion_markdown(result)})
        said = {_GATES: "passed", _VERDICT: digest, _RUN: run_id}
        registry.set_tags(candidate, {**said, names.previous_tag: before, names.rolled_back: None})
        if now.alias(names.previous) == candidate.version:
            # It would look like a rollback that was interrupted.
            registry.set_alias(run_id, candidate.name, names.previous, None)
        registry.set_alias(run_id, candidate.name, request.alias, candidate.version)
        _require_alias(registry, candidate, request.alias)
        registry.set_alias(run_id, candidate.name, names.previous, before)
    logger.info("%s: version %s is %s", candidate.name, candidate.version, request.alias)
    return result


def _settled(registry: Registry, champion: ModelVersion, names: _Names) -> PromotionResult:
    """The version is the champion already; finish what an interrupted call left to do."""
    before = _if_there(registry, champion, names)
    run_id = None
    if champion.alias(names.previous) != before or names.rolled_back in champion.tags:
        tags = _run_tags(champion, "finish")
        with registry.promotion(champion, f"finish {champion.name} {champion.version}", tags) as run_id:
            now = registry.version(champion.name, champion.version)
            if now.alias(names.alias) != champion.version:
                raise _moved(champion, champion.version, now.alias(names.alias), names.alias)
            registry.set_tags(champion, {names.rolled_back: None})
            registry.set_alias(run_id, champion.name, names.previous, before)
    return PromotionResult(
        model_name=champion.name,
        version=champion.version,
        previous=before,
        promoted=True,
        reason=f"version {champion.version} is {names.alias} already"
        + ("" if run_id is None else "; what an interrupted call had left was finished"),
        alias=names.alias,
        run_id=run_id,
    )


def _if_there(registry: Registry, version: ModelVersion, names: _Names) -> str | None:
    """The version before this one, unless it was deleted from the registry."""
    before = version.tags.get(names.previous_tag)
    if before is None:
        return None
    try:
        return registry.version(version.name, before).version
    except ConfigError:
        return None


def _require_alias(registry: Registry, version: ModelVersion, alias: str) -> None:
    found = registry.version(version.name, version.version).alias(alias)
    if found != version.version:
        raise PromotionError(
            f"{alias} of {version.name!r} was set to version {version.version} and then by somebody else to {found}; "
            "look at the registry and call again"
        )


def _moved(version: ModelVersion, before: str | None, now: str | None, alias: str) -> PromotionError:
    words: Mapping[str | None, str] = {None: "none"}
    return PromotionError(
        f"{alias} of {version.name!r} moved from {words.get(before, f'version {before}')} to "
        f"{words.get(now, f'version {now}')} while version {version.version} was looked at; nothing was changed, call "
        "again to compare with the new one"
    )


def _row(verdict: GateVerdict) -> str:
    value = "-" if verdict.value is None else f"{verdict.value:.4g}"
    interval = "-"
    if verdict.ci_low is not None and verdict.ci_high is not None:
        interval = f"{verdict.ci_low:.4g}..{verdict.ci_high:.4g}"
    cells = ["passed" if verdict.passed else "FAILED", verdict.metric, verdict.gate, value, interval]
    cells += ["-" if verdict.num_samples is None else str(verdict.num_samples), verdict.reason]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
