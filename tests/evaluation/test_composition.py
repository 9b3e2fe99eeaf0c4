from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.examples import composition as examples
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.answers.matrix import NO_BEST, caption, matrix
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.composition.lettered import options_in, stem_of
from vlmvid.evaluation.benchmarks.composition.mmvp import lmms_letter
from vlmvid.evaluation.benchmarks.composition.vitatecs import shown_first
from vlmvid.evaluation.scoring.base import Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import MatrixScorer
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics.composition import first_best_scores, group_chance, group_scores

FAST = ScoreSettings(num_bootstrap=100)


def values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def item(num_media: int = 1, num_captions: int = 2, answer: Any = 0, name: str = "a") -> Item:
    return Item(
        name,
        name,
        answer,
        choices=tuple(f"caption {number}" for number in range(num_captions)),
        media=tuple(Media(str(number)) for number in range(num_media)),
    )


def score(name: str, folder: Path, predictions: dict[str, Any], **settings: Any) -> dict[str, float]:
    benchmark = get_benchmark(name)
    chosen = ScoreSettings(num_bootstrap=100, **settings)
    items = benchmark.read(folder, chosen.options)
    return values(benchmark.scorer(chosen)(items, Predictions(predictions), chosen))


# --- metrics ----------------------------------------------------------------------------------------------------------


def by_loops(scores: Any, own: Sequence[int]) -> tuple[bool, bool, bool]:
    """Winoground's definition, comparison by comparison: (text, image, tied)."""
    text = image = True
    tied = False
    for picture, column in enumerate(own):
        if column < 0:
            continue
        right = scores[picture][column]
        others = [value for place, value in enumerate(scores[picture]) if place != column]
        pictures = [row[column] for place, row in enumerate(scores) if place != picture]
        text = text and all(right > value for value in others)
        image = image and all(right > value for value in pictures)
        for rivals in (others, pictures):
            tied = tied or (bool(rivals) and right == max(rivals))
    return text, image, tied


def assignments(num_media: int, num_captions: int) -> list[list[int]]:
    """Every way to give pictures captions of their own, at least one."""
    found = itertools.product(range(-1, num_captions), repeat=num_media)
    kept = [[place for place in own if place >= 0] for own in found]
    return [
        list(own)
        for own, used in zip(itertools.product(range(-1, num_captions), repeat=num_media), kept, strict=True)
        if used and len(set(used)) == len(used)
    ]


@pytest.mark.parametrize(("num_media", "num_captions"), [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (1, 5), (3, 3)])
def test_group_scores_by_loops(num_media: int, num_captions: int) -> None:
    rng = np.random.default_rng(num_media * 10 + num_captions)
    for own in assignments(num_media, num_captions):
        scores = rng.integers(0, 3, (40, num_media, num_captions))  # many ties
        found = group_scores(scores, [own] * 40)
        for row in range(40):
            text, image, tied = by_loops(scores[row].tolist(), own)
            assert (found.text[row], found.image[row], found.group[row]) == (text, image, text and image)
            assert found.ties[row] == tied


def test_winoground_by_hand() -> None:
    # s(c, i) of the paper's formulas, pictures in rows: text compares in rows, image in columns.
    found = group_scores([[[3, 1], [2, 4]], [[3, 4], [1, 5]], [[3, 1], [4, 5]], [[1, 1], [1, 1]]], [[0, 1]] * 4)
    assert found.text.tolist() == [True, False, True, False]
    assert found.image.tolist() == [True, True, False, False]
    assert found.group.tolist() == [True, False, False, False]
    assert found.ties.tolist() == [False, False, False, True]


def test_chance_of_winoground_and_of_choices() -> None:
    assert group_chance(2, 2, 2) == pytest.approx((0.25, 0.25, 1 / 6))
    assert group_chance(1, 5, 1) == pytest.approx((0.2, 1.0, 0.2))
    assert group_chance(2, 1, 1) == pytest.approx((1.0, 0.5, 0.5))
    assert group_chance(2, 2, 1) == pytest.approx((0.5, 0.5, 1 / 3))


@pytest.mark.parametrize(
    ("shape", "own"), [((2, 2), [0, 1]), ((3, 3), [2, 0, 1]), ((2, 3), [1, -1]), ((3, 2), [0, 1, -1])]
)
def test_chance_against_counting_all_orders(shape: tuple[int, int], own: list[int]) -> None:
    size = shape[0] * shape[1]
    if size > 6:  # 9! orders take long: draw instead
        orders = np.random.default_rng(0).permuted(np.tile(np.arange(size), (200_000, 1)), axis=1)
        tolerance = 3e-3
    else:
        orders, tolerance = np.array(list(itertools.permutations(range(size)))), 1e-12
    found = group_scores(orders.reshape(-1, *shape), np.tile(own, (len(orders), 1)))
    chances = group_chance(*shape, sum(place >= 0 for place in own))
    assert [part.mean() for part in (found.text, found.image, found.group)] == pytest.approx(chances, abs=tolerance)


def test_first_best_scores_take_the_first_of_equal_ones() -> None:
    found = first_best_scores([[[5, 5], [1, 9]], [[0, 0], [0, 0]], [[1, 5], [0, 9]]])
    assert found.text.tolist() == [True, False, False]
    assert found.image.tolist() == [True, False, True]
    assert first_best_scores([[[0, 0]]]).text.tolist() == [True]


@pytest.mark.parametrize(
    ("scores", "matches"),
    [
        (np.zeros((2, 2)), [[0, 1]]),
        (np.zeros((1, 2, 2)), [[0, 0]]),
        (np.zeros((1, 2, 2)), [[0, 2]]),
        (np.zeros((1, 2, 2)), [[-1, -1]]),
        (np.full((1, 2, 2), np.nan), [[0, 1]]),
        (np.zeros((1, 0, 2)), np.zeros((1, 0))),
    ],
)
def test_wrong_matrices_are_refused(scores: Any, matches: Any) -> None:
    with pytest.raises(EvaluationError):
        group_scores(scores, matches)


def test_a_chance_without_right_pairs_is_refused() -> None:
    with pytest.raises(EvaluationError, match="1 to 2 right pairs"):
        group_chance(2, 3, 3)


# --- parsers ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_a_matrix_is_read_as_it_is(num_media: int, num_captions: int, data: Any) -> None:
    numbers = st.floats(-1, 1)
    rows = data.draw(
        st.lists(
            st.lists(numbers, min_size=num_captions, max_size=num_captions), min_size=num_media, max_size=num_media
        )
    )
    asked = item(num_media, num_captions)
    assert matrix.parse(rows, asked) == rows
    if num_media == 1:
        assert matrix.parse(rows[0], asked) == rows
    if num_captions == 1:
        assert matrix.parse([row[0] for row in rows], asked) == rows


@pytest.mark.parametrize(
    "raw",
    ["yes", 3, None, [], [[1, 2]], [[1, 2], [3]], [[1, 2], [3, float("nan")]], [[1, 2], [3, True]], [1, 2, 3, 4], {}],
)
def test_what_is_no_matrix(raw: Any) -> None:
    assert matrix.parse(raw, item(2, 2)) is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([0.1, 0.2], 1),
        ([[0.2, 0.1]], 0),
        ([0.1, 0.1], NO_BEST),
        (" Caption  1. ", 1),
        ("caption", None),
        ("A", None),
        (0, None),
        (True, None),
        ([0.1], None),
        ([0.1, float("inf")], None),
        ([], None),
        (None, None),
    ],
)
def test_captions(raw: Any, expected: int | None) -> None:
    assert caption.parse(raw, item()) == expected


# --- matrices ---------------------------------------------------------------------------------------------------------


def test_a_matrix_scorer_counts_ties_and_reports_chance() -> None:
    items = [item(2, 2, (0, 1), str(number)) for number in range(3)]
    scorer = MatrixScorer("pairs", "pairs")
    found = values(scorer(items, Predictions({"0": [[3, 1], [2, 4]], "1": [[0, 0], [0, 0]]}), FAST))
    assert found["group_score"] == found["text_score"] == found["image_score"] == pytest.approx(1 / 3)
    assert (found["ties"], found["n_parsed"], found["n_total"]) == (1, 2, 3)
    assert found["group_score/chance"] == pytest.approx(1 / 6) and found["text_score/chance"] == pytest.approx(0.25)
    assert found["group_score/constant"] == found["text_score/constant"] == 0


def test_blind_predictions_of_a_matrix() -> None:
    items = [item(2, 2, (0, 1), str(number)) for number in range(2)]
    good = [[3, 1], [2, 4]]
    settings = ScoreSettings(num_bootstrap=100, blind=Predictions({"0": good, "1": [[0, 0], [0, 0]]}))
    found = values(MatrixScorer("pairs", "pairs")(items, Predictions({"0": good, "1": good}), settings))
    assert (found["group_score"], found["group_score/blind"]) == (1.0, 0.5)


def test_winoground_groups(tmp_path: Path) -> None:
    benchmark = get_benchmark("winoground")
    items = benchmark.read(examples.write_winoground(tmp_path), {})
    assert items[0].media[1].name == "ex_0_img_1" and items[0].answer == (0, 1)
    found = values(benchmark.score(items, Predictions({"0": examples.RIGHT, "7": examples.IMAGE_ONLY}), FAST))
    assert (found["group_score"], found["text_score"], found["image_score"]) == (0.25, 0.25, 0.5)
    assert found["group_score_tag_object"] == 0.5 and found["image_score_tag_object"] == 1.0
    assert not [name for name in found if "empty" in name]


def test_a_declared_matrix_needs_its_media_columns(tmp_path: Path) -> None:
    examples.write_winoground(tmp_path)
    path = tmp_path / "data" / "examples.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("image_1", "image_2"), encoding="utf-8")
    with pytest.raises(DatasetError, match="no 'image_1'"):
        get_benchmark("winoground").read(tmp_path, {})


# --- SugarCrepe, ARO: what equal scores are worth ---------------------------------------------------------------------


def test_an_all_zero_model_on_sugar_crepe(tmp_path: Path) -> None:
    folder = examples.write_sugar_crepe(tmp_path)
    zeros = dict.fromkeys(examples.SUGAR_IDS, [0.0, 0.0])
    assert score("sugar_crepe", folder, zeros)["accuracy"] == 0
    assert score("sugar_crepe", folder, zeros)["ties"] == 8
    assert score("sugar_crepe", folder, zeros, compat="clip_benchmark")["accuracy"] == 1


def test_one_subset_of_sugar_crepe(tmp_path: Path) -> None:
    folder = examples.write_sugar_crepe(tmp_path)
    benchmark = get_benchmark("sugar_crepe")
    ids = [found.item_id for found in benchmark.read(folder, {"subset": "swap_obj"})]
    assert ids == ["swap_obj_0", "swap_obj_2"] == [i.item_id for i in benchmark.read(folder / "swap_obj.json", {})]
    (folder / "swap_obj.json").rename(folder / "mine.json")
    with pytest.raises(MissingDataError, match="swap_obj.json"):
        benchmark.read(folder, {})
    with pytest.raises(DatasetError, match="no subset"):
        benchmark.read(folder / "mine.json", {})


def test_an_all_zero_model_on_coco_order(tmp_path: Path) -> None:
    rows = [{"image": "val2014/1.jpg", "caption_options": [f"words {number}" for number in range(5)]}] * 3
    (tmp_path / "coco_order.json").write_text(json.dumps(rows), encoding="utf-8")
    options = {"subset": "coco_order"}
    zeros = dict.fromkeys("012", [0.0] * 5)
    principled = score("aro", tmp_path, zeros, options=options)
    assert (principled["accuracy"], principled["ties"]) == (0, 3)
    assert principled["accuracy/chance"] == pytest.approx(0.2)
    assert score("aro", tmp_path, zeros, options=options, compat="aro")["accuracy"] == 1
    rows[0]["caption_options"] = ["one"]
    (tmp_path / "coco_order.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(DatasetError, match="four shuffled ones"):
        get_benchmark("aro").read(tmp_path, options)


def test_rare_attributes_are_left_out_by_aro_only(tmp_path: Path) -> None:
    base = {"image_path": "1.jpg", "bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}
    rows = [
        {**base, "true_caption": "a", "false_caption": "b", "attributes": ["old", "red"] if n < 25 else ["big", "wet"]}
        for n in range(27)
    ]
    (tmp_path / "visual_genome_attribution.json").write_text(json.dumps(rows), encoding="utf-8")
    options = {"subset": "attribution"}
    given = {str(n): [0, 1] if n < 20 else [1, 0] for n in range(27)}
    principled = score("aro", tmp_path, given, options=options)
    assert principled["accuracy_attributes_macro"] == pytest.approx((0.8 + 0) / 2)
    compat = score("aro", tmp_path, given, options=options, compat="aro")
    assert compat["accuracy_attributes_macro"] == pytest.approx(0.8)
    assert compat["accuracy"] == pytest.approx(20 / 27)
    assert get_benchmark("aro").read(tmp_path, options)[0].extra["box"] == (0, 0, 9, 9)


# --- VITATECS ---------------------------------------------------------------------------------------------------------


def test_lmms_eval_draws_the_order_from_the_text(tmp_path: Path) -> None:
    for found in get_benchmark("vitatecs").read(examples.write_vitatecs(tmp_path), {}):
        random.seed(sum(map(ord, "".join(found.choices))) % 100)
        assert shown_first(found) == (random.random() > 0.5)
        letter = "A" if shown_first(found) else "B"
        for response in (letter, f"{letter}.", f"{letter}) it", f"({letter}) it"):
            given = dict.fromkeys(examples.VITATECS_IDS, response)
            rated = score("vitatecs", tmp_path, given, compat="lmms_eval")
            assert rated[f"accuracy_aspect_{found.groups['aspect'].lower()}"] == 1


# --- MMVP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("(a)", "A"),
        ("B.", "B"),
        ("b) Closed", "B"),
        ("The answer is (B)", "B"),
        ("I choose option a", "A"),
        ("It is a cat", "A"),
        ("club", "B"),
        ("apple", "A"),  # only its first character
        ("Yes.", ""),
        ("", ""),
    ],
)
def test_letters_of_lmms_eval(response: str, letter: str) -> None:
    assert lmms_letter(response) == letter


def test_mmvp_pairs(tmp_path: Path) -> None:
    examples.text("Questions.csv", examples.MMVP)(tmp_path)
    found = score("mmvp", tmp_path, {"1": "A", "2": "B", "3": "B", "4": "B"})
    assert (found["pair_accuracy"], found["accuracy"]) == (0.5, 0.75)
    assert found["pair_accuracy/chance"] == 0.25 and found["pair_accuracy/constant"] == 0
    skipped = score("mmvp", tmp_path, {"1": "A", "2": "B", "3": "B"}, missing="skip")
    assert skipped["pair_accuracy[missing=skip]"] == 1
    items = get_benchmark("mmvp").read(tmp_path, {})
    assert items[2].choices == ("Left", "Right (its own)") and items[2].media[0].name == "MMVP Images/3.jpg"


def test_mmvp_answers_that_the_authors_swapped(tmp_path: Path) -> None:
    rows = "".join(f"{n},Standing or sitting?,(a) Standing (b) Sitting,({'ab'[(n + 1) % 2]})\n" for n in range(1, 301))
    examples.text("Questions.csv", f"Index,Question,Options,Correct Answer\n{rows}")(tmp_path)
    published, corrected = (
        [i.answer for i in get_benchmark("mmvp").read(tmp_path, {"answers": answers})]
        for answers in ("published", "corrected")
    )
    assert [n for n in range(300) if published[n] != corrected[n]] == [98, 99, 278, 279]


def test_mmvp_vlm_refuses_rows_that_are_no_pairs(tmp_path: Path) -> None:
    examples.text("Questions.csv", "Question ID,Type,Statement\n2,Color,red\n1,Color,blue\n")(tmp_path)
    with pytest.raises(DatasetError, match="are no pair"):
        get_benchmark("mmvp_vlm").read(tmp_path, {})


# --- VELOCITI ---------------------------------------------------------------------------------------------------------


def test_strict_entailment(tmp_path: Path) -> None:
    examples.write_velociti(tmp_path)
    options = {"mode": "strict"}
    given = {
        "action_adv_0": [0.6, 0.4],
        "action_adv_1": ["Yes", "No."],
        "coref_0": [{"yes": 0.2, "no": 0.1}, {"yes": 0.2, "no": 0.2}],
    }
    found = score("velociti", tmp_path, given, options=options)
    assert found["accuracy"] == pytest.approx(2 / 3)  # exactly 0.5 for the false caption is no rejection
    assert (found["accuracy/chance"], found["accuracy/constant"]) == (0.25, 0)
    # Cosines as CLIP has them accept nothing; what lies outside [0, 1] is no probability.
    cosines = dict.fromkeys(given, [0.3, 0.2])
    assert score("velociti", tmp_path, cosines, options=options)["accuracy"] == 0
    assert score("velociti", tmp_path, cosines)["accuracy"] == 1
    logits = dict.fromkeys(given, [25.0, 20.0])
    assert score("velociti", tmp_path, logits, options=options)["n_parsed"] == 0


def test_multiple_choice_in_both_orders(tmp_path: Path) -> None:
    examples.write_velociti(tmp_path)
    options = {"mode": "mcq"}
    given = {"action_adv_0": ["A", "B"], "action_adv_1": ["A.", "B."], "coref_0": ["A", "A"]}
    found = score("velociti", tmp_path, given, options=options)
    assert (found["accuracy"], found["accuracy/constant"]) == (pytest.approx(2 / 3), 0)
    # "A." is no answer for the script: one of one is right in action_adv.
    compat = score("velociti", tmp_path, given, options=options, compat="velociti")
    assert (compat["accuracy_test_action_adv"], compat["accuracy_test_coref"]) == (1, 0)
    with pytest.raises(EvaluationError, match="divides by zero"):
        score("velociti", tmp_path, {**given, "coref_0": ["both", "B"]}, options=options, compat="velociti")
    with pytest.raises(EvaluationError, match="empty answer"):
        score("velociti", tmp_path, {**given, "coref_0": ["A", ""]}, options=options, compat="velociti")


def test_result_files_of_velociti(tmp_path: Path) -> None:
    benchmark = get_benchmark("velociti")
    items = benchmark.read(examples.write_velociti(tmp_path), {})
    results = tmp_path / "results"
    results.mkdir()
    header = "test_name,video_id,event,pos_score,neg_score\n"
    (results / "action_adv.csv").write_text(f"{header}action_adv,v1,Ev1,0.9,0.1\naction_adv,v2,Ev1,0.2,0.3\n")
    (results / "coref.csv").write_text(f"{header}coref,v1,Ev1,0.5,0.4\n")
    assert benchmark.read_predictions is not None
    found = benchmark.read_predictions(results, items)
    assert found.values == {"action_adv_0": [0.9, 0.1], "action_adv_1": [0.2, 0.3], "coref_0": [0.5, 0.4]}
    (results / "coref.csv").write_text(f"{header}coref,v2,Ev1,0.5,0.4\n")
    with pytest.raises(EvaluationError, match="of the video v1"):
        benchmark.read_predictions(results, items)
    (results / "coref.csv").write_text(header + "coref,v1,Ev1,0.5,0.4\n" * 2)
    with pytest.raises(EvaluationError, match="2 rows for the 1 items"):
        benchmark.read_predictions(results, items)
    with pytest.raises(EvaluationError, match=r"no \.csv file"):
        benchmark.read_predictions(tmp_path / "results" / "..", items)


# --- ActionBench ------------------------------------------------------------------------------------------------------


def test_reversal_shows_the_clip_and_the_clip_reversed(tmp_path: Path) -> None:
    items = get_benchmark("action_bench").read(examples.write_ssv2(tmp_path), {"task": "reversal"})
    assert [(m.name, m.order) for m in items[0].media] == [("74225", "forward"), ("74225", "reversed")]
    assert items[0].answer == (0, -1) and len(items[0].choices) == 1


def test_ego4d(tmp_path: Path) -> None:
    row = {
        "clip_uid": "116ec16b",
        "clip_relative_start": 0.35,
        "clip_relative_end": 1.03,
        "clip_text": "#C C picks up the knife",
        "action_antonym_clip_text": "#C C drops down the knife",
        "Unnamed: 10": float("nan"),
    }
    objects = {**row, "object_shuffled_clip_text": "#C C picks up the banana"}
    examples.lines(tmp_path, "egoclip_subset_action_antonyms_train_val_test_split/test.jsonl", [row, row])
    examples.lines(
        tmp_path, "egoclip_subset_action_antonyms_object_shuffled_train_val_test_split/test.jsonl", [objects]
    )
    items = get_benchmark("action_bench").read(tmp_path, {"source": "ego4d"})
    assert [i.item_id for i in items] == ["antonym_0", "antonym_1", "object_shuffle_0", "reversal_0", "reversal_1"]
    assert items[0].media == (Media("116ec16b", 0.35, 1.03),)
    assert items[2].choices[1] == "#C C picks up the banana"


def test_close_clips_are_decided_by_a_coin_in_paxion(tmp_path: Path) -> None:
    rows = [
        {"id": n, "label": "a", "label_action_antonym_clip_text": "b", "label_object_shuffled_clip_text": "c"}
        for n in range(400)
    ]
    (tmp_path / "validation.json").write_text(json.dumps(rows), encoding="utf-8")
    options = {"task": "reversal"}
    close = {f"reversal_{n}": [0.3, 0.3 + 5e-6] for n in range(400)}
    found = score("action_bench", tmp_path, close, options=options, compat="paxion")["accuracy"]
    assert 0.4 < found < 0.6
    assert found == score("action_bench", tmp_path, close, options=options, compat="paxion")["accuracy"]
    assert score("action_bench", tmp_path, close, options=options)["accuracy"] == 0


# --- Test of Time -----------------------------------------------------------------------------------------------------


def write_tempo(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    document = [
        {
            "video": f"{number}.mov",
            "annotation_id": name,
            "description": description,
            "reference_description": reference,
            "train_times": [[0, 0]],
            "context": [4, 5],
        }
        for number, (name, description, reference) in enumerate(rows)
    ]
    (folder / "tempoTL+didemo_test.json").write_text(json.dumps(document), encoding="utf-8")
    listed = "".join(f"{row['video']},{row['annotation_id']}\n" for row in document)
    (folder / "tempoTL+didemo_test_temporal_1k.csv").write_text("video,annotation_id\n" + listed, encoding="utf-8")
    return folder


def test_sentences_of_tempo(tmp_path: Path) -> None:
    rows = [
        ("before_TL_1", "The dog sits before the man runs,\n", "the man runs"),
        ("after_TL_2", "the dog sits after the man runs", "The man  runs"),
        ("before_TL_3", "before the man runs, the dog sits", "the man runs"),
        ("after_TL_4", "after the man runs, the dog sits", "the man runs"),
        ("before_TL_5", "before, before the man runs", "the man runs"),  # the word twice
        ("then_TL_6", "the dog sits then the man runs", "the man runs"),
        ("after_TL_7", "after the man runs", "the man runs"),  # one event is empty
    ]
    benchmark = get_benchmark("test_of_time")
    items = benchmark.read(write_tempo(tmp_path, rows), {"set": "tempo"})
    first = "the dog sits {} the man runs"
    assert [i.choices[0] for i in items] == [first.format(word) for word in ("before", "after", "before", "after")]
    assert items[1].choices[1] == "the man runs after the dog sits"
    assert items[0].media == (Media("0.mov", 0.0, 30.0),) and items[0].item_id == "before_tl_1 0.mov"
    write_tempo(tmp_path, [("before_TL_1", "a before b", "c")])
    with pytest.raises(DatasetError, match="does not hold its reference"):
        benchmark.read(tmp_path, {"set": "tempo"})


def test_geometric_mean(tmp_path: Path) -> None:
    examples.text("test_v2.0.csv", examples.TEST_OF_TIME)(tmp_path)
    right = dict.fromkeys(examples.TIME_IDS, [0.2, 0.1])
    half = {**right, examples.TIME_IDS[0]: [0.1, 0.2]}
    assert score("test_of_time", tmp_path, right, options={"r_at_1": "0.32"})["geometric_mean"] == pytest.approx(0.4)
    assert score("test_of_time", tmp_path, half, options={"r_at_1": "0.32"})["geometric_mean"] == 0
    assert "geometric_mean" not in score("test_of_time", tmp_path, right)
    for wrong in ("32", "-0.1", "much"):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            score("test_of_time", tmp_path, right, options={"r_at_1": wrong})


# --- Vinoground, TemporalBench ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\nA. the cat\nB. a dog.\nAnswer", ("the cat", "a dog.")),
        ("Which?\n(A) the cat", ("A", "B")),
        ("Which?\nB. the cat\nA. a dog", ("A", "B")),
        ("Which?\nA) one \n B) two\nC) three", ("one", "two", "three")),
        ("", ("A", "B")),
    ],
)
def test_options_in_questions(question: str, options: tuple[str, ...]) -> None:
    assert options_in(question) == options


def test_the_question_without_its_options(tmp_path: Path) -> None:
    items = get_benchmark("temporal_bench").read(examples.write_temporal_bench(tmp_path), {})
    assert items[0].question == "Which caption best describes this video?"
    assert items[0].choices[1] == "the watermelon is turned, then cut"
    assert items[0].extra["prompt"].endswith("Answer with the letter.")
    assert stem_of("Is it A. or B.?") == "Is it A. or B.?"


@given(st.text(max_size=80))
def test_any_question_has_at_least_two_options(question: str) -> None:
    assert len(options_in(question)) >= 2


def test_vinoground_scores(tmp_path: Path) -> None:
    folder = examples.write_vinoground(tmp_path)
    right = examples.flat(examples.VINOGROUND_IDS, ["A", "B"] * 1000)
    found = score("vinoground", folder, {**right, "1_neg_video": "A"})
    assert (found["group_score"], found["text_score"], found["video_score"]) == (0.998, 1, 0.998)
    assert found["accuracy"] == 1999 / 2000
    assert found["group_score_category_object"] == 1 and found["group_score_category_action"] == 0
    assert found["group_score/chance"] == 1 / 16 and found["text_score/chance"] == 0.25
    with pytest.raises(EvaluationError, match="first character"):
        score("vinoground", folder, {**right, "1_neg_video": ""}, compat="lmms_eval")
    some = {name: answer for name, answer in right.items() if not name.startswith("7_")}
    with pytest.raises(EvaluationError, match="1 have none, e.g. pair 7"):
        score("vinoground", folder, some, compat="lmms_eval")


def test_response_files_of_vinoground(tmp_path: Path) -> None:
    benchmark = get_benchmark("vinoground")
    items = benchmark.read(examples.write_vinoground(tmp_path), {})
    assert benchmark.read_predictions is not None
    with pytest.raises(EvaluationError, match=r"textscore-response\.jsonl"):
        benchmark.read_predictions(tmp_path, items)
    for part in ("text", "video"):
        rows = [{"idx": f"{pair}_{side}", "response": "A"} for pair in range(500) for side in ("pos", "neg")]
        examples.lines(tmp_path, f"{part}score-response.jsonl", rows)
    assert benchmark.read_predictions(tmp_path, items).values == dict.fromkeys(examples.VINOGROUND_IDS, "A")


def test_temporal_bench(tmp_path: Path) -> None:
    folder = examples.write_temporal_bench(tmp_path)
    given = dict(zip(examples.TEMPORAL_IDS, ["A", "B", "B", "B"], strict=True))
    found = score("temporal_bench", folder, given)
    assert (found["multiple_binary_accuracy"], found["accuracy"]) == (0.5, 0.75)
    assert found["multiple_binary_accuracy/chance"] == 0.25
    with pytest.raises(EvaluationError, match="first character"):
        score("temporal_bench", folder, {**given, examples.TEMPORAL_IDS[0]: ""}, compat="temporal_bench")
    with pytest.raises(EvaluationError, match="unknown questions"):
        score("temporal_bench", folder, {**given, "x": "A"}, compat="temporal_bench")


# --- DCI --------------------------------------------------------------------------------------------------------------


def test_parts_of_pictures(tmp_path: Path) -> None:
    benchmark = get_benchmark("dci")
    folder = examples.write_dci(tmp_path)
    items = benchmark.read(folder, {})
    assert [i.extra["box"] for i in items] == [None, (10, 20, 310, 320), (10, 20, 410, 420)]
    assert items[0].choices == ("summary of base", "summary of m-1-sc", "summary of m-2-sc")
    assert [i.answer for i in items] == [0, 1, 2]
    negatives = benchmark.read(folder, {"task": "negatives"})
    assert [i.choices for i in negatives][1] == ("summary of m-1-sc", "not m-1-sc") and negatives[1].answer == 0
    with pytest.raises(DatasetError, match="holds no item"):
        benchmark.read(folder, {"split": "valid"})


@pytest.mark.parametrize("side", [None, "left", [1]])
def test_a_box_without_a_number_is_named(side: object, tmp_path: Path) -> None:
    benchmark = get_benchmark("aro")
    path = next(examples.write_aro(tmp_path).rglob("visual_genome_relation.json"))
    rows = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps([rows[0], {**rows[0], "bbox_w": side}]), encoding="utf-8")
    with pytest.raises(DatasetError, match="visual_genome_relation.json, entry 1: "):
        benchmark.read(path, {})
