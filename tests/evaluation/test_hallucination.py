"""The hallucination benchmarks: their files, their joins, what constants score, and what the released scripts print."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.examples import all_examples
from tests.evaluation.examples.hallucination import (
    AMBER_PERFECT,
    BQA_PERFECT,
    HALLUCER_MIXED,
    HALLUCER_PERFECT,
    HALLUSION_PERFECT,
    HALLUSION_VERDICTS,
    NATURAL_PERFECT,
    POPE_IDS,
    POPE_MIXED,
    POPE_ROWS,
    STH_PERFECT,
    write_amber,
    write_event_hallusion,
    write_hallusion_bench,
    write_json,
    write_natural_bench,
    write_pope,
    write_vid_halluc,
    write_video_hallucer,
)
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.scoring.base import Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.files import ScoreFiles, score_files
from vlmvid.evaluation.scoring.files import read_for as read_with
from vlmvid.evaluation.scoring.predictions import Predictions

YES_NO = ("pope", "event_hallusion", "hallusion_bench", "amber_discriminative", "video_hallucer", "vid_halluc_bqa")


def read_for(benchmark: Benchmark, path: Path, items: Sequence[Item]) -> Predictions:
    return read_with(benchmark, path, items, ScoreFiles(path, path))


def score(name: str, items: Sequence[Item], values: dict[str, Any], **settings: Any) -> TaskResult:
    benchmark = get_benchmark(name)
    chosen = ScoreSettings(num_bootstrap=100, **settings)
    return benchmark.scorer(chosen)(items, Predictions(values), chosen)


def numbers(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def pope_items(labels: Sequence[str]) -> list[Item]:
    return [
        Item(f"random_{n}", f"image{n // 2}", label, choices=("yes", "no"), groups={"negatives": "random"})
        for n, label in enumerate(labels)
    ]


# --- constants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [None, "pope", "lmms-eval", "vlmevalkit"])
def test_always_yes_on_a_balanced_pope(compat: str | None) -> None:
    items = pope_items(["yes", "no"] * 20)
    found = numbers(score("pope", items, {item.item_id: "Yes" for item in items}, compat=compat))
    assert found["accuracy"] == 0.5 and found["recall"] == 1.0
    assert found["f1"] == pytest.approx(2 / 3)
    if compat is None:
        assert found["balanced_accuracy"] == 0.5 and found["yes_ratio"] == 1 and found["yes_bias"] == 0.5
        assert found["f1/always_yes"] == pytest.approx(2 / 3) and found["accuracy/always_yes"] == 0.5
        assert found["false_yes_share"] == 1
    if compat == "lmms-eval":
        assert found["yes_ratio"] == 0.5  # that of the labels


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["yes", "no"]), min_size=1, max_size=12), st.sampled_from(["yes", "no"]))
def test_a_constant_scores_what_the_labels_say(labels: list[str], word: str) -> None:
    items = pope_items(labels)
    found = numbers(score("pope", items, {item.item_id: word for item in items}))
    assert found["accuracy"] == pytest.approx(labels.count(word) / len(labels))
    assert found[f"accuracy/always_{word}"] == pytest.approx(found["accuracy"])
    assert found["accuracy/constant"] == pytest.approx(max(labels.count("yes"), labels.count("no")) / len(labels))
    assert found["accuracy/majority"] == found["accuracy/constant"]
    if len(set(labels)) == 2:
        assert found["balanced_accuracy"] == pytest.approx(0.5)
    else:
        assert "balanced_accuracy" not in found


@pytest.mark.parametrize("word", ["yes", "no"])
@pytest.mark.parametrize(
    ("name", "metric", "answer"),
    [
        ("video_hallucer", "overall", 0.0),
        ("natural_bench", "group_accuracy", 0.0),
        ("natural_bench", "question_accuracy", 0.0),
        ("natural_bench", "image_accuracy", 0.0),
        ("vid_halluc_bqa", "question_accuracy", 0.0),
        ("vid_halluc_sth", "balanced_accuracy", 0.5),
        ("vid_halluc_sth", "mcc", 0.0),
        ("event_hallusion", "balanced_accuracy", 0.5),
    ],
)
def test_constants_get_nothing_where_answers_come_in_pairs(
    name: str, metric: str, answer: float, word: str, tmp_path: Path
) -> None:
    example = all_examples()[name]
    items = get_benchmark(name).read(example.write(tmp_path), {})
    found = numbers(score(name, items, {item.item_id: word for item in items}))
    assert found[metric] == answer


def test_constant_no_on_the_published_event_hallusion() -> None:
    sizes = {"entire": (114, "no"), "interleave": (193, "yes"), "misleading": (102, "no")}
    items = [
        Item(f"{split}_{n}_0", f"{split}_{n}", answer, groups={"split": split})
        for split, (size, answer) in sizes.items()
        for n in range(size)
    ]
    found = numbers(score("event_hallusion", items, {item.item_id: "No." for item in items}))
    assert found["accuracy"] == pytest.approx(0.528, abs=5e-4)
    assert [found[f"accuracy_split_{split}"] for split in sizes] == [1, 0, 1]
    assert found["balanced_accuracy"] == 0.5


def test_constant_no_on_amber(tmp_path: Path) -> None:
    items = get_benchmark("amber_discriminative").read(write_amber(tmp_path), {})
    values = {item.item_id: "No" for item in items}
    found, amber = (numbers(score("amber_discriminative", items, values, compat=mode)) for mode in (None, "amber"))
    assert found["accuracy_dimension_existence"] == 1.0 and found["recall"] == 1.0
    assert found["precision"] == 0.5  # of the answer no
    assert found["yes_bias"] == -0.5 and found["false_yes_share"] == 0
    assert amber["accuracy_dimension_existence"] == pytest.approx(0.999)  # 1 / 1.001
    # 2 * .5 * 1 / 1.5001; the script's existence adds .001: 2 * .999^2 / 1.999 = .9985.
    assert amber["f1"] == pytest.approx(0.667) and amber["f1_dimension_existence"] == pytest.approx(0.999)


# --- missing, unparsed ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", YES_NO)
def test_every_item_of_a_unit_must_be_there_where_missing_ones_are_skipped(name: str, tmp_path: Path) -> None:
    example = all_examples()[name]
    items = get_benchmark(name).read(example.write(tmp_path), {})
    values = {key: value for key, value in example.perfect.items() if key != items[0].item_id}
    whole, part = (
        {metric.name.partition("[")[0]: metric for metric in score(name, items, given_values, missing="skip").metrics}
        for given_values in (example.perfect, values)
    )
    for kind, unit in items[0].units.items():
        if len([item for item in items if item.units.get(kind) == unit]) > 1 and f"{kind}_accuracy" in part:
            assert part[f"{kind}_accuracy"].num_samples == whole[f"{kind}_accuracy"].num_samples - 1
    assert part["accuracy"].value == 1


def test_a_pair_that_lacks_an_answer_is_wrong_or_left_out(tmp_path: Path) -> None:
    items = get_benchmark("video_hallucer").read(write_video_hallucer(tmp_path), {})
    values = {key: value for key, value in HALLUCER_PERFECT.items() if key != "object_relation_1_basic"}
    found = numbers(score("video_hallucer", items, values))
    assert found["overall_object_relation"] == pytest.approx(2 / 3)
    assert found["overall"] == pytest.approx((2 / 3 + 4) / 5) and found["halluc"] == 1
    skipped = score("video_hallucer", items, values, missing="skip")
    assert skipped.metrics[0].name == "overall[missing=skip]"
    assert (skipped.metrics[0].value, skipped.metrics[0].num_samples) == (1.0, 6)
    with pytest.raises(EvaluationError, match="no pair has answers to both"):
        score("video_hallucer", items, {"object_relation_1_basic": "yes"}, missing="skip")


def test_an_answer_that_is_none_counts_against_precision_and_recall() -> None:
    items = pope_items(["yes", "yes", "no", "no"])
    found = numbers(score("pope", items, dict(zip([i.item_id for i in items], ["yes", "?", "no", "?"], strict=True))))
    assert found["accuracy"] == 0.5 and found["precision"] == 0.5 and found["recall"] == 0.5
    assert found["yes_ratio"] == 0.25 and found["n_parsed"] == 2


# --- POPE -----------------------------------------------------------------------------------------


def test_pope_prints_what_its_script_prints(tmp_path: Path) -> None:
    items = get_benchmark("pope").read(write_pope(tmp_path), {})
    result = score("pope", items, POPE_MIXED, compat="pope")
    assert result.printed == (
        "TP\tFP\tTN\tFN\t\n1\t2\t0\t1\nAccuracy: 0.25\nPrecision: 0.3333333333333333\nRecall: 0.5\n"
        "F1 score: 0.4\nYes ratio: 0.75"
    )
    other = score("pope", items, POPE_MIXED, compat="vlmevalkit").printed
    assert other is not None and other.split("\n")[:2] == [
        '"split","Overall","acc","precision","recall"',
        '"Overall","0.0","25.0","0.0","0.0"',
    ]
    with pytest.raises(EvaluationError, match="divides by zero"):
        score("pope", items, dict.fromkeys(POPE_IDS, "no"), compat="pope")
    with pytest.raises(EvaluationError, match="1 of 4 are missing, e.g. random_4"):
        score("pope", items, {key: "no" for key in POPE_IDS[:3]}, compat="pope")
    with pytest.raises(EvaluationError, match="takes text; the answer to random_1 is int 1"):
        score("pope", items, POPE_MIXED | {"random_1": 1}, compat="lmms-eval")


def test_pope_reads_the_three_splits_and_the_other_sources(tmp_path: Path) -> None:
    write_pope(tmp_path)
    rows = [{"question_id": n, "image": i, "text": t, "label": a} for n, i, t, a in POPE_ROWS]
    for split in ("popular", "adversarial"):
        text = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"coco_pope_{split}.json").write_text(text, encoding="utf-8-sig")
    write_json(tmp_path / "seem" / "gqa" / "gqa_pope_seem_random.json", rows[:2], indent=4)  # a list, not lines
    read = get_benchmark("pope").read
    assert len(read(tmp_path, {})) == 12
    assert {item.groups["negatives"] for item in read(tmp_path, {})} == {"random", "popular", "adversarial"}
    assert len(read(tmp_path, {"split": "popular"})) == 4
    assert [item.answer for item in read(tmp_path, {"source": "gqa"})] == ["yes", "no"]
    with pytest.raises(MissingDataError, match="no gqa_pope_seem_popular.json"):
        read(tmp_path, {"source": "gqa", "split": "popular"})
    with pytest.raises(MissingDataError, match="no aokvqa_pope_seem_random.json"):
        read(tmp_path, {"source": "aokvqa"})
    with pytest.raises(ConfigError, match="source='coca'"):
        read(tmp_path, {"source": "coca"})
    write_json(tmp_path / "gqa_pope_seem_popular.json", [{"question_id": 1}])
    with pytest.raises(DatasetError, match="entry 1: no 'image'"):
        read(tmp_path / "gqa_pope_seem_popular.json", {})


def test_pope_answers_are_joined_in_order(tmp_path: Path) -> None:
    references = write_pope(tmp_path)
    answers = tmp_path / "answers.json"

    def write(rows: Sequence[dict[str, Any]]) -> None:
        answers.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    rows = [{"question": row[2].lower() + " Answer yes or no.", "answer": row[3]} for row in POPE_ROWS]
    write(rows)
    settings = ScoreSettings(num_bootstrap=10)
    assert score_files("pope", ScoreFiles(answers, references), settings).metrics[0].value == 1
    write(rows[::-1])
    with pytest.raises(EvaluationError, match="line 1: answers .* but the question there is"):
        score_files("pope", ScoreFiles(answers, references), settings)
    write(rows[:3])
    with pytest.raises(EvaluationError, match="3 answers for 4 questions"):
        score_files("pope", ScoreFiles(answers, references), settings)
    write([{"question": rows[0]["question"]}, *rows[1:]])
    with pytest.raises(EvaluationError, match="line 1: expected an object with question and answer"):
        score_files("pope", ScoreFiles(answers, references), settings)
    write([{"question_id": row[0], "answer": row[3]} for row in POPE_ROWS[::-1]][:3])
    result = score_files("pope", ScoreFiles(answers, references), settings)
    assert result.metrics[0].value == 0.75 and "random_1" in result.protocol
    write_json(answers, dict.fromkeys(POPE_IDS, "yes"))
    assert score_files("pope", ScoreFiles(answers, references), settings).metrics[0].value == 0.5


def test_pope_answers_of_several_splits_come_from_a_folder_or_in_one_file(tmp_path: Path) -> None:
    write_pope(tmp_path)
    lines = (tmp_path / "coco_pope_random.json").read_text(encoding="utf-8")
    (tmp_path / "coco_pope_popular.json").write_text(lines, encoding="utf-8")
    benchmark = get_benchmark("pope")
    items = benchmark.read(tmp_path, {})
    folder = tmp_path / "answers"
    folder.mkdir()
    rows = [json.dumps({"question": row[2], "answer": row[3]}) for row in POPE_ROWS]
    (folder / "model_random.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(EvaluationError, match="0 files for the split 'popular'"):
        read_for(benchmark, folder, items)
    (folder / "model_popular.jsonl").write_text("\n".join(rows), encoding="utf-8")
    both = read_for(benchmark, folder, items).values
    assert both == {item.item_id: item.answer for item in items}
    one = tmp_path / "all.jsonl"
    one.write_text("\n".join(rows * 2), encoding="utf-8")
    assert read_for(benchmark, one, items).values == both
    one.write_text("\n".join(json.dumps({"id": k, "answer": v}) for k, v in both.items()), encoding="utf-8")
    assert read_for(benchmark, one, items).values == both


# --- VideoHallucer --------------------------------------------------------------------------------


def test_video_hallucer_weighs_categories_not_pairs(tmp_path: Path) -> None:
    items = get_benchmark("video_hallucer").read(write_video_hallucer(tmp_path), {})
    values = HALLUCER_PERFECT | {f"object_relation_{row}_basic": "no" for row in range(3)}
    found = numbers(score("video_hallucer", items, values))
    assert found["overall"] == pytest.approx(4 / 5) and found["accuracy"] == pytest.approx(11 / 14)
    assert found["overall/chance"] == 0.25
    assert found["overall/always_yes"] == found["overall/always_no"] == 0
    assert "pair_accuracy" not in found


def test_video_hallucer_prints_what_its_scripts_print(tmp_path: Path) -> None:
    folder = write_video_hallucer(tmp_path)
    benchmark = get_benchmark("video_hallucer")
    items = benchmark.read(folder, {})
    assert score("video_hallucer", items, HALLUCER_MIXED, compat="video-hallucer").printed == (
        f"{'=' * 20}\nBasic Accuracy:  {(2 / 3 + 1 + 1 + 1 + 1) / 5}\n"
        f"Hallucination Accuracy:  {(1 / 3 + 1 + 1 + 1 + 1) / 5}\n"
        f"Final Accuracy:  {(1 / 3 + 1 + 1 + 1 + 1) / 5}"
    )
    printed = score("video_hallucer", items, HALLUCER_MIXED, compat="video-hallucer-bias").printed
    assert printed is not None and printed.split("\n")[:3] == [
        "#" * 40,
        "yes difference percentage:  0.0",
        f"no difference percentage:  {-2 / 14}",
    ]
    wrong = [{side: {"video": "a.mp4", "question": "?", "answer": "no"} for side in ("basic", "hallucination")}]
    write_json(folder / "fact_detect.json", wrong)
    facts = benchmark.read(folder, {"categories": "fact_detect"})
    found = score("video_hallucer", facts, {i.item_id: "no" for i in facts}, compat="video-hallucer")
    assert found.printed is not None and found.printed.endswith("Fact Score:  1.0")


def test_video_hallucer_reads_the_result_files_of_its_script(tmp_path: Path) -> None:
    folder = write_video_hallucer(tmp_path / "data")
    benchmark = get_benchmark("video_hallucer")
    items = benchmark.read(folder, {})
    names = {"object_relation": "obj_rel", "semantic_detail": "semantic", "external_factual": "fact"}
    names |= {"temporal": "temporal", "external_nonfactual": "nonfact"}
    results = tmp_path / "results"
    for category, short in names.items():
        rows = json.loads((folder / category / f"{category}.json").read_text(encoding="utf-8"))
        for number, row in enumerate(rows):
            for side in ("basic", "hallucination"):
                row[side]["predict"] = HALLUCER_MIXED[f"{category}_{number}_{side}"]
        write_json(results / f"{short}_model.json", rows)
    write_json(results / "obj_rel_temporal_model_evaluation_results.json", {"all": {}})
    assert read_for(benchmark, results, items).values == HALLUCER_MIXED
    one = benchmark.read(folder / "temporal" / "temporal.json", {})
    assert len(read_for(benchmark, results / "temporal_model.json", one).values) == 2
    (results / "any.json").write_text((results / "fact_model.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(EvaluationError, match="pairs of one category, but which"):
        read_for(benchmark, results / "any.json", items)
    rows[0]["basic"]["question"] = "Another?"
    write_json(results / "nonfact_model.json", rows)
    with pytest.raises(EvaluationError, match="answers 'Another\\?', but external_nonfactual_0_basic asks"):
        read_for(benchmark, results, items)
    (results / "nonfact_model.json").unlink()
    with pytest.raises(EvaluationError, match="0 files of answers to external_nonfactual"):
        read_for(benchmark, results, items)
    with pytest.raises(ConfigError, match="categories='temproal' \\(did you mean 'temporal'"):
        benchmark.read(folder, {"categories": "temproal"})


def test_video_hallucer_reads_answers_named_as_the_references_are(tmp_path: Path) -> None:
    folder = write_video_hallucer(tmp_path / "data")
    benchmark = get_benchmark("video_hallucer")
    items = benchmark.read(folder, {})
    for place, nested in ((tmp_path / "flat", False), (tmp_path / "nested", True)):
        for category in dict.fromkeys(item.groups["category"] for item in items):
            rows = json.loads((folder / category / f"{category}.json").read_text(encoding="utf-8"))
            for number, row in enumerate(rows):
                for side in ("basic", "hallucination"):
                    row[side]["predict"] = HALLUCER_MIXED[f"{category}_{number}_{side}"]
            write_json((place / category if nested else place) / f"{category}.json", rows)
        assert read_for(benchmark, place, items).values == HALLUCER_MIXED
    # `fact` is the script's word for external_factual, and fact_detect is another category.
    write_json(tmp_path / "flat" / "fact_detect.json", [])
    assert read_for(benchmark, tmp_path / "flat", items).values == HALLUCER_MIXED
    alone = [item for item in items if item.groups["category"] == "temporal"]
    assert len(read_for(benchmark, tmp_path / "flat" / "temporal.json", alone).values) == len(alone)
    (tmp_path / "flat" / "external_factual.json").unlink()
    with pytest.raises(EvaluationError, match="expected one, external_factual.json or fact_MODEL.json"):
        read_for(benchmark, tmp_path / "flat", items)
    write_json(tmp_path / "flat" / "temporal_model.json", [])
    with pytest.raises(EvaluationError, match="2 files of answers to temporal"):
        read_for(benchmark, tmp_path / "flat", alone)


def test_a_pair_of_two_videos_is_one_cluster(tmp_path: Path) -> None:
    items = get_benchmark("video_hallucer").read(write_video_hallucer(tmp_path), {"categories": "semantic_detail"})
    assert [item.media for item in items] == [
        (Media("semantic_detail/videos/hp2_a.mp4"),),
        (Media("semantic_detail/videos/hp2_b.mp4"),),
    ]
    assert {item.video_id for item in items} == {"hp2_a.mp4"}


# --- EventHallusion, NaturalBench, HallusionBench -------------------------------------------------


def test_event_hallusion_reads_its_own_predictions_and_counts_none(tmp_path: Path) -> None:
    benchmark = get_benchmark("event_hallusion")
    items = benchmark.read(write_event_hallusion(tmp_path), {})
    document = {
        "entire": {"entire_001": {"qa": [{"prediction": "No, he is not."}], "desc": "", "judgement": ""}},
        "misleading": {
            "misleading_001": {"qa": [{"prediction": None}]},
            "misleading_002": {"qa": [{"prediction": "no"}]},
        },
        "interleave": {"interleave_001": {"qa": [{"prediction": "yes"}]}},
    }
    path = write_json(tmp_path / "predictions.json", document)
    predictions = read_for(benchmark, path, items)
    result = score("event_hallusion", items, predictions.values, compat="event-hallusion")
    assert result.printed == (
        "interleave ques: 1, qs correct: 1, qs acc: 1.0\nentire ques: 1, qs correct: 1, qs acc: 1.0\n"
        "misleading ques: 2, qs correct: 1, qs acc: 0.5\noverall: ques: 4, qs correct: 3, qs acc: 0.75\n"
        "Not matching rate: ques: 0.25"
    )
    main = score("event_hallusion", items, predictions.values)
    assert main.metrics[0].name == "balanced_accuracy"
    assert main.metrics[0].value == pytest.approx((2 / 3 + 1) / 2)
    write_json(path, {"entire": {"entire_001": {}}})
    with pytest.raises(EvaluationError, match="entire, entire_001: expected an object with a list qa"):
        read_for(benchmark, path, items)


def test_natural_bench_reads_json_lines_and_refuses_answers_that_do_not_fit(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    benchmark = get_benchmark("natural_bench")
    items = benchmark.read(write_natural_bench(tmp_path), {})
    columns = [column for file in benchmark.files for column in file.columns]
    rows = pq.read_table(tmp_path / "train-00000-of-00001.parquet", columns=columns).to_pylist()
    lines = tmp_path / "lines" / "natural.jsonl"
    lines.parent.mkdir()
    lines.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert benchmark.read(lines.parent, {}) == items
    assert all(len({i.item_id for i in items if i.units["group"] == group}) == 4 for group in ("0", "1"))
    rows[1]["Image_0_Question_0"] = "Yes"
    lines.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises(DatasetError, match="group 1: the answer 'Yes' does not fit Question_Type 'multiple_choice'"):
        benchmark.read(lines, {})
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        benchmark.read(broken, {})


def test_natural_bench_takes_the_answers_not_the_diagonal(tmp_path: Path) -> None:
    items = get_benchmark("natural_bench").read(write_natural_bench(tmp_path), {})
    turned = [
        Item(
            **{**{f: getattr(i, f) for f in i.__slots__}, "answer": {"yes": "no", "no": "yes"}.get(i.answer, i.answer)}
        )
        for i in items
    ]
    values = NATURAL_PERFECT | {
        key: {"Yes": "No", "No": "Yes"}[v] for key, v in NATURAL_PERFECT.items() if v in ("Yes", "No")
    }
    assert score("natural_bench", turned, values).metrics[0].value == 1
    result = score("natural_bench", turned, values, compat="natural-bench")
    assert result.metrics[0].value == 0.5
    assert result.printed == "{'Q_Acc': 0.5, 'I_Acc': 0.5, 'Acc': 0.5, 'G_Acc': 0.5}"


def test_hallusion_bench_units_and_figures_without_a_picture(tmp_path: Path) -> None:
    benchmark = get_benchmark("hallusion_bench")
    path = write_hallusion_bench(tmp_path)
    items = benchmark.read(path, {})
    assert [len(benchmark.read(path, {"split": split})) for split in ("all", "image", "video")] == [6, 4, 2]
    values = HALLUSION_PERFECT | {"VS_chart_0_0_1": "I don't know", "VD_video_0_0_0": "I cannot tell"}
    result = score("hallusion_bench", items, values)
    assert [m.name for m in result.metrics[:3]] == ["accuracy", "question_accuracy", "figure_accuracy"]
    found = numbers(result)
    assert found["accuracy"] == pytest.approx(5 / 6)  # declining is right without a picture, wrong with one
    assert found["question_accuracy"] == pytest.approx(2 / 3)
    assert found["figure_accuracy"] == pytest.approx(2 / 3)  # VS figure 0 is no figure
    assert found["accuracy_difficulty_hard"] == 1 and found["n_parsed"] == 6


def test_hallusion_bench_reads_result_files_with_text_and_verdict(tmp_path: Path) -> None:
    benchmark = get_benchmark("hallusion_bench")
    path = write_hallusion_bench(tmp_path)
    items = benchmark.read(path, {})
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        name = "_".join(row[k] for k in ("category", "subcategory", "set_id", "figure_id", "question_id"))
        row["model_prediction"] = HALLUSION_PERFECT[name]
        row["gpt4v_output_gpt_check"] = HALLUSION_VERDICTS[name]
    answers = write_json(tmp_path / "result.json", rows)
    values = read_for(benchmark, answers, items).values
    assert score("hallusion_bench", items, values).metrics[0].value == 1
    judged = score("hallusion_bench", items, values, compat="hallusion-bench")
    assert judged.metrics[0].value == pytest.approx(4 / 6)
    assert judged.printed is not None and "Acc per figure (fAcc) | 33.3333" in judged.printed
    intern = score("hallusion_bench", items, values, compat="lmms-eval-intern")
    assert intern.metrics[0].value == pytest.approx(5 / 6)  # "I cannot tell." is a no
    for row in rows:
        del row["model_prediction"], row["gpt4v_output_gpt_check"]
    with pytest.raises(DatasetError, match="entry 1: expected category"):
        read_for(benchmark, write_json(tmp_path / "bare.json", rows), items)


# --- AMBER ----------------------------------------------------------------------------------------


def test_amber_finds_words_in_the_plural_and_by_given_synonyms(tmp_path: Path) -> None:
    benchmark = get_benchmark("amber_generative")
    folder = write_amber(tmp_path)
    items = benchmark.read(folder, {})
    values = {"1": "Two women, men and puppies under the sky.", "2": "Lights!"}
    found = numbers(score("amber_generative", items, values))
    # woman and man stand for the person, man for the man too; puppy is unsafe and stands for the dog; light is safe.
    assert found["chair"] == pytest.approx(1 / 5) and found["cover"] == pytest.approx(3 / 5)
    assert found["hal"] == 0.5 and found["cog"] == pytest.approx(1 / 3) and found["silent"] == 0
    pairs = write_json(tmp_path / "pairs.json", [["puppy", "person"]])
    similar = benchmark.read(folder, {"synonyms": str(pairs)})
    found = numbers(score("amber_generative", similar, values))
    assert found["chair"] == 0 and found["hal"] == 0 and found["cog"] == pytest.approx(1 / 3)
    with pytest.raises(MissingDataError, match="option synonyms: there is no"):
        benchmark.read(folder, {"synonyms": str(tmp_path / "none.json")})
    with pytest.raises(DatasetError, match="not a JSON list of pairs"):
        benchmark.read(folder, {"synonyms": str(write_json(tmp_path / "odd.json", [["one"]]))})


def test_amber_silence_names_nothing_and_nothing_said_is_a_hallucination(tmp_path: Path) -> None:
    items = get_benchmark("amber_generative").read(write_amber(tmp_path), {})
    found = numbers(score("amber_generative", items, {"1": "Very nice.", "2": "A bird."}))
    assert found["silent"] == 0.5 and found["cover"] == 0 and found["chair"] == 1
    found = numbers(score("amber_generative", items, {"1": ["sky", "sky", "dog", "banana"], "2": ""}))
    assert found["chair"] == pytest.approx(2 / 4) and found["hal"] == 1 and found["n_parsed"] == 1
    with pytest.raises(EvaluationError, match="no description for any"):
        score("amber_generative", items, {}, missing="skip")


def test_amber_prints_what_its_script_prints(tmp_path: Path) -> None:
    folder = write_amber(tmp_path)
    items = get_benchmark("amber_discriminative").read(folder, {})
    printed = score("amber_discriminative", items, AMBER_PERFECT, compat="amber").printed
    assert printed is not None and printed.startswith(
        "Descriminative Task:\nAccuracy:\t 83.3\nPrecision:\t 100.0\nRecall:\t\t 100.0\nF1:\t\t 100.0 \n\nExsitence:\n"
    )  # "yes." is no answer to it, 5 / 6.001; 3 / 3.001 rounds to 100.0
    assert printed.endswith("Relation:\nAccuracy:\t 100.0\nPrecision:\t 99.9\nRecall:\t\t 99.9\nF1:\t\t 99.9")
    other = score("amber_discriminative", items, AMBER_PERFECT, compat="vlmevalkit").printed
    assert other == '"Existence","Attribute","Relation","Avg ACC"\n"100.0","100.0","100.0","100.0"'


def test_amber_without_its_queries_or_vocabulary(tmp_path: Path) -> None:
    folder = write_amber(tmp_path)
    (folder / "data" / "query" / "query_all.json").unlink()
    items = get_benchmark("amber_discriminative").read(folder, {})
    assert items[0].video_id == "1005" and items[0].media == ()
    (folder / "data" / "relation.json").unlink()
    with pytest.raises(MissingDataError, match="no relation.json"):
        get_benchmark("amber_generative").read(folder, {})
    write_json(folder / "data" / "annotations.json", [{"id": 1, "type": "other", "truth": "no"}])
    with pytest.raises(DatasetError, match="unknown type 'other'"):
        get_benchmark("amber_discriminative").read(folder, {})


# --- VidHalluc ------------------------------------------------------------------------------------


def test_vid_halluc_reads_the_files_of_its_scripts(tmp_path: Path) -> None:
    folder = write_vid_halluc(tmp_path / "data")
    bqa, mcq, tsh = (get_benchmark(f"vid_halluc_{name}") for name in ("bqa", "mcq", "tsh"))
    asked = bqa.read(folder, {})
    answers = json.loads((folder / "ach_binaryqa.json").read_text(encoding="utf-8"))
    answers["1"][0]["a"]["other_clip_1"] = "No, she is not."
    values = read_for(bqa, write_json(tmp_path / "bqa.json", answers), asked).values
    assert score("vid_halluc_bqa", asked, values).metrics[0].value == pytest.approx(2 / 3)
    assert score("vid_halluc_bqa", asked, values, compat="vid-halluc").printed == "2 3\nAccuracy: 0.6667"
    assert read_for(bqa, write_json(tmp_path / "ids.json", BQA_PERFECT), asked).values == BQA_PERFECT

    document = json.loads((folder / "ach_mcq.json").read_text(encoding="utf-8"))
    for clips in document.values():
        for row in clips.values():
            row["Model Answer"] = row["Correct Answer"]
    items = mcq.read(folder, {})
    values = read_for(mcq, write_json(tmp_path / "mcq.json", document), items).values
    result = score("vid_halluc_mcq", items, values)
    assert result.metrics[0].value == 1 and result.metric("accuracy/chance").value == pytest.approx(1 / 15)
    assert score("vid_halluc_mcq", items, values, compat="vid-halluc").printed == "2 2\nAccuracy: 1.0000"

    orders = json.loads((folder / "tsh.json").read_text(encoding="utf-8"))
    for row in orders.values():
        row["Model Answer"] = row["Correct Answer"].lower()
    items = tsh.read(folder, {})
    values = read_for(tsh, write_json(tmp_path / "tsh.json", orders), items).values
    assert score("vid_halluc_tsh", items, values, compat="vid-halluc").printed == "Accuracy: 100.00%"
    del values["0"], values["1"]
    assert score("vid_halluc_tsh", items, values, compat="vid-halluc").metrics[0].value == 1  # it passes over them
    assert score("vid_halluc_tsh", items, values).metrics[0].value == pytest.approx(1 / 3)


def test_vid_halluc_scene_changes_with_given_similarities(tmp_path: Path) -> None:
    benchmark = get_benchmark("vid_halluc_sth")
    folder = write_vid_halluc(tmp_path)
    similar = write_json(tmp_path / "similar.json", {"s1": [1.0, 0.4], "s2": [1.0, 1.0]})
    items = benchmark.read(folder, {"similarities": str(similar)})
    result = score("vid_halluc_sth", items, STH_PERFECT, compat="vid-halluc")
    # Both changes are noticed; of four places one is at 1, one below the threshold, two have no similarity.
    assert result.printed == (
        "MCC: 1.0000\nClassification Score: 1.0000\nDescription Accuracy: 0.2500\nOverall Score: 0.7000"
    )
    assert result.metrics[0].name == "overall" and result.metrics[0].value == pytest.approx(0.7)
    found = numbers(score("vid_halluc_sth", items, STH_PERFECT | {"s1": "Scene change: Yes"}))
    assert found["description"] == 0 and found["mcc"] == 1 and found["balanced_accuracy"] == 1
    plain = score("vid_halluc_sth", benchmark.read(folder, {}), STH_PERFECT, compat="vid-halluc")
    assert plain.printed == "MCC: 1.0000\nClassification Score: 1.0000"
    for text, match in (('{"s1": [2.0, 0.1]}', "outside"), ('{"s1": 1}', "is not JSON")):
        similar.write_text(text, encoding="utf-8")
        with pytest.raises(DatasetError, match=match):
            benchmark.read(folder, {"similarities": str(similar)})
    with pytest.raises(MissingDataError, match="option similarities"):
        benchmark.read(folder, {"similarities": str(tmp_path / "none.json")})


def test_mcc_of_the_scene_changes_is_that_of_the_answers(tmp_path: Path) -> None:
    items = [
        Item(str(n), str(n), answer, extra={"described": False}) for n, answer in enumerate(["yes"] * 6 + ["no"] * 4)
    ]
    values = {str(n): word for n, word in enumerate(["Yes"] * 5 + ["No"] * 4 + ["Yes"])}
    found = numbers(score("vid_halluc_sth", items, values))
    assert found["mcc"] == pytest.approx((5 * 3 - 1 * 1) / math.sqrt(6 * 6 * 4 * 4))


@pytest.mark.parametrize(
    ("name", "file", "document"),
    [
        ("vid_halluc_bqa", "ach_binaryqa.json", {"0": {"q": "?"}}),
        ("vid_halluc_bqa", "ach_binaryqa.json", {"0": ["?"]}),
        ("vid_halluc_bqa", "ach_binaryqa.json", {"0": [{"q": "?", "a": ["Yes"]}]}),
        ("vid_halluc_mcq", "ach_mcq.json", {"0": ["clip"]}),
        ("vid_halluc_mcq", "ach_mcq.json", {"0": {"c": {"Question": "?", "Choices": ["a"], "Correct Answer": "A"}}}),
        ("event_hallusion", "entire_questions.json", [{"id": "1", "questions": ["?"]}]),
        ("event_hallusion", "entire_questions.json", [{"id": "1", "questions": None}]),
    ],
)
def test_entries_of_another_shape_are_named(name: str, file: str, document: Any, tmp_path: Path) -> None:
    path = write_json(tmp_path / file, document)
    with pytest.raises(DatasetError, match=file):
        get_benchmark(name).read(path, {})


@pytest.mark.parametrize("queries", [[None], [{"image": "a.jpg"}], [[1, 2, 3]]])
def test_ambers_queries_of_another_shape_are_named(queries: list[Any], tmp_path: Path) -> None:
    folder = write_amber(tmp_path)
    write_json(next(folder.rglob("query_all.json")), queries)
    with pytest.raises(DatasetError, match="query_all.json, entry 1"):
        get_benchmark("amber_discriminative").read(folder, {})


@pytest.mark.parametrize("truth", [None, "dog", [1]])
def test_ambers_truth_is_a_list_of_words(truth: Any, tmp_path: Path) -> None:
    folder = write_amber(tmp_path)
    write_json(next(folder.rglob("annotations.json")), [{"id": 1, "type": "generative", "truth": truth}])
    with pytest.raises(DatasetError, match="id 1, truth: expected a list of words"):
        get_benchmark("amber_generative").read(folder, {})


def test_vid_halluc_answers_of_other_shapes(tmp_path: Path) -> None:
    folder = write_vid_halluc(tmp_path / "data")
    bqa, mcq = get_benchmark("vid_halluc_bqa"), get_benchmark("vid_halluc_mcq")
    path = write_json(tmp_path / "a.json", {name: ["Yes"] for name in BQA_PERFECT})
    assert set(bqa.read_predictions(path, []).values.values()) == {"Yes"}  # type: ignore[misc]
    path = write_json(tmp_path / "a.json", {"0": [{"q": "?", "a": ["Yes"]}]})
    with pytest.raises(EvaluationError, match="0, question 0: expected answers by clip"):
        read_for(bqa, path, bqa.read(folder, {}))
    values = {item.item_id: {"answer": item.answer, "confidence": 0.5} for item in mcq.read(folder, {})}
    assert read_for(mcq, write_json(tmp_path / "a.json", values), mcq.read(folder, {})).values == values
