from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.examples import retrieval as examples
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.retrieval.matrices import read_matrices
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions

SEVERAL = [("t1", ["v1", "v2"]), ("t2", ["v3"]), ("t3", ["v3"]), ("t4", ["v4"])]


def items_of(name: str, place: Path, **options: str) -> list[Item]:
    return get_benchmark(name).read(place, options)


def pairs_items(folder: Path, pairs: Any = SEVERAL) -> list[Item]:
    path = folder / "pairs.jsonl"
    lines = [json.dumps({"text_id": text, "video_id": video}) for text, videos in pairs for video in videos]
    path.write_text("\n".join(lines))
    return items_of("retrieval", path)


def score(items: list[Item], values: Any, name: str = "retrieval", **more: Any) -> TaskResult:
    settings = ScoreSettings(**{"num_bootstrap": 50, **more})
    benchmark = get_benchmark(name)
    return benchmark.scorer(settings)(items, Predictions(values), settings)


def numbers(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


# --- files ----------------------------------------------------------------------------------------


def test_msrvtt_with_semicolons_or_commas(tmp_path: Path) -> None:
    examples.write_msrvtt(tmp_path)
    first = items_of("msrvtt", tmp_path)
    assert [(item.item_id, item.answer) for item in first] == [(a, tuple(b)) for a, b in examples.MSRVTT]
    assert first[1].choices == ("a little girl, who does gymnastics",)
    path = tmp_path / "other.csv"
    path.write_text("key;vid_key;video_id;sentence\nret0;msr9770;video9770;a person, connecting\n")
    assert items_of("msrvtt", path)[0].choices == ("a person, connecting",)


def test_msrvtt_full_takes_the_test_videos_with_all_captions(tmp_path: Path) -> None:
    document = {
        "videos": [{"video_id": "video1", "split": "train"}, {"video_id": "video7010", "split": "test"}],
        "sentences": [
            {"video_id": "video7010", "sen_id": 140200, "caption": "a man"},
            {"video_id": "video1", "sen_id": 3, "caption": "a train caption"},
            {"video_id": "video7010", "sen_id": 140201, "caption": "a boy"},
        ],
    }
    for name in ("MSRVTT_data.json", "test_videodatainfo.json"):
        path = tmp_path / name
        path.write_text(json.dumps(document))
        found = items_of("msrvtt", tmp_path, split="full")
        assert [(item.item_id, item.video_id) for item in found] == [("140200", "video7010"), ("140201", "video7010")]
        path.unlink()
    path.write_text(json.dumps({"videos": [{"video": 1}], "sentences": []}))
    with pytest.raises(DatasetError, match="is not MSR-VTT's"):
        items_of("msrvtt", tmp_path, split="full")
    with pytest.raises(ConfigError, match="option split='1k-B'"):
        items_of("msrvtt", tmp_path, split="1k-B")
    with pytest.raises(ConfigError, match="train_list='8k'"):
        items_of("msrvtt", tmp_path, train_list="8k")


def test_msrvtt_names_the_split_that_its_files_have(tmp_path: Path) -> None:
    path = tmp_path / "test_videodatainfo.json"
    path.write_text("{}")
    for place in (tmp_path, path):
        with pytest.raises(MissingDataError, match="-o split=full"):
            items_of("msrvtt", place)


def test_didemo_shows_the_first_31_seconds(tmp_path: Path) -> None:
    path = tmp_path / "test_data.json"
    path.write_text(json.dumps([{"video": "a.avi", "description": "x", "times": [], "annotation_id": 1}]))
    (item,) = items_of("didemo", path)
    assert (item.media[0].start_seconds, item.media[0].end_seconds) == (0.0, 31.0)


def test_msrvtt_says_which_lists_and_split(tmp_path: Path) -> None:
    items = items_of("msrvtt", examples.write_msrvtt(tmp_path))
    result = score(items, examples.perfect_of(examples.MSRVTT), "msrvtt", options={"train_list": "7k"})
    assert "(split 1k-A, train_list 7k)" in result.protocol and "unless" not in result.protocol


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/should-not-exist-either"),))


@pytest.mark.parametrize("content", [pickle.dumps({"a": Evil()}), b"not a pickle", pickle.dumps([1]), b""])
def test_msvd_takes_no_pickle_but_of_plain_containers(content: bytes, tmp_path: Path) -> None:
    examples.write_msvd(tmp_path)
    assert len(items_of("msvd", tmp_path)) == 3
    (tmp_path / "raw-captions.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be read"):
        items_of("msvd", tmp_path)
    assert not Path("/tmp/should-not-exist-either").exists()


def test_a_split_whose_videos_have_no_caption_is_refused(tmp_path: Path) -> None:
    examples.write_msvd(tmp_path)
    (tmp_path / "test_list.txt").write_text("mv89_0_9\nnobody\n")
    with pytest.raises(DatasetError, match="no caption of 1 videos of the split, e.g. nobody"):
        items_of("msvd", tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(MissingDataError, match="test_list.txt"):
        items_of("msvd", tmp_path)


def test_paragraphs_join_sentences_in_file_order(tmp_path: Path) -> None:
    found = items_of("didemo", examples.write_didemo(tmp_path))
    assert [item.choices[0] for item in found] == ["the cat jumps it leaves", "a bus"]
    (tmp_path / "test_list.txt").unlink()
    assert len(items_of("didemo", tmp_path)) == 3
    found = items_of("activitynet_captions", examples.write_activitynet(tmp_path))
    assert found[0].choices[0] == "A weight lifting tutorial is given.   The coach helps the guy in red."
    (tmp_path / "val_ids.json").write_text(json.dumps(["v_bXdq2zI1Ms0"]))
    assert [item.item_id for item in items_of("activitynet_captions", tmp_path)] == ["v_bXdq2zI1Ms0"]


def test_lsmdc_takes_quotation_marks_as_they_are_and_numbers_repeated_clips(tmp_path: Path) -> None:
    path = examples.write_lsmdc(tmp_path) / "LSMDC16_challenge_1000_publictect.csv"
    assert items_of("lsmdc", tmp_path)[0].choices == ('SOMEONE says "no, and leaves.',)
    path.write_text(path.read_text() + path.read_text().splitlines()[1])
    assert [item.item_id for item in items_of("lsmdc", tmp_path)][1:] == ["x_2", "x_2#2"]
    path.write_text("x_2\tonly\ttwo")
    with pytest.raises(DatasetError, match="line 1: 3 columns"):
        items_of("lsmdc", tmp_path)


def test_vatex_languages_and_lists(tmp_path: Path) -> None:
    examples.write_vatex(tmp_path)
    assert len(items_of("vatex", tmp_path)) == 4
    assert items_of("vatex", tmp_path, language="zh")[0].choices == ("一个男人在跑步。",)
    assert len(items_of("vatex", tmp_path, list="val_list_split2.txt")) == 3


def test_ssv2_templates_have_several_correct_videos(tmp_path: Path) -> None:
    items = items_of("ssv2", examples.write_ssv2(tmp_path), captions="template")
    assert items[0].answer == ("62211.webm", "63095.webm")
    values = examples.matrix(
        ["0", "1", "2"],
        ["62211.webm", "63095.webm", "174825.webm", "7.webm"],
        [[0.1, 0.9, 0.2, 0.3], [0.5, 0.4, 0.3, 0.1], [0.1, 0.2, 0.3, 0.4]],
    )
    result = score(items, values, "ssv2", options={"captions": "template"})
    found = numbers(result)
    assert found["t2v_r_at_1"] == pytest.approx(2 / 3) and found["t2v_mean_rank"] == pytest.approx(5 / 3)
    # The second correct video of text 0 comes last of four.
    gain = (1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert found["t2v_ndcg_at_10"] == pytest.approx((gain + 1 / np.log2(4) + 1) / 3)
    assert "v2t_group_r_at_1" not in found
    assert score(items, values, "ssv2", compat="singularity").printed is not None
    with pytest.raises(EvaluationError, match="one correct video per text"):
        score(items, values, "ssv2", compat="clip4clip")
    other = tmp_path / "singularity.json"
    other.write_text(json.dumps([{"image": "1.webm", "caption": "x"}]))
    assert items_of("ssv2", other)[0].answer == ("1.webm",)
    other.write_text(json.dumps([{"caption": "x"}]))
    with pytest.raises(DatasetError, match="entry 1: expected video"):
        items_of("ssv2", other)


def test_wrong_karpathy_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": [{"split": "test", "filename": "a.jpg"}]}))
    with pytest.raises(DatasetError, match="Karpathy's format: KeyError"):
        items_of("coco_karpathy", path)


# --- predictions ----------------------------------------------------------------------------------


def test_all_forms_of_predictions_give_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text, video = (rng.normal(size=(size, 5)).astype(np.float32) for size in (4, 3))
    text_ids, video_ids = [f"t{row}" for row in range(4)], [f"v{row}" for row in range(3)]
    items = pairs_items(tmp_path, [(name, [f"v{row % 3}"]) for row, name in enumerate(text_ids)])
    whole: dict[str, Any] = {"text_embeds": text, "video_embeds": video, "text_ids": text_ids, "video_ids": video_ids}
    np.savez(tmp_path / "one.npz", **whole)
    np.savez_compressed(tmp_path / "small.npz", **whole)
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "text_embeds.npy", text)
    np.save(folder / "video_embeds.npy", video)
    (folder / "text_ids.json").write_text(json.dumps(text_ids))
    (folder / "video_ids.txt").write_text("\n".join(video_ids) + "\n")
    np.savez(tmp_path / "text.npz", embeds=text, ids=text_ids)
    np.save(tmp_path / "video.npy", video)
    (tmp_path / "video.ids.txt").write_text("\n".join(video_ids))
    two = Path(f"text={tmp_path / 'text.npz'},video={tmp_path / 'video.npy'}")
    similarity: dict[str, Any] = {
        "similarity": text.astype(np.float64) @ video.T,
        "text_ids": text_ids,
        "video_ids": video_ids,
    }
    np.savez(tmp_path / "matrix.npz", **similarity)
    results = [
        score(items, read_matrices(place, items).values)
        for place in (tmp_path / "one.npz", tmp_path / "small.npz", folder, two, tmp_path / "matrix.npz")
    ]
    assert all(numbers(result) == numbers(results[0]) for result in results)


def test_large_arrays_of_an_npz_are_mapped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 600)).astype(np.float32)
    ids = np.arange(600)
    for number, array in enumerate((values, np.asfortranarray(values))):
        np.savez(tmp_path / f"{number}.npz", similarity=array, text_ids=ids, video_ids=ids)
        found = read_matrices(tmp_path / f"{number}.npz", []).values
        assert isinstance(found["similarity"], np.memmap)
        assert (found["similarity"] == values).all()
        assert found["text_ids"][:2] == ["0", "1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_ids": ["a", "a"]}, "1 of text_ids occur more than once, e.g. a"),
        ({"similarity": np.zeros((3, 2))}, r"similarity is \(3, 2\), but there are 2 text_ids and 2 video_ids"),
        ({"similarity": np.array([["x", "y"]] * 2)}, "must be numbers with two axes"),
        (
            {"text_embeds": np.zeros((2, 3)), "video_embeds": np.zeros((2, 3))},
            "expected text_ids, video_ids and either",
        ),
        ({"similarity": np.array([[1.0, np.nan], [0, 1]])}, "1 similarities are NaN"),
        ({"text_ids": ["x", "y"]}, "has none of the 4 texts"),
        ({"video_ids": ["v1", "v3"], "text_ids": ["t4", "x"]}, "no text together with one of its videos"),
    ],
)
def test_wrong_predictions_are_refused(change: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    items = pairs_items(tmp_path)
    values = {"similarity": np.eye(2), "text_ids": ["t1", "t2"], "video_ids": ["v1", "v3"], **change}
    with pytest.raises(EvaluationError, match=message):
        score(items, values)


def test_wrong_files_of_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not exist"):
        read_matrices(tmp_path / "no.npz", [])
    (tmp_path / "text.npz").write_bytes(b"not a zip file")
    with pytest.raises(EvaluationError, match=r"cannot be read as \.npz"):
        read_matrices(tmp_path / "text.npz", [])
    np.savez(tmp_path / "objects.npz", similarity=np.array([[object()]]), text_ids=["a"], video_ids=["b"])
    with pytest.raises(EvaluationError, match=r"cannot be read as \.npz"):
        read_matrices(tmp_path / "objects.npz", [])
    with pytest.raises(EvaluationError, match="expected text=FILE,video=FILE"):
        read_matrices(Path("text=a.npz"), [])
    np.save(tmp_path / "alone.npy", np.eye(2))
    with pytest.raises(EvaluationError, match=r"write alone\.ids\.txt"):
        read_matrices(Path(f"text={tmp_path / 'alone.npy'},video={tmp_path / 'alone.npy'}"), [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="holds nothing"):
        read_matrices(tmp_path / "empty", [])


# --- scores ---------------------------------------------------------------------------------------

VALUES = examples.matrix(
    ["t1", "t2", "t3", "t4"],
    ["v1", "v2", "v3", "v4"],
    [[0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.8, 0.3], [0.5, 0.1, 0.4, 0.2], [0.1, 0.1, 0.3, 0.3]],
)


def test_both_directions_by_hand(tmp_path: Path) -> None:
    found = numbers(score(pairs_items(tmp_path), VALUES))
    # Ranks of the texts: 1, 1, 2, 2 (t4 ties with v3); of the videos: v1 1, v2 2 (tie with none: .2 above), v3 1, v4 1.
    assert found["t2v_r_at_1"] == 0.5 and found["t2v_mean_rank"] == 1.5 and found["t2v_num_tied"] == 1
    columns = VALUES["similarity"].T
    own = {0: [0], 1: [0], 2: [1, 2], 3: [3]}
    ranks = [
        1 + sum(v >= max(column[own[row]]) for i, v in enumerate(column) if i not in own[row])
        for row, column in enumerate(columns)
    ]
    assert found["v2t_mean_rank"] == np.mean(ranks) and found["v2t_r_at_1"] == np.mean(np.array(ranks) == 1)
    assert found["rsum"] == pytest.approx(sum(found[f"{d}_r_at_{k}"] for d in ("t2v", "v2t") for k in (1, 5, 10)))
    assert found["t2v_geometric_mean"] == pytest.approx(0.5 ** (1 / 3))
    assert (found["n_total"], found["n_scored"], found["n_videos"], found["n_texts"]) == (4, 4, 4, 4)
    # t1 has two of the four videos.
    assert found["t2v_r_at_1/chance"] == pytest.approx((0.5 + 0.25 * 3) / 4)
    assert found["t2v_r_at_1/constant"] == 0


@pytest.mark.parametrize(("ties", "r1", "mean"), [("expected", 0.625, 1.375), ("optimistic", 0.75, 1.25)])
def test_other_rules_of_ties_are_named(ties: str, r1: float, mean: float, tmp_path: Path) -> None:
    result = score(pairs_items(tmp_path), VALUES, options={"ties": ties})
    found = numbers(result)
    assert found[f"t2v_r_at_1[ties={ties}]"] == pytest.approx(r1)
    assert found[f"t2v_mean_rank[ties={ties}]"] == pytest.approx(mean)
    assert all(name.endswith(f"[ties={ties}]") for name in found)
    with pytest.raises(ConfigError, match="option ties='lucky'"):
        score(pairs_items(tmp_path), VALUES, options={"ties": "lucky"})


def test_a_constant_model_scores_chance_under_expected_ties(tmp_path: Path) -> None:
    values = {**VALUES, "similarity": np.zeros((4, 4))}
    found = numbers(score(pairs_items(tmp_path), values, options={"ties": "expected"}))
    for name in ("t2v_r_at_1", "v2t_r_at_1", "t2v_r_at_5"):
        assert found[f"{name}[ties=expected]"] == pytest.approx(found[f"{name}/chance[ties=expected]"])
    assert found["t2v_r_at_1/constant[ties=expected]"] == pytest.approx(found["t2v_r_at_1[ties=expected]"])


def test_what_is_missing_ranks_last_and_is_named(tmp_path: Path) -> None:
    items = pairs_items(tmp_path)
    values = {
        "similarity": VALUES["similarity"][1:, [1, 3, 2]],
        "text_ids": ["t2", "t3", "t4"],
        "video_ids": ["v2", "v4", "v3"],
    }
    result = score(items, values)
    found = numbers(result)
    assert "1 texts without a prediction (t1), ranked last" in result.protocol
    assert "1 videos without a prediction (v1), ranked last" in result.protocol
    rows = {(row["direction"], row["item_id"]): row for row in result.samples}
    assert rows["t2v", "t1"]["rank"] == 4 and rows["t2v", "t1"]["status"] == "missing"
    assert rows["v2t", "v1"]["rank"] == 4 and rows["v2t", "v2"]["status"] == "missing"  # no text of v2 is there
    assert rows["t2v", "t3"]["rank"] == 1  # the video that was before it is not there
    assert (found["n_total"], found["n_scored"], found["t2v_r_at_1"]) == (4, 3, 0.5)
    assert found["t2v_ndcg_at_10"] == pytest.approx((0 + 1 + 1 + 1 / np.log2(3)) / 4)
    skipped = numbers(score(items, values, missing="skip"))
    assert skipped["t2v_r_at_1[missing=skip]"] == pytest.approx(2 / 3)
    for compat in get_benchmark("retrieval").compat:
        with pytest.raises(EvaluationError, match="1 texts and videos are missing|2 texts and videos are missing"):
            score(items, values, compat=compat)


def test_part_of_the_correct_videos_missing_costs_ndcg(tmp_path: Path) -> None:
    values = {**VALUES, "similarity": VALUES["similarity"][:, [0, 2, 3]], "video_ids": ["v1", "v3", "v4"]}
    found = numbers(score(pairs_items(tmp_path, SEVERAL[:1]), values, options={"gallery": "references"}))
    assert found["t2v_r_at_1"] == 1
    assert found["t2v_ndcg_at_10"] == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_distractors_stay_or_go_as_the_gallery_says(tmp_path: Path) -> None:
    items = pairs_items(tmp_path, [("t3", ["v3"])])
    mine = score(items, VALUES)
    assert numbers(mine)["t2v_mean_rank"] == 2 and numbers(mine)["n_videos"] == 4
    theirs = score(items, VALUES, options={"gallery": "references"})
    assert numbers(theirs)["t2v_mean_rank"] == 1 and numbers(theirs)["n_videos"] == 1
    assert "3 videos of the predictions that nothing refers to (v1, v2, v4) ignored" in theirs.protocol


def test_compat_ranks_the_same_gallery_as_the_plain_score(tmp_path: Path) -> None:
    items = pairs_items(tmp_path, [("t3", ["v3"])])
    found = numbers(score(items, VALUES, compat="clip4clip"))
    assert found["t2v_mean_rank"] == numbers(score(items, VALUES))["t2v_mean_rank"] == 2
    asked = {"gallery": "references"}
    assert numbers(score(items, VALUES, compat="clip4clip", options=asked))["t2v_mean_rank"] == 1
    with pytest.raises(ConfigError, match="gallery='all'"):
        score(items, VALUES, compat="clip4clip", options={"gallery": "all"})


def test_pairs_without_text_have_no_choices(tmp_path: Path) -> None:
    rows = [{"text_id": "a", "video_id": "1"}, {"text_id": "b", "video_id": "1", "text": None}]
    rows += [{"text_id": "c", "video_id": "1"}, {"text_id": "c", "video_id": "2", "text": "a dog"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [item.choices for item in items_of("retrieval", path)] == [(), (), ("a dog",)]


def test_several_captions_have_two_rules_of_v2t(tmp_path: Path) -> None:
    items = pairs_items(tmp_path, [("a", ["x"]), ("b", ["x"]), ("c", ["x"]), ("d", ["y"])])
    values = examples.matrix("abcd", "xy", [[0.5, 0.6], [0.4, 0.59], [0.3, 0.58], [0.2, 0.5]])
    result = score(items, values)
    found = numbers(result)
    assert (found["v2t_mean_rank"], found["v2t_group_mean_rank"]) == (2.5, 1.5)
    assert found["v2t_r_at_1"] == found["v2t_group_r_at_1"] == 0.5
    assert numbers(score(items, values, compat="clip4clip"))["v2t_mean_rank"] == 1.5
    assert numbers(score(items, values, compat="frozen"))["v2t_mean_rank"] == 2.5


def test_the_order_of_texts_and_videos_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = [(f"t{row}", [f"v{row % 7}"]) for row in range(20)]
    items = pairs_items(tmp_path, pairs)
    similarity = rng.integers(0, 6, (20, 7)).astype(np.float32)
    values = examples.matrix([text for text, _ in pairs], [f"v{row}" for row in range(7)], similarity)
    rows, columns = rng.permutation(20), rng.permutation(7)
    mixed = examples.matrix([f"t{row}" for row in rows], [f"v{row}" for row in columns], similarity[rows][:, columns])
    shuffled = [items[row] for row in rng.permutation(20)]
    for options in ({}, {"ties": "expected"}, {"inference_normalisation": "dsl", "temperature": "1"}):
        before = numbers(score(items, values, options=options))
        assert numbers(score(shuffled, mixed, options=options)) == pytest.approx(before)


def test_the_reference_lines(tmp_path: Path) -> None:
    items = items_of("msrvtt", examples.write_msrvtt(tmp_path))
    clip4clip = score(items, examples.TIED, "msrvtt", compat="clip4clip")
    assert clip4clip.printed == (
        "Text-to-Video:\n\t>>>  R@1: 60.0 - R@5: 100.0 - R@10: 100.0 - Median R: 1.0 - Mean R: 1.4\n"
        "Video-to-Text:\n\t>>>  V2T$R@1: 33.3 - V2T$R@5: 100.0 - V2T$R@10: 100.0 - V2T$Median R: 2.0 - "
        "V2T$Mean R: 1.7"
    )
    experts = score(items, examples.TIED, "msrvtt", compat="collaborative-experts").printed
    assert experts is not None and "'R1': 33.3" in experts and "'R50': 100.0" in experts
    with_k = score(items, examples.TIED, "msrvtt", compat="clip_benchmark", options={"recall_k": "1, 3"})
    assert with_k.printed is not None and "'image_retrieval_recall@3': 1.0" in with_k.printed
    with pytest.raises(EvaluationError, match="cannot take 5 of 3"):
        score(items, examples.TIED, "msrvtt", compat="clip_benchmark")
    with pytest.raises(EvaluationError, match="recall_k='five'"):
        score(items, examples.TIED, "msrvtt", compat="clip_benchmark", options={"recall_k": "five"})
    singularity = score(items, examples.TIED, "msrvtt", compat="singularity").printed
    assert singularity is not None and "'img_r1': 33.33" in singularity


def test_normalised_numbers_stand_beside_the_plain_ones(tmp_path: Path) -> None:
    items = pairs_items(tmp_path, [("t1", ["v2"]), ("t2", ["v1"]), ("t3", ["v1"])])
    matrix = [[0.30, 0.29, 0.10], [0.31, 0.20, 0.10], [0.32, 0.28, 0.11]]
    values = examples.matrix(["t1", "t2", "t3"], ["v1", "v2", "v3"], matrix)
    result = score(items, values, options={"inference_normalisation": "dsl"})
    found = numbers(result)
    assert found["t2v_r_at_1"] == pytest.approx(2 / 3) and found["t2v_r_at_1[dsl,temperature=0.01]"] == 1
    assert result.metrics[0].name == "t2v_r_at_1" and "bank of captions" in result.protocol
    with pytest.raises(EvaluationError, match="needs the similarities of a bank"):
        score(items, values, options={"inference_normalisation": "qbnorm"})
    bank = {**values, "bank_similarity": np.array([[1.0, 0.1, 0.1], [0.1, 0.0, 0.2]])}
    found = numbers(score(items, bank, options={"inference_normalisation": "qbnorm", "beta": "10"}))
    assert found["t2v_r_at_1[qbnorm,beta=10,k=1,bank=2]"] == pytest.approx(1 / 3)  # v1 is a hub of the bank
    assert found["v2t_r_at_1[qbnorm,beta=10,k=1,bank=2]"] == found["v2t_r_at_1"]
    with pytest.raises(EvaluationError, match="temperature='warm'"):
        score(items, values, options={"inference_normalisation": "dsl", "temperature": "warm"})


def test_qb_norm_from_embeddings(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = pairs_items(tmp_path, [(f"t{row}", [f"v{row}"]) for row in range(6)])
    text, video, bank = (rng.normal(size=(size, 4)).astype(np.float32) for size in (6, 6, 9))
    ids = {"text_ids": [f"t{row}" for row in range(6)], "video_ids": [f"v{row}" for row in range(6)]}
    options = {"inference_normalisation": "qbnorm", "beta": "2"}
    embeds = {**ids, "text_embeds": text, "video_embeds": video, "bank_embeds": bank}
    matrices = {**ids, "similarity": text @ video.T, "bank_similarity": bank @ video.T}
    assert numbers(score(items, embeds, options=options)) == numbers(score(items, matrices, options=options))


def test_blind_predictions_are_a_baseline(tmp_path: Path) -> None:
    items = pairs_items(tmp_path)
    blind = Predictions({**VALUES, "similarity": np.eye(4)[::-1]})
    found = numbers(score(items, VALUES, blind=blind))
    assert found["t2v_r_at_1/blind"] == 0.25 and "v2t_r_at_1/blind" in found


def test_infinite_similarities_are_counted(tmp_path: Path) -> None:
    similarity = VALUES["similarity"].copy()
    similarity[0, 1] = -np.inf
    assert numbers(score(pairs_items(tmp_path), {**VALUES, "similarity": similarity}))["n_infinite"] == 1


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="no option 'galery'"):
        get_benchmark("msrvtt").check(ScoreSettings(options={"galery": "references"}))
