"""What a flow run shows stands beside its work and never in its place; no server is asked."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows import _progress, _show
from vlmvid.errors import VlmvidError
from vlmvid.pipeline import RunRequest


def test_a_link_that_fails_does_not_replace_the_error_of_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_links(request: RunRequest) -> dict[str, str]:
        raise OSError("MLflow is away")

    monkeypatch.setattr(_show, "run_links", no_links)
    request = RunRequest(recipe=str(tmp_path / "none.json"), home=str(tmp_path / "home"))
    with caplog.at_level(logging.WARNING, logger="flows"), pytest.raises(VlmvidError), _show.shown(request, "ingest"):
        pass
    assert "not shown in Prefect: OSError: MLflow is away" in caplog.text


def test_a_bar_of_no_units_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def post(label: str, bar: _progress._Bar) -> None:
        bar.posted = bar.percent
        posted.append(bar.percent)

    posted: list[float] = []
    monkeypatch.setattr(_progress, "_post_one", post)
    board = _progress.ProgressBoard()
    board.set("encode", 0, 0, at_once=True)
    board.close()
    assert posted == [100.0]
