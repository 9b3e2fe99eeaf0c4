"""How MLflow is called: one call at a time in a process, quiet, with our limits and our kinds of error."""

from __future__ import annotations

import logging
import os
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from vlmvid.config.addresses import without_secrets
from vlmvid.errors import TrackingError, VlmvidError
from vlmvid.tracking.environment import environment
from vlmvid.tracking.outage import Refused, RunVanished, Unreachable

# MLflow would write addresses to stdout, which belongs to --json, and bars to stderr.
_QUIET_SETTINGS = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
# MLflow reads its limits from the environment at each call, so calls of one process take turns.
_CALLS = threading.RLock()


@contextmanager
def mlflow_calls(timeout_seconds: float | None) -> Iterator[None]:
    """Calls to MLflow with short limits (None: MLflow's own) and errors of our kinds."""
    # Short calls do not wait behind a model that another thread uploads.
    if not _CALLS.acquire(timeout=-1 if timeout_seconds is None else 2):
        raise Unreachable("another call of this process to the tracking service is under way")
    settings = dict(_QUIET_SETTINGS)
    if timeout_seconds is not None:
        settings["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(int(timeout_seconds))
        settings["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    elif "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ:
        settings["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"
    try:
        with environment(settings):
            yield
    except VlmvidError:
        raise
    except MlflowException as error:
        raise _translated(error) from _showable(error)
    except Exception as error:
        # The HTTP, database and object-store libraries below MLflow each raise their own kinds.
        raise Unreachable(without_secrets(f"{type(error).__name__}: {error}")) from _showable(error)
    finally:
        _CALLS.release()


def _translated(error: MlflowException) -> TrackingError:
    text = without_secrets(str(error).split("\n")[0])[:500]
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return RunVanished(text)
    return Refused(text) if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST") else Unreachable(text)


def _showable(error: Exception) -> Exception | None:
    """`error` as a cause; None when its traceback, which orchestrators log, would show a password."""
    words = "".join(traceback.format_exception(error))
    return error if without_secrets(words) == words else None


def new_client(uri: str) -> MlflowClient:
    """A client of the runs and of the registry at `uri`; a new SQLite file is migrated."""
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with quiet():
        return MlflowClient(uri, registry_uri=uri)


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow 3.17's warnings about its own SQLAlchemy options and its own type hints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
