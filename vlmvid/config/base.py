"""The base of every configuration object."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen and closed: an unknown key is an error, and nothing changes after validation."""

    # Values stay out of pydantic's own messages: orchestrators log them, and one may hold a password.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
