"""Each task on worlds small enough to work out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from vlmvid.config.evaluation_options import VLM_TASKS
from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation import TASKS, EvaluationData, TaskResult, evaluate
from vlmvid.evaluation.cosines import pair_similarity, similarity
from vlmvid.metrics import max_skew_at_k, ndkl, wilson_interval, yes_no_scores
from vlmvid.metrics.retrieval_tiles import count_both
from vlmvid.types import Clip, Question

Vector = Sequence[float]


def unit(rows: Sequence[Vector] | NDArray[np.floating]) -> NDArray[np.float32]:
    array = np.asarray(rows, dtype=np.float64)
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def clip(video_id: str, *captions: str, questions: Sequence[Question] = (), **attributes: str | int) -> Clip:
    return Clip(
        video_id=video_id,
        path=f"{video_id}.mp4",
        split="test",
        captions=captions,
        questions=tuple(questions),
        attributes=attributes,
    )


def world(
    clips: Sequence[Clip], videos: Sequence[Vector], texts: dict[str, Vector], shuffled: Sequence[Vector] | None = None
) -> EvaluationData:
    def embed_texts(asked: Sequence[str]) -> NDArray[np.float32]:
        assert len(set(asked)) == len(asked), "equal texts must be embedded once"
        return unit([texts[text] for text in asked])

    return EvaluationData(
        clips=tuple(clips),
        video_embeds=unit(videos),
        embed_texts=embed_texts,
        shuffled_video_embeds=None if shuffled is None else unit(shuffled),
    )


def run(task: str, data: EvaluationData, **config: object) -> TaskResult:
    return evaluate(data, EvaluateConfig.model_validate({"tasks": (task,), "num_bootstrap": 100, **config}))[0]


def values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


# --- retrieval ------------------------------------------------------------------------------------


def test_retrieval_by_hand() -> None:
    # Three clips on the axes; v1 has two captions, one of which points at v2; v3 has none.
    texts = {"a": (1, 0.1, 0), "b": (0.5, 1, 0.1), "c": (0.1, 1, 0)}
    data = world([clip("v1", "a", "b"), clip("v2", "c"), clip("v3")], np.eye(3), texts)
    result = run("retrieval", data)
    found = values(result)
    assert found["t2v_r_at_1"] == pytest.approx(2 / 3)
    assert found["t2v_r_at_5"] == 1.0
    assert found["t2v_r_at_1/chance"] == pytest.approx(1 / 3)
    assert (found["t2v_median_rank"], found["t2v_mean_rank"]) == (1.0, pytest.approx(4 / 3))
    # v1's best own caption is "a", first of three; v2 prefers its own "c".
    assert found["v2t_r_at_1"] == 1.0
    assert found["v2t_r_at_1/chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["t2v_num_tied"] == found["v2t_num_tied"] == 0
    assert [(s["direction"], s["video_id"], s["rank"]) for s in result.samples] == [
        ("t2v", "v1", 1.0),
        ("t2v", "v1", 2.0),
        ("t2v", "v2", 1.0),
        ("v2t", "v1", 1.0),
        ("v2t", "v2", 1.0),
    ]
    assert result.samples[1]["top_video_id"] == "v2"
    assert result.metric("t2v_r_at_1").num_samples == 3


def test_retrieval_constant_model_ranks_last() -> None:
    clips = [clip(f"v{i}", f"t{i}") for i in range(4)]
    data = world(clips, [(1, 2)] * 4, {f"t{i}": (2, 1) for i in range(4)})
    found = values(run("retrieval", data))
    assert (found["t2v_r_at_1"], found["t2v_median_rank"], found["t2v_num_tied"]) == (0.0, 4.0, 4.0)
    assert (found["v2t_r_at_1"], found["v2t_median_rank"]) == (0.0, 4.0)


def test_retrieval_repeated_caption_is_a_tie_and_is_reported() -> None:
    data = world([clip("v1", "same"), clip("v2", "same")], [(1, 0), (0, 1)], {"same": (1, 0.2)})
    result = run("retrieval", data)
    assert values(result)["t2v_r_at_1"] == 0.5
    assert values(result)["v2t_r_at_1"] == 0.0  # the other clip's equal caption ties
    assert "1 captions repeat an earlier text" in result.protocol


def test_retrieval_blocks_do_not_change_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    clips = [clip(f"v{i}", f"a{i}", f"b{i}") for i in range(13)]
    data = world(clips, rng.normal(size=(13, 8)), {f"{k}{i}": rng.normal(size=8) for i in range(13) for k in "ab"})
    whole = run("retrieval", data)
    monkeypatch.setattr("vlmvid.evaluation.tasks.retrieval.count_both", partial(count_both, tile=4))
    assert run("retrieval", data) == whole


# --- attributes -----------------------------------------------------------------------------------


def _attribute_world(blind_to_size: bool) -> EvaluationData:
    clips, videos, texts = [], [], {}
    for scene in range(6):
        for differs_in, shift in (("", (0, 0)), ("colour", (1, 0)), ("colour", (2, 0)), ("size", (0, 1))):
            name = f"s{scene}-{differs_in}-{shift[0]}"
            clips.append(clip(name, f"text {name}", base_id=f"s{scene}", differs_in=differs_in))
            texts[f"text {name}"] = (math.cos(shift[0]), math.sin(shift[0]), shift[1], 0.1 * scene)
            size = 0 if blind_to_size else shift[1]
            videos.append((math.cos(shift[0]), math.sin(shift[0]), size, 0.1 * scene))
    return world(clips, videos, texts)


def test_attributes_of_an_oracle_and_of_an_embedding_blind_to_one() -> None:
    oracle = run("attributes", _attribute_world(blind_to_size=False))
    assert values(oracle)["colour_r_at_1"] == values(oracle)["size_r_at_1"] == 1.0
    blind = run("attributes", _attribute_world(blind_to_size=True))
    found = values(blind)
    assert (found["colour_r_at_1"], found["size_r_at_1"]) == (1.0, 0.0)  # equal embeddings tie, and ties are wrong
    assert found["colour_r_at_1/chance"] == pytest.approx(1 / 3)
    assert found["size_r_at_1/chance"] == 0.5
    colour, size = blind.metric("colour_r_at_1"), blind.metric("size_r_at_1/chance")
    assert (colour.num_samples, size.num_samples) == (18, 12)
    assert (colour.ci_low, colour.ci_high) == wilson_interval(6, 6)  # six scenes, all right
    assert (size.ci_low, size.ci_high) == pytest.approx((3 / 12, 9 / 12))  # binomial(12, 1/2)
    assert [metric.name for metric in blind.metrics][0] == "colour_r_at_1"


def test_attributes_leave_out_scenes_without_their_base_clip() -> None:
    full = _attribute_world(blind_to_size=False)
    keep = [row for row, c in enumerate(full.clips) if c.video_id != "s0--0"]
    data = EvaluationData(tuple(full.clips[row] for row in keep), full.video_embeds[keep], full.embed_texts)
    result = run("attributes", data)
    assert "1 scenes left out" in result.protocol
    assert result.metric("size_r_at_1").num_samples == 10


def test_attributes_scene_with_two_bases_is_an_error() -> None:
    clips = [clip(name, name, base_id="s", differs_in=differs) for name, differs in (("a", ""), ("b", ""), ("c", "x"))]
    data = world(clips, np.eye(3), {name: (1, 0, 0) for name in "abc"})
    with pytest.raises(EvaluationError, match="'s' has 2 clips with an empty 'differs_in'"):
        run("attributes", data)


# --- vqa ------------------------------------------------------------------------------------------


def _mcq(name: str, answer: str, *choices: str, statements: tuple[str, ...] = ()) -> Question:
    return Question(
        question_id=name, kind="mcq", question="which?", answer=answer, choices=choices, statements=statements
    )


def test_vqa_by_hand() -> None:
    yes_no = Question(
        question_id="q4",
        kind="yes_no",
        question="red?",
        answer="yes",
        choices=("no", "yes"),
        statements=("it is blue", "it is red"),
    )
    open_question = Question(question_id="q5", kind="open", question="why?", answer="because")
    clips = [
        clip("v1", questions=[_mcq("q1", "red", "red", "blue"), _mcq("q2", "tied", "tied", "red"), yes_no]),
        clip("v2", questions=[_mcq("q3", "red", "blue", "green", "red", "tied"), open_question]),
    ]
    texts = {
        "which? red": (1, 0),
        "which? blue": (0, 1),
        "which? green": (1, 1),
        "which? tied": (1, 0),
        "it is red": (1, 0),
        "it is blue": (0, 1),
    }
    result = run("vqa", world(clips, [(1, 0.1), (0.1, 1)], texts))
    found = values(result)
    assert found["mcq_accuracy"] == pytest.approx(1 / 3)  # q1 right, q2 tied, q3 wrong
    assert found["mcq_accuracy/chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert found["mcq_accuracy/majority"] == pytest.approx(2 / 3)  # "red", also where "tied" is right
    assert (found["yes_no_accuracy"], found["yes_no_accuracy/majority"]) == (1.0, 1.0)
    by_id = {sample["question_id"]: sample for sample in result.samples}
    assert by_id["q2"]["tied"] is True and by_id["q2"]["correct"] is False
    assert by_id["q3"]["predicted"] == "blue" and by_id["q3"]["video_id"] == "v2"
    assert by_id["q4"]["best_text"] == "it is red"
    assert "1 open or single-choice questions left out" in result.protocol


def test_vqa_majority_is_counted_per_question() -> None:
    def asked(name: str, text: str, answer: str, *choices: str) -> Question:
        return Question(question_id=name, kind="mcq", question=text, answer=answer, choices=choices)

    questions = [
        *(asked(f"c{number}", "colour?", "red", "red", "blue") for number in range(3)),
        asked("c3", "colour?", "blue", "red", "blue"),
        asked("s0", "shape?", "star", "star", "ring"),
        asked("s1", "shape?", "ring", "cross", "ring"),  # among these, "ring" alone was ever right
    ]
    texts = {f"{q.question} {choice}": (1, 0) for q in questions for choice in q.choices}
    found = values(run("vqa", world([clip("v1", questions=questions), clip("v2")], [(1, 0), (0, 1)], texts)))
    assert found["mcq_accuracy/majority"] == pytest.approx(4 / 6)  # c0 to c2, s1; of "ring" and "star" the first


# --- hallucination --------------------------------------------------------------------------------


def _probe(name: str, negatives: str, answer: str) -> Question:
    return Question(
        question_id=name,
        task="hallucination",
        kind="yes_no",
        question=f"is there a {name}?",
        answer=answer,
        choices=("yes", "no"),
        statements=(f"{name} is there", f"{name} is not there"),
        attributes={"negatives": negatives, "object": name},
    )


def _probe_world(probes: Sequence[tuple[str, str, float]]) -> EvaluationData:
    """Probes (negatives, answer, margin of yes over no), three to a clip."""
    texts: dict[str, Vector] = {}
    clips = []
    for start in range(0, len(probes), 3):
        questions = []
        for index, (negatives, answer, margin) in enumerate(probes[start : start + 3], start):
            questions.append(_probe(f"o{index}", negatives, answer))
            texts[f"o{index} is there"] = (0.5 + margin, math.sqrt(1 - (0.5 + margin) ** 2))
            texts[f"o{index} is not there"] = (0.5, math.sqrt(0.75))
        clips.append(clip(f"v{start}", questions=questions))
    return world(clips, [(1, 0)] * len(clips), texts)


def test_hallucination_equals_pope_scores_per_kind() -> None:
    rng = np.random.default_rng(3)
    probes = [
        (negatives, answer, float(rng.choice([-0.2, 0.2])))
        for negatives in ("adversarial", "random", "popular")
        for answer in ("yes", "no")
        for _ in range(9)
    ]
    result = run("hallucination", _probe_world(probes))
    found = values(result)
    for kind in ("random", "popular", "adversarial"):
        predicted = np.array([margin > 0 for negatives, _, margin in probes if negatives == kind])
        label = np.array([answer == "yes" for negatives, answer, _ in probes if negatives == kind])
        expected = yes_no_scores(predicted, label)
        for name in ("accuracy", "precision", "recall", "f1", "yes_ratio", "false_yes_rate"):
            assert found[f"{kind}_{name}"] == pytest.approx(getattr(expected, name)), (kind, name)
    pooled = [margin > 0 for _, answer, margin in probes if answer == "no"]
    assert found["false_yes_rate"] == pytest.approx(np.mean(pooled))
    assert result.metric("false_yes_rate").higher_is_better is False
    names = [metric.name for metric in result.metrics if metric.name.endswith("_accuracy")]
    assert names == ["random_accuracy", "popular_accuracy", "adversarial_accuracy"]


def test_hallucination_ties_are_the_wrong_answer() -> None:
    result = run("hallucination", _probe_world([("random", "yes", 0.0), ("random", "no", 0.0)]))
    found = values(result)
    assert (found["random_accuracy"], found["false_yes_rate"], found["random_recall"]) == (0.0, 1.0, 0.0)
    assert "2 ties" in result.protocol


def test_hallucination_undefined_scores_are_null() -> None:
    result = run("hallucination", _probe_world([("random", "no", -0.2), ("random", "no", -0.1)]))
    document = {metric["name"]: metric for metric in result.to_json()["metrics"]}
    assert document["random_precision"]["value"] is None and document["random_precision"]["num_samples"] == 0
    assert document["random_recall"]["value"] is None
    assert document["random_f1"]["value"] is None
    assert document["false_yes_rate"]["value"] == 0.0


def test_hallucination_question_without_kind_of_negatives_is_named() -> None:
    question = _probe("cat", "random", "no").model_copy(update={"attributes": {}})
    data = world([clip("v1", questions=[question])], [(1, 0)], {})
    with pytest.raises(EvaluationError, match="question 'cat' of clip 'v1'"):
        run("hallucination", data)


# --- bias -----------------------------------------------------------------------------------------


def _bias_world(lean: float, seed: int = 0) -> EvaluationData:
    """60 clips, 40 of group 'left'; the queries' axis scores 'left' clips `lean` higher."""
    rng = np.random.default_rng(seed)
    clips, videos, texts = [], [], {}
    for i in range(60):
        left = i % 3 != 0
        clips.append(clip(f"v{i}", f"t{i}", side="left" if left else "right"))
        videos.append((rng.normal() + lean * left, rng.normal(), *(5 * np.eye(60)[i])))
        texts[f"t{i}"] = (0, 0, *np.eye(60)[i if left else (i + 1) % 60])  # 'right' clips are never found
    for i in range(8):
        texts[f"q{i}"] = (1, 0.2 * i, *np.zeros(60))
    return world(clips, videos, texts)


BIAS = {"group_attribute": "side", "queries": tuple(f"q{i}" for i in range(8)), "k": 12}


def test_bias_equals_metric_functions_on_each_ranking() -> None:
    data = _bias_world(lean=0.5)
    result = run("bias", data, bias=BIAS)
    found = values(result)
    groups = np.array([c.attributes["side"] for c in data.clips])
    scores = similarity(data.text_embeds(list(BIAS["queries"])), data.video_embeds)  # type: ignore[arg-type]
    ranked = [groups[np.argsort(-row, kind="stable")] for row in scores]
    assert found["max_skew_at_12"] == pytest.approx(np.mean([max_skew_at_k(r, 12) for r in ranked]))
    assert found["ndkl"] == pytest.approx(np.mean([ndkl(r) for r in ranked]))
    left = np.mean([np.log((r[:12] == "left").mean() / (2 / 3)) for r in ranked])
    assert found["skew_left_at_12"] == pytest.approx(left)
    assert result.metric("max_skew_at_12").num_samples == 8
    first = [s for s in result.samples if s["kind"] == "ranking" and s["query"] == "q3"]
    assert [s["video_id"] for s in first] == [
        data.clips[i].video_id for i in np.argsort(-scores[3], kind="stable")[:12]
    ]


def test_bias_gap_and_worst_group_by_hand() -> None:
    result = run("bias", _bias_world(lean=0.0), bias=BIAS)
    found = values(result)
    assert (found["group_left_t2v_r_at_1"], found["group_right_t2v_r_at_1"]) == (1.0, 0.0)
    assert (found["group_gap_t2v_r_at_1"], found["worst_group_t2v_r_at_1"]) == (1.0, 0.0)
    worst = result.metric("worst_group_t2v_r_at_1")
    assert (worst.ci_low, worst.ci_high, worst.num_samples) == (*wilson_interval(0, 20), 20)
    assert "worst group 'right'" in result.protocol


def test_bias_gap_interval_starts_at_zero() -> None:
    data = _bias_world(lean=0.0)
    level = EvaluationData(data.clips, unit(np.eye(60)), lambda texts: unit(np.eye(60)[: len(texts)]))
    gap = run("bias", level, bias=BIAS).metric("group_gap_t2v_r_at_1")
    assert (gap.value, gap.ci_low) == (0.0, 0.0)
    assert gap.ci_high is not None and gap.ci_high > 0


def test_bias_exceeds_chance_exactly_when_the_ranking_leans() -> None:
    inside = 0
    for seed in range(10):
        fair = run("bias", _bias_world(lean=0.0, seed=seed), bias=BIAS)
        inside += _beyond_chance(fair, "max_skew_at_12") == 0
        assert fair.metric("max_skew_at_12/chance").value > 0.01  # MaxSkew is above 0 by chance alone
    assert inside >= 8
    to_minority = run("bias", _bias_world(lean=-6.0), bias=BIAS)
    assert to_minority.metric("max_skew_at_12").value == pytest.approx(math.log(3))  # all twelve are 'right'
    assert _beyond_chance(to_minority, "max_skew_at_12") == _beyond_chance(to_minority, "skew_right_at_12") == 1
    # A majority's MaxSkew ends at -ln(2/3), inside the range of chance; the absent group's sign tells.
    to_majority = run("bias", _bias_world(lean=6.0), bias=BIAS)
    assert to_majority.metric("max_skew_at_12").value == pytest.approx(math.log(1.5))
    assert _beyond_chance(to_majority, "max_skew_at_12") == 0
    assert to_majority.metric("skew_right_at_12").value == pytest.approx(math.log(3 / 12))
    assert _beyond_chance(to_majority, "skew_right_at_12") == -1
    assert _beyond_chance(to_majority, "ndkl") == 1


def _beyond_chance(result: TaskResult, name: str) -> int:
    value, chance = result.metric(name).value, result.metric(f"{name}/chance")
    assert chance.ci_low is not None and chance.ci_high is not None
    return int(value > chance.ci_high) - int(value < chance.ci_low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": ()}, r"evaluate\.bias\.queries"),
        ({"k": 61}, r"evaluate\.bias\.k=61 exceeds the 60"),
        ({"group_attribute": "tone"}, "'bias'.*attribute 'tone'"),
    ],
)
def test_bias_without_its_input_says_what_is_missing(change: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        run("bias", _bias_world(0.0), bias=BIAS | change)


def test_bias_ignores_clips_without_the_attribute_in_rankings() -> None:
    data = _bias_world(0.0)
    clips = (*data.clips, clip("stray"))
    extended = EvaluationData(clips, np.vstack([data.video_embeds, data.video_embeds[:1]]), data.embed_texts)
    result = run("bias", extended, bias=BIAS)
    assert "1 clips without the attribute left out" in result.protocol
    assert all(sample["video_id"] != "stray" for sample in result.samples)


# --- temporal -------------------------------------------------------------------------------------


def _pair_world(order_weight: float, num_pairs: int = 10, shuffled: bool = False) -> EvaluationData:
    rng = np.random.default_rng(1)
    clips, videos, shuffled_videos, texts = [], [], [], {}
    for pair in range(num_pairs):
        scene = rng.normal(size=6)
        for sign in (1, -1):
            name = f"p{pair}{'ab'[sign < 0]}"
            clips.append(clip(name, f"text {name}", pair_id=pair))
            videos.append((order_weight * sign, *scene))
            shuffled_videos.append((0, *scene))
            # The text knows the order; a little noise keeps captions apart for an order-blind clip.
            texts[f"text {name}"] = (sign, *(scene + 0.1 * rng.normal(size=6)))
    return world(clips, videos, texts, shuffled_videos if shuffled else None)


def test_temporal_order_blind_embedding_is_exactly_at_one_half() -> None:
    result = run("temporal", _pair_world(order_weight=0.0, shuffled=True))
    found = values(result)
    assert (found["temporal_pair_accuracy"], found["temporal_pair_group_score"]) == (0.5, 0.0)
    assert (found["shuffle_change_max"], found["temporal_gain"]) == (0.0, 0.0)
    accuracy = result.metric("temporal_pair_accuracy")
    assert accuracy.ci_low is not None and accuracy.ci_high is not None
    assert accuracy.ci_low < 0.5 < accuracy.ci_high
    gain = result.metric("temporal_gain")
    assert (gain.ci_low, gain.stderr) == (None, None)


def test_temporal_embedding_that_knows_the_order() -> None:
    data = _pair_world(order_weight=3.0, shuffled=True)
    result = run("temporal", data)
    found = values(result)
    assert (found["temporal_pair_accuracy"], found["temporal_pair_group_score"]) == (1.0, 1.0)
    assert (found["temporal_pair_accuracy_shuffled"], found["temporal_gain"]) == (0.5, 0.5)
    texts = data.text_embeds([c.captions[0] for c in data.clips])
    other = texts[np.arange(20) ^ 1]
    assert data.shuffled_video_embeds is not None
    changes = [
        np.abs(pair_similarity(data.video_embeds, t).astype(float) - pair_similarity(data.shuffled_video_embeds, t))
        for t in (texts, other)
    ]
    assert found["shuffle_change_max"] == pytest.approx(np.max(changes))
    assert found["shuffle_change_max"] > 0.1


def test_temporal_ties_are_wrong_and_missing_halves_are_counted() -> None:
    clips = [clip("a", "same", pair_id=1), clip("b", "same", pair_id=1), clip("c", "alone", pair_id=2)]
    result = run("temporal", world(clips, [(1, 0), (0, 1), (1, 1)], {"same": (1, 1), "alone": (1, 0)}))
    assert values(result)["temporal_pair_accuracy"] == 0.0
    assert "1 pairs whose captions are equal; 1 clips left out" in result.protocol
    assert "temporal_gain" not in values(result)


def test_temporal_three_clips_of_a_pair_are_an_error() -> None:
    clips = [clip(name, name, pair_id="p") for name in "abc"]
    with pytest.raises(EvaluationError, match="'p' belongs to 3 clips"):
        run("temporal", world(clips, np.eye(3), {}))


# --- common ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [{}, {"base_id": "", "differs_in": "", "pair_id": "", "side": ""}])
@pytest.mark.parametrize("task", sorted(set(TASKS.names()) - set(VLM_TASKS)))
def test_task_without_input_names_itself_and_the_manifest(task: str, empty: dict[str, str]) -> None:
    captions = () if task == "retrieval" else ("a",)
    data = world([clip("v1", *captions, **empty), clip("v2", *captions, **empty)], [(1, 0), (0, 1)], {"a": (1, 1)})
    with pytest.raises(EvaluationError, match=f"task '{task}'.*manifest must contain"):
        run(task, data, bias=BIAS)


def test_unknown_and_repeated_tasks() -> None:
    data = world([clip("v1", "a")], [(1, 0)], {"a": (1, 0)})
    with pytest.raises(
        ConfigError, match=r"unknown evaluation task 'retreival' \(did you mean 'retrieval'\?\); known:"
    ):
        run("retreival", data)
    with pytest.raises(ValueError, match="twice"):
        EvaluateConfig(tasks=("retrieval", "retrieval"))


def test_clips_of_another_split_are_refused() -> None:
    data = world([clip("v1", "a")], [(1, 0)], {"a": (1, 0)})
    with pytest.raises(EvaluationError, match="do not belong to split 'val'"):
        run("retrieval", data, split="val")


def _data(**change: object) -> Callable[[], EvaluationData]:
    fields: dict[str, object] = {
        "clips": (clip("a", "x"), clip("b", "y")),
        "video_embeds": unit([(1, 0), (0, 1)]),
        "embed_texts": lambda texts: unit([(1, 0)] * len(texts)),
    }
    return lambda: EvaluationData(**(fields | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_data(clips=()), "no clip to evaluate"),
        (_data(clips=(clip("a"), clip("a"))), "occur more than once"),
        (_data(video_embeds=unit([(1, 0)])), r"float32 of shape \(2, D\)"),
        (_data(video_embeds=np.eye(2)), "float64"),
        (_data(video_embeds=2 * unit(np.eye(2))), "not L2-normalised, first row 0 with norm 2"),
        (_data(video_embeds=np.array([[1, 0], [np.nan, 0]], dtype=np.float32)), "first row 1 with norm nan"),
        (_data(shuffled_video_embeds=unit([(1, 0)])), "shuffled_video_embeds"),
        (lambda: _data(embed_texts=lambda texts: unit(np.eye(3)))().text_embeds(["a"]), "text embeddings must be"),
        (lambda: _data(embed_texts=lambda texts: unit([(1, 0, 0)]))().text_embeds(["a"]), "one model"),
    ],
)
def test_wrong_embeddings_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        build()


def test_equal_rows_tie_whatever_the_size_of_the_product() -> None:
    rng = np.random.default_rng(0)
    gallery = unit(rng.normal(size=(301, 129)))
    gallery[[17, 150, 300]] = gallery[0]
    scores = similarity(unit(rng.normal(size=(37, 129))), gallery)
    assert (scores[:, [17, 150, 300]] == scores[:, [0]]).all()
