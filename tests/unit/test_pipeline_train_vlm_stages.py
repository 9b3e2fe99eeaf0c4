"""Training stages as their users meet them: what is said, what may change on the way, what is refused before hours."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.pipeline_fixtures import run
from tests.unit.vlm_pipeline_fixtures import (
    COMMON,
    LORA,
    copy_of,
    encoded_home,
    train_vlm,
    vlm_request,
    weights_of,
)
from vlmvid.cli import main
from vlmvid.config import load_recipe
from vlmvid.config.vlm import VlmConfig
from vlmvid.errors import CheckpointError, ConfigError
from vlmvid.models.vlm.saving import features_of
from vlmvid.pipeline import RunRequest, vlm_samples, vlm_stage
from vlmvid.pipeline import train_vlm as stage_module
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.request import make_request
from vlmvid.pipeline.vlm_checks import check_vlm
from vlmvid.pipeline.vlm_keys import stage_folder, stage_keys

ONE: dict[str, Any] = {**COMMON, "trains": ["connector"], "data": [{"task": "caption"}], "packing": False}
WORDS = {**COMMON, "trains": ["language"], "data": [{"task": "text"}]}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home in which the clips are encoded and no more, and the manifest; not to be written to."""
    return encoded_home(tmp_path_factory.mktemp("encoded"))


@pytest.fixture
def home(encoded: tuple[Path, Path], tmp_path: Path) -> Path:
    return copy_of(encoded[0], tmp_path)


@pytest.fixture
def manifest(encoded: tuple[Path, Path]) -> Path:
    return encoded[1]


def context_of(request: RunRequest) -> RunContext:
    context = open_context(request)
    context.refresh()
    return context


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next checkpoint of this number ends the run."""
    original = vlm_stage._Report.checkpoint

    def checkpoint(self: Any, done: int) -> None:
        original(self, done)
        if done == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(vlm_stage._Report, "checkpoint", checkpoint)


def steps_written(home: Path) -> list[int]:
    lines = [json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["event"] == "checkpoint.written"]


class TestResume:
    """What may change between an interrupted stage and the run that goes on with it."""

    CHANGES: dict[str, dict[str, Any]] = {
        "its name": {"name": "other"},
        "smaller micro-batches": {"optim": {"micro_batch_size": 1, "gradient_checkpointing": True}},
        "its strategy": {"optim": {"strategy": "fsdp"}},
        "the bound on visual tokens": {"visual": {"max_tokens": 2}},
    }

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_stage_goes_on_from_its_checkpoint(
        self, home: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
    ) -> None:
        changes = self.CHANGES[change]
        request = vlm_request(tmp_path, home, manifest, train_vlm({"only": ONE}))
        with monkeypatch.context() as patched:
            stop_after(patched, 3)
            with pytest.raises(KeyboardInterrupt):
                run(request, "train_vlm")
        stage = {**ONE, "optim": ONE["optim"] | changes.get("optim", {})}
        vlm = train_vlm({changes.get("name", "only"): stage}, visual=changes.get("visual", {}))
        run(vlm_request(tmp_path, home, manifest, vlm), "train_vlm")
        assert steps_written(home) == [1, 2, 3, 4, 5]

    def test_a_stage_goes_on_in_a_recipe_that_calls_its_start_otherwise(
        self, home: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = train_vlm({"words": WORDS, "show": {**ONE, "start": "words"}})
        run(vlm_request(tmp_path, home, manifest, train_vlm({"words": WORDS})), "train_vlm")
        before = len(steps_written(home))
        with monkeypatch.context() as patched:
            stop_after(patched, 2)
            with pytest.raises(KeyboardInterrupt):
                run(vlm_request(tmp_path, home, manifest, first), "train_vlm")
        second = train_vlm({"text": WORDS, "tell": {**ONE, "start": "text"}})
        run(vlm_request(tmp_path, home, manifest, second), "train_vlm")
        assert steps_written(home)[before:] == [1, 2, 3, 4, 5]

    def test_a_bound_on_visual_tokens_holds_for_stored_starts_too(
        self, home: Path, manifest: Path, tmp_path: Path
    ) -> None:
        stages = {"show": ONE, "more": {**ONE, "start": "show", "data": [{"task": "vqa"}]}}
        run(vlm_request(tmp_path, home, manifest, train_vlm({"show": ONE})), "train_vlm")
        request = vlm_request(tmp_path, home, manifest, train_vlm(stages, visual={"max_tokens": 1}))
        with pytest.raises(ConfigError, match="a clip gets 2 visual tokens, and visual.max_tokens=1"):
            run(request, "train_vlm")


def test_what_decides_no_model_is_in_no_key() -> None:
    language = {"model": "hf:some/model"}
    plain = VlmConfig.model_validate({"language": language, "stages": {"only": ONE}}).key_config()
    optim = {**ONE["optim"], "micro_batch_size": 1, "gradient_checkpointing": True, "strategy": "fsdp"}
    other = {
        "language": {**language, "sha256": "0" * 64},
        "visual": {"max_tokens": 9},
        "stages": {"only": {**ONE, "optim": optim, "num_trained": 3, "checkpoint_every": 50}},
    }
    assert VlmConfig.model_validate(other).key_config() == plain
    assert "too_long" not in plain["stages"]["only"]
    left_out = {"language": language, "stages": {"only": {**ONE, "too_long": "leave_out"}}}
    assert VlmConfig.model_validate(left_out).key_config()["stages"]["only"]["too_long"] == "leave_out"


class TestStartFolders:
    """A folder knows of which features its model is."""

    @pytest.fixture
    def folder(self, home: Path, manifest: Path, tmp_path: Path) -> Path:
        request = vlm_request(tmp_path, home, manifest, train_vlm({"only": ONE}))
        run(request, "train_vlm")
        shutil.copytree(stage_folder(context_of(request), "only") / "model", tmp_path / "start")
        return tmp_path / "start"

    def request(self, tmp_path: Path, home: Path, manifest: Path, folder: Path, **more: Any) -> RunRequest:
        stages = {"only": {**ONE, "start": str(folder), "data": [{"task": "vqa"}]}}
        return vlm_request(tmp_path, home, manifest, train_vlm(stages), **more)

    def described(self, folder: Path, **changes: Any) -> None:
        path = folder / "vlm.json"
        path.chmod(0o644)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def test_its_own_features_are_taken(
        self, folder: Path, home: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = features_of(folder)
        assert found is not None and found["backbone"] == "timm:test_vit" and found["weights"]
        run(self.request(tmp_path, home, manifest, folder), "train_vlm")
        assert "does not say which encoder" not in caplog.text

    def test_other_features_of_the_same_shape_are_refused(
        self, folder: Path, home: Path, manifest: Path, tmp_path: Path
    ) -> None:
        made_from = features_of(folder)
        assert made_from is not None
        self.described(folder, made_from={**made_from, "backbone": "timm:other", "weights": "sha256:0", "old": 1})
        message = (
            "is of another model: features.backbone: timm:other there, timm:test_vit here; features.old: 1 there, "
            "None here; features.weights: sha256:0 there, "
        )
        with pytest.raises(CheckpointError, match=message):
            run(self.request(tmp_path, home, manifest, folder), "train_vlm")

    def test_an_older_folder_is_taken_with_a_warning(
        self, folder: Path, home: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.described(folder, made_from=None)
        run(self.request(tmp_path, home, manifest, folder), "train_vlm")
        assert "start' does not say which encoder's features it was trained on" in caplog.text


class TestSamples:
    """Samples that are too long, and those that nobody could read."""

    def test_what_is_too_long_may_be_left_out(
        self, home: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stage = {**ONE, "max_length": 38, "too_long": "leave_out"}
        request = vlm_request(tmp_path, home, manifest, train_vlm({"only": stage}))
        run(request, "train_vlm")
        context = context_of(request)
        counts = context.store.manifest("vlm", stage_keys(context, "only").key).counts  # type: ignore[union-attr]
        assert counts["left_out"] > 0 and counts["samples"] + counts["left_out"] == 9
        assert f"{counts['left_out']} of 9 samples are left out, because they have more than 38 tokens" in caplog.text

    def test_a_stage_from_which_all_are_left_out_is_refused(self, home: Path, manifest: Path, tmp_path: Path) -> None:
        stage = {**ONE, "max_length": 10, "too_long": "leave_out"}
        with pytest.raises(ConfigError, match="9 of 9 samples have too many tokens: the longest one 43"):
            run(vlm_request(tmp_path, home, manifest, train_vlm({"only": stage})), "train_vlm")

    def test_the_last_stage_is_looked_at_before_the_first_is_trained(
        self, home: Path, manifest: Path, tmp_path: Path
    ) -> None:
        stages = {"words": WORDS, "show": {**ONE, "start": "words", "max_length": 20}}
        message = "train_vlm.stages.show: 9 of 9 samples have too many tokens: the longest one 43, 2 of them visual"
        with pytest.raises(ConfigError, match=message):
            run(vlm_request(tmp_path, home, manifest, train_vlm(stages)), "train_vlm")
        assert steps_written(home) == []

    def test_so_is_one_that_starts_from_a_folder(self, home: Path, manifest: Path, tmp_path: Path) -> None:
        request = vlm_request(tmp_path, home, manifest, train_vlm({"words": WORDS}))
        run(request, "train_vlm")
        shutil.copytree(stage_folder(context_of(request), "words") / "model", tmp_path / "start")
        count = len(steps_written(home))
        other = {**WORDS, "optim": {**WORDS["optim"], "lr": 0.02}}
        stages = {"words": other, "show": {**ONE, "start": str(tmp_path / "start"), "max_length": 20}}
        with pytest.raises(ConfigError, match="train_vlm.stages.show: 9 of 9 samples have too many tokens"):
            run(vlm_request(tmp_path, home, manifest, train_vlm(stages, result="show")), "train_vlm")
        assert len(steps_written(home)) == count


class TestTable:
    """The sample generations are for people to read."""

    def test_what_goes_wrong_there_costs_the_table_alone(
        self,
        home: Path,
        manifest: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def broken(*_: object) -> Any:
            raise RuntimeError("CUDA out of memory")

        caplog.set_level(logging.DEBUG, logger="vlmvid")
        monkeypatch.setattr(vlm_samples, "sample_generations", broken)
        request = vlm_request(tmp_path, home, manifest, train_vlm({"only": ONE}))
        run(request, "train_vlm")
        assert "no samples are generated: CUDA out of memory" in caplog.text and "Traceback" in caplog.text
        assert weights_of(request, "only")

    def test_the_model_is_stored_before_it_is_made(
        self, home: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: object) -> Any:
            raise KeyboardInterrupt

        request = vlm_request(tmp_path, home, manifest, train_vlm({"only": ONE}))
        with monkeypatch.context() as patched:
            patched.setattr(vlm_samples, "sample_generations", killed)
            with pytest.raises(KeyboardInterrupt):
                run(request, "train_vlm")
        assert weights_of(request, "only")

    def test_few_answers_are_generated_at_once(
        self, home: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vlmvid.models.vlm import generation

        sizes: list[int] = []
        original = generation.generate

        def counted(model: Any, samples: Any, *more: Any) -> Any:
            sizes.append(len(samples))
            return original(model, samples, *more)

        monkeypatch.setattr(generation, "generate", counted)
        stage = {**ONE, "data": [{"task": "caption"}, {"task": "vqa"}]}
        run(vlm_request(tmp_path, home, manifest, train_vlm({"only": stage})), "train_vlm")
        assert len(sizes) > 1 and max(sizes) <= vlm_samples.SAMPLES_PER_TASK


class TestHalfPrecision:
    """Weights of half precision lose most updates."""

    def recipe(self, tmp_path: Path, home: Path, manifest: Path, stage: dict[str, Any]) -> Any:
        vlm = {"language": {"model": "hf:some/model", "dtype": "bfloat16"}, "stages": {"only": stage}}
        vlm_request(tmp_path, home, manifest, vlm)
        return load_recipe(tmp_path / "tiny.yaml")

    @pytest.mark.parametrize("part", ["language", "norms", "embeddings"])
    def test_they_are_refused_where_they_learn(self, home: Path, manifest: Path, tmp_path: Path, part: str) -> None:
        recipe = self.recipe(tmp_path, home, manifest, {**ONE, "trains": ["connector", part]})
        message = (
            f"stages.only: trains names '{part}', whose weights are bfloat16 .*dtype: float32, and optim.precision"
        )
        with pytest.raises(ConfigError, match=message):
            check_vlm(recipe)

    def test_frozen_ones_are_taken(self, home: Path, manifest: Path, tmp_path: Path) -> None:
        check_vlm(self.recipe(tmp_path, home, manifest, {**ONE, "trains": ["adapters"], "adapters": LORA}))

    def test_adapters_merged_into_them_are_told_of(self, caplog: pytest.LogCaptureFixture) -> None:
        import torch

        from tests.unit.vlm_fixtures import tiny_vlm

        model = tiny_vlm()
        vlm_stage._warn_of_half_precision("lora", model)
        assert not caplog.text
        model.language.to(torch.bfloat16)
        vlm_stage._warn_of_half_precision("lora", model)
        assert "train_vlm/lora: adapters learn in float32 and are merged into weights of bfloat16" in caplog.text


class TestWhatIsSaid:
    """Without asking for more."""

    @pytest.fixture
    def request_(self, home: Path, manifest: Path, tmp_path: Path) -> RunRequest:
        stages = {"words": WORDS, "show": {**ONE, "start": "words"}}
        return vlm_request(tmp_path, home, manifest, train_vlm(stages))

    def test_the_command(
        self, request_: RunRequest, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["train-vlm", str(tmp_path / "tiny.yaml"), "--home", str(home)]
        assert main(command) == 0
        out, err = capsys.readouterr()
        lines = err.splitlines()
        first = next(number for number, line in enumerate(lines) if line.startswith("train_vlm/show: "))
        assert lines[first] == (
            "train_vlm/show: trains connector (3,264 parameters), starting from words: 9 samples, 304 tokens, 5 updates"
        )
        assert lines[first + 1].startswith("9 samples, ") and any(
            "###" in line for line in lines[first + 2 : first + 11]
        )
        (last,) = [line for line in lines if line.startswith("train_vlm/show: loss ")]
        assert "after 304 tokens, " in last and last.endswith(" seconds")
        assert sum(line.startswith("train_vlm/words: ") for line in lines) == 2
        told = out.splitlines()
        assert [line.split(":")[0] for line in told[:2]] == ["words", "show"] and len(told) == 3
        loss = last.split("loss ")[1].split()[0]
        assert told[1] == f"show: 9 samples, 5 updates, 304 tokens, loss {loss}"
        # A stored result says as much.
        assert main([*command, "--json"]) == 0
        out, err = capsys.readouterr()
        training = json.loads(out)["training"]
        assert [one["stage"] for one in training] == ["words", "show"] and training[1]["steps"] == 5
        assert "train_vlm/" not in err

    def test_a_warning_of_the_plan_comes_once(
        self, home: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stage = {**ONE, "token_budget": 100_000}
        run(vlm_request(tmp_path, home, manifest, train_vlm({"only": stage})), "train_vlm")
        assert caplog.text.count("token_budget=100000 is not reached") == 1


def test_stages_run_in_the_order_of_the_recipe(home: Path, manifest: Path, tmp_path: Path) -> None:
    """Also by way of the request, which other processes read the recipe from; a stage waits for its start alone."""
    stages = {"zebra": WORDS, "bee": {**ONE, "start": "zebra"}, "ant": WORDS, "dog": {**ONE, "start": "cat"}}
    stages["cat"] = {**WORDS, "trains": ["norms"]}
    for names in (["zebra", "bee", "ant", "dog", "cat"], ["ant", "dog", "cat", "bee", "zebra"]):
        chosen = {name: copy.deepcopy(stages[name]) for name in names}
        vlm_request(tmp_path, home, manifest, train_vlm(chosen, result="bee"))
        recipe = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
        recipe["train_vlm"]["stages"] = chosen
        (tmp_path / "ordered.yaml").write_text(json.dumps(recipe))
        request = make_request(tmp_path / "ordered.yaml", home=home)
        expected = {"zebra": ["zebra", "bee", "ant", "cat", "dog"], "ant": ["ant", "cat", "dog", "zebra", "bee"]}
        assert [job.name for job in stage_module.plan_shards(request)] == expected[names[0]]
