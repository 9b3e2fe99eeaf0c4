from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.examples import qa_choice as examples
from tests.evaluation.examples.qa_choice import write_json
from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.benchmarks.qa.egoschema import submission
from vlmvid.evaluation.scoring.base import Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.files import ScoreFiles
from vlmvid.evaluation.scoring.files import read_for as read_with
from vlmvid.evaluation.scoring.predictions import Predictions


def run(name: str, items: list[Item], values: dict[str, Any], compat: str | None = None, **options: str) -> TaskResult:
    settings = ScoreSettings(compat=compat, options=options, num_bootstrap=50)
    return get_benchmark(name).scorer(settings)(items, Predictions(values), settings)


def read(name: str, path: Path, **options: str) -> list[Item]:
    return get_benchmark(name).read(path, options)


def read_for(benchmark: Benchmark, path: Path, items: list[Item]) -> Predictions:
    return read_with(benchmark, path, items, ScoreFiles(path, path))


def test_next_qa_names_media_and_groups(tmp_path: Path) -> None:
    items = read("next_qa", examples.write_next_qa(tmp_path))
    assert items[0].media == (Media("0101/2574374895"),) and items[2].media == (Media("2925959064"),)
    assert items[0].item_id == "2574374895_8" and items[0].answer == 2 and items[0].choices[0] == "clap proudly"
    assert items[4].groups == {"type": "TP", "kind": "T"}


def test_next_qa_prints_as_its_script(tmp_path: Path) -> None:
    items = read("next_qa", examples.write_next_qa(tmp_path))
    result = run("next_qa", items, examples.NEXT_RESULTS, "next-qa")
    assert result.printed is not None
    lines = result.printed.split("\n")
    assert lines[0].split("\t")[:3] == ["Why", "How", "Bef&Aft"]
    assert lines[1] == "0.00\t100.00\t50.00\t100.00\t100.00\t100.00\t100.00\t50.00\t66.67\t100.00\t"
    assert lines[2] == "Acc: 75.00"


def test_next_qa_script_trusts_the_labels_of_the_result_file(tmp_path: Path) -> None:
    items = read("next_qa", examples.write_next_qa(tmp_path))
    wrong = {item.item_id: {"prediction": 0, "answer": 0} for item in items}
    assert run("next_qa", items, wrong, "next-qa").metric("accuracy").value == 1.0
    assert run("next_qa", items, wrong).metric("accuracy").value == 2 / 8
    assert run("next_qa", items, dict(examples.NEXT_ANSWERS), "next-qa").metric("accuracy").value == 1.0
    with pytest.raises(EvaluationError, match="needs an answer to every question"):
        run("next_qa", items, dict(list(examples.NEXT_RESULTS.items())[1:]), "next-qa")
    with pytest.raises(EvaluationError, match="reads prediction and answer"):
        run("next_qa", items, {**examples.NEXT_RESULTS, items[0].item_id: {"prediction": 1}}, "next-qa")
    with pytest.raises(EvaluationError, match="divides by zero"):
        run("next_qa", [i for i in items if i.groups["type"] != "DC"], examples.NEXT_RESULTS, "next-qa")


def test_next_qa_refuses_wrong_files(tmp_path: Path) -> None:
    folder = examples.write_next_qa(tmp_path)
    with pytest.raises(ConfigError, match="split='vall' .did you mean 'val'"):
        read("next_qa", folder, split="vall")
    with pytest.raises(MissingDataError, match="no val.csv"):
        read("next_qa", folder, split="val")
    text = (folder / "test.csv").read_text(encoding="utf-8-sig")
    (folder / "test.csv").write_text(text.replace("320,240,where is this place,1", "320,240,where is this place,5"))
    with pytest.raises(DatasetError, match="2925959064_1: the answer is '5'; expected 0 to 4"):
        read("next_qa", folder)


def test_mvbench_reads_parts_and_frame_folders(tmp_path: Path) -> None:
    items = read("mvbench", examples.write_mvbench(tmp_path), **examples.TASKS)
    assert items[0].media == (Media("star/Charades_v1_480/ZS9XR.mp4", 11.1, 19.6),)
    frames = next(item for item in items if item.groups["task"] == "Episodic Reasoning")
    assert frames.media == (Media("tvqa/frames_fps3_hq/friends_s01e01_seg02_clip_00", 11.1, 19.6),)
    assert frames.extra["frame_rate"] == 3.0
    assert items[-1].media == (Media("perception/videos/video_1.mp4"),)


def test_mvbench_needs_every_task_that_is_not_left_out(tmp_path: Path) -> None:
    folder = examples.write_mvbench(tmp_path)
    with pytest.raises(MissingDataError, match="no action_prediction.json"):
        read("mvbench", folder)
    with pytest.raises(DatasetError, match="no task 'action_seqence' .did you mean 'action_sequence'"):
        read("mvbench", folder, tasks="action_seqence")
    one = read("mvbench", folder / "json" / "action_count.json")
    assert [item.item_id for item in one] == ["action_count_0"]


def test_mvbench_refuses_answers_and_bounds_that_are_not_there(tmp_path: Path) -> None:
    row = {"video": "v.mp4", "question": "?", "candidates": ["x", "y"], "answer": "z"}
    path = write_json(tmp_path / "action_count.json", [row])
    with pytest.raises(DatasetError, match="entry 1: the answer 'z' is none of"):
        read("mvbench", path)
    path = write_json(tmp_path / "action_sequence.json", [{**row, "answer": "x"}])
    with pytest.raises(DatasetError, match="no start and end"):
        read("mvbench", path)


ROW = {"video": "v.mp4", "question": "?", "candidates": ["x", "y"], "answer": "x", "start": 1, "end": 2}


@pytest.mark.parametrize("name", ["mvbench", "tvbench"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1, 2], "entry 1: expected an object with video, .*, got 1"),
        ([ROW, None], "entry 2: expected an object with video, .*, got None"),
        ([{**ROW, "candidates": 5}], "entry 1: candidates must be a list, got 5"),
        ([{**ROW, "candidates": "xy"}], "entry 1: candidates must be a list, got 'xy'"),
        ([{**ROW, "start": None}], "entry 1: start and end must be seconds, got None and 2"),
        ([{**ROW, "end": "2"}], "entry 1: start and end must be seconds, got 1 and '2'"),
    ],
)
def test_mvbench_refuses_other_shapes(tmp_path: Path, name: str, rows: list[Any], message: str) -> None:
    path = write_json(tmp_path / "action_sequence.json", rows)
    with pytest.raises(DatasetError, match=f"action_sequence.json, {message}"):
        read(name, path)


def test_mvbench_refuses_results_of_another_shape(tmp_path: Path) -> None:
    items = read("mvbench", write_json(tmp_path / "action_sequence.json", [ROW]))
    for results in (3, [3]):
        with pytest.raises(EvaluationError, match="res_list must be a list of objects with pred, got .?3"):
            read_for(get_benchmark("mvbench"), write_json(tmp_path / "out.json", {"res_list": results}), items)


def test_lmms_eval_prints_0_for_tasks_of_mvbench_without_an_answer(tmp_path: Path) -> None:
    items = read("mvbench", examples.write_mvbench(tmp_path), **examples.TASKS)
    tasks = list(dict.fromkeys(item.groups["task"] for item in items))
    empty = run("mvbench", items, dict.fromkeys((item.item_id for item in items), ""), "lmms-eval")
    assert empty.metric("accuracy").value == 0
    assert [line.split()[1:] for line in (empty.printed or "").split("\n")] == [["mvbench_accuracy", "0.0"]] * len(
        tasks
    )
    right = {item.item_id: "ABCDE"[item.answer] if item.groups["task"] == tasks[0] else "" for item in items}
    first = run("mvbench", items, right, "lmms-eval")
    assert first.metric("accuracy").value == pytest.approx(1 / len(tasks))
    assert [line.split()[2] for line in (first.printed or "").split("\n")] == ["100.0"] + ["0.0"] * (len(tasks) - 1)


def test_mvbench_reads_the_notebooks_results_in_order(tmp_path: Path) -> None:
    items = read("mvbench", examples.write_mvbench(tmp_path), **examples.TASKS)
    shown = [f"({'ABC'[item.answer]}) {item.choices[item.answer]}" for item in items]
    results = [{"pred": "(C) x", "gt": gt} for gt in shown]
    path = write_json(tmp_path / "test.json", {"acc_dict": {}, "res_list": results})
    benchmark = get_benchmark("mvbench")
    values = read_for(benchmark, path, items).values
    result = run("mvbench", items, values, "mvbench")
    assert result.printed == "{'Action Sequence': 50.0, 'Episodic Reasoning': 0.0, 'Action Count': 100.0, 'Avg': 50.0}"
    assert values["action_count_0"] == "(C) x"
    write_json(path, {"res_list": results[:-1]})
    with pytest.raises(EvaluationError, match="3 results for 4 questions"):
        read_for(benchmark, path, items)
    write_json(path, {"res_list": results[::-1]})
    with pytest.raises(EvaluationError, match="keep the order of the tasks"):
        read_for(benchmark, path, items)
    assert read_for(benchmark, write_json(path, {"action_count_0": "C"}), items).values == {"action_count_0": "C"}


def test_mvbench_of_equal_texts_the_notebook_takes_the_last(tmp_path: Path) -> None:
    row = {"video": "v.mp4", "question": "?", "candidates": ["x", "y", "x"], "answer": "x"}
    items = read("mvbench", write_json(tmp_path / "action_count.json", [row]))
    assert run("mvbench", items, {"action_count_0": "(A)"}).metric("accuracy").value == 1.0
    assert run("mvbench", items, {"action_count_0": "(A)"}, "mvbench").metric("accuracy").value == 0.0
    assert run("mvbench", items, {"action_count_0": "(C)"}, "mvbench").metric("accuracy").value == 1.0
    assert run("mvbench", items, {"action_count_0": "(A)"}, "lmms-eval").metric("accuracy").value == 1.0


def test_video_mme_reads_the_published_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            k: v
            for k, v in {**video, **question, "videoID": f"yt{video['video_id']}"}.items()
            if k not in ("questions", "response")
        }
        for video in examples.MME
        for question in video["questions"]
    ]
    (tmp_path / "videomme").mkdir()
    parts = [tmp_path / "videomme" / f"test-0000{number}-of-00002.parquet" for number in range(2)]
    pq.write_table(pa.Table.from_pylist(rows[:4]), parts[0])
    with pytest.raises(DatasetError, match="1 of the 2 files of the table; it lacks test-00001-of-00002.parquet"):
        read("video_mme", tmp_path)
    with pytest.raises(DatasetError, match="it lacks test-00001-of-00002.parquet"):
        read("video_mme", parts[0])
    pq.write_table(pa.Table.from_pylist(rows[4:]), parts[1])
    table = read("video_mme", tmp_path)
    assert read("video_mme", parts[1]) == table
    (tmp_path / "videomme" / "older").mkdir()
    whole = tmp_path / "videomme" / "older" / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), whole)
    assert read("video_mme", tmp_path) == read("video_mme", whole) == table  # the nearest folder; one file
    (tmp_path / "test-mine.parquet").write_bytes(whole.read_bytes())
    assert read("video_mme", tmp_path) == table
    (tmp_path / "test-mine.parquet").unlink()
    mixed = whole.rename(tmp_path / "videomme" / whole.name)
    with pytest.raises(DatasetError, match="files of more than one table: test-00000-of-00001.parquet, "):
        read("video_mme", tmp_path)
    mixed.unlink()
    template = read("video_mme", examples.write_video_mme(tmp_path))
    assert [item.item_id for item in table] == [item.item_id for item in template]
    assert table[0].choices == template[0].choices == ("Apples.", "Candles.", "Berries.", template[0].choices[3])
    assert table[0].media == (Media("yt001"),) and template[0].media == (Media("001"),)
    flat = read("video_mme", write_json(tmp_path / "rows.json", rows))
    assert [item.answer for item in flat] == [item.answer for item in template]


def test_video_mme_reads_responses_from_the_template(tmp_path: Path) -> None:
    items = read("video_mme", examples.write_video_mme(tmp_path))
    benchmark = get_benchmark("video_mme")
    videos = json.loads(json.dumps(examples.MME))
    videos[0]["questions"][0]["response"] = "C"
    path = write_json(tmp_path / "mine.json", videos)
    found = read_for(benchmark, path, items)
    assert found.values["001-1"] == "C" and found.values["001-2"] == ""
    result = run("video_mme", items, found.values)
    assert (result.metric("accuracy").value, result.metric("n_parsed").value) == (1 / 6, 1)
    lines = tmp_path / "mine.jsonl"
    lines.write_text('{"question_id": "001-1", "response": "A", "answer": "C"}\n')
    assert read_for(benchmark, lines, items).values == {"001-1": "A"}
    for question in videos[0]["questions"] + videos[1]["questions"]:
        question.pop("response")
    with pytest.raises(EvaluationError, match="holds no response"):
        read_for(benchmark, write_json(path, videos), items)
    path.write_text('[{"questions": [}]')
    with pytest.raises(EvaluationError, match="not JSON: .* at line 1, column"):
        read_for(benchmark, path, items)


def test_video_mme_script_wants_300_videos_of_each_duration(tmp_path: Path) -> None:
    items = read("video_mme", examples.write_video_mme(tmp_path))
    with pytest.raises(EvaluationError, match="1 videos are short, expected 300"):
        run("video_mme", items, examples.MME_RESPONSES, "video-mme")
    only = {name: text for name, text in examples.MME_RESPONSES.items() if name.startswith("002")}
    result = run("video_mme", items, only, "video-mme", skip_missing="true")
    assert result.metric("accuracy").value == 0.5 and result.metric("n_total").value == 3
    with pytest.raises(EvaluationError, match="1 of 3 are missing"):
        run("video_mme", items, {k: v for k, v in only.items() if k != "002-1"}, "video-mme", skip_missing="true")
    with pytest.raises(EvaluationError, match="no response to a video of the durations .'medium'."):
        run("video_mme", items, only, "video-mme", skip_missing="true", durations="medium")


def test_video_mme_prints_as_the_scripts(tmp_path: Path) -> None:
    items = read("video_mme", examples.write_video_mme(tmp_path))
    authors = run("video_mme", items, examples.MME_RESPONSES, "video-mme", skip_missing="true", durations="short,long")
    assert authors.printed is not None
    lines = authors.printed.split("\n")
    assert lines[:3] == ["=" * 37, "Evaluation on video Type: short", "=" * 37]
    assert lines[6] == "Knowledge:  33.3%"
    assert lines.count("Overall:  33.3%") == 1 and lines.count("Overall Performance") == 3
    assert lines[-1] == "Overall:  40.0%"
    assert "Video Domains" in lines and lines.count("Multilingual:  50.0%") == 4  # twice for long, twice for all
    lmms = run("video_mme", items, examples.MME_RESPONSES, "lmms-eval").printed or ""
    assert "Evaluation on video Type: short:  66.7%" in lmms and lmms.endswith("Overall Performance:  66.7%")
    kit = run("video_mme", items, {"001-1": "Best answer: C", "001-2": "A"}, "vlmevalkit")
    first, _, rating = (kit.printed or "").partition("\n")
    assert first.startswith("Among 6 questions, failed to obtain prediction for 4 questions")
    assert json.loads(rating)["overall"]["overall"] == "0.167" and json.loads(rating)["medium"]["overall"] == "nan"


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (3, "entry 1, video 1: expected an object with .*, got 3"),
        ({**examples.MME[0], "questions": None}, "entry 1, question: expected a list, .* got None"),
        ({**examples.MME[0], "questions": [None]}, "entry 1, question 1: expected an object with .*, got None"),
        (
            {**examples.MME[0], "questions": [{**examples.MME[0]["questions"][0], "options": None}]},
            "001-1: options must be a list, got None",
        ),
    ],
)
def test_video_mme_refuses_other_shapes(tmp_path: Path, video: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read("video_mme", write_json(tmp_path / "videos.json", [video]))


def test_video_mme_refuses_results_of_another_shape(tmp_path: Path) -> None:
    items = read("video_mme", examples.write_video_mme(tmp_path))
    path = write_json(tmp_path / "mine.json", [{"questions": [3]}])
    with pytest.raises(EvaluationError, match="entry 1: expected a question with question_id, got 3"):
        read_for(get_benchmark("video_mme"), path, items)


def test_video_mme_scripts_know_their_categories(tmp_path: Path) -> None:
    videos = json.loads(json.dumps(examples.MME))
    videos[0]["domain"] = "Cooking"
    items = read("video_mme", write_json(tmp_path / "videos.json", videos))
    with pytest.raises(EvaluationError, match="001-1: domain is 'Cooking'"):
        run("video_mme", items, examples.MME_RESPONSES, "lmms-eval")


def test_video_mme_mixes_multilingual_in_the_log_of_lmms_eval(tmp_path: Path) -> None:
    videos = [
        examples.mme_video(1, "short", "Multilingual", "Multilingual", "A"),
        examples.mme_video(2, "short", "Knowledge", "Law", "A"),
    ]
    items = read("video_mme", write_json(tmp_path / "videos.json", videos))
    printed = run("video_mme", items, {"001-1": "A", "002-1": "B"}, "lmms-eval").printed or ""
    assert "Evaluation on Categories: Multilingual:  100.0%" in printed
    assert "Evaluation on Video Sub Categories: Multilingual:  100.0%" in printed
    assert "Evaluation on Categories: Knowledge:  0.0%" in printed


def test_egoschema_submissions(tmp_path: Path) -> None:
    folder = examples.write_egoschema(tmp_path)
    items = read("egoschema", folder)
    assert [item.item_id for item in items] == list(dict(examples.EGO))
    benchmark = get_benchmark("egoschema")
    table = tmp_path / "kaggle.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("q_uid", "answer"), *((uid, answer) for uid, answer in examples.EGO)])
    kaggle = read_for(benchmark, table, items)
    server = read_for(benchmark, write_json(tmp_path / "server.json", dict(examples.EGO)), items)
    assert kaggle.values == server.values == dict(examples.EGO)
    assert run("egoschema", items, kaggle.values).metric("accuracy").value == 1.0
    mixed = Predictions({items[0].item_id: "B", items[1].item_id: [0.1] * 5})
    assert list(submission(items, mixed).values()) == [1, -1, -1, -1, -1]


def test_egoschema_full_set_has_private_answers(tmp_path: Path) -> None:
    folder = examples.write_egoschema(tmp_path)
    items = read("egoschema", folder, split="full")
    assert len(items) == 6 and items[0].answer is None
    for compat in (None, "lmms-eval"):
        with pytest.raises(EvaluationError, match="private: give answers=FILE"):
            run("egoschema", items, dict.fromkeys((item.item_id for item in items), "A"), compat, split="full")
    labels = write_json(tmp_path / "all.json", {**dict(examples.EGO), "unlabelled": 1})
    known = read("egoschema", folder, split="full", answers=str(labels))
    assert run("egoschema", known, {"unlabelled": 1}).metric("accuracy").value == pytest.approx(1 / 6)
    write_json(folder / "subset_answers.json", {"nobody": 1})
    with pytest.raises(DatasetError, match="lacks 1 questions that have answers, e.g. nobody"):
        read("egoschema", folder)
    write_json(folder / "subset_answers.json", {examples.EGO[0][0]: 5})
    with pytest.raises(DatasetError, match="the answer is 5; expected 0 to 4"):
        read("egoschema", folder)


def test_egoschema_refuses_other_shapes(tmp_path: Path) -> None:
    folder = examples.write_egoschema(tmp_path)
    write_json(folder / "questions.json", [1])
    with pytest.raises(DatasetError, match="questions.json, entry 1: expected an object with q_uid, .*, got 1"):
        read("egoschema", folder)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"v1": 3}, "v1: expected an object with action, .*, got 3"),
        ({"v1": {"action": None}}, "v1, action, entry: expected a list, .* got None"),
        ({"v1": {"action": [None]}}, "v1, action, entry 1: expected an object with question, answer, got None"),
        ({"v1": {"action": [{"question": "?"}]}}, "v1, action, entry 1: no 'answer'"),
    ],
)
def test_tempcompass_refuses_other_shapes(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=f"multi-choice.json, {message}"):
        read("tempcompass", write_json(tmp_path / "multi-choice.json", document))


@pytest.mark.parametrize("meta", [{"v1": 3}, {"v1": {"eval_dim": [1]}}, {"v1": {"eval_dim": {"action": 2}}}])
def test_tempcompass_refuses_aspects_of_another_shape(tmp_path: Path, meta: Any) -> None:
    folder = examples.write_tempcompass(tmp_path)
    write_json(folder / "meta_info.json", meta)
    with pytest.raises(DatasetError, match="has no type for v1, action"):
        read("tempcompass", folder)


def test_tempcompass_reads_options_without_the_space(tmp_path: Path) -> None:
    items = read("tempcompass", examples.write_tempcompass(tmp_path))
    order = next(item for item in items if item.groups["dimension"] == "order")
    assert order.choices == ("dancing", "sending a kiss", "Both events") and order.answer == 2
    assert order.groups["aspect"] == "order" and items[0].groups["aspect"] == "fine-grained action"
    assert items[0].question == "What is happening?"


def test_tempcompass_prints_as_its_script(tmp_path: Path) -> None:
    items = read("tempcompass", examples.write_tempcompass(tmp_path))
    result = run("tempcompass", items, examples.COMPASS_RESPONSES, "tempcompass")
    assert result.printed is not None
    lines = result.printed.split("\n")
    assert lines[1] == (
        "{'action': 100.0, 'direction': 100.0, 'speed': 100.0, 'order': 100.0, 'attribute_change': 75.0, 'avg': 90.9}"
    )
    assert lines[2].endswith("'combined change': 100.0, 'other change': 0.0}")
    assert lines[3] == "Match Success Rate=90.9"
    assert run("tempcompass", items, examples.COMPASS_RESPONSES).metric("accuracy").value == 1.0
    refused = {**examples.COMPASS_RESPONSES, items[0].item_id: None}
    assert run("tempcompass", items, refused, "tempcompass").metric("accuracy").value == pytest.approx(9 / 11)
    with pytest.raises(EvaluationError, match="divides by zero"):
        run("tempcompass", items[:-1], examples.COMPASS_RESPONSES, "tempcompass")


def test_tempcompass_needs_the_aspects_for_its_script(tmp_path: Path) -> None:
    folder = examples.write_tempcompass(tmp_path)
    (folder / "meta_info.json").unlink()
    items = read("tempcompass", folder)
    assert "aspect" not in items[0].groups
    with pytest.raises(EvaluationError, match="reads meta_info.json"):
        run("tempcompass", items, examples.COMPASS_RESPONSES, "tempcompass")
    write_json(folder / "meta_info.json", {"v1": {"eval_dim": {"action": None}}})
    with pytest.raises(DatasetError, match="has no type for v1, action"):
        read("tempcompass", folder)


def test_tempcompass_reads_its_result_files(tmp_path: Path) -> None:
    items = read("tempcompass", examples.write_tempcompass(tmp_path))
    question = items[0].extra["question"]
    row = {"question": question, "answer": "C. jumping", "response": "C"}
    benchmark = get_benchmark("tempcompass")
    path = write_json(tmp_path / "out.json", {"v1": {"action": [row]}})
    assert read_for(benchmark, path, items).values == {"v1_action_0": "C"}
    write_json(path, {"v1": {"action": [{**row, "question": "another?"}]}})
    with pytest.raises(EvaluationError, match="another question stands there"):
        read_for(benchmark, path, items)
    write_json(path, {"v1": {"action": [{"question": question}]}})
    with pytest.raises(EvaluationError, match="expected an object with prediction"):
        read_for(benchmark, path, items)
    assert read_for(benchmark, write_json(path, {"v1_action_0": "C"}), items).values == {"v1_action_0": "C"}
    by_id = {"v1_action_0": {"a": 1}}  # an object that is no answer: unparsed, as for the other benchmarks
    assert read_for(benchmark, write_json(path, by_id), items).values == by_id
    assert run("tempcompass", items, by_id).samples[0]["status"] == "unparsed"
    with pytest.raises(EvaluationError, match="v1, speed: expected a list of objects, got 1"):
        read_for(benchmark, write_json(path, {"v1": {"action": [row], "speed": 1}}), items)


OTHER_TASKS = {
    "yes_no": [
        {"question": "Is the man dunking?", "answer": "yes"},
        {"question": "Is the man dribbling?", "answer": "no"},
    ],
    "caption_matching": [
        {
            "question": "Which description is better?\nOption 1: He dribbles.\nOption 2: He dunks.",
            "answer": "Option 2: He dunks.",
        },
        {
            "question": "Which caption matches?\nCaption A: He dunks.\nCaption B: He dribbles.",
            "answer": "Caption A: He dunks.",
        },
    ],
    "captioning": [
        {
            "question": "Find the right one.\nInformation A: {'subject': 'man', 'action': 'dribbling'}\n"
            "Information B: {'subject': 'man', 'action': \"a dunk's start\"}\nGenerated Caption:",
            "answer": "B. dunking",
        }
    ],
}


@pytest.mark.parametrize(
    ("task", "responses", "accuracy"),
    [
        ("yes_no", ["Yes. No other.", "not sure"], 0.5),  # "not" is no answer of ours
        ("yes_no", [[0.4, 0.1], [0.2, 0.2]], 0.5),
        ("caption_matching", ["Option 2", "Sentence A is it"], 1.0),
        ("captioning", ["B"], 1.0),
        ("captioning", [[0.1, 0.3]], 1.0),
        ("captioning", ["a caption about something else"], 0.0),
    ],
)
def test_tempcompass_other_tasks(tmp_path: Path, task: str, responses: list[Any], accuracy: float) -> None:
    path = write_json(tmp_path / f"{task}.json", {"v": {"action": OTHER_TASKS[task]}})
    items = read("tempcompass", path)
    assert read("tempcompass", tmp_path, task=task) == items
    values = {item.item_id: response for item, response in zip(items, responses, strict=True)}
    assert run("tempcompass", items, values).metric("accuracy").value == accuracy


def test_tempcompass_captions_need_a_language_model_in_its_script(tmp_path: Path) -> None:
    items = read("tempcompass", write_json(tmp_path / "captioning.json", {"v": {"action": OTHER_TASKS["captioning"]}}))
    assert items[0].choices == ("man dribbling", "man a dunk's start")
    with pytest.raises(ConfigError, match="has no captioning"):
        run("tempcompass", items, {"v_action_0": "a man"}, "tempcompass")


def test_tempcompass_refuses_answers_that_are_no_option(tmp_path: Path) -> None:
    bad = {"question": "What?\nA. x\nB. y", "answer": "C. z"}
    with pytest.raises(DatasetError, match="v, action, question 0: the answer 'C. z' is none of its options"):
        read("tempcompass", write_json(tmp_path / "multi-choice.json", {"v": {"action": [bad]}}))
    with pytest.raises(DatasetError, match="the answer is 'maybe'; expected yes or no"):
        read(
            "tempcompass",
            write_json(tmp_path / "yes_no.json", {"v": {"action": [{"question": "?", "answer": "maybe"}]}}),
        )


def test_every_choice_benchmark_can_be_scored_over_rotations(tmp_path: Path) -> None:
    for name, write, answers, options in (
        ("next_qa", examples.write_next_qa, examples.NEXT_ANSWERS, {}),
        ("msrvtt_mc", examples.write_msrvtt_mc, examples.MC_ANSWERS, {}),
        ("mvbench", examples.write_mvbench, examples.MV_ANSWERS, examples.TASKS),
    ):
        folder = tmp_path / name
        folder.mkdir()
        items = read(name, write(folder), **options)
        values = {
            item.item_id: [(answers[item.item_id] - shift) % len(item.choices) for shift in range(len(item.choices))]
            for item in items
        }
        result = run(name, items, values, circular="true", **options)
        assert result.metrics[0].name == "circular_accuracy" and result.metrics[0].value == 1.0
