from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.examples.captioning import CHAIR_ANSWERS, dump, write_chair
from vlmvid.errors import DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.hallucination.chair_script import script_objects, singular, treebank_words
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.files import ScoreFiles, score_files
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics.objects import build_vocabulary, chair_counts, chair_i, find_mentions, object_recall, plurals

SETTINGS = ScoreSettings(num_bootstrap=100)
CHAIR = get_benchmark("chair")
LINES = [["dog", "puppy"], ["hot dog"], ["bus"], ["knife"], ["person", "Man", " woman "], ["skis", "ski"]]


def names(text: str, lines: Sequence[Sequence[str]] = LINES) -> list[str]:
    return [mention.object for mention in find_mentions(text, build_vocabulary(lines))]


def run(items: list[Item], values: dict[str, Any], settings: ScoreSettings = SETTINGS) -> TaskResult:
    return CHAIR.scorer(settings)(items, Predictions(values), settings)


def numbers(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog and two puppies.", ["dog", "dog"]),
        ("hot dogs", ["hot dog"]),
        ("a hot-dog stand", ["hot dog"]),
        ("a dog-friendly bus", ["bus"]),
        ("Buses, knives; the man's women", ["bus", "knife", "person", "person"]),
        ("a businessman", []),
        ("people on SKIS", ["person", "skis"]),
        ("", []),
    ],
)
def test_mentions(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dog", ("dogs",)),
        ("bus", ("buses",)),
        ("bench", ("benches",)),
        ("puppy", ("puppies",)),
        ("toy", ("toys",)),
        ("knife", ("knives",)),
        ("giraffe", ("giraffes",)),
        ("policeman", ("policemen",)),
        ("potato", ("potatos", "potatoes")),
        ("mouse", ("mice", "mouses")),
    ],
)
def test_plurals(word: str, expected: tuple[str, ...]) -> None:
    assert plurals(word) == expected


def test_a_name_that_is_a_plural_of_another_keeps_its_object() -> None:
    assert names("two glasses", [["glass"], ["glasses"]]) == ["glasses"]


def test_a_name_for_two_objects_is_refused() -> None:
    with pytest.raises(EvaluationError, match="'jet' for 'airplane' and for 'hose'"):
        build_vocabulary([["airplane", "jet"], ["hose", "jet"]])
    with pytest.raises(EvaluationError, match="vocabulary is empty"):
        build_vocabulary([[" "]])


words = st.lists(st.sampled_from("dog dogs hot puppy bus man red".split()), max_size=8)


@given(words)
def test_the_longest_name_from_the_left_counts(text: list[str]) -> None:
    found, place = [], 0
    while place < len(text):  # the slow way, for this vocabulary
        if text[place] == "hot" and text[place + 1 : place + 2] and text[place + 1] in ("dog", "dogs"):
            found.append("hot dog")
            place += 2
            continue
        named = {"dog": "dog", "dogs": "dog", "puppy": "dog", "bus": "bus", "man": "person"}.get(text[place])
        found += [named] if named else []
        place += 1
    assert names(" ".join(text)) == found


@given(st.lists(st.tuples(st.lists(st.sampled_from("abcd"), max_size=5), st.sets(st.sampled_from("abcd"))), max_size=5))
def test_counts_by_hand(pairs: list[tuple[list[str], set[str]]]) -> None:
    found = chair_counts([said for said, _ in pairs], [there for _, there in pairs])
    mentioned = sum(len(said) for said, _ in pairs)
    wrong = sum(1 for said, there in pairs for name in said if name not in there)
    present = sum(len(there) for _, there in pairs)
    recalled = sum(1 for said, there in pairs for name in there if name in said)
    for value, expected in (
        (chair_i(found.mentioned, found.hallucinated), wrong / mentioned if mentioned else math.nan),
        (object_recall(found.present, found.recalled), recalled / present if present else math.nan),
    ):
        np.testing.assert_equal(value, expected)


# What the script's own parts, nltk's word_tokenize and pattern's singularize, make of these; run once.
SYNONYMS = [
    line.split(", ")
    for line in (
        "person, man, woman, people, baby",
        "motorcycle, scooter,  motor bike",
        "bus, minibus",
        "train, locomotive",
        "dog, puppy, doggie",
        "bird, duck",
        "cell phone, phone, iPhone",
        "wine glass",
        "chair, seat",
        "toilet",
        "skis, ski",
        "tie, bow tie",
        "oven, stove top oven",
        "tennis racket, racket",
    )
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A bus beside two buses.", ["bus"]),
        ("a wine glass, wine glasses", ["wine glass", "wine glass"]),
        ("an iPhone on a stove top oven", ["oven"]),
        ("men and women; the people's dog", ["person", "person", "person", "dog"]),
        ("a baby bird, a passenger train, a baby", ["bird", "train", "person"]),
        ("the seat of the toilet", ["toilet"]),
        ("a toilet seat and a seat", ["toilet"]),
        ("a seat", ["chair"]),
        ("doggies in ties", []),
        ("bow ties and a bow tie", ["tie"]),
        ("a motor bike", []),
        ("a tennis racket", ["tennis racket"]),
        ("man/woman (dog) dog,duck \"phone\" 'phone'", ["dog", "dog", "bird", "cell phone", "cell phone"]),
        ("a man. A dog's duck--puppy", ["person", "dog", "bird", "dog"]),
    ],
)
def test_the_script_finds_objects_with_its_slips(text: str, expected: list[str]) -> None:
    assert script_objects(text, SYNONYMS) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bus", "bu"), ("buses", "bus"), ("glass", "glas"), ("glasses", "glass"), ("women", "woman"), ("skis", "ski"),
        ("ties", "ty"), ("cookies", "cookies"), ("knives", "knife"), ("shoes", "shoe"), ("canoes", "cano"),
        ("mice", "mouse"), ("people", "person"), ("scissors", "scissors"), ("hour", "hmy"), ("dog's", "dog'"),
        ("benches", "bench"), ("horses", "horse"), ("sheep", "sheep"), ("dogs'", "dog's"), ("police", "polouse"),
    ],
)  # fmt: skip
def test_singulars_are_those_of_pattern(word: str, expected: str) -> None:
    assert singular(word) == expected


def test_words_are_split_as_in_the_treebank() -> None:
    assert treebank_words("a man's t-shirt, don't: 3.5 *cats*... \"ok\"") == (
        ["a", "man", "'s", "t-shirt", ",", "do", "n't", ":", "3.5", "*", "cats", "*", "...", "ok", '"']
    )


def test_principled_sees_what_the_script_cannot(tmp_path: Path) -> None:
    items = CHAIR.read(write_chair(tmp_path), {})
    result = run(items, CHAIR_ANSWERS)
    # 42: dog, dog and a bus, which is not there; 73: person, motorcycle, cell phone (said by a reference) and a glass.
    found = numbers(result)
    assert found["chair_s"] == 1.0
    assert found["chair_i"] == pytest.approx(2 / 7)
    assert found["recall"] == pytest.approx(4 / 5)
    assert [row["hallucinated"] for row in result.samples] == ["bus", "wine glass"]
    assert [row["score"] for row in result.samples] == [1.0, 1.0]
    assert found["chair_s/constant"] == 0.5
    assert "chair_s/constant always names 'wine glass'" in result.protocol or "'person'" in result.protocol


def test_a_silent_model_has_no_chair_i_and_no_recall(tmp_path: Path) -> None:
    items = CHAIR.read(write_chair(tmp_path), {})
    found = numbers(run(items, {"42": "", "73": "nothing"}))
    assert found["chair_s"] == 0 and found["recall"] == 0 and found["silent"] == 1
    assert math.isnan(found["chair_i"])
    for compat in ("chair", "chair-standalone"):
        with pytest.raises(EvaluationError, match=f"{compat} divides by zero here"):
            run(items, {"42": "", "73": "nothing"}, replace(SETTINGS, compat=compat))


def test_a_missing_caption_is_one_hallucination(tmp_path: Path) -> None:
    items = CHAIR.read(write_chair(tmp_path), {})
    result = run(items, {"42": "a dog"})
    assert numbers(result)["chair_s"] == 0.5
    assert numbers(result)["chair_i"] == 0.5
    assert numbers(run(items, {"42": "a dog", "73": 5}))["n_parsed"] == 1


def test_what_the_scripts_print(tmp_path: Path) -> None:
    items = CHAIR.read(write_chair(tmp_path), {})
    assert run(items, CHAIR_ANSWERS, replace(SETTINGS, compat="chair")).printed == "CHAIRs\tCHAIRi\n50.0\t20.0"
    printed = run(items, CHAIR_ANSWERS, replace(SETTINGS, compat="chair-standalone")).printed
    assert printed == "CHAIRs    : 50.0\nCHAIRi    : 20.0\nRecall    : 60.0"
    # The scripts score the images that have a caption.
    one = run(items, {"42": CHAIR_ANSWERS["42"]}, replace(SETTINGS, compat="chair"))
    assert "1 images with a caption" in one.protocol and "1 without a prediction (73), left out" in one.protocol
    assert "wrong" not in one.protocol
    assert one.metrics[0].num_samples == 1


def test_coco_rules_go_with_coco_files(tmp_path: Path) -> None:
    folder = write_chair(tmp_path)
    text = {"42": "a passenger train beside a toilet seat", "73": "the seat of a toilet"}
    rows = run(CHAIR.read(folder, {}), text).samples
    assert [row["mentioned"] for row in rows] == ["toilet", "toilet"]
    rows = run(CHAIR.read(folder, {"rules": "none"}), text).samples
    assert [row["mentioned"] for row in rows] == ["toilet, chair", "chair, toilet"]


def test_the_users_own_objects(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("forklift, lift truck\npallet\nworker, man, woman\n", encoding="utf-8")
    dump(tmp_path / "objects.json", {"clip_1": ["lift truck", "worker"], "clip_2": ["pallet"], "clip_3": []})
    items = CHAIR.read(tmp_path, {})
    assert [item.answer for item in items] == [("forklift", "worker"), ("pallet",), ()]
    dump(tmp_path / "references.json", {"clip_3": ["Two men talk."], "clip_2": "a pallet"})
    (tmp_path / "some.txt").write_text("clip_1\nclip_3\n", encoding="utf-8")
    items = CHAIR.read(tmp_path, {"images": str(tmp_path / "some.txt")})
    result = run(items, {"clip_1": "A woman drives a forklift past pallets.", "clip_3": "men"})
    assert numbers(result)["chair_s"] == 0.5
    assert numbers(result)["chair_i"] == pytest.approx(1 / 4)
    assert "no rules for qualifiers" in result.protocol
    (tmp_path / "some.txt").write_text("clip_9\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="1 ids have no objects, e.g. clip_9"):
        CHAIR.read(tmp_path, {"images": str(tmp_path / "some.txt")})
    dump(tmp_path / "objects.json", {"clip_1": ["crane"]})
    with pytest.raises(DatasetError, match=r"1 objects are not in synonyms.txt, e.g. crane"):
        CHAIR.read(tmp_path, {})
    dump(tmp_path / "objects.json", {"clip_1": "crane"})
    with pytest.raises(DatasetError, match="expected a list of objects, got 'crane'"):
        CHAIR.read(tmp_path, {})


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no synonyms.txt .*LisaAnne/Hallucination"):
        CHAIR.read(tmp_path, {})
    (tmp_path / "synonyms.txt").write_text("dog\n", encoding="utf-8")
    with pytest.raises(MissingDataError, match=r"no instances_\*2014.json .*cocodataset"):
        CHAIR.read(tmp_path, {})
    dump(tmp_path / "instances_val2014.json", {"images": [], "annotations": []})
    with pytest.raises(DatasetError, match="'categories'"):
        CHAIR.read(tmp_path, {})


def test_the_input_of_the_script_is_read(tmp_path: Path) -> None:
    folder = write_chair(tmp_path)
    document = {
        "overall": {"CIDEr": 1.0},
        "imgToEval": {i: {"image_id": int(i), "caption": t} for i, t in CHAIR_ANSWERS.items()},
    }
    path = dump(folder / "results.json", document)
    result = score_files("chair", ScoreFiles(path, folder), replace(SETTINGS, compat="chair"))
    assert result.metric("chair_i").value == pytest.approx(1 / 5)
    path.write_text(json.dumps({"imgToEval": {"1": {"image_id": 1}}}), encoding="utf-8")
    with pytest.raises(EvaluationError, match="lacks image_id or caption"):
        score_files("chair", ScoreFiles(path, folder), SETTINGS)


def test_blind_captions_are_a_baseline(tmp_path: Path) -> None:
    items = CHAIR.read(write_chair(tmp_path), {})
    settings = replace(SETTINGS, blind=Predictions({"42": "a man", "73": "a man"}))
    assert numbers(run(items, {"42": "a dog", "73": "a man"}, settings))["chair_s/blind"] == 0.5
