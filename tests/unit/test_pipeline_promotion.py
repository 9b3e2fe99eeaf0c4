"""Which version is the champion: gates, interruptions, races and the way back, in a real MLflow."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.unit.registry_fixtures import GATES, NAME, put_version, register_version, shares
from tests.unit.tracking_fixtures import client_of, fresh_home
from vlmvid.artifacts.digests import sha256_text
from vlmvid.cli import main
from vlmvid.errors import ArtifactError, ConfigError, PromotionError, TrackingError
from vlmvid.pipeline.promotion import PromotionRequest, promote, promotion_markdown, rollback
from vlmvid.tracking import mlflow_promotion
from vlmvid.tracking.mlflow_promotion import MlflowRegistry
from vlmvid.tracking.owner import PID_TAG, owner_tags
from vlmvid.tracking.registry import KIND


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "gates.yaml").write_text(GATES)
    return fresh_home(tmp_path / "home")


def uri_of(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow.db'}"


def asked(home: Path, **more: Any) -> PromotionRequest:
    gates = str(home.parent / "gates.yaml")
    return PromotionRequest(**{"model_name": NAME, "gates": gates, "tracking_uri": uri_of(home), **more})


def register(home: Path, fingerprint: str, right: int, alias: str = "candidate", kind: str = "dual_encoder") -> str:
    return put_version(home, fingerprint, [shares(right)], alias, **{KIND: kind})


def aliases(home: Path) -> dict[str, str]:
    return {alias: str(number) for alias, number in client_of(home).get_registered_model(NAME).aliases.items()}


def verdict_of(client: MlflowClient, run_id: str, folder: Path) -> str:
    return Path(client.download_artifacts(run_id, "verdict.json", str(folder))).read_text()


def test_a_model_is_promoted_once_and_rolled_back_in_one_call(home: Path, tmp_path: Path) -> None:
    register_version(uri_of(home), home, "a", [shares(150)])
    first = promote(asked(home))
    assert (first.version, first.previous, first.promoted) == ("1", None, True)
    assert [verdict.passed for verdict in first.verdicts] == [True, True]
    assert first.verdicts[1].reason == "there is no champion yet"
    assert aliases(home) == {"candidate": "1", "champion": "1"}
    again = promote(asked(home))
    assert again.promoted and again.run_id is None and "already" in again.reason

    register(home, "b", 155)
    second = promote(asked(home))
    assert (second.version, second.previous, second.promoted) == ("2", "1", True)
    assert aliases(home) == {"candidate": "2", "champion": "2", "previous": "1"}
    compared = second.verdicts[1]
    assert compared.compared == "paired" and compared.difference == pytest.approx(0.025)
    client = client_of(home)
    tags = client.get_model_version(NAME, "2").tags
    assert second.run_id == tags["vlmvid.promotion_run"] and tags["vlmvid.previous"] == "1"
    text = verdict_of(client, str(second.run_id), tmp_path)
    assert tags["vlmvid.verdict_digest"] == sha256_text(text) and tags["vlmvid.gates"] == "passed"
    assert json.loads(text)["champion"] == "1" and len(json.loads(text)["verdicts"]) == 2
    assert client.get_run(str(second.run_id)).info.status == "FINISHED"
    assert "| passed | vqa/mcq_accuracy |" in promotion_markdown(second)

    back = rollback(asked(home))
    assert (back.version, back.previous, back.promoted) == ("1", None, True)
    assert aliases(home) == {"candidate": "2", "champion": "1"}
    # The alias `candidate` still names it: a nightly promotion must not bring it back.
    nightly = promote(asked(home))
    assert not nightly.promoted and "rolled back by run" in nightly.reason
    assert promote(asked(home, candidate="2")).promoted
    assert aliases(home)["champion"] == "2" and "vlmvid.rolled_back" not in client.get_model_version(NAME, "2").tags
    assert rollback(asked(home)).version == "1"
    none = rollback(asked(home))
    assert not none.promoted and "none before it" in none.reason and aliases(home)["champion"] == "1"


def test_a_rollback_does_not_bring_back_what_was_rolled_back(home: Path) -> None:
    register(home, "a", 150)
    promote(asked(home))
    register(home, "b", 152)
    promote(asked(home))
    assert promote(asked(home, candidate="1")).previous == "2"
    assert rollback(asked(home)).version == "2"
    again = rollback(asked(home))
    assert not again.promoted and "version 1, which was champion before it, was rolled back too" in again.reason
    assert aliases(home)["champion"] == "2"


def test_failed_gates_change_no_alias_and_are_recorded_once(home: Path, tmp_path: Path) -> None:
    register(home, "a", 170)
    promote(asked(home))
    register(home, "b", 140)
    result = promote(asked(home))
    assert not result.promoted and result.reason == "1 of 2 gates failed: vqa/mcq_accuracy"
    assert [verdict.passed for verdict in result.verdicts] == [True, False]
    assert aliases(home) == {"candidate": "2", "champion": "1"}
    client = client_of(home)
    tags = client.get_model_version(NAME, "2").tags
    text = verdict_of(client, str(result.run_id), tmp_path)
    assert (tags["vlmvid.gates"], tags["vlmvid.verdict_digest"]) == ("failed", sha256_text(text))
    assert promote(asked(home)).run_id == result.run_id
    assert "FAILED" in promotion_markdown(result)


def test_a_model_with_both_parts_passes_by_the_gates_of_one(home: Path) -> None:
    register(home, "a", 150, kind="dual_encoder_and_vlm")
    assert promote(asked(home)).promoted


def test_what_is_wrong_is_said_before_anything_changes(home: Path, tmp_path: Path) -> None:
    register(home, "a", 150)
    put_version(home, "b", None, "bare", **{KIND: "dual_encoder"})
    put_version(home, "c", [shares(150)], "strange")
    register(home, "d", 150, kind="vlm", alias="words")

    def gates(text: str) -> str:
        (tmp_path / "other.yaml").write_text(text)
        return str(tmp_path / "other.yaml")

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"candidate": "candidat"}, r"no alias 'candidat' \(did you mean 'candidate'\?\); it has: bare \(version 2\)"),
        ({"candidate": "9"}, "no version 9; it has: 1, 2, 3, 4"),
        ({"model_name": "dem"}, r"no registered model 'dem' \(did you mean 'demo'\?\)"),
        ({"candidate": "bare"}, "registered without an evaluation"),
        ({"candidate": "strange"}, "does not say what kind of model it is"),
        ({"candidate": "words"}, "of the kind 'vlm', and the gates in .* are for 'dual_encoder'"),
        ({"gates": str(tmp_path / "no.yaml")}, "gates file .* does not exist"),
        ({"gates": gates(GATES.replace("mcq_accuracy", "mcq_acuracy"))}, r"did you mean 'mcq_accuracy'\?"),
    ]
    for change, message in wrong:
        with pytest.raises(ConfigError, match=message):
            promote(asked(home, **change))
    with pytest.raises(ValueError, match="address of no scheme, .* allowed: http"):
        asked(home, tracking_uri="localhost:5000")
    with pytest.raises(ConfigError, match="no alias 'champion'"):
        rollback(asked(home))
    with pytest.raises(TrackingError, match="does not answer"):
        promote(asked(home, tracking_uri="http://127.0.0.1:9"))
    assert set(aliases(home)) == {"candidate", "bare", "strange", "words"}
    # Of a champion too.
    client = client_of(home)
    client.set_registered_model_alias(NAME, "champion", "4")
    with pytest.raises(ConfigError, match="version 4 .* of the kind 'vlm'"):
        promote(asked(home))


@pytest.mark.parametrize("alias", ["previous", "latest", "v3", "3", "", "a/b"])
def test_an_alias_that_means_something_else_is_refused(alias: str) -> None:
    with pytest.raises(ValueError, match="cannot be promoted to"):
        PromotionRequest(model_name=NAME, alias=alias)


def test_a_changed_evaluation_is_refused(home: Path) -> None:
    register(home, "a", 90)
    (metrics,) = home.rglob("evaluation/*/metrics.json")
    metrics.write_text(metrics.read_text().replace('"value": 0.45', '"value": 0.95'))
    with pytest.raises(ArtifactError, match="evaluation of version 1 of 'demo' was changed"):
        promote(asked(home))
    assert aliases(home) == {"candidate": "1"}


class Killed(BaseException):
    """The process is gone."""


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """End the process, as far as MLflow can see, instead of the registry's `call`-th write."""
    writes = ["log", "set_tags", "set_alias"]
    count = 0
    for name in writes:
        real = getattr(MlflowRegistry, name)

        def write(self: MlflowRegistry, *given: Any, _real: Any = real) -> None:
            nonlocal count
            count += 1
            if count == call:
                raise Killed
            _real(self, *given)

        monkeypatch.setattr(MlflowRegistry, name, write)
    # A killed process does not end its run either.
    monkeypatch.setattr(mlflow_promotion.MlflowClient, "set_terminated", lambda *_, **__: None)


@pytest.mark.parametrize("call", [*(pytest.param(n, marks=pytest.mark.long) for n in (1, 2)), 3, 4])
def test_an_interrupted_promotion_leaves_a_champion_and_a_second_call_finishes(
    home: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    register(home, "a", 150)
    promote(asked(home))
    register(home, "b", 155)
    with monkeypatch.context() as patched:
        kill_at(patched, call)
        with pytest.raises(Killed):
            promote(asked(home))
    now = aliases(home)
    assert now["champion"] == ("2" if call == 4 else "1")
    left_open(home)
    assert promote(asked(home)).promoted
    assert aliases(home) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert rollback(asked(home)).version == "1"


@pytest.mark.parametrize("call", [*(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 3)), 4])
def test_an_interrupted_rollback_goes_back_once(home: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    for number, name in enumerate("abc"):
        register(home, name, 150 + number)
        promote(asked(home))
    assert aliases(home) == {"candidate": "3", "champion": "3", "previous": "2"}
    with monkeypatch.context() as patched:
        kill_at(patched, call)
        with pytest.raises(Killed):
            rollback(asked(home))
    assert aliases(home)["champion"] == ("2" if call == 4 else "3")
    left_open(home)
    assert rollback(asked(home)).version == "2"
    assert aliases(home) == {"candidate": "3", "champion": "2", "previous": "1"}


def left_open(home: Path) -> None:
    """Make the runs that the kill left RUNNING those of a process that has ended."""
    number, started = re.subn(r"start=\d+", "start=1", owner_tags()[PID_TAG])
    assert started == 1
    client = client_of(home)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`vlmvid.promotion` = 'demo' and attributes.status = 'RUNNING'")
    assert len(runs) == 1
    client.set_tag(runs[0].info.run_id, PID_TAG, number)


def test_while_another_promotion_runs_this_one_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(home, "a", 150)
    client = client_of(home)
    experiment = client.get_experiment_by_name("promotions")
    assert experiment is not None
    tags = {"vlmvid.promotion": NAME, **owner_tags()}
    other = client.create_run(experiment.experiment_id, tags=tags, run_name="promote demo 7").info.run_id
    with pytest.raises(PromotionError, match=f"promote demo 7 on .*, run {other}"):
        promote(asked(home))
    assert aliases(home) == {"candidate": "1"}
    # On another machine it counts for a while, then no more.
    client.set_tag(other, "vlmvid.host", "elsewhere")
    with pytest.raises(PromotionError, match="on elsewhere"):
        promote(asked(home))
    monkeypatch.setattr(mlflow_promotion, "LEASE_SECONDS", 0.0)
    with pytest.raises(PromotionError, match="run out"):  # which also ends one's own right
        promote(asked(home))
    assert client.get_run(other).info.status == "KILLED"
    monkeypatch.undo()
    assert promote(asked(home)).promoted


def test_a_champion_that_moved_meanwhile_is_not_overwritten(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(home, "a", 150)
    register(home, "b", 150)
    client = client_of(home)
    real = MlflowRegistry.evaluation

    def moved(self: MlflowRegistry, *given: Any) -> Path:
        client.set_registered_model_alias(NAME, "champion", "1")
        return real(self, *given)

    monkeypatch.setattr(MlflowRegistry, "evaluation", moved)
    with pytest.raises(PromotionError, match="champion of 'demo' moved from none to version 1"):
        promote(asked(home))
    assert aliases(home) == {"candidate": "2", "champion": "1"}


def test_of_two_promotions_at_once_one_wins(home: Path) -> None:
    for name in "ab":
        register(home, name, 150, alias=name)
    results: dict[str, Any] = {}
    barrier = threading.Barrier(2)

    def run(name: str) -> None:
        barrier.wait()
        try:
            results[name] = promote(asked(home, candidate=name))
        except PromotionError as error:
            results[name] = error

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [result for result in results.values() if isinstance(result, PromotionError)]
    (winner,) = [result for result in results.values() if not isinstance(result, PromotionError)]
    assert len(errors) == 1 and aliases(home)["champion"] == winner.version


def test_the_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(home, "a", 150)
    common = ["promote", NAME, "--tracking-uri", uri_of(home)]
    gates = ["--gates", str(home.parent / "gates.yaml")]
    assert main([*common, *gates, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["promoted"] is True
    register(home, "b", 100)
    assert main([*common, *gates]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("FAILED  vqa/mcq_accuracy  ci_low >= 0.6")
    assert out.splitlines()[-1].startswith("demo version 2 is not champion: 2 of 2 gates failed")
    assert main([*common, "--rollback"]) == 1
    assert capsys.readouterr().out == (
        "demo: champion has not moved: version 1 is the first champion; there is none before it\n"
    )
    assert main([*common, "--rollback", *gates]) == 2
    assert main([*common, "--candidate", "nobody", *gates]) == 2
    assert "no alias 'nobody'" in capsys.readouterr().err
    assert KIND in client_of(home).get_model_version(NAME, "1").tags
