"""Measure clips, one task per shard, and keep those that pass the rules."""

from __future__ import annotations

from flows._stages import sharded_flow

curate = sharded_flow(
    "curate",
    "Measure clips, one task per shard, and keep those that pass the rules.",
    shard="Measure one shard of clips",
    last="decision",
    about_last="The rules on all clips, and the stage's artifact.",
)
