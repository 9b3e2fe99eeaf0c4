"""Videos to frames that are kept, one task per shard."""

from __future__ import annotations

from flows._stages import sharded_flow

decode = sharded_flow(
    "decode",
    "Videos to frames that are kept, one task per shard.",
    shard="One shard of clips",
    last="index",
    about_last="The stage's artifact over all shards.",
)
