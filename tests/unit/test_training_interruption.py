"""SIGTERM and Ctrl-C while a model is trained: a checkpoint of the update in work, and the same bytes afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training_fixtures import states_equal, toy_config, toy_data
from tests.unit.vlm_training_fixtures import equal_bytes, one_thread, toy_stage, train
from vlmvid.training.align import train_alignment
from vlmvid.training.checkpoint import latest_checkpoint
from vlmvid.training.interruption import HeldSignals

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


class Ended(BaseException):
    """What the handler raises that was there before, as Prefect's does."""


@pytest.fixture
def handlers() -> Iterator[Any]:
    """A SIGTERM handler that raises, and Python's own for SIGINT, which shells ignore in what they start with ``&``."""

    def end(number: int, frame: object) -> None:
        raise Ended(number)

    before = [
        (number, signal.signal(number, handler))
        for number, handler in ((signal.SIGTERM, end), (signal.SIGINT, signal.default_int_handler))
    ]
    yield end
    for number, handler in before:
        signal.signal(number, handler)


def signal_at(step: int, number: signal.Signals) -> Callable[..., None]:
    def on_step(done: int, report: object = None) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    return on_step


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_an_alignment_that_is_ended_is_saved_at_that_update(
    tmp_path: Path, handlers: Any, number: signal.Signals, raised: type[BaseException]
) -> None:
    config, data = toy_config(), toy_data()
    whole = train_alignment(config, data, work_dir=tmp_path / "whole")
    told: list[int] = []
    with pytest.raises(raised):
        train_alignment(
            config, data, work_dir=tmp_path / "cut", on_step=signal_at(7, number), on_checkpoint=told.append
        )
    found = latest_checkpoint(tmp_path / "cut")
    assert found is not None and found.step == 7 and told == [5, 7]
    assert signal.getsignal(signal.SIGTERM) is handlers
    done: list[int] = []
    resumed = train_alignment(config, data, work_dir=tmp_path / "cut", on_step=lambda step, _: done.append(step))
    assert states_equal(whole, resumed) and done == [8, 9, 10, 11, 12]


def test_a_vlm_stage_that_is_ended_is_saved_at_that_update(tmp_path: Path, handlers: Any) -> None:
    stage = toy_stage(checkpoint_every=100)
    whole = train(stage, tmp_path / "whole")
    with pytest.raises(Ended):
        train(stage, tmp_path / "cut", on_step=signal_at(4, signal.SIGTERM))
    found = latest_checkpoint(tmp_path / "cut")
    assert found is not None and found.step == 4
    assert equal_bytes(train(stage, tmp_path / "cut"), whole)


def test_a_second_signal_acts_at_once(handlers: Any) -> None:
    with HeldSignals() as held:
        signal.raise_signal(signal.SIGTERM)
        assert held.arrived
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)
        assert not held.arrived


def test_a_signal_does_not_wait_for_ever(handlers: Any) -> None:
    with HeldSignals(longest_wait_seconds=0.05), pytest.raises(Ended):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(30)


def test_the_timer_is_stopped_before_the_handlers_are_back(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldSignals()
    stopped: list[bool] = []
    real = signal.signal

    def look(number: int, handler: Any) -> Any:
        if held._timer is not None:
            stopped.append(held._timer.finished.is_set())
        return real(number, handler)

    with pytest.raises(Ended), held:
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(signal, "signal", look)
    assert stopped == [True, True]


def test_a_signal_that_came_last_acts_at_the_end_of_the_block(handlers: Any) -> None:
    reached = False
    with pytest.raises(Ended), HeldSignals():
        signal.raise_signal(signal.SIGTERM)
        reached = True
    assert reached


def test_what_is_ignored_stays_ignored(handlers: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with HeldSignals() as held:
        signal.raise_signal(signal.SIGTERM)
        assert not held.arrived


def test_other_threads_are_left_alone(handlers: Any) -> None:
    seen: list[bool] = []

    def work() -> None:
        with HeldSignals():
            seen.append(signal.getsignal(signal.SIGTERM) is handlers)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
