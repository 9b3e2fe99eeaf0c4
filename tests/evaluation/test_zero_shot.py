from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.evaluation.examples import zero_shot as examples
from vlmvid.config.evaluation_options import ClassificationConfig
from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.answers.label import RankedScores, chosen_label, is_undecided, plain_label, ranked
from vlmvid.evaluation.base import EvaluationData
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.prompts import TEMPLATES, class_embeddings, prompts, read_templates, templates_of
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.tasks import TASKS
from vlmvid.metrics.classification import (
    ensemble,
    label_places,
    mean_per_class,
    mean_per_class_result,
    per_class_accuracy,
)
from vlmvid.types import Clip

SETTINGS = ScoreSettings(num_bootstrap=100)
ITEM = Item("a", "a", 0, choices=("brush hair", "hot dog", "dog", "YoYo", "7"))


@given(st.integers(0, 500), st.integers(1, 4))
def test_top_k_is_the_definition(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (6, 4)).astype(float), rng.integers(0, 4, 6)
    expected = [sum(score >= row[label] for score in row) <= k for row, label in zip(scores, labels, strict=True)]
    assert (label_places(scores, labels) < k).tolist() == expected


def test_constant_scores_are_right_nowhere() -> None:
    scores, labels = np.zeros((3, 10)), [0, 4, 9]
    assert label_places(scores, labels).tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("scores", "labels"), [([[1.0, float("nan")]], [0]), ([[1.0, 2.0]], [2]), ([[1.0, 2.0]], [0, 1]), ([1.0], [0])]
)
def test_wrong_scores_are_refused(scores: list[list[float]], labels: list[int]) -> None:
    with pytest.raises(EvaluationError):
        label_places(scores, labels)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_the_mean_over_classes_is_the_definition(samples: list[tuple[bool, int]]) -> None:
    by_class: dict[int, list[bool]] = {}
    for correct, label in samples:
        by_class.setdefault(label, []).append(correct)
    expected = np.mean([np.mean(values) for values in by_class.values()])
    correct, labels = [one for one, _ in samples], [label for _, label in samples]
    assert mean_per_class(correct, labels) == pytest.approx(expected)
    assert np.isnan(per_class_accuracy(correct, labels, 9)[8])


def test_the_mean_over_classes_weighs_them_alike() -> None:
    correct, labels = [True] * 9 + [False], [0] * 9 + [1]
    result = mean_per_class_result("m", correct, labels, num_bootstrap=200, seed=0)
    assert result.value == 0.5 and result.num_samples == 2
    assert result.ci_low is not None and result.ci_low <= 0.5
    sure = mean_per_class_result("m", [True] * 5, [0, 0, 1, 1, 1], num_bootstrap=200, seed=0)
    assert sure.value == 1 and sure.ci_high == 1 and sure.ci_low is not None and sure.ci_low < 0.7


def test_an_ensemble_is_a_mean_of_directions() -> None:
    found = ensemble([[3.0, 0.0], [0.0, 0.5], [0.0, 2.0]], [0, 0, 1])
    assert found == pytest.approx(np.array([[np.sqrt(0.5), np.sqrt(0.5)], [0, 1]]), abs=1e-6)
    for rows, owners, words in (
        ([[0.0, 0.0]], [0], "norm 0"),
        ([[1.0, 0.0]], [1], "class 0 has no prompt"),
        ([[1.0, 0.0], [-1.0, 0.0]], [0, 0], "norm 0"),
        ([[1.0]], [0, 1], "owner"),
    ):
        with pytest.raises(EvaluationError, match=words):
            ensemble(rows, owners)


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    rows = np.array([[text.count("dog"), text.count("cat"), 1 + text.count("photo")] for text in texts], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_class_embeddings_average_their_prompts() -> None:
    asked: list[str] = []

    def record(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return embed(texts)

    found = class_embeddings(["dog", ("cat", "kitten")], ["a {}", "a photo of a {}"], record)
    expected = [
        embed(["a dog", "a photo of a dog"]).mean(axis=0),
        embed(["a cat", "a photo of a cat", "a kitten", "a photo of a kitten"]).mean(axis=0),
    ]
    assert found == pytest.approx(np.array([row / np.linalg.norm(row) for row in expected]), abs=1e-6)
    assert len(asked) == len(set(asked)) == 6
    assert prompts(["{x}"], ["a {}"]) == (["a {x}"], [0])


def test_names_that_are_equal_tie_exactly() -> None:
    found = class_embeddings(["dog", "cat", "dog"], TEMPLATES["image"], embed)
    assert (found[0] == found[2]).all()


def test_templates_come_from_lists_and_files(tmp_path: Path) -> None:
    for templates in TEMPLATES.values():
        assert all(template.count("{}") == 1 for template in templates)
        assert len(set(templates)) == len(templates)
    path = tmp_path / "own.txt"
    path.write_text("\ufeffa clip of {}\n\nsomebody is {}\n", encoding="utf-8")
    assert read_templates(str(path)) == ("a clip of {}", "somebody is {}")
    for text in ("no place\n", "{} and {}\n", "\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"own\.txt"):
            read_templates(str(path))
    path.write_bytes(b"\xff{}")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_templates(str(path))
    with pytest.raises(MissingDataError, match="did you mean 'image'"):
        read_templates("imagee")
    with pytest.raises(ConfigError, match="no class"):
        class_embeddings([], ["{}"], embed)
    with pytest.raises(ConfigError, match="0 places"):
        class_embeddings(["dog"], ["a dog"], embed)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("brush_hair", 0),
        ("BrushHair", 0),
        ("They brush hair.", 0),
        ("A hot dog!", 1),  # the longer name hides "dog"
        ("dog", 2),
        ("A hot dog or a dog", None),
        ("dogs", None),
        ("yo yo", 3),
        (3, 3),
        ("3", 3),
        (7, 4),  # a class is called 7
        (9, None),
        (-1, None),
        (True, None),
        (None, None),
        ("", None),
        ([0, 1, 0.5, 0, 0], 1),
        ([1, 1, 0, 0, 0], (0, 1)),
        ([0, 1], None),
        ([0, 1, 0, 0, float("nan")], None),
        ({"a": 1}, None),
    ],
)
def test_labels_are_read(raw: object, expected: object) -> None:
    assert chosen_label(raw, ITEM) == expected


def test_scores_are_kept_as_what_counts() -> None:
    assert ranked([0, 1, 1, 0.5, 0], ITEM) == RankedScores((1, 2), 4)
    assert ranked([3, 1, 1, 0.5, 3], ITEM) == RankedScores((0, 4), 1)
    assert ranked([3, 1, 1, 0.5, 2], ITEM) == RankedScores(0, 0)
    for raw in ("dog", 3, [1, 2], [True, 0, 0, 0, 0], [float("nan")] * 5, None):
        assert ranked(raw, ITEM) is raw


def test_confidences_go_with_scores() -> None:
    items, values = labelled(10, 3)
    sure = {key: {"answer": value, "confidence": 0.5} for key, value in values.items()}
    plain, found = (get_benchmark("classification").score(items, Predictions(v), SETTINGS) for v in (values, sure))
    assert found.metric("top5_accuracy") == plain.metric("top5_accuracy")
    assert found.metric("accuracy") == plain.metric("accuracy")


def test_a_shared_name_decides_nothing() -> None:
    item = Item("a", "a", 0, choices=("crane", "tench", "crane"))
    assert chosen_label("a crane", item) == (0, 2)
    assert is_undecided("crane", item) and not is_undecided("tench", item)
    assert chosen_label(2, item) == 2


@given(st.text(max_size=30))
@example("\u0130")  # becomes two characters in small letters
def test_reading_a_label_never_fails(text: str) -> None:
    found = chosen_label(text, ITEM)
    assert found is None or isinstance(found, int)
    assert plain_label(plain_label(text)) == plain_label(text)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_every_name_that_is_not_shared_is_found(names: list[str]) -> None:
    item = Item("a", "a", 0, choices=tuple(names))
    plain = [plain_label(name) for name in names]
    for index, name in enumerate(names):
        if plain.count(plain[index]) == 1:
            assert chosen_label(name, item) == index


def labelled(num: int, seed: int) -> tuple[list[Item], dict[str, object]]:
    rng = np.random.default_rng(seed)
    names = tuple(f"class {letter}" for letter in "abcdefghij")
    items = [Item(str(i), f"v{i // 2}", int(rng.integers(10)), choices=names) for i in range(num)]
    return items, {item.item_id: rng.normal(size=10).round(1).tolist() for item in items}


def test_scores_give_top_5_with_its_chance() -> None:
    items, values = labelled(40, 0)
    result = get_benchmark("classification").score(items, Predictions(values), SETTINGS)
    scores = np.array([values[item.item_id] for item in items])
    labels = [item.answer for item in items]
    places = label_places(scores, labels)
    assert result.metric("accuracy").value == pytest.approx((places < 1).mean())
    assert result.metric("top5_accuracy").value == pytest.approx((places < 5).mean())
    assert result.metric("top5_accuracy/chance").value == 0.5
    assert result.metric("accuracy/chance").value == pytest.approx(0.1)
    most = max(labels.count(label) for label in labels) / 40
    assert result.metric("accuracy/majority").value == result.metric("accuracy/constant").value == pytest.approx(most)
    # One missing: it stays in every denominator.
    fewer = get_benchmark("classification").score(items, Predictions({**dict(list(values.items())[1:])}), SETTINGS)
    assert fewer.metric("top5_accuracy").num_samples == 40


def test_names_give_no_top_5() -> None:
    items, values = labelled(10, 1)
    values["3"] = "class a"
    names = [
        metric.name for metric in get_benchmark("classification").score(items, Predictions(values), SETTINGS).metrics
    ]
    assert not any(name.startswith("top5") for name in names)


def test_ties_are_wrong_and_counted() -> None:
    items, _ = labelled(10, 2)
    result = get_benchmark("classification").score(
        items, Predictions({item.item_id: [1.0] * 10 for item in items}), SETTINGS
    )
    assert result.metric("accuracy").value == 0 and result.metric("top5_accuracy").value == 0
    assert result.metric("ties").value == 10


def test_clips_of_one_source_are_one_cluster(tmp_path: Path) -> None:
    ucf = get_benchmark("ucf101").read(examples.write_ucf101(tmp_path), {})
    assert [item.video_id for item in ucf] == ["v_ApplyEyeMakeup_g01", "v_ApplyEyeMakeup_g01", "v_YoYo_g02"]
    assert ucf[0].choices == ("apply eye makeup", "yo yo")
    assert ucf[0].media[0].name == "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
    assert "a video of a person {}." in templates_of(ucf[0])


def test_only_test_clips_of_hmdb_are_read(tmp_path: Path) -> None:
    items = get_benchmark("hmdb51").read(examples.write_hmdb51(tmp_path), {})
    assert [(item.item_id, item.answer) for item in items] == [(examples.HMDB[0], 0), (examples.HMDB[1], 1)]
    (tmp_path / "splits" / "wave_test_split1.txt").write_text("x.avi 7 \n")
    with pytest.raises(DatasetError, match="line 1"):
        get_benchmark("hmdb51").read(tmp_path, {})


@pytest.mark.parametrize(
    ("name", "file", "text", "words"),
    [
        ("kinetics", "annotations/val.csv", "label,youtube_id,time_start,time_end,split\na,b,x,2,val\n", "line 2"),
        ("ucf101", "testlist01.txt", "v_ApplyEyeMakeup_g01_c01.avi\n", "line 1"),
        ("ucf101", "testlist01.txt", "Archery/v_Archery_g01_c01.avi\n", "'Archery' is none of the 2"),
        ("ssv2_labels", "something-something-v2-labels.json", '{"Holding something": "3"}', "0 to 0"),
        ("ssv2_labels", "something-something-v2-validation.json", '[{"id": "1", "template": "Eating"}]', "'Eating'"),
        ("imagenet", "val.txt", "a.JPEG 3\n", "index below 3"),
        ("classification", "labels.csv", "id,label\na,cow\n", "'cow' is none of the 3"),
        ("classification", "classes.txt", "cat\ncat\n", "cat more than once"),
        ("concept_frequency", "captions.txt", "\n", "empty"),
    ],
)
def test_wrong_annotations_are_named(name: str, file: str, text: str, words: str, tmp_path: Path) -> None:
    chosen = next(one for one in examples.EXAMPLES if one.name == name)
    place = chosen.write(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DatasetError, match=words):
        get_benchmark(name).read(place, {})


def test_a_file_of_classes_can_be_named(tmp_path: Path) -> None:
    examples.write_labels(tmp_path)
    (tmp_path / "other.txt").write_text("cat\nhot dog\ndog\nbird\n")
    items = get_benchmark("classification").read(tmp_path, {"classes": "other.txt"})
    assert [item.answer for item in items] == [2, 0, 2, 2]
    with pytest.raises(MissingDataError, match="nowhere"):
        get_benchmark("classification").read(tmp_path, {"classes": "nowhere.txt"})
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "labels.csv").write_text("id,label\na,dog\nb,cat\n")
    assert get_benchmark("classification").read(tmp_path, {})[0].choices == ("cat", "dog")


def test_imagenet_takes_better_names(tmp_path: Path) -> None:
    examples.write_imagenet(tmp_path)
    own = tmp_path / "names.txt"
    own.write_text("tench\ncrane bird\nconstruction crane\n")
    items = get_benchmark("imagenet").read(tmp_path, {"classes": str(own)})
    assert items[0].choices == ("tench", "crane bird", "construction crane") and items[0].answer == 1


def evaluation_data(actions: Sequence[str | None]) -> EvaluationData:
    directions = {"dog": [1.0, 0.0, 0.0], "cat": [0.0, 1.0, 0.0], None: [0.0, 0.0, 1.0]}
    clips = tuple(
        Clip(video_id=f"v{i}", path="x.mp4", attributes={"action": name} if name else {})
        for i, name in enumerate(actions)
    )
    return EvaluationData(clips, np.array([directions[name] for name in actions], dtype=np.float32), embed)


def test_the_task_classifies_own_clips() -> None:
    data = evaluation_data(["dog", "cat", "dog", None])
    result = TASKS.get("classification")(data, EvaluateConfig(num_bootstrap=100))
    assert result.metric("accuracy").value == 1 and result.metric("accuracy").num_samples == 3
    assert result.metric("accuracy/majority").value == pytest.approx(2 / 3)
    assert result.metric("accuracy/chance").value == 0.5
    assert "1 clips without the attribute" in result.protocol
    assert [row["predicted"] for row in result.samples] == ["dog", "cat", "dog"]


def test_the_task_needs_two_classes() -> None:
    with pytest.raises(EvaluationError, match="at least two values of the attribute 'action'"):
        TASKS.get("classification")(evaluation_data(["dog", "dog"]), EvaluateConfig())


def test_the_config_of_the_task() -> None:
    config = ClassificationConfig(attribute="label", templates=("a {}",), names={"d": "dog"})
    assert config.names == {"d": "dog"}
    with pytest.raises(ValueError, match="attribute"):
        ClassificationConfig(attribute="")
