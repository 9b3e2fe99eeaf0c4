"""What a model must reach before it becomes the champion: `configs/gates/*.yaml`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vlmvid.config.base import Config
from vlmvid.config.load import read_yaml, validate

ModelKind = Literal["dual_encoder", "vlm", "dual_encoder_and_vlm"]
Part = Literal["worse_end", "value", "ci_low", "ci_high"]
Direction = Literal["higher", "lower"]
_METRIC = r"^[^/\s]+/\S.*$"


class ThresholdGate(Config):
    """A metric against a fixed number; which side passes follows from the metric's own direction, if it has one."""

    metric: str = Field(pattern=_METRIC, description="TASK/METRIC as the report and MLflow name it")
    threshold: float = Field(description="reached when equal; rates are in [0, 1]")
    part: Part = Field(
        default="worse_end",
        description="what must reach it: the end of the 95 % interval that is worse, the value, or one end by name",
    )
    direction: Direction | None = Field(
        default=None,
        description="the side that is better, for a metric that has none of its own; it must not contradict",
    )
    min_samples: int = Field(default=30, ge=1, description="a value from fewer samples counts as not evaluated")

    @field_validator("threshold")
    @classmethod
    def _is_finite(cls, value: float) -> float:
        return _finite(value, "threshold")


class RegressionGate(Config):
    """A metric against the champion's; passed when the interval of the difference leaves no room for a larger loss."""

    metric: str = Field(pattern=_METRIC, description="TASK/METRIC as the report and MLflow name it")
    max_loss: float = Field(ge=0, description="so much worse than the champion is allowed, in the metric's own unit")
    direction: Direction | None = Field(
        default=None,
        description="the side that is better, for a metric that has none of its own; it must not contradict",
    )
    min_samples: int = Field(default=30, ge=1, description="a value from fewer samples counts as not evaluated")

    @field_validator("max_loss")
    @classmethod
    def _is_finite(cls, value: float) -> float:
        return _finite(value, "max_loss")


class GatesConfig(Config):
    """The gates of one kind of model."""

    kind: ModelKind = Field(
        description="the models that these gates are for; those for one of two parts serve a model with both as well"
    )
    thresholds: tuple[ThresholdGate, ...] = ()
    no_regression: tuple[RegressionGate, ...] = ()

    @model_validator(mode="after")
    def _gates_differ(self) -> GatesConfig:
        if not self.thresholds and not self.no_regression:
            raise ValueError("there is no gate, so everything would pass; add one to 'thresholds' or 'no_regression'")
        keys = [(gate.metric, gate.part, gate.direction) for gate in self.thresholds]
        names = [(gate.metric, gate.direction) for gate in self.no_regression]
        twice = [key[0] for key in keys if keys.count(key) > 1] + [key[0] for key in names if names.count(key) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} has two gates of one kind; keep the stricter one")
        return self

    def are_for(self, kind: str) -> bool:
        """Whether a model of `kind` has the tasks of these gates; one with both parts has those of either."""
        return kind in (self.kind, "dual_encoder_and_vlm")


def load_gates(path: str | Path) -> GatesConfig:
    """The gates in the file `path`; raises ConfigError as `vlmvid.config.load.load_recipe` does."""
    return validate(GatesConfig, read_yaml(Path(path), "gates file"), source=str(path))


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} must be a finite number")
    return value
