"""Progress artifacts: how far the long stages of a flow run are, posted beside the work and never in its way."""

from __future__ import annotations

import logging
import re
import time
from contextvars import Context, copy_context
from dataclasses import dataclass
from threading import Condition, Thread
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

FIRST_AFTER_SECONDS = 3.0  # a stage that ends sooner needs no bar
EVERY_SECONDS = 2.0
LAST_WITHIN_SECONDS = 3.0

logger = logging.getLogger(__name__)


@dataclass
class _Bar:
    context: Context
    due: float
    at_once: bool
    percent: float = 0.0
    posted: float | None = None
    artifact: UUID | None = None

    @property
    def is_to_post(self) -> bool:
        """Whether Prefect has not been told; it need not know of what was over before it was to be shown."""
        is_over = self.artifact is None and not self.at_once and self.percent >= 100
        return self.percent != self.posted and not is_over


class ProgressBoard:
    """One progress artifact per stage or part of one, in the run that was under way when it was first named."""

    def __init__(self) -> None:
        self._bars: dict[str, _Bar] = {}
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._post, name="vlmvid-progress", daemon=True)
        self._thread.start()

    def set(self, label: str, done: int, total: int, *, at_once: bool = False) -> None:
        """Say that `done` of `total` units of `label` are done; returns at once.

        A label gets its artifact after three seconds, or `at_once`; a label that is done before gets none.
        """
        with self._changed:
            bar = self._bars.get(label)
            if bar is None:
                wait = 0.0 if at_once else FIRST_AFTER_SECONDS
                bar = self._bars[label] = _Bar(copy_context(), time.monotonic() + wait, at_once)
            bar.percent = 100.0 * done / total if total else 100.0  # no units: nothing is left to do
            self._changed.notify()

    def close(self) -> None:
        """Post the last numbers, for at most three seconds: a run that is cancelled has other things to do."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(LAST_WITHIN_SECONDS)

    def _post(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                changed = {label: bar for label, bar in self._bars.items() if bar.is_to_post}
                due = {k: bar for k, bar in changed.items() if bar.due <= now or (self._closed and bar.artifact)}
                if not due:
                    if self._closed:
                        return
                    self._changed.wait(min((bar.due - now for bar in changed.values()), default=None))
                    continue
            for label, bar in due.items():
                _post_one(label, bar)


def _post_one(label: str, bar: _Bar) -> None:
    percent = bar.posted = bar.percent
    bar.due = time.monotonic() + EVERY_SECONDS
    key = f"vlmvid-progress-{artifact_word(label)}"
    try:
        if bar.artifact is None:
            made = bar.context.run(create_progress_artifact, percent, key=key, description=label)
            bar.artifact = cast(UUID, made)  # no event loop runs in this thread, so nothing is to be awaited
        else:
            bar.context.run(update_progress_artifact, bar.artifact, percent)
    except Exception as error:  # whatever Prefect's client raises: the work goes on without a bar
        logger.warning("the progress of %s is not shown in Prefect: %s", label, error)


def artifact_word(text: str) -> str:
    """`text` with what the keys of Prefect's artifacts may hold: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
