"""The only thing that passes between pipeline tasks."""

from __future__ import annotations

from typing import Literal

from vlmvid.config.base import Config

Kind = Literal["clips", "frames", "embeddings", "checkpoint", "report", "model", "search"]


class ArtifactRef(Config):
    """Where a stage's result lies; JSON, never tensors.

    `uri` is the artifact's folder, `key` its stage key.
    """

    uri: str
    kind: Kind
    key: str
