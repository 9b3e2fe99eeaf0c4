"""The whole zoo examined as `vlmvid probe-media` does: no member harms the run, and every defect has a name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.zoo.broken import BROKEN
from tests.zoo.conftest import Zoo
from tests.zoo.sound import SOUND
from vlmvid.errors import DecodeError
from vlmvid.video.isolation.pool import DecodePool
from vlmvid.video.options import DecodeLimits
from vlmvid.video.probing import ExamineJob

HARMLESS = {"starts_late", "negative_start", "no_timestamps"}
"""What may be said of a sound file: facts that a reader copes with."""


def examine(paths: list[str]) -> list[dict[str, Any] | DecodeError]:
    limits = DecodeLimits(seconds=60, memory_bytes=2**31)
    with DecodePool(None, limits, num_workers=2) as pool:
        return list(pool.run([ExamineJob(path=path) for path in paths]))


def defects_of(outcome: dict[str, Any] | DecodeError) -> list[str]:
    assert not isinstance(outcome, DecodeError), f"{outcome.reason_code}: {outcome}"
    return [defect["code"] for defect in outcome["defects"]]


def test_sound_files_have_no_defect_and_all_their_frames(zoo: Zoo) -> None:
    outcomes = examine([str(zoo.path(member.name)) for member in SOUND])
    for member, outcome in zip(SOUND, outcomes, strict=True):
        assert set(defects_of(outcome)) <= HARMLESS, member.name
        assert isinstance(outcome, dict)
        assert outcome["info"]["num_frames"] == len(zoo.codes(member.name)), member.name
        assert outcome["perceptual_hash"] is not None, member.name


def test_broken_files_have_the_reason_that_their_reader_gives(zoo: Zoo) -> None:
    outcomes = examine([str(zoo.broken(member)) for member in BROKEN])
    for member, outcome in zip(BROKEN, outcomes, strict=True):
        found = defects_of(outcome)
        if member.reason is not None:
            assert found == [member.reason], member.name
        assert isinstance(outcome, dict)
        if member.reason is not None or member.at_least:
            assert (outcome["info"] is None) == (member.reason is not None), member.name
        assert found or outcome["info"] is not None, member.name


@pytest.mark.parametrize("name", ["more_samples.mp4", "more.avi"])
def test_frames_declared_beyond_the_end_of_the_file_are_a_cut(zoo: Zoo, name: str) -> None:
    """Nothing tells a header that declares too much from a file that lost its end, so only that is said."""
    member = next(member for member in BROKEN if member.name == name)
    found = defects_of(examine([str(zoo.broken(member))])[0])
    assert "truncated" in found and "header_count_lies" not in found


@pytest.mark.parametrize("name", ["more_times.mp4", "fewer.avi", "fewer_times.mp4"])
def test_a_frame_count_that_lies_is_said(zoo: Zoo, name: str) -> None:
    member = next(member for member in BROKEN if member.name == name)
    assert "header_count_lies" in defects_of(examine([str(zoo.broken(member))])[0])


@pytest.mark.parametrize("name", ["size_change.ts", "size_change.h264"])
def test_a_change_of_size_is_said(zoo: Zoo, name: str) -> None:
    member = next(member for member in BROKEN if member.name == name)
    assert "size_change" in defects_of(examine([str(zoo.broken(member))])[0])
