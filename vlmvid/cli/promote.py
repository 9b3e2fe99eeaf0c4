"""``vlmvid promote``: gates, and which version of a registered model is the champion."""

from __future__ import annotations

import argparse
from typing import Any

from vlmvid.cli.output import add_json, write


def add_promote_command(commands: Any) -> None:
    """Add the command of this module."""
    text = "make a registered model the champion if it passes its gates; or go back to the one before"
    command = commands.add_parser("promote", help=text, description=text)
    command.add_argument("name", metavar="NAME", help="the registered model, e.g. vlmvid-quickstart")
    command.add_argument("--candidate", metavar="X", help="alias or number of the version (default: candidate)")
    command.add_argument("--gates", metavar="F", help="file of gates (default: configs/gates/default.yaml)")
    command.add_argument("--alias", metavar="A", help="what it becomes (default: champion)")
    command.add_argument("--rollback", action="store_true", help="make the version before the champion the champion")
    command.add_argument("--tracking-uri", metavar="URI", help="MLflow (default: MLFLOW_TRACKING_URI, else the home's)")
    command.add_argument("--home", help="where MLflow's own file lies (default: VLMVID_HOME, else ./.vlmvid)")
    add_json(command)
    command.set_defaults(command=_promote)


def _promote(arguments: argparse.Namespace) -> int:
    from vlmvid.config.load import validate
    from vlmvid.errors import ConfigError
    from vlmvid.pipeline.promotion import PromotionRequest, promote, promotion_text, rollback

    names = ("candidate", "gates", "alias", "tracking_uri", "home")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.rollback and given.keys() & {"candidate", "gates"}:
        raise ConfigError("--rollback goes to the version before the champion; leave out --candidate and --gates")
    request = validate(PromotionRequest, {"model_name": arguments.name, **given}, source="promote")
    result = (rollback if arguments.rollback else promote)(request)
    write(result.model_dump(mode="json") if arguments.json else promotion_text(result))
    return 0 if result.promoted else 1
