"""The content-addressed store: keys, shards, manifests, ledger."""

from vlmvid.artifacts.keys import KeyParts, hash_json
from vlmvid.artifacts.ledger import LedgerRow
from vlmvid.artifacts.ref import ArtifactRef
from vlmvid.artifacts.shards import ClipStore, Row
from vlmvid.artifacts.store import Facts, Manifest, Store, open_store

__all__ = [
    "ArtifactRef",
    "ClipStore",
    "Facts",
    "KeyParts",
    "LedgerRow",
    "Manifest",
    "Row",
    "Store",
    "hash_json",
    "open_store",
]
