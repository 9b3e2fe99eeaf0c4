from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.readers import need
from tests.zoo.broken import BROKEN, Broken
from tests.zoo.conftest import Zoo
from tests.zoo.inspecting import Inspector, Job, Report, crash, hang, inspect, look
from tests.zoo.readers import EXACT, NAMES, case

CASES = [case(reader, member.name, member, reader) for member in BROKEN for reader in NAMES]
OF_OTHER_READERS = {"unsupported", "truncated", "decode_error"}
"""What decord and torchcodec may say of a file that PyAV opens."""

MOST_BYTES = 2**30
"""A reader must not take more memory for any of these files; FFmpeg takes half of it to look at the largest."""


class Judge:
    """What must hold for a report on a broken member."""

    def __init__(self, zoo: Zoo, inspector: Inspector) -> None:
        self._zoo = zoo
        self._inspector = inspector

    def __call__(
        self, member: Broken, reader: str, num_threads: int = 1, read: Callable[[Job], Report] = inspect
    ) -> Report:
        self._sound("h264.mp4", reader)  # what the reader loads is not to count as the file's memory
        digests = self._digests(member.source, reader) if member.source else {}
        report = self._inspector.remembered(Job(self._zoo.broken(member), reader, num_threads), read)
        assert report.reason not in ("hang", "crash"), report.reason
        assert not report.transient, f"trying again cannot help: {report.message}"
        assert report.grown_bytes < MOST_BYTES
        if reader in EXACT:
            assert report.reason == member.reason, report.message
            if read is inspect:
                assert len(report.seen()) >= member.at_least, report.message
        elif report.reason is not None:
            assert report.reason in OF_OTHER_READERS | {member.reason}, report.message
        self._frames(member, reader, report, digests)
        return report

    @staticmethod
    def _frames(member: Broken, reader: str, report: Report, digests: dict[int, str]) -> None:
        seen = report.seen()
        readable = {index: frame for index, frame in seen.items() if frame.code is not None}
        if not member.unnoticed:
            assert len(readable) == len(seen), f"frames {sorted(seen.keys() - readable.keys())} are not readable"
            # decord and torchcodec may give up a whole request for one frame.
            assert report.disagreement == "" or (
                reader not in EXACT and report.disagreement.startswith("read together")
            )
        numbers = []
        for index, frame in readable.items():
            assert frame.code is not None
            numbers.append(frame.code.number)
            if not member.moved:
                assert frame.code.number == index
            if not member.retimed:
                assert frame.seconds == frame.code.milliseconds / 1000, f"frame {index}"
            if digests and not member.unnoticed:
                assert frame.digest == digests[frame.code.number], f"frame {index} has other pixels than the sound one"
        assert all(a < b for a, b in zip(numbers, numbers[1:], strict=False)), f"the order is lost: {numbers}"

    def _digests(self, source: str, reader: str) -> dict[int, str]:
        seen = self._sound(source, reader).seen().values()
        return {frame.code.number: frame.digest for frame in seen if frame.code is not None}

    def _sound(self, name: str, reader: str) -> Report:
        return self._inspector.remembered(Job(self._zoo.path(name), reader))


@pytest.fixture(scope="module")
def judge(zoo: Zoo, inspector: Inspector) -> Judge:
    return Judge(zoo, inspector)


@pytest.mark.parametrize(("member", "reader"), CASES)
def test_a_broken_file_gives_right_frames_or_a_reason(judge: Judge, member: Broken, reader: str) -> None:
    need(reader)
    # For a broken file auto is PyAV; the long suite reads every frame of it all the same.
    judge(member, reader, read=look if reader == "auto" else inspect)


@pytest.mark.long
@pytest.mark.parametrize(("member", "reader"), CASES)
def test_so_it_does_in_full_and_with_two_threads(judge: Judge, member: Broken, reader: str) -> None:
    need(reader)
    for num_threads in (1, 2):
        judge(member, reader, num_threads)


def test_the_inspector_reports_hangs_and_crashes(zoo: Zoo) -> None:
    """A reader that never returns and one that dies: without this, the tests above could pass by accident."""
    with Inspector(seconds=2) as inspector:
        job = Job(zoo.path("h264.mp4"), "pyav")
        assert inspector(job).reason is None
        assert inspector(job, hang).reason == "hang"
        assert inspector(job, crash).reason == "crash"
        assert inspector(job).reason is None
