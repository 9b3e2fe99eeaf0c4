"""Where two runs differ most: samples that one of them does better, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.gate_samples import sample_key
from vlmvid.evaluation.report import title_of
from vlmvid.evaluation.report_examples import NUM_EACH, SAID, Example, quality_of, told_of, verdict_of
from vlmvid.evaluation.report_page import Card, Cards, Section, Strip
from vlmvid.evaluation.report_run import RunRecord

_MOST_RESULTS = 5


@dataclass(frozen=True)
class Differing:
    """A sample with what both runs made of it; `example` is that of the first run."""

    example: Example
    other: Sample
    is_other_better: bool


def choose_differing(first: RunRecord, other: RunRecord) -> list[Differing]:
    """Of every result that both have, the samples on which each is the most ahead of the other."""
    theirs = {title_of(result): result for result in other.results}
    shared = [result for result in first.results if title_of(result) in theirs and result.compat is None]
    found: list[Differing] = []
    for result in shared[:_MOST_RESULTS]:
        found += _of_result(result, theirs[title_of(result)])
    return found


def _of_result(first: TaskResult, other: TaskResult) -> list[Differing]:
    theirs = {sample_key(row): row for row in other.samples}
    gaps: list[tuple[float, Sample, Sample]] = []
    for row in first.samples:
        match = theirs.get(sample_key(row))
        own, its = quality_of(row), None if match is None else quality_of(match)
        if match is not None and own is not None and its is not None and told_of(row):
            gaps.append((its - own, row, match))
    gaps.sort(key=lambda gap: gap[0])
    chosen = [gap for gap in gaps[-NUM_EACH:][::-1] if gap[0] > 0] + [gap for gap in gaps[:NUM_EACH] if gap[0] < 0]
    return [
        Differing(Example(first, title_of(first), row, gap > 0, (str(row["video_id"]),)), match, gap > 0)
        for gap, row, match in chosen
    ]


def differing_sections(
    names: tuple[str, str], found: Sequence[Differing], strips: Mapping[tuple[str, str], Strip]
) -> list[Section]:
    """A section for each result, with the samples on which the second run is ahead, then those of the first."""
    titles = dict.fromkeys(one.example.title for one in found)
    sections = []
    for title in titles:
        own = [one for one in found if one.example.title == title]
        blocks = [
            Cards(
                f"{name} is ahead", tuple(_card(names, one, strips) for one in own if one.is_other_better is is_other)
            )
            for is_other, name in ((True, names[1]), (False, names[0]))
        ]
        sections.append(Section(f"{title}: {names[1]} and {names[0]}", [block for block in blocks if block.cards]))
    return sections


def _card(names: tuple[str, str], one: Differing, strips: Mapping[tuple[str, str], Strip]) -> Card:
    example = one.example
    clip = example.shown[0]
    strip = strips.get((example.result.file_stem, clip), Strip(clip, error="no frames were asked for"))
    rows = told_of(example.sample)
    for name, sample in zip(names, (example.sample, one.other), strict=True):
        said = ", ".join(dict.fromkeys(text for _, text in told_of(sample, SAID)))
        rows.append((name, verdict_of(sample) + (f": {said}" if said else "")))
    return Card(clip, (strip,), tuple(rows))
