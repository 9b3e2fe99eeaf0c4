"""The aliases of registered models: which are given by a recipe, and which only by passing gates."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

CHAMPION, PREVIOUS = "champion", "previous"


def _given_by_registering(alias: str) -> str:
    if alias in (CHAMPION, PREVIOUS, "latest") or alias.isdecimal():
        raise ValueError(
            f"alias={alias!r} is not a recipe's to give: 'champion' and 'previous' are set by `vlmvid promote`, "
            "'latest' and numbers are MLflow's; leave the key out, which gives 'candidate', or take another name"
        )
    return alias


def _given_by_promotion(alias: str) -> str:
    if not re.fullmatch(r"[A-Za-z][\w-]*", alias) or alias in (PREVIOUS, "latest") or re.fullmatch(r"[vV]\d+", alias):
        raise ValueError(
            f"alias={alias!r} cannot be promoted to: 'previous' goes with 'champion', 'latest' and v1, v2, ... are "
            "MLflow's; give another word of letters, digits, - and _"
        )
    return alias


NewVersionAlias = Annotated[str, AfterValidator(_given_by_registering)]

PromotedAlias = Annotated[str, AfterValidator(_given_by_promotion)]
