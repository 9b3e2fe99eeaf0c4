from __future__ import annotations

import json
import math
import random
import sys
import types
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evaluate_answers import measure
from tests.evaluation.examples import qa_open
from tests.evaluation.small_wordnet import write_wordnet
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.answers.open_text import number, plain, short_answer
from vlmvid.evaluation.answers.vqa_text import CONTRACTIONS, EVALAI, OFFICIAL, TEXTVQA, vqa_normal
from vlmvid.evaluation.answers.wordnet import ROOT, Synset, WordNet
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.qa.llava_med import closest, released_exact_match, released_f1, sentence_bleu
from vlmvid.evaluation.benchmarks.qa.open_answers import question_type
from vlmvid.evaluation.benchmarks.qa.vqa_v2 import leave_one_out
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, read_predictions
from vlmvid.metrics import anls_score, levenshtein, token_overlap, vqa_accuracy, wups_score

ITEM = Item("1", "v", "x")


def score(name: str, items: list[Item], values: dict[str, Any], **settings: Any) -> TaskResult:
    chosen = ScoreSettings(**{"num_bootstrap": 50, **settings})
    return get_benchmark(name).scorer(chosen)(items, Predictions(values), chosen)


def value(result: TaskResult, name: str) -> float:
    return result.metric(name).value


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_vqa_accuracy_of_ten(matches: int, expected: float) -> None:
    assert vqa_accuracy(matches, 10) == pytest.approx(expected)


@given(st.integers(0, 12), st.integers(1, 12))
def test_vqa_accuracy_is_the_mean_over_those_left_out(matches: int, total: int) -> None:
    matches = min(matches, total)
    hits = [1] * matches + [0] * (total - matches)
    slow = sum(min(1.0, sum(others) / 3) for others in combinations(hits, total - 1)) / total
    assert vqa_accuracy(matches, total) == pytest.approx(slow)


def edit_table(first: str, second: str) -> int:
    table = [[i + j if i * j == 0 else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i, a in enumerate(first, start=1):
        for j, b in enumerate(second, start=1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a != b))
    return table[-1][-1]


@given(st.text("abcé", max_size=12), st.text("abcé", max_size=12))
def test_levenshtein_is_that_of_the_whole_table(first: str, second: str) -> None:
    assert levenshtein(first, second) == edit_table(first, second)


def test_levenshtein_of_long_texts() -> None:
    rng = random.Random(0)
    first, second = ("".join(rng.choices("abcdef ", k=n)) for n in (150, 131))
    assert levenshtein(first, second) == edit_table(first, second)


def test_anls() -> None:
    assert anls_score("way out", ["way out", "exit"]) == 1
    assert anls_score("abcx", ["abcd"]) == 0.75
    assert anls_score("abxx", ["abcd"]) == 0  # NL is 0.5, not below it
    assert anls_score("abxx", ["abcd"], threshold=0.6) == 0.5
    assert anls_score("", [""]) == 1
    with pytest.raises(EvaluationError, match="at least one"):
        anls_score("a", [])


def test_token_overlap_counts_repeated_words() -> None:
    assert token_overlap(["a", "a", "b"], ["a", "b", "b", "c"]) == pytest.approx((4 / 7, 2 / 3, 1 / 2))
    assert token_overlap([], []) == (1, 1, 1)
    assert token_overlap(["a"], []) == token_overlap([], ["a"]) == token_overlap(["a"], ["b"]) == (0, 0, 0)


def test_wups_by_hand() -> None:
    table = {frozenset(("dog", "cat")): 0.8, frozenset(("ball", "cat")): 0.2}

    def alike(first: str, second: str) -> float:
        return table.get(frozenset((first, second)), 0.0)

    assert wups_score(["dog"], ["cat"], alike, 0) == 0.8
    assert wups_score(["dog"], ["cat"], alike, 0.9) == pytest.approx(0.08)
    assert wups_score(["dog", "ball"], ["cat"], alike, 0) == pytest.approx(0.16)
    assert wups_score(["dog", "zzz"], ["dog"], alike, 0) == 1  # a word like nothing drops out
    assert wups_score(["zzz"], ["dog"], alike, 0) == wups_score([], ["dog"], alike, 0) == 0


# ---------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    ("answer", "official"),
    [
        ("The two Dogs", "2 dogs"),
        ("none", "0"),
        ("x-b", "x b"),
        ("x-b c- d", "xb c d"),  # the mark touches a space elsewhere
        ("1,000-x", "1000x"),  # a comma between digits removes every mark
        ("dont, youre", "don't you're"),
        ("3.", "3"),
        (".5", ".5"),
        ("u.s.a", "usa"),
        ("the", ""),
        ("x\ny\tz", "x y z"),
        ("let's", "let's"),
        ("a." * 33, "a" * 32 + "a."),  # 32 stops at most
    ],
)
def test_vqa_normalisation(answer: str, official: str) -> None:
    assert vqa_normal(answer, OFFICIAL) == official


def test_the_copies_of_the_normalisation_differ_where_they_do() -> None:
    assert vqa_normal("1,,2-x", OFFICIAL) == "1 2 x" and vqa_normal("1,,2-x", EVALAI) == "12x"
    assert vqa_normal("a." * 33) == "a" * 33
    assert vqa_normal("the dog's toy, red", TEXTVQA) == "dog 's toy red"
    assert vqa_normal("1,2", TEXTVQA) == "12"


def test_contractions() -> None:
    assert len(CONTRACTIONS) == 114 and CONTRACTIONS["couldn'tve"] == CONTRACTIONS["couldnt've"] == "couldn't've"
    assert CONTRACTIONS["somebody'd"] == "somebodyd" and "id" not in CONTRACTIONS


@given(st.text(max_size=30))
def test_short_answers_read_their_own_form(answer: str) -> None:
    parsed = short_answer.parse(answer, ITEM)
    assert parsed is None or short_answer.parse(parsed, ITEM) == parsed == plain(parsed)


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [(3, 3), (2.6, 2.6), ("4 times", 4), ("about three.", 3), ("-1", -1), ("many", None), (True, None), (None, None),
     (math.nan, None), (math.inf, None), ("bone", None), ("1,000", 1000), ("-12,345.5 m", -12345.5), ("1,2", 1),
     ("3, 400", 3), ("1,0000", 1)],
)  # fmt: skip
def test_numbers(raw: Any, parsed: float | None) -> None:
    assert number.parse(raw, ITEM) == parsed


# ---------------------------------------------------------------- VQA


def objects(answers: list[str], *, ids: bool = True) -> list[dict[str, Any]]:
    return [{"answer": answer, **({"answer_id": n} if ids else {})} for n, answer in enumerate(answers)]


def test_leave_one_out_goes_by_the_inequality_of_objects() -> None:
    answers = ["red"] * 4 + ["blue"] * 6
    assert leave_one_out("red", objects(answers), answers) == 1
    # Without answer_id all four equal objects leave together: no match is left for them.
    assert leave_one_out("red", objects(answers, ids=False), answers) == pytest.approx(0.6)


def vqa_item(answers: list[str], **more: Any) -> Item:
    extra = {"majority": answers[0], "answers": objects(answers)}
    return Item("1", "v", tuple(answers), groups={"question_type": "is", "answer_type": "yes/no"}, extra=extra, **more)


def test_the_official_scorer_compares_raw_texts_where_all_ten_agree() -> None:
    agreed, split = vqa_item(["yes"] * 10), vqa_item(["yes"] * 9 + ["no"])
    for item, official in ((agreed, 0.0), (split, 1.0)):
        assert value(score("vqa_v2", [item], {"1": "Yes"}, compat="vqa"), "accuracy") == official
        assert value(score("vqa_v2", [item], {"1": "Yes"}, compat="lmms-eval"), "accuracy") == 1
        assert value(score("vqa_v2", [item], {"1": "Yes"}), "accuracy") == 1


def test_the_official_scorer_prints_its_lines() -> None:
    printed = score("vqa_v2", [vqa_item(["yes"] * 9 + ["no"])], {"1": "no"}, compat="vqa").printed
    assert printed is not None
    assert printed.startswith(
        "Overall Accuracy is: 30.00\n\nPer Question Type Accuracy is the following:\nis : 30.00\n"
    )
    assert "Per Answer Type Accuracy is the following:\nyes/no : 30.00\n" in printed


def test_the_official_scorer_wants_exactly_the_questions() -> None:
    item = vqa_item(["yes"] * 10)
    with pytest.raises(EvaluationError, match="unknown questions"):
        score("vqa_v2", [item], {"1": "yes", "2": "no"}, compat="vqa")
    with pytest.raises(EvaluationError, match="needs every answer"):
        score("vqa_v2", [item], {}, compat="vqa")


def test_vqa_files_of_two_releases_are_refused(tmp_path: Path) -> None:
    folder = qa_open.write_vqa(tmp_path)
    qa_open.write_json(folder, "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": []})
    with pytest.raises(DatasetError, match="lacks 4 annotated questions"):
        get_benchmark("vqa_v2").read(folder, {})


VQA_FILES = ("v2_mscoco_val2014_annotations.json", "v2_OpenEnded_mscoco_val2014_questions.json")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (VQA_FILES[0], {"annotations": [1]}, "entry 1: expected an object with question_id, .*, got 1"),
        (VQA_FILES[0], {"annotations": None}, "expected a list under 'annotations'"),
        (VQA_FILES[1], {"questions": [None]}, "entry 1: expected an object with question_id, .*, got None"),
    ],
)
def test_vqa_refuses_other_shapes(tmp_path: Path, name: str, change: Any, message: str) -> None:
    folder = qa_open.write_vqa(tmp_path)
    qa_open.write_json(folder, name, change)
    with pytest.raises(DatasetError, match=f"{name}.*{message}"):
        get_benchmark("vqa_v2").read(folder, {})


@pytest.mark.parametrize("number", [None, 1.5, "x", [1]])
def test_vqa_refuses_a_picture_without_a_number(tmp_path: Path, number: Any) -> None:
    folder = qa_open.write_vqa(tmp_path)
    document = json.loads((folder / VQA_FILES[0]).read_text())
    document["annotations"][0]["image_id"] = number
    qa_open.write_json(folder, VQA_FILES[0], document)
    with pytest.raises(DatasetError, match=f"{VQA_FILES[0]}, question .*: image_id must be a whole number"):
        get_benchmark("vqa_v2").read(folder, {})


# ---------------------------------------------------------------- videos


@pytest.mark.parametrize(
    ("question", "kind"),
    [("what color is it?", "color"), ("what is it?", "what"), ("who runs?", "who"), ("is it?", "other"), ("", "other")],
)  # fmt: skip
def test_question_types(question: str, kind: str) -> None:
    assert question_type(question) == kind


def test_the_vocabulary_reports_its_share_and_leaves_the_denominator(tmp_path: Path) -> None:
    folder = qa_open.write_word_qa(tmp_path, categories=True)
    train = [
        {"answer": a, "category_id": 1, "id": n, "question": "what?", "video_id": 1}
        for n, a in enumerate(["man", "red", "talk", "man"])
    ]
    qa_open.write_json(folder, "train_qa.json", train)
    benchmark = get_benchmark("msrvtt_qa")
    items = benchmark.read(folder, {"vocabulary": "2"})  # man, and red before talk: the first in the file
    result = score("msrvtt_qa", items, {"1": "talk", "2": "man", "3": "blue", "4": "man"})
    assert value(result, "out_of_vocabulary_share") == 0.25
    assert value(result, "accuracy") == 0.75 and value(result, "accuracy_vocabulary_out") == 1
    assert "train_qa.json, which must lie beside the questions" in benchmark.options["vocabulary"]
    with pytest.raises(ConfigError, match="positive whole number"):
        benchmark.read(folder, {"vocabulary": "all"})


def test_msvd_names_its_files_by_the_mapping(tmp_path: Path) -> None:
    folder = qa_open.write_word_qa(tmp_path, categories=False)
    benchmark = get_benchmark("msvd_qa")
    assert benchmark.read(folder, {})[0].media[0].name == "vid7010.avi"
    (folder / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid7010\n")
    assert benchmark.read(folder, {})[0].media[0].name == "-4wsuPCjDBc_5_15.avi"
    (folder / "youtube_mapping.txt").write_text("one two three\n")
    with pytest.raises(DatasetError, match="line 1"):
        benchmark.read(folder, {})


def test_a_constant_model_scores_its_baseline(tmp_path: Path) -> None:
    items = get_benchmark("activitynet_qa").read(qa_open.write_activitynet(tmp_path), {})
    constant = score("activitynet_qa", items, {item.item_id: "yes" for item in items})
    other = score("activitynet_qa", items, {items[0].item_id: "red"})
    assert value(constant, "accuracy") == value(other, "accuracy/constant") == value(other, "accuracy/majority")


def test_activitynet_free_has_its_own_denominator(tmp_path: Path) -> None:
    items = get_benchmark("activitynet_qa").read(qa_open.write_activitynet(tmp_path), {})
    result = score("activitynet_qa", items, {**qa_open.ANET_PERFECT, "v_b_1": "maybe"})
    assert value(result, "accuracy_set_free") == 7 / 8
    released = score("activitynet_qa", items, {**qa_open.ANET_PERFECT, "v_b_1": "maybe"}, compat="activitynet-qa")
    assert released.printed is not None and "\tFree: 1.1667\n\tAll: 0.9091\n" in released.printed
    with pytest.raises(EvaluationError, match="does not know"):
        score("activitynet_qa", items, {**qa_open.ANET_PERFECT, "v_z_9": "no"}, compat="activitynet-qa")
    with pytest.raises(EvaluationError, match="none of motion"):
        score("activitynet_qa", items[:1], {}, compat="activitynet-qa")


def test_activitynet_compares_as_it_is_only_in_compat(tmp_path: Path) -> None:
    items = get_benchmark("activitynet_qa").read(qa_open.write_activitynet(tmp_path), {})
    shouted = {name: answer.upper() for name, answer in qa_open.ANET_PERFECT.items()}
    assert value(score("activitynet_qa", items, shouted), "accuracy") == 1
    assert value(score("activitynet_qa", items, shouted, compat="activitynet-qa"), "accuracy") == pytest.approx(1 / 11)


def test_tgif_count(tmp_path: Path) -> None:
    options = {"task": "count"}
    items = get_benchmark("tgif_qa").read(qa_open.write_tgif(tmp_path), options)
    assert [item.answer for item in items] == [3, 1, 10]  # the second is 0 in the file
    result = score("tgif_qa", items, {"COUNT1": 3.5, "COUNT2": "0", "COUNT3": "12 times"}, options=options)
    assert value(result, "mse") == 1 / 3  # 3.5 rounds to 4; 0 and 12 are clipped
    assert value(result, "count_accuracy") == pytest.approx(2 / 3) and not result.metrics[0].higher_is_better
    fewer = score("tgif_qa", items, {"COUNT1": 3, "COUNT2": "many"}, options=options)
    assert value(fewer, "mse") == pytest.approx((0 + 81 + 81) / 3)  # no answer is the worst one
    assert value(fewer, "mse/parsed") == 0
    best = min(sum((guess - answer) ** 2 for answer in (3, 1, 10)) / 3 for guess in range(1, 11))
    assert value(fewer, "mse/constant") == pytest.approx(best)
    assert value(fewer, "mse/majority") == pytest.approx((4 + 0 + 81) / 3)  # of equally frequent ones "1" comes first


def test_tgif_names_the_tasks_whose_files_are_there(tmp_path: Path) -> None:
    folder = qa_open.write_tgif(tmp_path)
    benchmark = get_benchmark("tgif_qa")
    count = next(folder.rglob("Test_count_question.csv"))
    with pytest.raises(MissingDataError, match="no Test_frameqa_.* but Test_count_question.csv: give -o task=count"):
        benchmark.read(count, {})
    for other in folder.rglob("*_question.csv"):
        if other != count:
            other.unlink()
    with pytest.raises(MissingDataError, match="no Test_frameqa_.* but Test_count_question.csv: give -o task=count"):
        benchmark.read(folder, {})
    assert len(benchmark.read(count, {"task": "count"})) == len(benchmark.read(folder, {"task": "count"})) == 3
    renamed = count.rename(folder / "mine.csv")
    assert len(benchmark.read(renamed, {"task": "count"})) == 3
    with pytest.raises(MissingDataError, match="no Test_frameqa_question.csv in the folder"):
        benchmark.read(folder, {})


def test_tgif_choices_through_the_option(tmp_path: Path) -> None:
    options = {"task": "action"}
    items = get_benchmark("tgif_qa").read(qa_open.write_tgif(tmp_path), options)
    assert items[0].choices[1] == 'wave "hi"' and items[1].answer == 1
    assert value(score("tgif_qa", items, {f"ACTIO{n}": [1.0] * 5 for n in range(5)}, options=options), "accuracy") == 0


# ---------------------------------------------------------------- WordNet


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    return WordNet(write_wordnet(tmp_path_factory.mktemp("wordnet")))


@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [
        ("dog", "cat", 6 / 9),  # carnivore, depth 3, two and one steps away
        ("dog", "animal", 4 / 6),  # by pet: two steps
        ("dog", "ball", 2 / 7),
        ("paris", "city", 6 / 7),  # an instance
        ("dog", "run", 2 / 8),  # only the added root: 4 and 2 steps
        ("run", "walk", 2 / 6),  # the root, not move: both have depth 0 and * comes first
        ("red", "happy", 2 / 4),
        ("dogs", "dog", 1.0),
        ("zzz", "dog", 0.0),
    ],
)
def test_wu_palmer(small: WordNet, first: str, second: str, similarity: float) -> None:
    assert small.similarity(first, second) == pytest.approx(similarity)


def test_base_forms(small: WordNet) -> None:
    words = {"dogs": "dog", "men": "man", "ran": "run", "walking": "walk", "glasses": "glass", "zzz": "zzz", "2": "2"}
    assert {word: small.base_form(word) for word in words} == words


def test_wordnet_with_the_line_ends_of_windows(small: WordNet, tmp_path: Path) -> None:
    other = WordNet(write_wordnet(tmp_path, "\r\n"))
    assert other.synsets("dog") == small.synsets("dog") and other.similarity("dog", "cat") == pytest.approx(6 / 9)


def test_a_wordnet_that_is_not_there_or_damaged(small: WordNet, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"index\.noun .*wordnet=FOLDER"):
        WordNet(tmp_path)
    with pytest.raises(DatasetError, match="no sense at byte 3"):
        small.wu_palmer(Synset("noun", 3), ROOT)
    folder = write_wordnet(tmp_path)
    index = folder / "index.noun"
    index.write_text(index.read_text().replace("dog n 1", "dog n 2"))
    with pytest.raises(DatasetError, match="'dog' is damaged"):
        WordNet(folder).similarity("dog", "cat")


def test_wups_needs_wordnet(tmp_path: Path) -> None:
    items = get_benchmark("next_qa_oe").read(qa_open.write_next_oe(tmp_path), {})
    with pytest.raises(ConfigError, match="wordnet=FOLDER"):
        score("next_qa_oe", items, {"111_0": "a"})


def test_next_oe_at_both_alphas_and_its_table(tmp_path: Path) -> None:
    benchmark, options = get_benchmark("next_qa_oe"), {"wordnet": str(qa_open.WORDNET)}
    items = benchmark.read(qa_open.write_next_oe(tmp_path), options)
    assert items[2].groups["type"] == "TN" and items[2].answer == ("dog", "canine")
    nested: dict[str, dict[str, str]] = {}
    for video, qid, _, answer in qa_open.OE:
        nested.setdefault(video, {})[qid] = answer
    nested["222"]["4"] = "dog"  # cat is right
    nested["222"]["1"] = "No"
    nested["222"]["2"] = "three"
    assert benchmark.read_predictions is not None
    answers = benchmark.read_predictions(qa_open.write_json(tmp_path, "result.json", nested), items)
    result = score("next_qa_oe", items, answers.values, options=options)
    assert value(result, "wups") == pytest.approx((6 + 2 / 3) / 8)
    assert value(result, "wups_0.9") == pytest.approx((6 + 0.1 * 2 / 3) / 8)
    table = score("next_qa_oe", items, answers.values, options=options, compat="next-oe").printed
    assert table is not None and table.split("\n")[1].split("\t")[-6:] == [
        "100.00",
        "0.00",
        "100.00",
        "66.67",
        "66.67",
        "83.33",
    ]
    with pytest.raises(EvaluationError, match="stops at a missing answer"):
        score("next_qa_oe", items, {}, options=options, compat="next-oe")
    with pytest.raises(EvaluationError, match="expected {qid: answer}"):
        benchmark.read_predictions(qa_open.write_json(tmp_path, "odd.json", {"1": {"0": "a"}, "2": "b"}), items)


def test_the_references_own_lemmatizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"wordnet": str(qa_open.WORDNET), "lemmatizer": "pywsd"}
    items = get_benchmark("next_qa_oe").read(qa_open.write_next_oe(tmp_path), options)
    perfect = {**qa_open.OE_PERFECT, "222_4": "doggies"}
    for name in ("pywsd", "pywsd.utils", "nltk", "nltk.tokenize"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pywsd and nltk"):
        score("next_qa_oe", items, perfect, options=options)
    for name in ("pywsd", "pywsd.utils", "nltk", "nltk.tokenize"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    lemmas = {"doggies": "dog", "walks": "walk"}
    sys.modules["pywsd.utils"].lemmatize_sentence = lambda text: [lemmas.get(w, w) for w in text.split()]  # type: ignore[attr-defined]
    sys.modules["nltk.tokenize"].word_tokenize = str.split  # type: ignore[attr-defined]
    result = score("next_qa_oe", items, perfect, options=options)
    assert value(result, "wups") == pytest.approx((7 + 2 / 3) / 8) and "pywsd" in result.protocol


# ---------------------------------------------------------------- PathVQA


def test_the_released_scores_of_words() -> None:
    assert released_exact_match(["a", "b"], ["b", "b", "c"]) == 0.5
    assert released_exact_match([], ["b"]) == 0
    assert released_f1(["a", "a", "b"], ["a", "c"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))  # a counts twice
    assert released_f1(["a"], ["c"]) == (0, 0, 0)
    assert closest(["red", "car"], ["blue sky", "car", "red car"]) == "car"  # the first of the best


def test_sentence_bleu() -> None:
    reference, said = "a man is playing a guitar".split(), "a man plays a guitar".split()
    assert sentence_bleu(reference, said, (1, 0)) == pytest.approx(math.exp(1 - 6 / 5) * 4 / 5)
    assert sentence_bleu(reference, said, (0.5, 0.5)) == pytest.approx(math.exp(1 - 6 / 5) * math.sqrt(4 / 5 * 2 / 4))
    assert sentence_bleu(reference, said, (0, 0, 0, 1)) < 1e-300  # no four words in common, not quite 0
    assert sentence_bleu(reference, [], (1,)) == 0


def test_path_vqa_open_scores_and_llava_meds_file(tmp_path: Path) -> None:
    asked = [("7", "OPEN", "<image>\nwhat?", "the red cell"), ("8", "CLOSED", "is it?", "No")]
    rows = [
        {"id": n, "image": "a.jpg", "answer_type": kind, "conversatons": [{"value": question}, {"value": answer}]}
        for n, kind, question, answer in asked
    ]
    items = get_benchmark("path_vqa").read(qa_open.write_json(tmp_path, "test.json", rows), {})
    assert [item.question for item in items] == ["what?", "is it?"]
    result = score("path_vqa", items, {"7": "Red cell", "8": "I know"})
    assert value(result, "accuracy") == 0
    assert value(result, "token_recall_open") == pytest.approx(2 / 3) and value(result, "token_precision_open") == 1
    candidates = qa_open.write_json(tmp_path, "candidates.json", {"0": ["liver", "the red cell", 3]})
    released = score(
        "path_vqa", items, {"7": "Red cell", "8": "I know"}, compat="llava-med", options={"candidates": str(candidates)}
    )
    assert value(released, "candidate_accuracy_open") == 1 and value(released, "accuracy_answer_type_closed") == 1
    assert released.printed is not None and released.printed.startswith("num_open 1 || num_close 1\n")
    with pytest.raises(DatasetError, match="entry 1"):
        get_benchmark("path_vqa").read(qa_open.write_json(tmp_path, "test.json", [{"id": 1}]), {})


# ---------------------------------------------------------------- text in pictures


def test_anls_compat_scores_half_and_counts_spaces(tmp_path: Path) -> None:
    items = get_benchmark("docvqa").read(qa_open.write_docvqa(tmp_path), {})
    values = {"337": "x", "338": "x", "339": "abxx    "}
    assert value(score("docvqa", items, values, compat="lmms-eval"), "anls") == pytest.approx(0.75 / 3)
    assert value(score("docvqa", items, values), "anls") == 0
    assert value(score("docvqa", items, {"337": "1/8/93", "338": "Pauli", "339": ""}), "anls_type_form_yes") == 0.9


@pytest.mark.parametrize("name", ["docvqa", "st_vqa", "textvqa"])
def test_a_split_without_answers_is_refused(name: str, tmp_path: Path) -> None:
    write = {"docvqa": qa_open.write_docvqa, "st_vqa": qa_open.write_st_vqa, "textvqa": qa_open.write_textvqa}[name]
    path = next(write(tmp_path).iterdir())
    document = json.loads(path.read_text())
    document["data"][0]["answers"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="answers must be a list of texts"):
        get_benchmark(name).read(tmp_path, {})
    path.write_text(json.dumps({"dataset_name": name}))
    with pytest.raises(DatasetError, match="a list under 'data'"):
        get_benchmark(name).read(tmp_path, {})


# ---------------------------------------------------------------- confidences


def test_confidences_add_the_selective_metrics(tmp_path: Path) -> None:
    items = get_benchmark("msrvtt_qa").read(qa_open.write_word_qa(tmp_path, categories=True), {})
    rows = [
        {"id": 1, "prediction": {"answer": "talk", "confidence": 0.95}},
        {"id": 2, "prediction": {"answer": "dog", "confidence": 0.4}},
        {"id": 3, "prediction": {"answer": "red", "confidence": 0.6}},
    ]
    answers = read_predictions(qa_open.write_json(tmp_path, "said.json", rows))
    result = score("msrvtt_qa", items, answers.values)
    assert value(result, "accuracy") == 0.5 and value(result, "coverage_at_risk_1") == 0.5
    assert value(result, "effective_reliability_c1") == 0.5  # 0.95 and 0.6 answer
    assert value(result, "effective_reliability_c10") == 0.25  # 0.95 alone reaches 10/11
    assert value(result, "effective_reliability_c10/best") == 0.5
    assert [row.get("confidence") for row in result.samples] == [0.95, 0.4, 0.6, None]
    plain_result = score("msrvtt_qa", items, {"1": "talk"})
    assert not any("risk" in metric.name for metric in plain_result.metrics)
    skipped = score("msrvtt_qa", items, answers.values, missing="skip")
    assert value(skipped, "coverage_at_risk_1[missing=skip]") == pytest.approx(2 / 3)


def test_a_confidence_must_be_a_number(tmp_path: Path) -> None:
    items = get_benchmark("msrvtt_qa").read(qa_open.write_word_qa(tmp_path, categories=True), {})
    with pytest.raises(EvaluationError, match="confidence must be a number"):
        score("msrvtt_qa", items, {"1": {"answer": "talk", "confidence": "high"}})


# ---------------------------------------------------------------- speed


def test_the_speed_benchmark_scores_what_it_writes() -> None:
    found = measure(num_answers=3000, runs=1)
    assert 0.35 < found["accuracy"] < 0.45
    assert set(found["cpu_seconds"]) == {"read_references", "read_predictions", "score", "write_samples", "total"}
