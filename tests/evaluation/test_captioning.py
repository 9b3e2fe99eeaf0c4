from __future__ import annotations

import json
import math
import os
import pickle
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.examples.captioning import (
    PERFECT,
    VECTOR,
    coco_document,
    dump,
    write_coco,
    write_msrvtt,
    write_msvd,
    write_own,
    write_vatex,
)
from tests.needs import absent
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation import java_metrics
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.captioning import scores
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.files import ScoreFiles, score_files
from vlmvid.evaluation.scoring.predictions import Predictions

SETTINGS = ScoreSettings(num_bootstrap=100, options={"java": "no"})


def items_of(folder: Path) -> list[Item]:
    return get_benchmark("caption").read(write_own(folder), {})


def run(items: list[Item], values: dict[str, Any], settings: ScoreSettings = SETTINGS) -> TaskResult:
    return get_benchmark("caption").scorer(settings)(items, Predictions(values), settings)


def numbers(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def test_the_vectors_through_files(tmp_path: Path) -> None:
    predictions = dump(
        tmp_path / "results.json", [{"image_id": 1, "caption": PERFECT["1"]}, {"image_id": 2, "caption": PERFECT["2"]}]
    )
    result = score_files("caption", ScoreFiles(predictions, write_own(tmp_path)), SETTINGS)
    found = numbers(result)
    assert {name: found[name] for name in VECTOR} == pytest.approx(VECTOR, abs=1e-6)
    assert result.metrics[0].name == "cider_d[pyptb-1]"
    assert result.samples[0]["tokens"] == "a man is playing a guitar"
    assert result.samples[0]["score"] == result.samples[0]["cider_d"] == pytest.approx(4.414812, abs=1e-6)


def test_coco_caption_prints_as_pycocoevalcap(tmp_path: Path) -> None:
    settings = replace(SETTINGS, compat="coco-caption")
    result = run(items_of(tmp_path), PERFECT, settings)
    assert result.printed == (
        "Bleu_1: 1.000\nBleu_2: 0.837\nBleu_3: 0.559\nBleu_4: 0.413\nROUGE_L: 0.750\nCIDEr: 3.520"
    )


def test_vlmevalkit_keeps_case_and_punctuation(tmp_path: Path) -> None:
    settings = replace(SETTINGS, compat="vlmevalkit")
    result = run(items_of(tmp_path), PERFECT, settings)
    assert result.printed is not None and result.printed.startswith("Bleu_1: 83.333\n")
    assert "cider_d[whitespace]" in numbers(result)


@pytest.mark.parametrize("compat", ["coco-caption", "vlmevalkit"])
def test_reference_scorers_need_exactly_one_caption_each(compat: str, tmp_path: Path) -> None:
    items, settings = items_of(tmp_path), replace(SETTINGS, compat=compat)
    for values in ({"1": "a"}, {**PERFECT, "3": "a"}):
        with pytest.raises(EvaluationError, match="needs exactly one for each"):
            run(items, values, settings)
    with pytest.raises(EvaluationError, match="1 captions are no text, e.g. \\['2'\\]"):
        run(items, {**PERFECT, "2": None}, settings)


def test_a_caption_that_is_no_text_counts_as_empty(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    result = run(items, {"1": PERFECT["1"], "2": {"text": "a dog"}})
    assert numbers(result)["n_parsed"] == 1
    assert "1 unparsed" in result.protocol and "1 empty captions, which score 0" in result.protocol
    empty = run(items, {"1": [PERFECT["1"]], "2": ""})
    assert numbers(empty)["n_parsed"] == 2
    assert numbers(empty)["cider_d[pyptb-1]"] == numbers(result)["cider_d[pyptb-1]"]


def test_skipping_takes_the_item_out_of_the_document_frequencies(tmp_path: Path) -> None:
    result = run(items_of(tmp_path), {"1": PERFECT["1"]}, replace(SETTINGS, missing="skip"))
    assert numbers(result)["cider_d[pyptb-1][missing=skip]"] == 0
    assert "with one item every idf is log(1)" in result.protocol


def test_blind_and_constant_baselines(tmp_path: Path) -> None:
    document = {"a": ["a cat sleeps on a chair"], "b": ["a cat sleeps on a chair"], "c": ["two men play chess outside"]}
    items = get_benchmark("caption").read(dump(tmp_path / "references.json", document), {})
    blind = Predictions({"c": "two men play chess outside"})
    result = run(items, {name: texts[0] for name, texts in document.items()}, replace(SETTINGS, blind=blind))
    found = numbers(result)
    # The most frequent reference fits two of three items, the blind captions one.
    assert found["cider_d[pyptb-1]"] == pytest.approx(10)
    assert found["cider_d[pyptb-1]/constant"] == pytest.approx(20 / 3)
    assert found["cider_d[pyptb-1]/blind"] == pytest.approx(10 / 3)


def test_images_without_captions_are_named(tmp_path: Path) -> None:
    document = coco_document({"1": ["a man"], "2": [], "3": [" "]})
    with pytest.raises(DatasetError, match="2 of 3 items have no reference caption: 2, 3; a caption cannot be scored"):
        get_benchmark("caption").read(dump(tmp_path / "references.json", document), {})


def test_references_without_words_are_left_out_or_named(tmp_path: Path) -> None:
    read = get_benchmark("caption").read
    items = read(
        dump(tmp_path / "references.json", {"a": ["...", "a man walks his dog"], "b": "a red bus in town"}), {}
    )
    result = run(items, {"a": "a man walks his dog", "b": "a red bus in town"})
    assert numbers(result)["cider_d[pyptb-1]"] == pytest.approx(10)
    assert "2 reference captions" in result.protocol
    items = read(dump(tmp_path / "references.json", {"a": ["..."], "b": ["a bus"]}), {})
    with pytest.raises(EvaluationError, match="1 items have no reference caption with a word in it, e.g. a"):
        run(items, {"a": "a", "b": "b"})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1], "holds a JSON list; expected a dict"),
        ({"annotations": []}, "has no list 'images'"),
        ({"images": [{}], "annotations": []}, "an entry without 'id'"),
        ({"images": [], "annotations": [{"image_id": 5, "caption": "a"}]}, "image 5, which 'images' does not list"),
        ({"a": 3}, "id 'a': expected a caption or a list of captions, got 3"),
        ({}, "holds no item"),
    ],
)
def test_wrong_reference_files(document: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        get_benchmark("caption").read(dump(tmp_path / "references.json", document), {})


def test_coco_splits_and_files(tmp_path: Path) -> None:
    read = get_benchmark("coco_caption").read
    folder = write_coco(tmp_path)
    official = dump(folder / "captions_val2014.json", coco_document({"7": ["a man"], "8": ["a dog"]}))
    assert [item.item_id for item in read(folder, {})] == ["1", "2"]
    assert [item.item_id for item in read(folder, {"split": "val2014"})] == ["7", "8"]
    assert [item.media[0].name for item in read(official, {})] == [
        "COCO_val2014_000000000007.jpg",
        "COCO_val2014_000000000008.jpg",
    ]
    assert [item.item_id for item in read(folder / "dataset_coco.json", {})] == ["1", "2"]
    with pytest.raises(ConfigError, match="split='karpathy'"):
        read(folder, {"split": "karpathy"})
    dump(folder / "dataset_coco.json", {"images": [{"split": "test", "cocoid": 1}]})
    with pytest.raises(DatasetError, match="'sentences'"):
        read(folder, {})


def test_coco_says_which_split_was_scored(tmp_path: Path) -> None:
    read, scorer = get_benchmark("coco_caption").read, get_benchmark("coco_caption").score
    official = dump(tmp_path / "captions_val2014.json", coco_document({"7": ["a man"]}))
    with pytest.raises(MissingDataError, match="no dataset_coco.json.*val2014.json is read with -o split=val2014"):
        read(tmp_path, {})
    places = [(tmp_path, {"split": "val2014"}, "split val2014"), (official, {}, "all images of captions_val2014.json")]
    places.append((write_coco(tmp_path), {}, "split karpathy_test"))
    for place, options, words in places:
        items = read(place, options)
        values = Predictions({item.item_id: "a man" for item in items})
        assert words in scorer(items, values, SETTINGS).protocol
        assert words in get_benchmark("coco_caption").compat["vlmevalkit"](items, values, SETTINGS).protocol


@pytest.mark.parametrize("caption", [None, 5, ["a"]])
def test_a_reference_that_is_no_text_is_named(caption: Any, tmp_path: Path) -> None:
    document = {"images": [{"id": 7}], "annotations": [{"image_id": 7, "caption": caption}]}
    with pytest.raises(DatasetError, match="7: a reference caption must be a text"):
        get_benchmark("coco_caption").read(dump(tmp_path / "captions_val2014.json", document), {})


def test_msrvtt_takes_its_split_by_number(tmp_path: Path) -> None:
    read = get_benchmark("msrvtt_caption").read
    folder = write_msrvtt(tmp_path)
    with pytest.raises(MissingDataError, match="MSRVTT_data.json"):
        read(folder, {"split": "train"})
    (folder / "test_videodatainfo.json").rename(folder / "MSRVTT_data.json")
    assert [item.item_id for item in read(folder, {})] == ["video7010", "video7011"]
    assert [item.item_id for item in read(folder, {"split": "train"})] == ["video12"]
    assert read(folder, {})[0].media[0].name == "video7010.mp4"
    dump(folder / "MSRVTT_data.json", {"videos": [{"video_id": "clip"}], "sentences": []})
    with pytest.raises(DatasetError, match="video_id"):
        read(folder, {})


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("echo harm",))


def test_msvd_never_calls_what_a_pickle_names(tmp_path: Path) -> None:
    read = get_benchmark("msvd_caption").read
    folder = write_msvd(tmp_path)
    assert read(folder, {})[0].answer == ("A man is playing a guitar",)
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({"mv89psg6zh4_33_46": Evil()}))
    with pytest.raises(DatasetError, match="it names .*system"):
        read(folder, {})
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({"other": [["a"]]}))
    with pytest.raises(DatasetError, match="mv89psg6zh4_33_46"):
        read(folder, {})


def test_vatex_needs_english_captions_and_one_row_per_video(tmp_path: Path) -> None:
    read = get_benchmark("vatex_caption").read
    folder = write_vatex(tmp_path)
    path = folder / "vatex_public_test_english_v1.1.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    dump(path, [*rows, rows[0]])
    with pytest.raises(DatasetError, match="occurs twice"):
        read(folder, {})
    dump(path, [{"videoID": "a"}])
    with pytest.raises(DatasetError, match="no 'enCap'"):
        read(folder, {})


def test_an_unknown_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer='pyptb-2'"):
        run(items_of(tmp_path), PERFECT, replace(SETTINGS, options={"tokenizer": "pyptb-2"}))


def test_what_is_absent_without_java_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_metrics, "package_folder", lambda: None)
    result = run(items_of(tmp_path), PERFECT, replace(SETTINGS, options={}))
    assert "no METEOR-1.5 and SPICE: pycocoevalcap is not installed" in result.protocol
    assert not any(name.startswith(("meteor", "spice")) for name in numbers(result))
    with pytest.raises(EvaluationError, match="ptb-java is not available: pycocoevalcap is not installed"):
        run(items_of(tmp_path), PERFECT, replace(SETTINGS, options={"tokenizer": "ptb-java"}))
    monkeypatch.setattr(java_metrics, "package_folder", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert java_metrics.why_absent() == "there is no java on the PATH"


def test_spice_without_a_value_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stand-ins: SPICE's models come from no package index, so the program itself cannot run in a test.
    monkeypatch.setattr(java_metrics, "why_absent", lambda: None)
    monkeypatch.setattr(java_metrics, "why_no_spice", lambda: None)
    monkeypatch.setattr(java_metrics, "meteor", lambda candidates, references: (0.4, [0.5, 0.25]))
    monkeypatch.setattr(java_metrics, "spice", lambda candidates, references: [0.3, float("nan")])
    items, settings = items_of(tmp_path), replace(SETTINGS, options={})
    result = run(items, PERFECT, settings)
    assert result.metric("spice[pyptb-1]").value == pytest.approx(0.3)
    assert result.metric("spice[pyptb-1]").num_samples == 1
    assert result.metric("meteor_1_5[pyptb-1]").value == 0.4
    assert "SPICE is undefined for 1 items" in result.protocol
    assert [row["meteor_1_5"] for row in result.samples] == [0.5, 0.25]
    printed = run(items, PERFECT, replace(settings, compat="coco-caption")).printed or ""
    assert "METEOR: 0.400\n" in printed and printed.endswith("SPICE: nan")


FAKE_JAVA = """#!/bin/sh
# Stands for the Java tokenizer: it splits the last character of a line off and writes lower case.
sed -e 's/\\(.\\)$/ \\1/' | tr A-Z a-z
"""


def test_the_java_tokenizer_gets_one_line_per_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "java"
    program.write_text(FAKE_JAVA)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(java_metrics, "package_folder", lambda: tmp_path)
    assert java_metrics.ptb_java(["A dog\nruns.", "", "Café!", ""]) == ["a dog runs", "", "café", ""]
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(EvaluationError, match="java failed.*broken"):
        java_metrics.ptb_java(["a"])
    program.write_text("#!/bin/sh\ncat > /dev/null\n")
    with pytest.raises(EvaluationError, match="gave 1 lines for 2 captions"):
        java_metrics.ptb_java(["a", "b"])


@pytest.fixture
def java() -> None:
    """Where CI runs the programs must be there; elsewhere a test of them is skipped without."""
    reason = java_metrics.why_absent()
    if reason:
        absent(reason)


def test_the_real_programs(java: None, tmp_path: Path) -> None:
    captions = ["A man's dog\nisn't running.", "", "plan b", ""]
    assert java_metrics.ptb_java(captions) == ["a man 's dog is n't running", "", "plan b", ""]
    # Each start of METEOR is six seconds of CPU, and items are scored apart from each other.
    same = list(PERFECT.values())
    total, each = java_metrics.meteor(
        ["a man is playing a guitar", *same, "a whale"],
        [["a man plays a guitar", "a man is playing the guitar"], *([text] for text in same), same],
    )
    assert each[:3] == [pytest.approx(0.8871866, abs=1e-6), 1.0, 1.0]
    assert each[3] < 0.2 < total < 1
    result = run(items_of(tmp_path), PERFECT, replace(SETTINGS, options={}))
    assert result.metric("meteor_1_5[pyptb-1]").value == pytest.approx(0.4486251, abs=1e-6)


def test_scoring_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    items = items_of(tmp_path)
    first, second = (json.dumps(run(items, PERFECT).to_json()) for _ in range(2))
    assert first == second


def test_bleu_intervals_come_from_summed_counts(tmp_path: Path) -> None:
    references = {str(row): ["the cat sat on the mat today"] for row in range(6)}
    items = get_benchmark("caption").read(dump(tmp_path / "references.json", references), {})
    values = {str(row): "the cat sat on the mat today" if row % 2 else "not one of its words fits" for row in range(6)}
    metric = run(items, values).metric("bleu_1[pyptb-1]")
    # 21 of 39 words, and 39 words for 42 of the references.
    assert metric.value == pytest.approx(21 / 39 * math.exp(1 - 42 / 39), abs=1e-6)
    assert metric.ci_low is not None and metric.ci_high is not None
    assert 0 <= metric.ci_low < metric.value < metric.ci_high <= 1


def test_tokens_keep_their_groups() -> None:
    texts = scores.tokenized(["A b.", ""], [["C.", "D e"], ["F"]], "pyptb-1")
    assert texts.candidates == ["a b.", ""]
    assert texts.references == [["c.", "d e"], ["f"]]
