"""Where the shard tasks of a flow run, as the environment says it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Literal, cast, get_args

from vlmvid.config import Config
from vlmvid.errors import ConfigError

VARIABLE = "VLMVID_TASK_RUNNER"
DEFAULT_WORKERS = 2
RunnerKind = Literal["sequential", "thread", "process", "dask", "ray"]
_PACKAGES = {"dask": ("prefect_dask", "pip install 'vlmvid[dask]'"), "ray": ("prefect_ray", "pip install prefect-ray")}


class RunnerChoice(Config):
    """A kind of task runner, and how many shards at a time or, for dask and ray, the cluster's address."""

    kind: RunnerKind
    num_workers: int | None = None
    address: str | None = None


def runner_choice(text: str | None = None) -> RunnerChoice:
    """What `text`, by default VLMVID_TASK_RUNNER, asks for; without either, one shard after another.

    The forms are ``sequential``, ``thread:4``, ``process:2``, ``dask:2`` (a cluster of two processes for the time
    of the flow), ``dask:tcp://HOST:PORT`` and ``ray:ADDRESS``. Without what follows the colon there are two workers:
    each shard in work holds frames, and in processes a model, so that "as many as there are cores" may not fit.

    Raises ConfigError for another form, and when the package that a kind needs is not installed.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    kind, _, rest = text.partition(":")
    kind = kind or "sequential"
    forms = "sequential, thread:N, process:N, dask:N, dask:ADDRESS or ray:ADDRESS"
    if kind not in get_args(RunnerKind) or (kind == "sequential" and rest):
        raise ConfigError(f"{VARIABLE}={text!r} names no task runner; use {forms}")
    choice = RunnerChoice(kind=cast(RunnerKind, kind))
    if not rest and kind in ("thread", "process", "dask"):
        choice = choice.model_copy(update={"num_workers": DEFAULT_WORKERS})
    elif rest.isdecimal() and int(rest) > 0 and kind != "ray":
        choice = choice.model_copy(update={"num_workers": int(rest)})
    elif rest and kind in _PACKAGES and not rest.lstrip("-").isdecimal():
        choice = choice.model_copy(update={"address": rest})
    elif rest:
        raise ConfigError(f"{VARIABLE}={text!r}: {rest!r} must be a number of workers from 1 on; use {forms}")
    package, command = _PACKAGES.get(kind, ("", ""))
    if package and find_spec(package) is None:
        raise ConfigError(f"{VARIABLE}={text!r} needs the package {package}, which is not installed; {command}")
    return choice
