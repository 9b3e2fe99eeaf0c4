"""Frames, or videos where frames are not kept, and texts to features, one task per shard."""

from __future__ import annotations

from flows._stages import sharded_flow

encode = sharded_flow(
    "encode",
    "Frames, or videos where frames are not kept, and texts to features, one task per shard.",
    shard="One shard of clips",
    last="index",
    about_last="The stage's artifact over all shards.",
)
