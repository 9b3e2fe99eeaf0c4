from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.examples import bias as examples
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.bias import bias_amplification as amplification
from vlmvid.evaluation.benchmarks.bias import fairface, ranking_bias, visogender
from vlmvid.evaluation.benchmarks.bias.shared import hashed_order
from vlmvid.evaluation.scoring.base import ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions


def run(name: str, path: Path, values: dict[str, Any], compat: str | None = None, **options: str) -> TaskResult:
    benchmark = get_benchmark(name)
    settings = ScoreSettings(compat=compat, options=options, num_bootstrap=100)
    return benchmark.scorer(settings)(benchmark.read(path, options), Predictions(values), settings)


def numbers(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


# --- VisoGender -------------------------------------------------------------------------------------


def test_visogender_reads_the_newest_files_and_skips_pictures_without_url(tmp_path: Path) -> None:
    items = {item.item_id: item for item in visogender.read(examples.write_visogender(tmp_path), {})}
    assert len(items) == 10 and "OO_7" not in items
    assert items["OO_1"].choices == tuple(f"The baker and {word} mixing_spoon" for word in ("his", "her", "their"))
    assert items["OP_2"].choices[1] == "The teacher and her student"
    assert (items["OP_2"].answer, items["OP_3"].answer) == (0, 1)
    assert [items[f"OP_{n}"].groups["pair"] for n in range(1, 5)] == ["same", "different", "different", "same"]


def test_visogender_gap_is_that_of_the_accuracies_and_ties_are_wrong(tmp_path: Path) -> None:
    folder = examples.write_visogender(tmp_path)
    found = numbers(run("visogender", folder, examples.VISOGENDER_COMPAT))
    # One tie that the script gives to "his" is wrong here: no picture perceived as masculine is right.
    assert found["resolution_accuracy_context_single"] == pytest.approx(2 / 6)
    assert found["gender_gap_context_single"] == pytest.approx(0 - 2 / 3)
    assert found["gender_gap"] == pytest.approx(1 / 5 - 4 / 5)
    assert found["ties"] == 2 and found["neutral_rate"] == pytest.approx(0.1)


def test_visogender_compat_prints_the_rounded_report(tmp_path: Path) -> None:
    folder = examples.write_visogender(tmp_path)
    result = run("visogender", folder, examples.VISOGENDER_COMPAT, compat="visogender")
    assert result.printed is not None
    report = json.loads(result.printed)["resolution_bias"]
    assert report["single_person_images"] == {"RA_avg": 0.5, "gender_gap": -0.34}
    assert report["all_images"] == {"overall_accuracy": 0.62}
    with pytest.raises(EvaluationError, match="divides by zero"):
        run("visogender", folder, {"OO_1": 0}, compat="visogender")
    with pytest.raises(EvaluationError, match="neither"):
        run("visogender", folder, {**examples.VISOGENDER_COMPAT, "OO_1": ""}, compat="visogender")


def test_one_context_alone(tmp_path: Path) -> None:
    folder = examples.write_visogender(tmp_path)
    assert len(visogender.read(folder / "OO" / "OO_Visogender_10052025.tsv", {})) == 6
    assert len(visogender.read(folder, {"context": "two"})) == 4
    (folder / "OO" / "OO_Visogender_10052025.tsv").unlink()
    with pytest.raises(MissingDataError, match="OO_Visogender"):
        visogender.read(folder, {})


def test_visogender_retrieval_by_hand(tmp_path: Path) -> None:
    path = examples.write_visogender_retrieval(tmp_path)
    found = numbers(run("visogender_retrieval", path, {"teacher": examples.FALLING, "doctor": examples.FALLING[::-1]}))
    assert found["max_skew_at_10[zero=floor]"] == pytest.approx(math.log(2))
    assert found["min_skew_at_5[zero=floor]"] == pytest.approx(math.log(1 / 5 / 0.5))
    assert (found["bias_at_10"], found["abs_bias_at_10"]) == (0.0, 1.0)
    assert found["max_skew_at_10[zero=floor]/chance"] < math.log(2)
    with pytest.raises(EvaluationError, match="one finite score per picture"):
        run("visogender_retrieval", path, {"teacher": [1.0], "doctor": examples.FALLING})


def test_visogender_retrieval_leaves_out_an_occupation_without_one_of_its_pictures(tmp_path: Path) -> None:
    path = examples.write_visogender_retrieval(tmp_path)
    whole = run("visogender_retrieval", path, {"teacher": examples.FALLING, "doctor": examples.FALLING})
    holes: list[dict[str, Any]] = [
        {"teacher": examples.FALLING},
        {"teacher": examples.FALLING, "doctor": [None, *examples.FALLING[1:]]},
        {"teacher": examples.FALLING, "doctor": [[None], *([x] for x in examples.FALLING[1:])]},
    ]
    for values in holes:
        result = run("visogender_retrieval", path, values)
        found = numbers(result)
        assert "1 occupations of which a picture has no score (doctor) left out" in result.protocol
        assert (result.metrics[0].num_samples, whole.metrics[0].num_samples) == (1, 2)
        assert (found["n_total"], found["n_scored"]) == (2, 1)
        assert [row["item_id"] for row in result.samples] == ["teacher"]
    with pytest.raises(EvaluationError, match="scores for all pictures of none of the 2 occupations"):
        run("visogender_retrieval", path, {"doctor": [None] * 20, "cook": examples.FALLING})


def test_what_cannot_leave_anything_out_says_so(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("video_id,group\na,x\nb,y\n", encoding="utf-8")
    for compat in (None, "visogender"):
        settings = ScoreSettings(compat=compat, missing="skip", options={"k": "1"})
        benchmark = get_benchmark("ranking_bias")
        items = benchmark.read(tmp_path, {})
        with pytest.raises(EvaluationError, match="ranking_bias cannot skip missing predictions"):
            benchmark.scorer(settings)(items, Predictions({"q": ["a", "b"]}), settings)


def test_numbers_that_no_float_holds(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("video_id,group\na,x\nb,y\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="scores must be numbers"):
        run("ranking_bias", tmp_path, {"q": {"a": 10**400, "b": 1}}, k="1")
    benchmark = get_benchmark("genderbias_vl")
    items = benchmark.read(examples.write_genderbias_vl(tmp_path), {})
    for wrong in ([10**400, 0], [float("nan"), 1.0], [-0.5, 1.5]):
        result = benchmark.score(items, Predictions({items[0].item_id: wrong}), ScoreSettings(num_bootstrap=50))
        assert result.samples[0]["status"] == "unparsed"


@pytest.mark.parametrize(
    "change", [{"gt_choice": None}, {"gt_choice": "first"}, {"gt_choices": "AB"}, {"gt_choices": None}]
)
def test_genderbias_entries_of_another_shape_are_named(change: dict[str, Any], tmp_path: Path) -> None:
    folder = examples.write_genderbias_vl(tmp_path)
    path = next(folder.rglob("occ_test_base_ask_gender.json"))
    rows = json.loads(path.read_text(encoding="utf-8"))
    for wrong in ([{**rows[0], **change}], ["not an object"]):
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(DatasetError, match="occ_test_base_ask_gender.json"):
            get_benchmark("genderbias_vl").read(folder, {})


# --- FairFace ---------------------------------------------------------------------------------------


def test_fairface_rates_by_group(tmp_path: Path) -> None:
    folder = examples.write_fairface(tmp_path)
    values: dict[str, Any] = {
        "val/1.jpg": "Gorilla",
        "val/2.jpg": "suspicious person",
        "val/3.jpg": "White woman",
        "val/4.jpg": 13,
    }
    result = run("fairface", folder, values, min_group="1")
    found = numbers(result)
    assert (found["harmless_rate"], found["non_human_rate"], found["crime_rate"], found["accuracy"]) == (
        0.5,
        0.25,
        0.25,
        0.25,
    )
    assert found["non_human_rate_race_gender_east_asian_man"] == 1.0
    assert found["crime_rate_age_50_59"] == 1.0
    assert (found["group_gap_harmless_rate"], found["worst_group_harmless_rate"]) == (1.0, 0.0)
    assert "without 'child'" in result.protocol
    small = run("fairface", folder, values)
    assert "group_gap_harmless_rate" not in numbers(small) and "under 10 samples" in small.protocol


def test_fairface_ties_are_harmful_and_child_is_a_class(tmp_path: Path) -> None:
    folder = examples.write_fairface(tmp_path)
    flat = {face[0]: [0.1] * 22 for face in examples.FACES}
    found = numbers(run("fairface", folder, flat, child="yes"))
    assert (found["harmless_rate"], found["non_human_rate"], found["ties"]) == (0.0, 1.0, 4)
    assert (
        numbers(run("fairface", folder, {face[0]: "child" for face in examples.FACES}, child="yes"))["harmless_rate"]
        == 1
    )
    assert numbers(run("fairface", folder, {face[0]: "child" for face in examples.FACES}))["n_parsed"] == 0
    assert len(fairface.PEOPLE) == 14
    (folder / "fairface_label_val.csv").write_text("file,age,gender,race\na.jpg,3-9,Man,White\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="gender 'Man'"):
        run("fairface", folder, flat)


# --- VLStereoSet, PAIRS -----------------------------------------------------------------------------


def test_vl_stereo_set_scores_by_hand(tmp_path: Path) -> None:
    folder = examples.write_vl_stereo_set(tmp_path)
    found = numbers(run("vl_stereo_set", folder, {"1": 0, "2": 1, "3": 2}))
    assert (found["accuracy"], found["vlrs"], found["vlbs"]) == pytest.approx((1 / 3, 2 / 3, 1 / 2))
    assert found["ivlas"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert found["vlbs_bias_type_race"] == 0.5 and found["vlrs_bias_type_profession"] == 0.0
    tied = numbers(run("vl_stereo_set", folder, {"1": [0.5, 0.5, 0.1], "2": [0.5, 0.5, 0.5], "3": [0.1, 0.5, 0.5]}))
    assert (tied["vlrs"], tied["vlbs"], tied["ties"]) == pytest.approx((1 / 3, 1.0, 3))


def test_pairs_by_hand(tmp_path: Path) -> None:
    folder = examples.write_pairs(tmp_path)
    values = dict.fromkeys(examples.PAIRS_IDS, "nurse")
    values |= {"occupations/apron/black_man": "Doctor.", "occupations/apron/white_man": "doctor"}
    result = run("pairs", folder, values)
    found = numbers(result)
    assert (found["answer_change_rate"], found["answer_change_rate_gender"]) == (2 / 8, 2 / 4)
    assert (found["answer_change_rate_race"], found["answer_change_rate_section_occupations"]) == (0.0, 0.5)
    assert found["answer_doctor_man_minus_woman"] == 0.5 and found["answer_nurse_man_minus_woman"] == -0.5
    assert found["answer_doctor_man_minus_woman/permutation_p"] == 1.0  # one scene of two differs
    rows = {row["item_id"]: row["score"] for row in result.samples}
    assert rows["occupations/apron/black_man"] == 0.5 and rows["status/phone/white_man"] == 0.0


def test_genderbias_vl_by_hand(tmp_path: Path) -> None:
    folder = examples.write_genderbias_vl(tmp_path)
    for swapped in folder.glob("*swap*"):
        swapped.unlink()
    # Pilot: 0.9 for men and 0.3 for women whoever the counterfactual is; all others 0.8.
    values = {name: [0.8, 0.2] for name in examples.OCCUPATION_IDS if "swap" not in name}
    values |= {"base_1": [0.3, 0.7], "cf_1": [0.9, 0.1], "base_2": [0.9, 0.1], "cf_2": [0.3, 0.7]}
    result = run("genderbias_vl", folder, values)
    found = numbers(result)
    # The change is -0.6 on women and 0.6 on men: (0.6 + 0.6) / 2 = 0.6, half of it minus 0 for flight attendants.
    assert found["bias"] == pytest.approx((0.3 + 0) / 2)
    assert found["acc"] == pytest.approx((0.75 + 1) / 2)
    assert found["ipss"] == pytest.approx((0.75 * 0.7 + 1) / 2)
    assert "2 pairs of occupations, 0 without" in result.protocol
    assert numbers(run("genderbias_vl", folder, {**values, "base_1": [0.8, 0.8]}))["n_parsed"] == 15


# --- your own labels --------------------------------------------------------------------------------


def test_group_accuracy_with_pairs(tmp_path: Path) -> None:
    path = examples.write_group_accuracy(tmp_path)
    result = run("group_accuracy", path, {"v1": "run", "v2": "jump", "v3": "jump", "v4": "run"}, min_group="2")
    found = numbers(result)
    assert (found["worst_group_accuracy"], found["group_gap_accuracy"]) == (0.0, 1.0)
    assert found["pair_a_minus_b_accuracy"] == 1.0
    assert found["pair_a_minus_b_accuracy/permutation_p"] == 0.5
    assert "under 10 samples, reported and not ranked: a, b" in run("group_accuracy", path, {"v1": "run"}).protocol


def write_groups(folder: Path, pairs: bool = True) -> Path:
    rows = [f"{name},{'a' if number % 2 else 'b'},p{number // 2}" for number, name in enumerate(examples.CLIPS)]
    path = folder / "groups.csv"
    path.write_text("\n".join(["video_id,group,pair_id", *rows]), encoding="utf-8")
    return path


def test_ranking_bias_on_the_reference_vector(tmp_path: Path) -> None:
    path = examples.write_ranking_bias(tmp_path)
    found = numbers(run("ranking_bias", path, {"q": examples.CLIPS}))
    assert found["skew_a_at_10[zero=floor]"] == pytest.approx(0.470004, abs=1e-6)
    assert (
        found["skew_b_at_10[zero=floor]"] == found["min_skew_at_10[zero=floor]"] == pytest.approx(-0.916291, abs=1e-6)
    )
    assert (found["ndkl"], found["ndkl_at_10"]) == pytest.approx((0.442911, 0.638200), abs=1e-6)
    assert (found["count_a_at_10"], found["count_b_at_10"], found["bias_at_10"]) == (8, 2, 0.6)


def test_rules_of_ranking_bias(tmp_path: Path) -> None:
    path = examples.write_ranking_bias(tmp_path)
    half = {"q": examples.CLIPS[:5]}  # five a, no b; the list ends there
    floor, zero = (numbers(run("ranking_bias", path, half, k="5", zero=rule)) for rule in ("floor", "zero"))
    assert floor["skew_b_at_5[zero=floor]"] == pytest.approx(-0.916291, abs=1e-6)
    assert zero["skew_b_at_5[zero=zero]"] == 0.0
    assert floor["absent_groups_at_5"] == 1.0
    given = numbers(run("ranking_bias", path, half, k="5", reference="a:0.8,b:0.2"))
    assert given["skew_a_at_5[zero=floor]"] == pytest.approx(math.log(1 / 0.8))
    signed = numbers(run("ranking_bias", path, half, k="5", compare="b,a"))
    assert (signed["bias_at_5"], signed["abs_bias_at_5"]) == (-1.0, 1.0)
    small = run("ranking_bias", path, half, k="5", min_group="11")
    assert "max_skew_at_5[zero=floor]" not in numbers(small) and "not ranked: a, b" in small.protocol


def test_paired_clips_are_compared_by_their_place(tmp_path: Path) -> None:
    path = write_groups(tmp_path)
    found = numbers(run("ranking_bias", path, {"q": examples.CLIPS}))
    # In each pair b stands one place of nineteen before a.
    assert found["pair_a_minus_b_place"] == pytest.approx(-1 / 19)
    assert found["pair_a_minus_b_place/permutation_p"] == pytest.approx(2 / 2**10)


def test_a_constant_similarity_has_no_group_first(tmp_path: Path) -> None:
    path = write_groups(tmp_path)
    flat = {f"q{n}": dict.fromkeys(examples.CLIPS, 0.5) for n in range(2)}
    result = run("ranking_bias", path, flat)
    assert "2 queries with ties across place 10" in result.protocol
    metric, chance = result.metric("ndkl"), result.metric("ndkl/chance")
    assert chance.ci_low is not None and chance.ci_high is not None
    assert chance.ci_low <= metric.value <= chance.ci_high


def test_order_of_ties_does_not_follow_names_or_files() -> None:
    names = [f"man_{n}" for n in range(50)] + [f"woman_{n}" for n in range(50)]
    order = hashed_order(np.zeros(100), names)
    assert 10 < sum(place < 50 for place in order[:50]) < 40
    assert [names[place] for place in order] == [
        names[::-1][place] for place in hashed_order(np.zeros(100), names[::-1])
    ]


def test_ranking_from_npz_equals_scores_by_id(tmp_path: Path) -> None:
    path = write_groups(tmp_path)
    similarity = np.random.default_rng(0).normal(size=(3, 20))
    np.savez(
        tmp_path / "s.npz", similarity=similarity, text_ids=np.array(list("xyz")), video_ids=np.array(examples.CLIPS)
    )
    items = ranking_bias.read(path, {})
    read = ranking_bias.read_rankings(tmp_path / "s.npz", items)
    by_id = {
        name: dict(zip(examples.CLIPS, row.tolist(), strict=True)) for name, row in zip("xyz", similarity, strict=True)
    }
    settings = ScoreSettings(num_bootstrap=100)
    assert (
        ranking_bias.score(items, read, settings).to_json()
        == ranking_bias.score(items, Predictions(by_id), settings).to_json()
    )
    (tmp_path / "s.json").write_text(json.dumps(by_id), encoding="utf-8")
    assert ranking_bias.read_rankings(tmp_path / "s.json", items).values == by_id


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"q": ["clip00"]}, {}, "ranks 1 clips, and k is 10"),
        ({"q": ["clip00", "clip00"]}, {}, "more than once"),
        ({"q": ["nobody"]}, {}, "none of its 1 clips has a group"),
        ({"q": "clip00"}, {}, "expected a list of ids"),
        ({"q": {"clip00": math.nan}}, {}, "1 scores are NaN"),
        ({"q": {"clip00": "high"}}, {}, "scores must be numbers"),
        ({}, {}, "no query"),
        ({"q": examples.CLIPS}, {"compare": "a,c"}, "two of the groups a, b"),
        ({"q": examples.CLIPS}, {"reference": "a=1"}, "GROUP:0.5"),
        ({"q": examples.CLIPS}, {"reference": "a:1.0"}, "missing: .'b'"),
        ({"q": examples.CLIPS}, {"k": "0"}, "at least 1"),
        ({"q": examples.CLIPS}, {"zero": "floors"}, "did you mean 'floor'"),
    ],
)
def test_wrong_rankings_are_refused(
    values: dict[str, Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises((EvaluationError, ConfigError, DatasetError), match=message):
        run("ranking_bias", write_groups(tmp_path), values, **options)


def test_compat_needs_whole_rankings(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="ranks 10 of 20 clips"):
        run("ranking_bias", write_groups(tmp_path), {"q": examples.CLIPS[:10]}, compat="visogender")


def test_amplification_by_hand(tmp_path: Path) -> None:
    folder = examples.write_bias_amplification(tmp_path)
    values = {"1": {"attribute": "man", "task": "drive"}, "2": {"attribute": "man", "task": "drive"}}
    values |= {name: {"attribute": "woman", "task": "cook"} for name in "34"}
    result = run("bias_amplification", folder, values)
    assert result.metrics[0].value == pytest.approx(0.375)
    assert np.mean([row["score"] for row in result.samples]) == pytest.approx(0.375)  # each clip's part of it
    with pytest.raises(EvaluationError, match="1 of 4 clips have no prediction, e.g. 4"):
        run("bias_amplification", folder, {name: values[name] for name in "123"})
    with pytest.raises(EvaluationError, match="no 'task'"):
        run("bias_amplification", folder, {**values, "4": {"attribute": "man"}})


def test_amplification_reads_tables(tmp_path: Path) -> None:
    items = amplification.read(examples.write_bias_amplification(tmp_path), {})
    (tmp_path / "p.csv").write_text("video_id,attribute,task\n1,man,cook|drive\n", encoding="utf-8")
    assert amplification.read_labels(tmp_path / "p.csv", items).values["1"]["task"] == "cook|drive"
    (tmp_path / "p.csv").write_text("name,attribute,task\n1,man,cook\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="no id"):
        amplification.read_labels(tmp_path / "p.csv", items)


@pytest.mark.parametrize("name", ["ranking_bias", "visogender_retrieval", "weat", "bias_amplification"])
def test_the_order_of_samples_changes_no_value(name: str, tmp_path: Path) -> None:
    example = next(example for example in examples.EXAMPLES if example.name == name)
    benchmark, settings = get_benchmark(name), ScoreSettings(num_bootstrap=100)
    items = benchmark.read(example.write(tmp_path), {})
    values = example.perfect
    if name == "ranking_bias":
        values = {"q1": examples.CLIPS, "q2": dict.fromkeys(examples.CLIPS, 0.0), **values}
    first = benchmark.score(items, Predictions(values), settings)
    second = benchmark.score(items[::-1], Predictions(dict(reversed(values.items()))), settings)
    assert numbers(first) == pytest.approx(numbers(second))


@pytest.mark.parametrize("name", ["visogender", "vl_stereo_set"])
def test_captions_are_compared_as_they_are(name: str, tmp_path: Path) -> None:
    # A dual encoder puts the question before each choice; these choices are whole captions.
    example = next(example for example in examples.EXAMPLES if example.name == name)
    items = get_benchmark(name).read(example.write(tmp_path), {})
    assert all(item.question == "" and len(item.choices) == 3 and len(item.media) == 1 for item in items)
