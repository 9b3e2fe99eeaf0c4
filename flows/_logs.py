"""What vlmvid logs, in the logs of the flow run; the library itself knows nothing of Prefect."""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOGGING_LEVEL

LOGGER = "vlmvid"


class RunLogHandler(APILogHandler):
    """Sends records to the run that is under way; what is logged outside of one is not sent."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        if FlowRunContext.get() is None and TaskRunContext.get() is None:
            # A thread of vlmvid's own. Where a worker or `serve` runs the flow, the process knows which run it is of.
            if flow_run.id is None:
                return
            record.flow_run_id = flow_run.id
        super().emit(record)


def share_logs() -> None:
    """Send vlmvid's log records to Prefect from here on, at the level of Prefect's own unless another is set."""
    logger = logging.getLogger(LOGGER)
    if logger.level == logging.NOTSET:
        logger.setLevel(PREFECT_LOGGING_LEVEL.value())
    if not any(isinstance(handler, RunLogHandler) for handler in logger.handlers):
        logger.addHandler(RunLogHandler())
