"""The whole zoo as one dataset: a run of ingest and decode ends, and every member is right or a named ledger row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny import write_rows
from tests.unit.pipeline_fixtures import request_for, run
from tests.zoo.broken import BROKEN, Broken
from tests.zoo.codes import read_all
from tests.zoo.conftest import Zoo
from tests.zoo.docs_table import reasons
from tests.zoo.sound import SOUND, Sound
from vlmvid.artifacts import LedgerRow
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.index import IndexRow, read_index
from vlmvid.video.sampling import uniform_indices

NUM_FRAMES = 4
DECODE = {"sampling": {"num_frames": NUM_FRAMES}, "image_size": 48, "keep_frames": True}


Outcome = tuple[LedgerRow | IndexRow, np.ndarray, np.ndarray]
_NONE = np.empty(0)


@pytest.fixture(scope="module")
def outcomes(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every member's row of the index, its frames and their times (empty where there are none)."""
    folder = tmp_path_factory.mktemp("zoo_run")
    files = {member.name: zoo.path(member.name) for member in SOUND}
    files |= {f"broken/{member.name}": zoo.broken(member) for member in BROKEN}
    rows = [{"video_id": name, "path": str(path), "captions": ["a code"]} for name, path in files.items()]
    manifest = write_rows(folder / "manifest.jsonl", rows)
    options = {"shard_size": 64, "max_failed_fraction": 1.0, "decode_workers": 2, "decode_timeout_seconds": 60}
    request = request_for(folder, folder / "home", manifest, decode=DECODE, options=options)
    refs = run(request, "ingest", "decode")
    context = open_context(request)
    ledger = context.store.ledger("ingest").rows().values()
    found: dict[str, Outcome] = {row.video_id: (row, _NONE, _NONE) for row in ledger if row.status != "ok"}
    for row in read_index(Path(refs["decode"].uri)):
        arrays = (_NONE, _NONE)
        if row.status == "ok":
            store = context.store.clips("decode")
            arrays = store.gather("frames", [row.location])[0], store.gather("pts_seconds", [row.location])[0]
        found[row.video_id] = (row, *arrays)
    assert found.keys() == files.keys(), "a member has neither frames nor a ledger row"
    return found


@pytest.mark.parametrize("member", SOUND, ids=lambda member: member.name)
def test_a_sound_member_has_its_frames(zoo: Zoo, outcomes: dict[str, Outcome], member: Sound) -> None:
    row, frames, seconds = outcomes[member.name]
    assert row.status == "ok", row.message
    if member.stream_index is not None:  # a recipe takes the best stream
        return
    codes = zoo.codes(member.name)
    expected = [codes[index] for index in _sampled(len(codes))]
    assert read_all(frames) == expected
    if member.has_times:
        first = codes[0].milliseconds / 1000
        assert seconds.tolist() == [code.milliseconds / 1000 - first for code in expected]


@pytest.mark.parametrize("member", BROKEN, ids=lambda member: member.name)
def test_a_broken_member_has_frames_of_its_own_or_a_named_reason(outcomes: dict[str, Outcome], member: Broken) -> None:
    row, frames, seconds = outcomes[f"broken/{member.name}"]
    if row.status != "ok":
        assert row.status == "failed_permanent", f"trying again cannot help: {row.message}"
        assert row.reason_code in reasons() and row.message
        return
    assert member.reason is None
    codes = read_all(frames)
    assert member.unnoticed or None not in codes
    known = [(code, time) for code, time in zip(codes, seconds.tolist(), strict=True) if code is not None]
    assert [code.number for code, _ in known] == sorted(code.number for code, _ in known)
    if not member.retimed:
        late = [time - code.milliseconds / 1000 for code, time in known]
        np.testing.assert_allclose(late, late[:1] * len(late), atol=1e-9)  # times count from the first frame there is


def _sampled(num_available: int) -> list[int]:
    if num_available >= NUM_FRAMES:
        return uniform_indices(num_available, NUM_FRAMES).tolist()
    return [min(index, num_available - 1) for index in range(NUM_FRAMES)]
