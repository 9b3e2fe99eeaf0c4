"""Probes for labelled videos: what is asked, that it is balanced and true, and what constants score on it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.data.manifest import ManifestDataset, ManifestOptions
from vlmvid.data.probes import NEGATIVE_KINDS, article, with_article
from vlmvid.errors import DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation import EvaluationData, TaskResult, evaluate
from vlmvid.evaluation.probes import ProbeOptions, build_probes, probe_manifest, read_labels, write_manifest
from vlmvid.types import Clip, Question

NAMES = ("dog", "ball", "apple", "umbrella", "car", "tree")


def clip(video_id: str, objects: str = "", *captions: str, split: str = "test") -> Clip:
    return Clip.model_validate(
        {
            "video_id": video_id,
            "path": f"{video_id}.mp4",
            "split": split,
            "captions": captions,
            "attributes": {"objects": objects} if objects else {},
        }
    )


CLIPS = [
    clip("a", "dog;ball", "A dog runs after a red ball"),
    clip("b", "dog;ball;tree", "two dogs near a tree before the rain"),
    clip("c", "car;apple", "an apple on a red car"),
    clip("d", "dog;umbrella", "the dog is running"),
    clip("e", "car;dog", "a car"),
    clip("f", "", "nobody labelled this red car"),
]
worlds = st.lists(st.sets(st.sampled_from(NAMES), max_size=4), min_size=1, max_size=9).filter(any)


def of_kind(clips: Sequence[Clip], kind: str) -> dict[str, list[Question]]:
    return {c.video_id: [q for q in c.questions if q.attributes.get("negatives") == kind] for c in clips}


def labelled(objects: Sequence[set[str]]) -> list[Clip]:
    return [clip(f"v{number}", ";".join(sorted(names))) for number, names in enumerate(objects)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dog", "a dog"),
        ("apple", "an apple"),
        ("Umbrella", "an Umbrella"),
        ("unicycle", "a unicycle"),
        ("uniform", "a uniform"),
        ("utensil", "a utensil"),
        ("uncle", "an uncle"),
        ("unimpressed cat", "an unimpressed cat"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
        ("one-wheeled bike", "a one-wheeled bike"),
        ("onion", "an onion"),
        ("X-ray", "an X-ray"),
        ("euro coin", "a euro coin"),
        ("some grass", "some grass"),
        ("a pair of scissors", "a pair of scissors"),
        ("anchor", "an anchor"),
    ],
)
def test_articles(name: str, expected: str) -> None:
    assert with_article(name) == expected


@given(st.text(min_size=1))
def test_an_article_is_a_or_an(name: str) -> None:
    assert article(name) in ("a", "an")
    assert with_article(with_article(name)) == with_article(name)


def test_no_template_says_imange() -> None:
    probes = build_probes(CLIPS, ProbeOptions(noun="image"))
    questions = [q for c in probes.clips for q in c.questions if q.kind == "yes_no"]
    assert questions and all(q.question.endswith(" in the image?") for q in questions)
    assert "Is there an apple in the image?" in {q.question for q in questions}
    apple = next(q for q in questions if q.attributes["object"] == "apple")
    assert apple.statements == ("an image with an apple", "an image without an apple")


@settings(deadline=None, max_examples=60)
@given(worlds, st.integers(0, 3), st.integers(1, 4))
def test_presence_probes_are_balanced_true_and_never_repeated(
    objects: list[set[str]], seed: int, max_objects: int
) -> None:
    clips = labelled(objects)
    probes = build_probes(clips, ProbeOptions(seed=seed, max_objects=max_objects))
    present = {f"v{number}": names for number, names in enumerate(objects)}
    everything = set().union(*objects)
    for kind in NEGATIVE_KINDS:
        for video_id, questions in of_kind(probes.clips, kind).items():
            asked = [str(q.attributes["object"]) for q in questions]
            assert len(set(asked)) == len(asked)
            answers = Counter(q.answer for q in questions)
            absent = everything - present[video_id]
            assert answers["yes"] == answers["no"] == min(len(present[video_id]), max_objects, len(absent))
            for question, name in zip(questions, asked, strict=True):
                assert (question.answer == "yes") == (name in present[video_id])
    ids = [q.question_id for c in probes.clips for q in c.questions]
    assert len(set(ids)) == len(ids)
    assert sum(probes.counts.values()) == len(ids)


@settings(deadline=None, max_examples=40)
@given(worlds)
def test_popular_and_adversarial_negatives_against_counting(objects: list[set[str]]) -> None:
    probes = build_probes(labelled(objects), ProbeOptions(max_objects=4))
    often = Counter(name for names in objects for name in names)
    together = Counter(pair for names in objects for pair in permutations(names, 2))
    for number, names in enumerate(objects):
        absent = sorted(set(often) - names, key=lambda name: (-often[name], name))
        popular = [q.attributes["object"] for q in of_kind(probes.clips, "popular")[f"v{number}"] if q.answer == "no"]
        assert popular == absent[: len(names)]
        expected: list[str] = []
        for name in sorted(names)[: len(absent)]:
            left = [other for other in absent if other not in expected]
            expected.append(min(left, key=lambda other: (-together[name, other], -often[other], other)))
        found = [q.attributes["object"] for q in of_kind(probes.clips, "adversarial")[f"v{number}"] if q.answer == "no"]
        assert found == expected


def test_the_order_of_clips_changes_no_question_and_the_seed_does() -> None:
    mixed = CLIPS[:]
    random.Random(3).shuffle(mixed)
    first, second = build_probes(CLIPS, ProbeOptions()), build_probes(mixed, ProbeOptions())
    assert {c.video_id: c for c in first.clips} == {c.video_id: c for c in second.clips}
    assert [c.video_id for c in second.clips] == [c.video_id for c in mixed]
    assert build_probes(CLIPS, ProbeOptions(seed=1)).clips != first.clips


def test_clips_without_labels_are_named_and_asked_nothing_about_objects() -> None:
    probes = build_probes(CLIPS, ProbeOptions())
    assert probes.unlabelled == ("f",)
    last = probes.clips[-1]
    assert {q.attributes.get("swap") for q in last.questions} == {"colour"}


def test_a_counterfactual_changes_one_word_for_one_that_nobody_said() -> None:
    probes = build_probes(CLIPS, ProbeOptions(max_counterfactuals=9))
    found = {c.video_id: {str(q.attributes["swap"]): q for q in c.questions if q.kind == "mcq"} for c in probes.clips}
    for c in CLIPS:
        for question in found[c.video_id].values():
            assert question.answer in c.captions and question.statements == question.choices
            false = next(choice for choice in question.choices if choice != question.answer)
            words = [w for w in zip(question.answer.split(), false.split(), strict=True) if w[0] != w[1]]
            changed = [(old, new) for old, new in words if old.lower() not in ("a", "an")]
            assert len(changed) == 1 and changed[0][1].lower() not in " ".join(c.captions).lower().split()
    assert found["b"]["order"].answer.replace("before", "after") in found["b"]["order"].choices
    assert set(found["b"]) == {"number", "order", "object"}  # dogs is not the label dog, tree is
    assert set(found["d"]) == {"action", "object"}
    assert set(found["c"]) == {"colour"}  # apple and car: two objects in one caption are left alone


def test_an_order_that_another_caption_tells_is_no_counterfactual() -> None:
    clips = [
        clip("a", "", "he sits before he eats", "he sits after he eats"),
        clip("b", "dog", "he sits before he eats"),
    ]
    probes = build_probes(clips, ProbeOptions())
    assert not probes.clips[0].questions
    assert {c for q in probes.clips[1].questions for c in q.choices} == {
        "he sits before he eats",
        "he sits after he eats",
    }


def test_a_changed_word_takes_its_article_and_its_capital() -> None:
    clips = [clip("a", "dog", "A dog sits"), clip("b", "apple", "Apple on a table")]
    probes = build_probes(clips, ProbeOptions(groups=False))
    false = [
        choice
        for c in probes.clips
        for q in c.questions
        for choice in q.choices
        if q.answer not in (choice, "yes", "no")
    ]
    assert false == ["An apple sits", "Dog on a table"]


def test_groups_have_the_answers_on_the_diagonal() -> None:
    probes = build_probes(CLIPS, ProbeOptions())
    labels = {c.video_id: str(c.attributes.get("objects", "")).split(";") for c in CLIPS}
    groups: dict[str, dict[str, tuple[str, Question]]] = {}
    for c in probes.clips:
        for question in c.questions:
            if question.attributes["negatives"] == "group":
                cell = groups.setdefault(str(question.attributes["group"]), {})
                cell[str(question.attributes["cell"])] = (c.video_id, question)
    assert len(groups) == 2 and probes.counts["group"] == 8
    for cells in groups.values():
        assert set(cells) == {"q0_v0", "q0_v1", "q1_v0", "q1_v1"}
        for name, (video_id, question) in cells.items():
            assert (question.answer == "yes") == (name[1] == name[4])
            assert (question.answer == "yes") == (question.attributes["object"] in labels[video_id])
        assert cells["q0_v0"][1].question == cells["q0_v1"][1].question
        assert len({video_id for video_id, _ in cells.values()}) == 2


def test_groups_stay_within_a_split_and_other_splits_are_not_asked() -> None:
    clips = [
        clip("a", "dog"),
        clip("b", "car", split="val"),
        clip("c", "tree", split="val"),
        clip("d", "ball", split="train"),
    ]
    probes = build_probes(clips, ProbeOptions())
    assert {c.video_id for c in probes.clips if of_kind([c], "group")[c.video_id]} == {"b", "c"}
    only = build_probes(clips, ProbeOptions(split="val"))
    assert [bool(c.questions) for c in only.clips] == [False, True, True, False]


def world(clips: Sequence[Clip], embed: str) -> EvaluationData:
    """A model that knows the objects of a video ("perfect"), or that says yes whatever it sees ("yes")."""
    names = sorted({name for c in clips for name in str(c.attributes.get("objects", "")).split(";")})
    axes = {name: axis for axis, name in enumerate(names)}
    size = len(names) + 2

    def text(statement: str) -> NDArray[np.float64]:
        vector = np.zeros(size)
        name = next((name for name in names if name and statement.endswith(f" {name}")), None)
        vector[-1] = 1.0
        if name is not None:
            sign = 1 if " with " in statement else -1
            vector[axes[name] if embed == "perfect" else -2] += sign * 0.5
        return vector / np.linalg.norm(vector)

    videos = np.zeros((len(clips), size))
    for row, c in enumerate(clips):
        videos[row, -1], videos[row, -2] = 0.1, 1.0
        for name in names:
            videos[row, axes[name]] = 1.0 if name in str(c.attributes.get("objects", "")).split(";") else -1.0
    videos /= np.linalg.norm(videos, axis=1, keepdims=True)
    return EvaluationData(
        clips=tuple(clips),
        video_embeds=videos.astype(np.float32),
        embed_texts=lambda texts: np.array([text(t) for t in texts]).astype(np.float32),
    )


def run(clips: Sequence[Clip], embed: str) -> TaskResult:
    config = EvaluateConfig.model_validate({"tasks": ("hallucination",), "num_bootstrap": 100})
    return evaluate(world(clips, embed), config)[0]


def test_the_task_reads_the_probes_and_constants_get_what_chance_gets() -> None:
    clips = build_probes(CLIPS, ProbeOptions(max_counterfactuals=0)).clips
    perfect = {metric.name: metric.value for metric in run(clips, "perfect").metrics}
    constant = {metric.name: metric.value for metric in run(clips, "yes").metrics}
    for kind in NEGATIVE_KINDS:
        assert perfect[f"{kind}_accuracy"] == 1 and constant[f"{kind}_accuracy"] == 0.5
        assert constant[f"{kind}_yes_ratio"] == 1
    assert perfect["false_yes_rate"] == 0 and constant["false_yes_rate"] == 1
    units = ("group_accuracy", "group_question_accuracy", "group_video_accuracy")
    assert [perfect[name] for name in units] == [1, 1, 1]
    assert [constant[name] for name in units] == [0, 0, 0]
    assert constant["group_answer_accuracy"] == 0.5
    assert constant["group_accuracy/chance"] == 1 / 16


def test_the_task_scores_changed_captions_and_a_tie_is_wrong() -> None:
    clips = build_probes(CLIPS, ProbeOptions(max_counterfactuals=9, kinds=(), groups=False)).clips
    result = run(clips, "yes")
    found = {metric.name: metric.value for metric in result.metrics}
    assert found["counterfactual_accuracy"] == 0 and found["counterfactual_accuracy/chance"] == 0.5
    assert {"counterfactual_colour_accuracy", "counterfactual_order_accuracy"} <= found.keys()
    assert all(row["tied"] and row["label_yes"] is None and not row["correct"] for row in result.samples)


def test_a_group_without_one_of_its_videos_is_left_out() -> None:
    clips = build_probes(CLIPS, ProbeOptions()).clips
    gone = next(c.video_id for c in clips if of_kind([c], "group")[c.video_id])
    kept = [c for c in clips if c.video_id != gone]
    result = run(kept, "perfect")
    assert result.metric("group_accuracy").num_samples == 1
    assert "1 groups incomplete" in result.protocol


def test_a_manifest_with_probes_is_read_back(tmp_path: Path) -> None:
    source = tmp_path / "manifest.jsonl"
    for c in CLIPS:
        (tmp_path / c.path).write_bytes(b"")
    write_manifest(source, CLIPS)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"a": ["dog", "ball"], "b": "car;tree"}), encoding="utf-8")
    target = tmp_path / "out" / "probes.jsonl"
    probes = probe_manifest(source, target, ProbeOptions(), labels)
    assert probes.unlabelled == ("c", "d", "e", "f")
    again, defects = ManifestDataset(ManifestOptions(path=str(target))).clips(tmp_path)
    assert tuple(again) == probes.clips and not defects
    first = target.read_bytes()
    probe_manifest(source, target, ProbeOptions(), labels)
    assert target.read_bytes() == first
    with pytest.raises(DatasetError, match="has a question 'a/random/dog' already"):
        probe_manifest(target, tmp_path / "twice.jsonl", ProbeOptions(), labels)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.json", '{"a": ["dog", " big  ball "], "b": "car; tree;;car"}'),
        ("labels.csv", "video_id,objects\na,dog;big ball\nb,car;tree\n"),
        (
            "labels.jsonl",
            '{"video_id": "a", "objects": ["dog", "big ball"]}\n{"video_id": "b", "objects": "car;tree"}\n',
        ),
    ],
)
def test_files_of_labels(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_labels(path) == {"a": ("dog", "big ball"), "b": ("car", "tree")}


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="none.jsonl is no file; give the manifest") as caught:
        probe_manifest(tmp_path / "none.jsonl", tmp_path / "out.jsonl", ProbeOptions())
    assert "data.options" not in str(caught.value)


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no clip has a list of objects"):
        build_probes([clip("a")], ProbeOptions())
    with pytest.raises(DatasetError, match="kinds='nearby'; known: random, popular, adversarial"):
        build_probes(CLIPS, ProbeOptions(kinds=("nearby",)))
    path = tmp_path / "labels.jsonl"
    path.write_text('{"video": "a"}\n', encoding="utf-8")
    with pytest.raises(DatasetError, match="row 1: expected video_id and objects"):
        read_labels(path)
    odd = Question(question_id="q", task="hallucination", kind="mcq", question="?", answer="x", choices=("x", "y", "z"))
    with pytest.raises(EvaluationError, match="question 'q' of clip 'a'"):
        run([clip("a", "dog").model_copy(update={"questions": (odd,)})], "yes")
