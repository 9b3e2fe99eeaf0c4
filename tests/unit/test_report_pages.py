"""A report as it is written: escaped, self-contained, readable by all, and the same for the same run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.report_fixtures import HOSTILE, Seen, answers, page_of, record, retrieval
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.report_compare import comparison_page, differences_of
from vlmvid.evaluation.report_differing import choose_differing
from vlmvid.evaluation.report_examples import choose_examples
from vlmvid.evaluation.report_html import html_page
from vlmvid.evaluation.report_markdown import markdown_page
from vlmvid.evaluation.report_metrics import against_baselines, compared, families, headline, label_of, metrics_table
from vlmvid.evaluation.report_page import Page, Paragraph, Printed, Section, Span
from vlmvid.evaluation.report_run import Cost, RunRecord, StageRecord
from vlmvid.evaluation.report_sections import cost_cells, run_page, seconds_text
from vlmvid.types import MetricResult

HOUR = 3600.0


def test_a_hostile_text_stays_a_text() -> None:
    seen = Seen(html_page(page_of(record())))
    seen.check()
    for text in HOSTILE:
        assert " ".join(text.split()) in seen.words
    text = markdown_page(page_of(record()))
    assert "<script" not in text and "<img" not in text and "[d](javascript" not in text


def test_equal_runs_have_equal_bytes_and_drawings_take_the_pages_colours() -> None:
    first, second = (html_page(page_of(record())) for _ in range(2))
    assert first == second
    assert first.count("<svg") > 5 and "var(--series-1)" in first and "var(--ink)" in first
    assert "#0101" not in first and "#0102" not in first
    assert "prefers-color-scheme: dark" in first and "@media print" in first
    assert "http://" not in first.replace("http://www.w3.org/", "")


def test_sections_hold_what_is_known_and_no_others() -> None:
    whole = [section.title for section in page_of(record()).shown]
    assert whole == [
        "Headline", "Data and protocol", "Training", "Results", "Hallucination", "Examples", "Decode defects", "Cost",
        "Lineage",
    ]  # fmt: skip
    bare = run_page(RunRecord("bare", "bare", stages=(StageRecord("ingest", "a" * 24),)))
    assert [section.title for section in bare.shown] == ["Headline", "Decode defects", "Lineage"]
    Seen(html_page(bare)).check()
    assert "no finished evaluation" in markdown_page(bare)


def test_baselines_stand_beside_the_value_and_say_whether_it_is_above_guessing() -> None:
    table = metrics_table(headline(record().results), "Main numbers", with_task=True)
    assert {"chance", "blind", "majority"} <= set(table.columns)
    row = next(row for row in table.rows if row[1] == "T2V R@1")
    assert row[table.columns.index("n")] == "40"
    assert row[table.columns.index("against guessing")] == "better"
    assert not any("/" in row[1] for row in table.rows)
    worse = MetricResult(name="false_yes_rate", value=0.1, num_samples=9, ci_low=0, ci_high=0.2, higher_is_better=False)
    chance = replace(worse, name="false_yes_rate/chance", value=0.5, ci_low=0.3, ci_high=0.7)
    result = TaskResult("hallucination", "p", (worse, chance))
    assert [one.against_chance for one in compared(result)] == ["better"]


def test_the_gain_that_is_shown_is_over_the_strongest_baseline() -> None:
    def metric(name: str, value: float) -> MetricResult:
        return MetricResult(name=name, value=value, num_samples=10, ci_low=value - 0.1, ci_high=value + 0.1)

    found = [metric("accuracy", 0.8), metric("accuracy/blind", 0.3), metric("accuracy/over_blind", 0.5)]
    found += [metric("accuracy/prior", 0.6), metric("accuracy/over_prior", 0.2)]
    table = metrics_table(compared(TaskResult("vlm_vqa", "p", tuple(found))), "x", with_task=False)
    assert table.rows[0][-1] == "20.0 (10.0..30.0) over prior"


def test_names_of_metrics_are_readable() -> None:
    assert label_of("t2v_r_at_1") == "T2V R@1"
    assert label_of("mcq_accuracy") == "MCQ accuracy"
    assert label_of("max_skew_at_40") == "max skew@40"
    assert label_of("cider_d[n=4]") == "CIDEr-D[n=4]"


def test_categories_are_found_by_what_their_names_share() -> None:
    assert [(measure, [bar.label for bar in bars]) for measure, bars in families(compared(answers()))] == [
        ("accuracy", [f"property {kind} (n = 10)" for kind in ("colour", "shape", "size")])
    ]
    assert families(compared(retrieval())) == []
    measure, bars = against_baselines(compared(answers())) or ("", [])
    assert (measure, [bar.label for bar in bars]) == ("accuracy", ["model", "blind", "majority"])


def test_probes_in_the_log_of_another_task_are_categories_too() -> None:
    names = [
        "accuracy",
        "false_yes_rate",
        *(f"{kind}_{one}" for kind in ("random", "popular") for one in ("accuracy",)),
    ]
    rows = [MetricResult(name=f"hallucination_{name}", value=0.5, num_samples=4) for name in names]
    found = families(compared(TaskResult("vlm_vqa", "p", tuple(rows))))
    assert [(measure, [bar.label for bar in bars]) for measure, bars in found] == [
        ("accuracy", ["random (n = 4)", "popular (n = 4)"])
    ]


def test_a_baseline_is_one_wherever_the_brackets_stand() -> None:
    names = [
        "cider_d[pyptb-1]",
        "cider_d[pyptb-1]/nearest",
        "t2v_r_at_1[missing=skip]",
        "t2v_r_at_1/chance[missing=skip]",
    ]
    found = compared(TaskResult("x", "p", tuple(MetricResult(name=name, value=1, num_samples=1) for name in names)))
    assert [(one.metric.name, list(one.beside)) for one in found] == [(names[0], ["nearest"]), (names[2], ["chance"])]


def test_examples_are_the_ends_and_no_clip_is_both() -> None:
    result = retrieval(60)
    found = choose_examples([result])
    worst, best = ([one for one in found if one.is_best == side] for side in (False, True))
    ranks = sorted(float(str(row["rank"])) for row in result.samples)
    assert sorted(float(str(one.sample["rank"])) for one in worst) == ranks[-3:]
    assert {one.sample["rank"] for one in best} == {1.0}
    assert len({one.sample["video_id"] for one in found}) == 6
    assert all(one.shown[0] == one.sample["video_id"] for one in found)
    assert all(len(one.shown) == 2 for one in worst)
    sure = choose_examples([answers()])[0].sample  # wrong, and the model was surest of it
    wrong = [float(str(row["answer_log_prob"])) for row in answers().samples if row["score"] == 0]
    assert (sure["score"], sure["answer_log_prob"]) == (0.0, min(wrong))


def test_a_comparison_pairs_equal_samples_and_says_where_they_differ() -> None:
    first, second = record("first", retrieval(200)), record("second", retrieval(200, seed=5, shift=0.4), shift=0.1)
    (one,) = differences_of(first, second)
    assert one.paired is not None and one.how == "paired" and one.verdict == "better"
    assert one.paired.permutation_p < 0.01 and one.paired.mcnemar_p is not None
    assert one.value == pytest.approx(second.results[0].metrics[0].value - first.results[0].metrics[0].value)
    Seen(html_page(comparison_page([first, second]))).check()
    words = markdown_page(comparison_page([first, second]))
    assert "config lr: 0.1 -> 0.2" in words and " 0.0001 |" in words
    (other,) = differences_of(first, record("third", retrieval(150)))
    assert other.paired is None and other.how.endswith("the samples differ, 150 of 200 and 150 are the same")
    assert other.interval is not None


def test_a_comparison_shows_the_samples_on_which_each_run_is_ahead() -> None:
    first, second = record("first", retrieval(200)), record("second", retrieval(200, seed=5, shift=0.4))
    found = choose_differing(first, second)
    ahead = [one for one in found if one.is_other_better]
    assert len(ahead) == len(found) - len(ahead) == 3
    gaps = [float(str(a["rank"])) - float(str(b["rank"])) for a, b in zip(
        first.results[0].samples, second.results[0].samples, strict=True
    )]  # fmt: skip
    assert [float(str(o.example.sample["rank"])) - float(str(o.other["rank"])) for o in ahead] == sorted(gaps)[:-4:-1]
    words = markdown_page(comparison_page([first, second]))
    assert "second is ahead" in words and "first is ahead" in words and "- second: Found: rank 1" in words
    assert choose_differing(first, first) == []


def test_a_comparison_warns_of_other_protocols_and_data() -> None:
    first = record("first", retrieval())
    other = replace(record("other", replace(retrieval(), protocol="on split 'val'")), stages=first.stages[1:])
    assert "was not measured in the same way" in markdown_page(comparison_page([first, other]))
    assert "measured in the same way, on the same data" in markdown_page(comparison_page([first, first]))


def test_markup_in_markdown_is_escaped_and_fences_hold() -> None:
    blocks = (Paragraph("# no *heading* <b>\nand no break"), Printed("printed", "a\n```\nb"))
    text = markdown_page(Page("t", "", [Section("s", blocks)]))
    assert "\\# no \\*heading\\* &lt;b> and no break" in text
    assert "````text\na\n```\nb\n````" in text


def test_numbers_in_words() -> None:
    assert [seconds_text(s) for s in (0.04, 59.94, 61, HOUR * 2.5)] == ["0.0 s", "59.9 s", "1 min 1 s", "2 h 30 min"]
    cost = Cost(10.0, 25.0, 1.5e9, 1200, "clip")
    assert cost_cells(cost) == ("10.0 s", "25.0 s", "2.5", "1.50 GB", "1,200 clips", "120 clips/s")
    span = Span(0.5, (0.4, 2.0))
    assert [span.place(value) for value in (-1, 0.5, 2.0)] == [0.0, 50.0, 100.0]
